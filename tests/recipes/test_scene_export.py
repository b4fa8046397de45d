"""Exported folders: other people's readers find in them what the scenes hold."""

import json
import re
from collections import Counter

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from pgvision.errors import OptionError
from recipes.scenes import CLASSES, render_scene
from recipes.scenes.export import export_scenes
from recipes.scenes.wordings import kept_back_forms

SIZE = (160, 200)
FIRST, COUNT = 930_000, 8


class CornerCodec:
    """A mask encoder whose codes can be worked out by hand: coverage of a 4 x 4 grid."""

    def encode(self, masks):
        assert masks.dtype == np.float32
        assert masks.shape[1:] == (64, 64)
        assert masks.min() >= 0
        assert masks.max() <= 1
        means = masks.reshape(-1, 4, 16, 4, 16).mean(axis=(2, 4))
        return np.rint(means.reshape(-1, 16) * 127).astype(np.int64)


class BrokenCodec:
    def encode(self, masks):
        raise RuntimeError("no codes today")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "site"
    done = []
    made = export_scenes(
        out, count=COUNT, seed=FIRST, image_hw=SIZE, codec=CornerCodec(), progress=done.append
    )
    assert made == out
    assert done == list(range(1, COUNT + 1))
    return out


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(seed, image_hw=SIZE) for seed in range(FIRST, FIRST + COUNT)]


