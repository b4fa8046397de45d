"""What is asked of a picture, of which classes, and in which order the answer names objects."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pgvision.datasets import read_splits
from pgvision.tokens import parse_suffix
from pgvision.training.finetuning.augment import whole
from pgvision.training.finetuning.samples import ObjectSource
from pgvision.training.finetuning.settings import FinetuneSettings
from pgvision.training.noise import NOISE


def source(scenes: Path, **options: object) -> ObjectSource:
    recipe = FinetuneSettings(**{"steps": 1, **options})
    dataset = read_splits(scenes)["train"]
    return ObjectSource(dataset, recipe, "tiny", num_objects=40)


def test_crowds_are_neither_taught_nor_called_absent(scenes: Path) -> None:
    one = source(scenes, negatives=0.9)
    record = next(
        record for record in one.dataset.images
        if len({item.category_id for item in record.objects}) < len(one.dataset.categories)
    )  # fmt: skip
    crowd = record.objects[0].category_id
    name = one.dataset.names[crowd]
    objects = tuple(replace(item, iscrowd=item.category_id == crowd) for item in record.objects)
    one = replace(one, dataset=replace(one.dataset, images=(replace(record, objects=objects),)))
    asked = [one.draw(0, np.random.default_rng(chance)) for chance in range(30)]
    assert not any(sample.prefix == f"detect {name}" for sample in asked)
    names = list(one.dataset.classes)
    for sample in asked:
        assert names.index(name) not in sample.truth.classes
        assert [n for n, known in zip(names, sample.truth.known, strict=True) if not known] == [
            name
        ]


def test_absent_classes_are_asked_for_as_often_as_is_said(scenes: Path) -> None:
    for share in (0.0, 0.1, 0.7):
        one = source(scenes, negatives=share)
        record = max(one.dataset.images, key=lambda image: len(image.objects))
        found = one._seen(record, whole(record.image_hw))
        assert set(found.names) < set(one.dataset.classes)
        rng = np.random.default_rng(0)
        asked = [one._names_to_ask(found, rng) for _ in range(1000)]
        absent = sum(name not in found.names for (name,) in asked) / 1000
        assert absent == pytest.approx(share, abs=0.05)


def test_objects_stand_in_the_order_that_is_said(scenes: Path) -> None:
    boxes = np.array([[0, 50, 100, 60], [40, 10, 50, 20], [60, 10, 64, 12]], float)
    rng = np.random.default_rng(0)
    wanted = {"left": [1, 0, 2], "raster": [1, 2, 0], "area": [0, 1, 2]}
    for order, places in wanted.items():
        assert source(scenes, order=order)._ordered(boxes, [2, 1, 0], rng) == places
    one = source(scenes, order="random")
    drawn = [tuple(one._ordered(boxes, [0, 1, 2], rng)) for _ in range(60)]
    assert len(set(drawn)) == 6
    assert source(scenes)._ordered(boxes, [2, 1, 0], rng) == wanted["left"]
    other = replace(source(scenes), kind="mix")
    assert other._ordered(boxes, [2, 1, 0], rng) == wanted["raster"]


def test_prompts_that_take_several_classes_ask_for_all_now_and_then(scenes: Path) -> None:
    one = replace(source(scenes, negatives=0.0, augment=False), kind="mix")
    names = list(dict.fromkeys(one.dataset.classes))
    drawn = [one.draw(0, np.random.default_rng(chance)) for chance in range(40)]
    joined = [sample for sample in drawn if " ; " in sample.prefix]
    assert 4 < len(joined) < 22
    record = one.dataset.images[0]
    for sample in joined:
        assert sample.prefix == "detect " + " ; ".join(names[:10])
        assert len(parse_suffix(sample.suffix, image_hw=(9, 9)).objects) == len(record.objects)


def test_a_closed_sets_objects_come_in_any_order_and_noise_lies_anywhere(scenes: Path) -> None:
    one = source(scenes, closed_set=True, augment=False)
    firsts, far = set(), 0
    for chance in range(10):
        sample = one.draw(0, np.random.default_rng(chance))
        height, width = sample.bgr.shape[:2]
        found = parse_suffix(sample.suffix, image_hw=(height, width)).objects
        firsts.add(found[0].loc_yxyx)
        far += sum(item.xyxy[0] > width / 2 for item in found if item.label == NOISE)
    assert len(firsts) > 3 and far > 20
