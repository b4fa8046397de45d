"""COCO files: read and written without loss, and every broken one named."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pgvision.datasets import (
    Rle,
    coco_to_dataset,
    dataset_to_coco,
    read_coco,
    read_dataset,
    segmentation_to_mask,
    write_dataset,
)
from pgvision.errors import DataError

GOOD = {
    "info": {"description": "two workers"},
    "licenses": [{"id": 4, "name": "CC BY"}],
    "images": [
        {"id": 900, "file_name": "b.jpg", "width": 12, "height": 10, "license": 4},
        {"id": 7, "file_name": "sub/a.jpg", "width": 30, "height": 20},
    ],
    "annotations": [
        {"id": 31, "image_id": 900, "category_id": 5, "bbox": [1.1, 2.2, 3.3, 4.4], "area": 14.52,
         "iscrowd": 0, "segmentation": [[1.1, 2.2, 4.4, 2.2, 4.4, 6.6], [6, 6, 9, 6, 9, 9]]},
        {"id": 12, "image_id": 900, "category_id": 90, "bbox": [0, 0, 12, 10], "area": 60,
         "iscrowd": 1, "segmentation": {"size": [10, 12], "counts": [30, 60, 30]}},
        {"id": 13, "image_id": 7, "category_id": 5, "bbox": [0.1, 0.2, 0.3, 0.7], "area": 0.21,
         "iscrowd": 0, "attributes": {"occluded": True}},
    ],
    "categories": [
        {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
        {"id": 5, "name": "helmet"},
    ],
}  # fmt: skip


def by_id(entries):
    return sorted(entries, key=lambda entry: entry["id"])


def broken(change):
    data = copy.deepcopy(GOOD)
    change(data)
    return data


def test_a_file_that_is_read_and_written_holds_the_same_things(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    write_dataset(read_dataset(tmp_path / "a.json"), tmp_path / "b.json", format="coco")
    back = json.loads((tmp_path / "b.json").read_text())
    for key in ("images", "annotations", "categories"):
        assert by_id(back[key]) == by_id(GOOD[key])
    assert back["images"] == GOOD["images"]
    assert (back["info"], back["licenses"]) == (GOOD["info"], GOOD["licenses"])


finite = st.floats(-1e6, 1e6, allow_nan=False)
side = st.floats(0, 1e6, allow_nan=False)
boxes = st.lists(st.tuples(finite, finite, side, side), max_size=6)


@given(boxes, st.integers(1, 10**9), st.integers(0, 10**9))
def test_any_box_and_any_id_survive_bit_for_bit(values, image_id, category_id):
    data = {
        "images": [{"id": image_id, "file_name": "a.jpg", "width": 5, "height": 6}],
        "annotations": [
            {"id": 3 * index, "image_id": image_id, "category_id": category_id, "bbox": list(box),
             "area": 1.5, "iscrowd": 0}
            for index, box in enumerate(values)
        ],
        "categories": [{"id": category_id, "name": "x"}],
    }  # fmt: skip
    text = json.dumps(dataset_to_coco(coco_to_dataset(data, source="none.json")))
    assert json.loads(text) == data


# pycocotools 2.0.11 under NumPy 2
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_reads_what_is_written_and_sees_the_same_masks(tmp_path, capsys):
    data = coco_to_dataset(GOOD, source=tmp_path / "a.json")
    write_dataset(data, tmp_path / "b.json", format="coco")
    theirs = COCO(str(tmp_path / "b.json"))
    capsys.readouterr()
    for image in data.images:
        for item in image.objects:
            if item.segmentation is not None:
                expected = theirs.annToMask(theirs.anns[item.id]).astype(bool)
                assert (segmentation_to_mask(item.segmentation, image.image_hw) == expected).all()


@given(st.integers(1, 12), st.integers(1, 12), st.randoms())
@settings(max_examples=50)
def test_both_kinds_of_run_lengths_paint_the_mask_they_came_from(height, width, chance):
    mask = np.array([[chance.random() < 0.5 for _ in range(width)] for _ in range(height)])
    compressed = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    runs, value = [0], False
    for pixel in mask.T.ravel():
        if bool(pixel) != value:
            runs.append(0)
            value = not value
        runs[-1] += 1
    for counts in (compressed["counts"].decode(), tuple(runs)):
        painted = segmentation_to_mask(Rle((height, width), counts), (height, width))
        assert (painted == mask).all()


def test_a_missing_area_is_that_of_the_mask_or_else_of_the_box():
    data = broken(lambda d: [entry.pop("area") for entry in d["annotations"]])
    back = dataset_to_coco(coco_to_dataset(data, source="a.json"))
    areas = {entry["id"]: entry["area"] for entry in back["annotations"]}
    assert areas[12] == 60
    assert areas[13] == 0.3 * 0.7


def test_a_missing_box_is_that_of_the_polygons():
    data = broken(lambda d: d["annotations"][0].pop("bbox"))
    item = coco_to_dataset(data, source="a.json").images[0].objects[0]
    assert item.xyxy == pytest.approx((1.1, 2.2, 9, 9))


def test_the_image_folder_is_found_beside_the_file(tmp_path):
    for place in ("images", "train"):
        (tmp_path / place).mkdir()
    (tmp_path / "train" / "b.jpg").touch()
    (tmp_path / "train.json").write_text(json.dumps(GOOD))
    assert read_coco(tmp_path / "train.json").images[0].path == tmp_path / "train" / "b.jpg"
    given_folder = read_coco(tmp_path / "train.json", images=tmp_path / "images")
    assert given_folder.images[0].path == tmp_path / "images" / "b.jpg"


def test_no_annotations_are_fine():
    data = coco_to_dataset(broken(lambda d: d["annotations"].clear()), source="a.json")
    assert data.num_objects == 0
    assert data.classes == ("toothbrush", "helmet")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_a_file_cut_in_the_middle_is_refused_with_its_name(tmp_path, share):
    text = json.dumps(GOOD)
    (tmp_path / "cut.json").write_text(text[: int(len(text) * share)])
    with pytest.raises(DataError, match=r"cut\.json.*was the file cut"):
        read_coco(tmp_path / "cut.json")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused(tmp_path, bad):
    data = broken(lambda d: d["annotations"][0]["bbox"].__setitem__(2, bad))
    (tmp_path / "nan.json").write_text(json.dumps(data))
    with pytest.raises(
        DataError, match=r"nan\.json has 1 problem:\n  annotations\[0\]\.bbox: .*(nan|inf)"
    ):
        read_coco(tmp_path / "nan.json")


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_missing_part_is_named(key):
    with pytest.raises(DataError, match=rf"a\.json: lacks '{key}'"):
        coco_to_dataset(broken(lambda d: d.pop(key)), source="a.json")


@pytest.mark.parametrize(
    "name",
    ["../b.jpg", "x/../../b.jpg", "..\\b.jpg", "/etc/passwd", "C:\\b.jpg", "C:b.jpg", "a\0b.jpg"],
)
def test_image_names_that_leave_the_folder_are_refused(tmp_path, name):
    data = broken(lambda d: d["images"][0].update(file_name=name))
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"a\.json has 1 problem:\n  images\[0\]: image name"):
        read_coco(tmp_path / "a.json")


def test_names_climb_to_pictures_that_are_there_and_near(tmp_path, monkeypatch):
    home = tmp_path / "home" / "project"
    for name in ("data/images/sub/b.jpg", "runs/one/x.json", "../far.jpg"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    file = home / "runs" / "one" / "x.json"

    def path_of(name, **where):
        data = broken(lambda d: d["images"][0].update(file_name=name))
        file.write_text(json.dumps(data))
        return read_coco(file, **where).images[0].path

    name, picture = "../../data/images/sub/b.jpg", home / "data" / "images" / "sub" / "b.jpg"
    for spelt in (name, name.replace("/", "\\")):
        monkeypatch.chdir(tmp_path)
        assert path_of(spelt) == picture
        assert path_of(spelt, images=home / "data" / "images") == picture
        monkeypatch.chdir("/")
        assert path_of(spelt, images=home / "data" / "images") == picture
    monkeypatch.chdir(home)
    for away in ("../../../far.jpg", "../../data/images/sub/none.jpg"):
        with pytest.raises(DataError, match=r"leaves the image folder .*images="):
            path_of(away)


def test_separators_of_windows_are_understood(tmp_path):
    (tmp_path / "images" / "deep").mkdir(parents=True)
    (tmp_path / "images" / "deep" / "b.jpg").touch()
    (tmp_path / "odd\\name.jpg").touch()
    data = broken(lambda d: d["images"][0].update(file_name="images\\deep\\b.jpg"))
    data["images"][1]["file_name"] = "odd\\name.jpg"
    for where in (None, tmp_path / "images"):
        (tmp_path / "x.json").write_text(json.dumps(data))
        first, second = read_coco(tmp_path / "x.json", images=where).images
        assert first.path == tmp_path / "images" / "deep" / "b.jpg"
        assert first.file_name == "images\\deep\\b.jpg"
    assert read_coco(tmp_path / "x.json").images[1].path == tmp_path / "odd\\name.jpg"


def test_an_absolute_name_inside_the_image_folder_is_taken(tmp_path):
    inside = tmp_path / "b.jpg"
    data = broken(lambda d: d["images"][0].update(file_name=str(inside)))
    assert coco_to_dataset(data, source=tmp_path / "a.json").images[0].path == inside


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: (d["images"][1].update(id=900), d["annotations"].pop()),
            r"images\[1\]\.id: is 900, as images\[0\]",
        ),
        (
            lambda d: d["annotations"][1].update(id=31),
            r"annotations\[1\]\.id: is 31, as annotations\[0\]",
        ),
        (
            lambda d: d["categories"][1].update(id=90),
            r"categories\[1\]\.id: is 90, as categories\[0\]",
        ),
        (lambda d: (d["images"].clear(), d["annotations"].clear()), "at least one image"),
        (
            lambda d: d["annotations"][2].update(image_id=8),
            r"annotations\[2\]\.image_id: is 8, which is not listed",
        ),
        (
            lambda d: d["annotations"][2].update(category_id=8),
            r"annotations\[2\]\.category_id: is 8, which is not listed",
        ),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "expected 4 numbers"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3, "4"]), "expected a finite number"),
        # Numpy refused it before we did (found by fuzzing).
        (lambda d: d["annotations"][0].update(bbox=[1, [2], 3, 4]), "expected a finite number"),
        (lambda d: d["annotations"][2].pop("bbox"), r"annotations\[2\]\.bbox: is missing"),
        (lambda d: d["annotations"][0].update(iscrowd=2), r"annotations\[0\]\.iscrowd: is 2"),
        (lambda d: d["annotations"][0].update(segmentation=[[1, 2, 3]]), "x, y pairs"),
        (lambda d: d["annotations"][1]["segmentation"].update(size=[12, 10]), "but the image is"),
        (
            lambda d: d["annotations"][1]["segmentation"].update(counts=[30, 61]),
            "runs over 91 pixels, expected 120",
        ),
        (
            lambda d: d["images"][0].update(id="900"),
            r"images\[0\]\.id: is '900', expected an integer",
        ),
        (
            lambda d: d["images"][0].update(id=True),
            r"images\[0\]\.id: is True, expected an integer",
        ),
        (lambda d: d["images"][0].update(width=0), "the image cannot be read"),
        (lambda d: d["images"][0].pop("width"), "lacks 'width'"),
        (
            lambda d: d["categories"][0].update(name=""),
            r"categories\[0\]\.name: is '', expected text",
        ),
        (lambda d: d.update(images={}), "images: expected a list of objects, got an object"),
        (lambda d: d["images"].append(3), r"images\[2\]: is a number, expected an object"),
    ],
)
def test_contradictions_are_refused_with_file_and_entry(change, message):
    with pytest.raises(DataError, match=message) as caught:
        coco_to_dataset(broken(change), source="a.json")
    assert str(caught.value).startswith("a.json")


def test_other_bytes_than_utf8_and_other_values_than_objects_are_refused(tmp_path):
    file = tmp_path / "a.json"
    for content, message in [
        (b"\xff\xfe{", "expected UTF-8"),
        (b"[1, 2]", "expected a JSON object, got a list"),
        (b"[" * 100_000, "cannot be read|was the file cut"),
        (b"1" * 5000, "cannot be read|JSON object"),
    ]:
        file.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_coco(file)


def test_a_missing_file_is_named():
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        read_coco(Path("none.json"))