def _examples(folder):
    lines = (folder / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# pycocotools 2.0.11 itself: its array wrapper has not learnt numpy 2's copy keyword.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_reads_boxes_masks_and_areas(folder, scenes, capsys):
    coco = COCO(str(folder / "instances.json"))
    assert tuple(item["name"] for item in coco.loadCats(coco.getCatIds())) == CLASSES
    assert len(coco.getImgIds()) == COUNT
    for image_id, scene in zip(sorted(coco.getImgIds()), scenes, strict=True):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        assert len(annotations) == len(scene.objects)
        for found, item in zip(annotations, scene.objects, strict=True):
            mask = coco.annToMask(found).astype(bool)
            assert np.array_equal(mask, item.mask)
            assert found["area"] == mask.sum()
            assert found["iscrowd"] == 0
            rows, columns = np.nonzero(mask)
            left, top, width, height = found["bbox"]
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
            (category,) = coco.loadCats(found["category_id"])
            assert category["name"] == item.label
    capsys.readouterr()  # pycocotools prints


def test_annotation_ids_are_unique(folder):
    document = json.loads((folder / "instances.json").read_text(encoding="utf-8"))
    ids = [item["id"] for item in document["annotations"]]
    assert len(set(ids)) == len(ids)


def test_pictures_are_the_scenes(folder, scenes):
    document = json.loads((folder / "instances.json").read_text(encoding="utf-8"))
    for entry, scene in zip(document["images"], scenes, strict=True):
        image = cv2.imread(str(folder / entry["file_name"]))
        assert image.shape == scene.image.shape == (entry["height"], entry["width"], 3)
        assert np.abs(image.astype(int) - scene.image.astype(int)).mean() < 6
    assert len(list((folder / "images").iterdir())) == COUNT


def test_detect_examples_hold_every_object_and_some_absences(folder, scenes):
    examples = _examples(folder)
    names = sorted({example["image"] for example in examples})
    for name, scene in zip(names, scenes, strict=True):
        labels = Counter(item.label for item in scene.objects)
        asked = {}
        for example in examples:
            if example["image"] == name and example["prefix"].startswith("detect "):
                asked[example["prefix"].removeprefix("detect ")] = example["suffix"]
        assert set(labels) <= set(asked) <= set(CLASSES)
        assert len(asked) - len(labels) == min(2, len(CLASSES) - len(labels))
        for label, suffix in asked.items():
            objects = [item for item in scene.objects if item.label == label]
            if not objects:
                assert suffix == ""
                continue
            parts = suffix.split(" ; ")
            assert len(parts) == len(objects)
            for part, item in zip(parts, objects, strict=True):
                bins = re.fullmatch(r"<loc(\d{4})><loc(\d{4})><loc(\d{4})><loc(\d{4})> (.+)", part)
                assert bins[5] == label
                top, left, bottom, right = (int(bins[place]) for place in range(1, 5))
                box = np.array([left, top, right, bottom]) / 1024
                sides = np.array([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
                assert np.abs(box * sides - item.xyxy).max() <= SIZE[1] / 1024


def test_segment_examples_add_the_codes_of_the_crops(folder, scenes):
    examples = _examples(folder)
    name = examples[0]["image"]
    boxes = {
        example["prefix"].removeprefix("detect "): example["suffix"]
        for example in examples
        if example["image"] == name and example["prefix"].startswith("detect ")
    }
    masks = {
        example["prefix"].removeprefix("segment "): example["suffix"]
        for example in examples
        if example["image"] == name and example["prefix"].startswith("segment ")
    }
    assert boxes.keys() == masks.keys()
    for label, suffix in masks.items():
        assert re.sub(r"<seg\d{3}>", "", suffix) == boxes[label]
        objects = [item for item in scenes[0].objects if item.label == label]
        for part, item in zip(suffix.split(" ; ") if suffix else [], objects, strict=True):
            codes = [int(code) for code in re.findall(r"<seg(\d{3})>", part)]
            assert len(codes) == 16
            # Coverage, worked out on the pixels themselves.
            assert np.mean(codes) / 127 == pytest.approx(item.crop.mean(), abs=0.05)


def test_words_are_the_scenes_own(folder, scenes):
    examples = _examples(folder)
    names = sorted({example["image"] for example in examples})
    for name, scene in zip(names, scenes, strict=True):
        said = {e["prefix"]: e["suffix"] for e in examples if e["image"] == name}
        assert said["caption en"] == scene.caption
        assert said["ocr"] == scene.reading
        for item in scene.questions:
            assert said[f"answer en {item.question}"] == item.answer


def test_without_a_codec_nothing_is_segmented(tmp_path):
    out = export_scenes(tmp_path / "plain", count=1, seed=1, image_hw=SIZE)
    assert not any(example["prefix"].startswith("segment") for example in _examples(out))


def test_equal_options_write_equal_files(tmp_path):
    first, second = (
        export_scenes(tmp_path / name, count=2, seed=5, image_hw=SIZE) for name in ("a", "b")
    )
    for path in sorted(first.rglob("*.*")):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(OptionError, match="already holds something"):
        export_scenes(tmp_path, count=1, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_used(tmp_path):
    out = tmp_path / "empty"
    out.mkdir()
    export_scenes(out, count=1, seed=1, image_hw=SIZE)
    assert (out / "instances.json").is_file()


def test_a_failed_export_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError, match="no codes today"):
        export_scenes(tmp_path / "site", count=3, seed=1, image_hw=SIZE, codec=BrokenCodec())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"count": 0, "seed": 1}, "count"),
        ({"count": 1.5, "seed": 1}, "count"),
        ({"count": 1, "seed": -3}, "seed"),
        ({"count": 1, "seed": 1, "image_hw": (10, 20)}, "image_hw"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, named):
    with pytest.raises(OptionError, match=named):
        export_scenes(tmp_path / "site", **options)
    assert list(tmp_path.iterdir()) == []


def test_questions_come_with_the_ways_that_training_uses(folder):
    asked = [example for example in _examples(folder) if "paraphrases" in example]
    assert asked
    assert all(example["prefix"].startswith("answer en ") for example in asked)
    held = {f"answer en {form}" for form in kept_back_forms("does everyone wear a helmet?")}
    for example in asked:
        assert example["prefix"] not in example["paraphrases"]
        assert not held & set(example["paraphrases"])
    everyone = [one for one in asked if one["prefix"] == "answer en does everyone wear a helmet?"]
    assert all("answer en is everyone wearing a helmet?" in one["paraphrases"] for one in everyone)
    assert everyone
