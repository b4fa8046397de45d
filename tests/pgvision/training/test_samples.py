"""Samples: the same number gives the same one, and answers are true of what is shown."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgvision.datasets import read_examples, read_splits, segmentation_to_mask
from pgvision.errors import DataError
from pgvision.images import read_image
from pgvision.masks import crop_mask
from pgvision.tokens import parse_suffix
from pgvision.training import TrainConfig
from pgvision.training.samples import CLOSED_PREFIX, NOISE, ObjectSource, Samples, TextSource
from pgvision.training.views import VISIBLE, View, draw_view, whole
from vqvae import MaskCodec


def source(scenes, *, kind="tiny", most=None, side=None, **options):
    dataset = read_splits(scenes)["train"]
    return ObjectSource(
        dataset, TrainConfig(**options), kind, codec=MaskCodec.load("tiny"), max_objects=most,
        max_side=side,
    )  # fmt: skip


def draw(one, index=0, seed=0):
    return one.draw(index, np.random.default_rng(seed))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32), left=st.integers(0, 60), top=st.integers(0, 40),
    width=st.integers(2, 30), height=st.integers(2, 20),
)  # fmt: skip
def test_boxes_and_masks_follow_the_pixels(seed, left, top, width, height):
    mask = np.zeros((60, 90), np.bool_)
    mask[top : top + height, left : left + width] = True
    view = draw_view((60, 90), np.random.default_rng(seed), geometric=True)
    plain = View(view.window, view.mirrored)
    seen = plain.image(np.repeat(mask[..., None], 3, 2).astype(np.uint8) * 255)[..., 0] > 0
    np.testing.assert_array_equal(view.mask(mask), seen)
    ((box,), (share,)) = view.boxes(np.array([[left, top, left + width, top + height]], float))
    assert share == pytest.approx(seen.sum() / mask.sum())
    if seen.any():
        rows, columns = np.nonzero(seen)
        np.testing.assert_allclose(
            box, [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        )


def test_light_changes_and_texts_keep_their_geometry(scenes):
    bgr = np.full((40, 50, 3), 100, np.uint8)
    views = [draw_view((40, 50), np.random.default_rng(k), geometric=False) for k in range(20)]
    assert {(view.window, view.mirrored) for view in views} == {((0, 0, 50, 40), False)}
    means = [float(view.image(bgr).mean()) for view in views]
    assert max(means) > 115 and min(means) < 85
    examples = read_examples(scenes / "train" / "examples.jsonl")
    plain = read_image(examples[0].image).astype(float)
    for seed in range(6):
        seen = draw(TextSource(examples, TrainConfig(task="caption")), seed=seed).bgr
        assert np.corrcoef(seen.ravel(), plain.ravel())[0, 1] > 0.9
    still = draw(TextSource(examples, TrainConfig(task="caption", augment=False)), seed=0).bgr
    np.testing.assert_array_equal(still, plain)


def test_large_images_are_reduced_before_anything_else():
    bgr = np.random.default_rng(0).integers(0, 256, (300, 900, 3), dtype=np.uint8)
    small = whole((300, 900)).image(bgr, max_side=320)
    assert small.shape == (300, 320, 3)
    assert abs(float(small.mean()) - float(bgr.mean())) < 1
    np.testing.assert_array_equal(whole((300, 900)).image(bgr, max_side=900), bgr)


def test_a_number_gives_one_sample_and_an_epoch_every_image(scenes):
    samples, again = (Samples([source(scenes)], 18, seed=3) for _ in range(2))
    for number in (0, 7, 17):
        one, other = samples[number], again[number]
        assert (one.name, one.prefix, one.suffix) == (other.name, other.prefix, other.suffix)
        np.testing.assert_array_equal(one.bgr, other.bgr)
    names = [samples[k].name for k in range(12)]
    assert len(set(names[:6])) == len(set(names[6:])) == 6 and names[:6] != names[6:]
    assert names[:6] != [Samples([source(scenes)], 18, seed=4)[k].name for k in range(6)]


def test_answers_are_true_of_what_is_shown(scenes):
    one = source(scenes, augment=False, negatives=0.3)
    asked, negatives = 0, 0
    for index, record in enumerate(one.dataset.images):
        for seed in range(6):
            sample = draw(one, index, seed)
            name = sample.prefix.removeprefix("detect ")
            names = one.dataset.names
            true = [item.xyxy for item in record.objects if names[item.category_id] == name]
            found = parse_suffix(sample.suffix, image_hw=record.image_hw).objects
            assert [item.label for item in found] == [name] * len(true)
            for item, box in zip(found, sorted(true, key=lambda b: b[0] + b[2]), strict=True):
                np.testing.assert_allclose(item.xyxy, box, atol=0.4)
            asked, negatives = asked + 1, negatives + (not true)
    assert 0 < negatives < asked / 2


def test_a_class_that_a_view_shows_in_part_is_not_asked_for(scenes):
    """Neither as absent nor with an answer that lacks an object."""
    one = source(scenes, negatives=0.5)
    cut = 0
    for record in one.dataset.images:
        boxes = np.array([item.xyxy for item in record.objects])
        for seed in range(15):
            rng = np.random.default_rng(seed)
            view = one._view(record, rng)
            sample = one._sample(record, view.image(read_image(record.path)),
                                 one._shown(record, view), rng)  # fmt: skip
            asked = sample.prefix.removeprefix("detect ")
            _, shares = view.boxes(boxes)
            mine = [
                share for item, share in zip(record.objects, shares, strict=True)
                if one.dataset.names[item.category_id] == asked and share > 0.02
            ]  # fmt: skip
            assert all(share >= VISIBLE for share in mine)
            found = parse_suffix(sample.suffix, image_hw=(100, 100)).objects
            assert len(found) == len(mine)
            cut += any(0.02 < share < VISIBLE for share in shares)
    assert cut > 10


@pytest.mark.parametrize("sides", [(0.05, 40.0), (40.0, 0.01)])
def test_an_object_without_area_in_bins_is_not_asked_for(scenes, sides):
    one = source(scenes, augment=False)
    record = one.dataset.images[0]
    thin = replace(record.objects[0], xywh=(100.0, 20.0, *sides), segmentation=None)
    other = replace(one.dataset, images=(replace(record, objects=(thin,)),))
    asked = {draw(replace(one, dataset=other), seed=seed).prefix for seed in range(30)}
    name = one.dataset.names[thin.category_id]
    assert len(asked) > 1 and f"detect {name}" not in asked


def test_one_class_is_never_answered_with_nothing_where_a_part_shows(scenes):
    one = source(scenes)
    helmets = [c for c in one.dataset.categories if c.name == "helmet"]
    images = tuple(
        replace(i, objects=tuple(o for o in i.objects if o.category_id == helmets[0].id))
        for i in one.dataset.images
    )
    images = tuple(image for image in images if image.objects)
    one = replace(one, dataset=replace(one.dataset, images=images, categories=tuple(helmets)))
    for record in images:
        boxes = np.array([item.xyxy for item in record.objects])
        for seed in range(20):
            view = one._view(record, np.random.default_rng(seed))
            _, shares = view.boxes(boxes)
            assert not ((shares > 0.02) & (shares < VISIBLE)).any()


def test_crowds_are_neither_taught_nor_called_absent(scenes):
    one = source(scenes, negatives=0.9)
    names = one.dataset.names
    record = next(
        r for r in one.dataset.images if 1 < len({i.category_id for i in r.objects}) < len(names)
    )
    crowd = record.objects[0].category_id
    objects = tuple(replace(item, iscrowd=item.category_id == crowd) for item in record.objects)
    one = replace(one, dataset=replace(one.dataset, images=(replace(record, objects=objects),)))
    prefixes = {draw(one, seed=seed).prefix for seed in range(40)}
    assert len(prefixes) > 1 and f"detect {names[crowd]}" not in prefixes
    # An image of which every class is a crowd's has nothing to ask for.
    only = tuple(c for c in one.dataset.categories if c.id == crowd)
    mine = tuple(item for item in objects if item.category_id == crowd)
    alone = replace(one.dataset, images=(replace(record, objects=mine),), categories=only)
    with pytest.raises(DataError, match="none of 1 images can be trained on: .*in part only"):
        Samples([replace(one, dataset=alone)], 1, seed=0)[0]


def test_prompts_of_several_classes_are_drawn_anew_each_time(scenes):
    one = source(scenes, kind="mix", negatives=0.0)
    joined = []
    for seed in range(60):
        sample = draw(one, seed % 6, seed)
        names = sample.prefix.removeprefix("detect ").split(" ; ")
        if len(names) > 1:
            joined.append(tuple(names))
            found = {o.label for o in parse_suffix(sample.suffix, image_hw=(9, 9)).objects}
            assert found <= set(names)
    assert len(joined) > 8 and len(set(joined)) > len(joined) / 2


def test_of_too_many_objects_a_choice_is_learnt_without_an_end(scenes):
    one = source(scenes, most=1, negatives=0.0, augment=False)
    samples = [draw(one, index, seed) for index in range(6) for seed in range(5)]
    counts = {len(parse_suffix(s.suffix, image_hw=(9, 9)).objects) for s in samples}
    assert counts == {1} and {s.is_whole for s in samples} == {True, False}
    # The choice has no object twice.
    record = one.dataset.images[0]
    objects = tuple(
        replace(record.objects[0], id=at, segmentation=None, xywh=(9 * at, 9 * at, 30, 20))
        for at in range(12)
    )
    crowded = replace(one.dataset, images=(replace(record, objects=objects),))
    one = replace(one, dataset=crowded, max_objects=8)
    for seed in range(5):
        bins = [
            tuple(o.loc_yxyx)
            for o in parse_suffix(draw(one, 0, seed).suffix, image_hw=(9, 9)).objects
        ]
        assert len(bins) == len(set(bins)) == 8


@pytest.mark.parametrize(("kind", "order"), [("pt", "dbca"), ("tiny", "bcad")])
def test_objects_come_in_the_order_of_the_checkpoint(scenes, kind, order):
    one = source(scenes, kind=kind, negatives=0.0, augment=False)
    record = one.dataset.images[0]
    places = {"a": (20, 90), "c": (30, 40), "b": (10, 40), "d": (70, 8)}  # left, top
    item = replace(record.objects[0], segmentation=None)
    wide = {"a": 90, "b": 20, "c": 60, "d": 10}
    objects = tuple(
        replace(item, id=number, xywh=(left, top, wide[name], 20))
        for number, (name, (left, top)) in enumerate(places.items())
    )
    one = replace(one, dataset=replace(one.dataset, images=(replace(record, objects=objects),)))
    found = parse_suffix(draw(one).suffix, image_hw=record.image_hw).objects
    lefts = [round(box.xyxy[0]) for box in found]
    assert lefts == [places[name][0] for name in order]


def test_masks_become_codes_of_their_own_boxes(scenes):
    one = source(scenes, task="segment", augment=False)
    sample = draw(one)
    record, names = one.dataset.images[0], one.dataset.names
    found = parse_suffix(sample.suffix, image_hw=record.image_hw).objects
    asked = sample.prefix.removeprefix("segment ")
    mine = [item for item in record.objects if names[item.category_id] == asked]
    mine.sort(key=lambda item: item.xyxy[0] + item.xyxy[2])
    crops = [
        crop_mask(segmentation_to_mask(item.segmentation, record.image_hw), np.float32(item.xyxy))
        for item in mine
    ]
    assert len(found) == len(mine) > 0
    codes = MaskCodec.load("tiny").encode(np.stack(crops))
    np.testing.assert_array_equal([item.codes for item in found], codes)


def test_a_closed_sets_answer_is_full(scenes):
    one = source(scenes, closed_set=True, most=9)
    for index in range(4):
        sample = draw(one, index, index)
        assert sample.prefix == CLOSED_PREFIX
        labels = [o.label for o in parse_suffix(sample.suffix, image_hw=(99, 99)).objects]
        true = labels.index(NOISE) if NOISE in labels else 9
        assert len(labels) == 9 and set(labels[true:]) <= {NOISE}
        before = parse_suffix(sample.suffix[: sample.noise_from], image_hw=(9, 9)).objects
        assert len(before) == true


def test_an_unreadable_image_is_replaced_and_named(scenes, tmp_path):
    one = source(scenes)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    images = (replace(one.dataset.images[0], path=broken), *one.dataset.images[1:])
    samples = Samples([replace(one, dataset=replace(one.dataset, images=images))], 12, seed=0)
    drawn = [samples[number] for number in range(12)]
    assert len({sample.name for sample in drawn}) == 5
    assert {name for sample in drawn for name in sample.unread} == {str(broken)}
    none = tuple(replace(image, path=broken) for image in images)
    with pytest.raises(DataError, match="none of 6 images can be trained on"):
        Samples([replace(one, dataset=replace(one.dataset, images=none))], 6, seed=0)[0]


def test_a_mixture_is_drawn_by_its_weights_and_by_number_alone(scenes):
    one = source(scenes)
    other = replace(one, dataset=replace(one.dataset, images=one.dataset.images[:4]))
    mixed = Samples([one, other], 960, seed=5, weights=[3.0, 1.0])
    drawn = [mixed.place(number) for number in range(960)]
    for which, count in ((0, 720), (1, 240)):
        assert [turn for place, turn in drawn if place == which] == list(range(count))
    assert drawn != [replace(mixed, seed=6).place(number) for number in range(960)]
    rare = Samples([one, other], 1, seed=0, weights=[10_000, 1])
    assert {rare.place(number)[0] for number in range(300)} == {0, 1}
