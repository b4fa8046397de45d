"""What is learnt from: the same number gives the same sample, and boxes follow the pixels."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgvision.datasets import read_examples, read_splits
from pgvision.errors import DataError, OptionError
from pgvision.images import read_image
from pgvision.runtime import find_checkpoint
from pgvision.tokens import parse_suffix
from pgvision.training.finetuning.augment import VISIBLE, View, draw_view, whole
from pgvision.training.finetuning.data import Mixture, _held_back, read_mixture, read_parts
from pgvision.training.finetuning.samples import ObjectSource, Samples, TextSource
from pgvision.training.finetuning.settings import DataPlaces, FinetuneSettings
from pgvision.training.noise import CLOSED_PREFIX, NOISE
from vqvae import MaskCodec


def source(scenes: Path, **options: object) -> ObjectSource:
    recipe = FinetuneSettings(**{"steps": 1, **options})
    dataset = read_splits(scenes)["train"]
    return ObjectSource(dataset, recipe, "tiny", codec=MaskCodec.load("tiny"), num_objects=9)


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32),
    left=st.integers(0, 60),
    top=st.integers(0, 40),
    width=st.integers(2, 30),
    height=st.integers(2, 20),
)
def test_boxes_and_masks_follow_the_pixels(
    seed: int, left: int, top: int, width: int, height: int
) -> None:
    mask = np.zeros((60, 90), np.bool_)
    mask[top : top + height, left : left + width] = True
    view = draw_view((60, 90), np.random.default_rng(seed), geometric=True)
    plain = View(view.window, view.mirrored)
    seen = plain.picture(np.repeat(mask[..., None], 3, 2).astype(np.uint8) * 255)[..., 0] > 0
    np.testing.assert_array_equal(view.mask(mask), seen)
    ((box,), (share,)) = view.boxes(np.array([[left, top, left + width, top + height]], float))
    assert share == pytest.approx(seen.sum() / mask.sum())
    if seen.any():
        rows, columns = np.nonzero(seen)
        edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(box, edges)


def test_light_changes_and_texts_keep_their_geometry() -> None:
    bgr = np.full((40, 50, 3), 100, np.uint8)
    views = [draw_view((40, 50), np.random.default_rng(k), geometric=False) for k in range(20)]
    assert {view.window for view in views} == {(0, 0, 50, 40)}
    assert not any(view.mirrored for view in views)
    means = [float(view.picture(bgr).mean()) for view in views]
    assert max(means) > 115 and min(means) < 85
    np.testing.assert_array_equal(whole((40, 50)).picture(bgr), bgr)


def test_a_number_gives_one_sample_and_an_epoch_every_picture(scenes: Path) -> None:
    samples = Samples([source(scenes)], 18, seed=3)
    again = Samples([source(scenes)], 18, seed=3)
    for number in (0, 7, 17):
        one, other = samples[number], again[number]
        assert (one.name, one.prefix, one.suffix) == (other.name, other.prefix, other.suffix)
        np.testing.assert_array_equal(one.bgr, other.bgr)
    for epoch in range(3):
        assert len({samples[6 * epoch + k].name for k in range(6)}) == 6
    first = [samples[k].name for k in range(6)]
    assert first != [samples[6 + k].name for k in range(6)]
    assert first != [Samples([source(scenes)], 18, seed=4)[k].name for k in range(6)]


def test_answers_are_true_of_what_is_seen(scenes: Path) -> None:
    one = source(scenes, augment=False, negatives=0.3)
    asked, negatives = 0, 0
    for index, record in enumerate(one.dataset.images):
        for chance in range(8):
            sample = one.draw(index, np.random.default_rng(chance))
            name = sample.prefix.removeprefix("detect ")
            true = sorted(
                (
                    item.xyxy
                    for item in record.objects
                    if one.dataset.names[item.category_id] == name
                ),
                key=lambda box: box[0] + box[2],
            )
            found = parse_suffix(sample.suffix, image_hw=record.image_hw).objects
            assert [item.label for item in found] == [name] * len(true)
            for item, box in zip(found, true, strict=True):
                np.testing.assert_allclose(item.xyxy, box, atol=0.4)
            asked += 1
            negatives += not true
    assert 0 < negatives < asked / 2


def test_what_a_crop_hides_is_not_asked_for_as_absent(scenes: Path) -> None:
    one = source(scenes, negatives=0.9)
    for index, record in enumerate(one.dataset.images):
        there = {one.dataset.names[item.category_id] for item in record.objects}
        for chance in range(20):
            sample = one.draw(index, np.random.default_rng(chance))
            name = sample.prefix.removeprefix("detect ")
            if not sample.suffix and name in there:
                # Its objects are out of sight; it was the class that the picture shows.
                view_names = one._seen(record, whole(record.image_hw)).names
                assert name in view_names
            elif not sample.suffix:
                assert name not in there


def test_masks_become_codes_of_their_own_boxes(scenes: Path) -> None:
    one = source(scenes, task="segment", augment=False)
    codec = MaskCodec.load("tiny")
    sample = one.draw(0, np.random.default_rng(0))
    found = parse_suffix(sample.suffix, image_hw=one.dataset.images[0].image_hw).objects
    assert sample.prefix.startswith("segment ") and len(found) == len(sample.masks) > 0
    codes = codec.encode(sample.masks)
    np.testing.assert_array_equal([item.codes for item in found], codes)


def test_a_closed_sets_answer_is_full(scenes: Path) -> None:
    one = source(scenes, closed_set=True)
    for index in range(4):
        sample = one.draw(index, np.random.default_rng(index))
        assert sample.prefix == CLOSED_PREFIX
        found = parse_suffix(sample.suffix, image_hw=sample.bgr.shape[:2]).objects
        assert len(found) == 9
        labels = [item.label for item in found]
        true = labels.index(NOISE) if NOISE in labels else 9
        assert set(labels[true:]) <= {NOISE}
        assert (
            len(parse_suffix(sample.suffix[: sample.noise_from], image_hw=(9, 9)).objects) == true
        )


def test_a_broken_picture_is_left_out_and_listed(scenes: Path, tmp_path: Path) -> None:
    one = source(scenes)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    images = (replace(one.dataset.images[0], path=broken), *one.dataset.images[1:])
    samples = Samples([replace(one, dataset=replace(one.dataset, images=images))], 12, seed=0)
    names = [samples[number].name for number in range(12)]
    assert str(broken) not in names and len(set(names)) == 5
    assert list(samples.unread) == [str(broken)]
    none = tuple(replace(image, path=broken) for image in images)
    with pytest.raises(DataError, match="not one of 6 pictures could be read"):
        Samples([replace(one, dataset=replace(one.dataset, images=none))], 6, seed=0)[0]


def test_parts_are_found_and_bound_to_their_content(scenes: Path, tmp_path: Path) -> None:
    recipe = FinetuneSettings(steps=1)
    parts = read_parts(DataPlaces(data=scenes), recipe)
    assert (len(parts.train.images), len(parts.valid.images)) == (6, 2)
    alone = read_parts(DataPlaces(data=scenes / "train" / "instances.json"), recipe)
    assert len(alone.train.images) + len(alone.valid.images) == 6
    assert Mixture((alone,)).digest != Mixture((parts,)).digest
    texts = read_parts(
        DataPlaces(data=scenes / "train" / "examples.jsonl"), replace(recipe, task="caption")
    )
    assert {one.image for one in texts.train}.isdisjoint(one.image for one in texts.valid)
    with pytest.raises(DataError, match="1 pictures are too few to hold some back.*--valid"):
        _held_back(replace(parts.train, images=parts.train.images[:1]))
    for count in range(3, 7):  # a tenth of six pictures would be none
        some = replace(parts.train, images=parts.train.images[:count])
        train, valid = _held_back(some)
        assert len(train.images) + len(valid.images) == count and valid.images
    with pytest.raises(OptionError, match="has train, valid"):
        read_parts(DataPlaces(data=scenes, split="other"), recipe)


def test_a_validation_set_may_have_its_pictures_elsewhere(scenes: Path, tmp_path: Path) -> None:
    recipe = FinetuneSettings(steps=1)
    valid = tmp_path / "alone" / "valid.json"
    valid.parent.mkdir()
    valid.write_bytes((scenes / "valid" / "instances.json").read_bytes())
    digests = []
    for name in ("one", "two"):
        folder = tmp_path / name
        shutil.copytree(scenes / "valid" / "images", folder / "images")
        places = DataPlaces(data=scenes, valid=valid, valid_images=folder)
        parts = read_parts(places, recipe)
        assert [image.path.parent for image in parts.valid.images] == [folder / "images"] * 2
        assert all(image.path.is_file() for image in parts.valid.images)
        assert all(image.path.is_relative_to(scenes) for image in parts.train.images)
        digests.append(Mixture((parts,)).digest)
    assert digests[0] != digests[1]  # a run is held to it, as to `images`
    texts = tmp_path / "alone" / "valid.jsonl"
    texts.write_bytes((scenes / "valid" / "examples.jsonl").read_bytes())
    train = scenes / "valid" / "examples.jsonl"
    for folder, where in ((tmp_path / "one", tmp_path / "one"), (None, scenes / "valid")):
        places = DataPlaces(
            data=train, images=scenes / "valid", valid=texts, valid_images=folder
        )  # fmt: skip
        parts = read_parts(places, replace(recipe, task="caption"))
        assert {one.image.parent for one in parts.valid} == {where / "images"}
        assert {one.image.parent for one in parts.train} == {scenes / "valid" / "images"}
    with pytest.raises(OptionError, match="valid_images: .* name valid"):
        DataPlaces(data=scenes, valid_images=tmp_path)


def test_every_epoch_shows_a_picture_in_another_view(scenes: Path) -> None:
    samples = Samples([source(scenes)], 18, seed=3)
    first = samples[0]
    again = next(samples[k] for k in range(6, 12) if samples[k].name == first.name)
    assert again.bgr.shape != first.bgr.shape or not np.array_equal(again.bgr, first.bgr)


def test_a_texts_picture_is_neither_mirrored_nor_cropped(scenes: Path) -> None:
    file = scenes / "train" / "examples.jsonl"
    examples = read_examples(file)
    one = TextSource(examples, FinetuneSettings(steps=1, task="caption"))
    plain = read_image(examples[0].image).astype(float)
    for chance in range(12):
        seen = one.draw(0, np.random.default_rng(chance)).bgr
        assert np.corrcoef(seen.ravel(), plain.ravel())[0, 1] > 0.9
        mirrored = plain[:, ::-1].ravel()
        assert np.corrcoef(seen.ravel(), mirrored)[0, 1] < 0.9


def test_an_object_is_asked_for_if_enough_of_it_is_seen() -> None:
    box = np.array([[0.0, 0.0, 10.0, 10.0]])
    assert View((5, 0, 20, 20)).boxes(box)[1][0] == 0.5 > VISIBLE
    assert View((7, 0, 20, 20)).boxes(box)[1][0] < VISIBLE


def test_a_mixture_is_drawn_by_its_weights_and_by_number_alone(scenes: Path) -> None:
    one = source(scenes)
    other = replace(one, dataset=replace(one.dataset, images=one.dataset.images[:4]))
    mixed = Samples([one, other], 960, seed=5, weights=[3.0, 1.0])
    drawn = [mixed.place(number) for number in range(960)]
    for which, count in ((0, 720), (1, 240)):
        assert [turn for source_, turn in drawn if source_ == which] == list(range(count))
    halves = [which for which, _ in drawn[:480]]
    assert 90 < sum(halves[:240]) + sum(halves[240:]) < 150 and halves[:240] != halves[240:]
    assert drawn == [replace(mixed, seed=5).place(number) for number in range(960)]
    assert drawn != [replace(mixed, seed=6).place(number) for number in range(960)]
    rare = Samples([one, other], 1, seed=0, weights=[10_000, 1])
    assert {rare.place(number)[0] for number in range(300)} == {0, 1}
    epoch = {
        mixed[number].name for number in range(60) if drawn[number] in {(1, k) for k in range(4)}
    }
    assert len(epoch) == 4


def test_one_source_alone_gives_what_it_always_gave(scenes: Path) -> None:
    """A run that was begun before there were mixtures goes on with the same pictures."""
    alone = Samples([source(scenes)], 999, seed=3)
    assert [alone.place(number) for number in (0, 239, 240, 998)] == [
        (0, 0), (0, 239), (0, 240), (0, 998)
    ]  # fmt: skip


def test_two_closed_sets_are_refused_and_each_part_has_its_task(scenes: Path) -> None:
    places = [
        DataPlaces(data=scenes),
        DataPlaces(data=scenes, task="segment", weight=2.0),
        DataPlaces(data=scenes / "train" / "examples.jsonl"),
    ]
    recipe = FinetuneSettings(steps=1, task="mix", closed_set=True, mask_loss=1.0)
    mixture = read_mixture(places, recipe)
    told = [
        (one.settings.task, one.settings.closed_set, one.settings.mask_loss, one.weight)
        for one in mixture.parts
    ]
    assert told == [
        ("detect", True, 0.0, 1.0),
        ("segment", False, 1.0, 2.0),
        ("ask", False, 0.0, 1.0),
    ]
    samples = mixture.samples(find_checkpoint("tiny"), 400, seed=0)
    drawn = [samples.place(number)[0] for number in range(240)]
    assert [drawn.count(which) for which in range(3)] == [60, 120, 60]
    assert mixture.closed is mixture.parts[0] and mixture.codec is mixture.parts[1].codec
    assert mixture.questions and not any(text == "en" for text in mixture.questions)
    with pytest.raises(OptionError, match="two sets of classes"):
        read_mixture(places[:1] * 2, recipe)
    with pytest.raises(OptionError, match="at least one data set"):
        read_mixture([], recipe)
    with pytest.raises(OptionError, match="weight: expected more than 0"):
        DataPlaces(data=scenes, weight=0.0)


def test_a_class_that_training_never_shows_is_named(
    scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = json.loads((scenes / "valid" / "instances.json").read_text(encoding="utf-8"))
    content["categories"].append({"id": 99, "name": "dragon"})
    content["annotations"].append({**content["annotations"][0], "id": 9999, "category_id": 99})
    valid = tmp_path / "valid.json"
    valid.write_text(json.dumps(content), encoding="utf-8")
    read_parts(DataPlaces(data=scenes), FinetuneSettings(steps=1))
    assert "dragon" not in caplog.text
    read_parts(DataPlaces(data=scenes, valid=valid), FinetuneSettings(steps=1))
    assert "shows no object of" in caplog.text and "dragon" in caplog.text


def test_a_question_is_asked_in_each_of_its_ways(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 8, 3), 90, np.uint8))
    ways = ["answer en how many?", "answer en what is the number?", "answer en count them"]
    line = {"image": "a.png", "prefix": ways[0], "suffix": "2", "paraphrases": ways[1:]}
    for name in ("train", "valid"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    part = read_parts(DataPlaces(data=tmp_path), FinetuneSettings(task="ask", steps=1))
    assert part.questions == ("how many?", "what is the number?", "count them")
    samples = Samples([TextSource(part.train, part.settings)], 60, 0)
    drawn = [samples[number].prefix for number in range(60)]
    # A third each, give or take four standard deviations.
    assert all(abs(drawn.count(way) - 20) < 15 for way in ways)
    assert drawn == [samples[number].prefix for number in range(60)]
    digest = Mixture((part,)).digest
    (tmp_path / "train.jsonl").write_text(json.dumps({**line, "paraphrases": ways[1:2]}))
    other = read_parts(DataPlaces(data=tmp_path), FinetuneSettings(task="ask", steps=1))
    assert Mixture((other,)).digest != digest


def test_what_a_checkpoint_knows_is_learnt_slowly(scenes: Path, tmp_path: Path) -> None:
    recipe, tiny = FinetuneSettings(steps=1), find_checkpoint("tiny")
    known = read_mixture([DataPlaces(data=scenes)], recipe)
    assert known.is_known(tiny)
    assert not known.is_known(replace(tiny, classes=None))
    assert not read_mixture([DataPlaces(data=scenes)], replace(recipe, closed_set=True)).is_known(
        tiny
    )
    shutil.copytree(scenes, tmp_path / "new")
    for part in ("train", "valid"):
        file = tmp_path / "new" / part / "instances.json"
        file.write_text(file.read_text().replace('"name": "helmet"', '"name": "excavator"'))
    other = read_mixture([DataPlaces(data=tmp_path / "new")], recipe)
    assert "excavator" in other.classes and not other.is_known(tiny)
    rates = [
        recipe.rate_for(kind, knows=knows) for kind in ("tiny", "pt") for knows in (True, False)
    ]
    assert rates == [1e-4, 5e-4, 1e-5, 1e-5]
    assert replace(recipe, method="lora").rate_for("tiny", knows=True) == 2e-4
    assert replace(recipe, learning_rate=3e-3).rate_for("tiny", knows=True) == 3e-3
