"""Reader, linter and evaluation hold a COCO file for sound, mended or broken alike."""

import copy
import json
import math
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from pgvision.coco.content import read_content
from pgvision.coco.writing import write_coco
from pgvision.datasets import check_dataset, dataset_to_coco, read_coco, read_splits
from pgvision.errors import DataError, EvaluationError, ShapeError
from pgvision.evaluation import evaluate_detections

RING = [5.0, 6.0, 25.0, 6.0, 25.0, 36.0, 5.0, 36.0]
GOOD = {
    "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
    "categories": [{"id": 1, "name": "helmet"}, {"id": 2, "name": "head"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 6, 20, 30], "area": 600,
         "iscrowd": 0, "segmentation": [RING]},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [40, 6, 9, 9], "area": 81},
    ],
}  # fmt: skip
FOUND = [
    {"image_id": 1, "category_id": 1, "bbox": [5, 6, 20, 30], "score": 0.9},
    {"image_id": 1, "category_id": 2, "bbox": [40, 6, 9, 9], "score": 0.8},
]
RLE = np.zeros((48, 64), np.uint8, order="F")
RLE[6:36, 5:25] = 1
RLE = {"size": [48, 64], "counts": coco_mask.encode(RLE)["counts"].decode()}


def changed(*path, value):
    data = copy.deepcopy(GOOD)
    place = data
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


def item(key, value):
    return changed("annotations", 0, key, value=value)


def without_box(outline):
    data = item("bbox", ...)
    data["annotations"][0]["segmentation"] = outline
    return data


MENDED = {
    "whole float as id": item("id", 1.0),
    "whole float as image id": item("image_id", 1.0),
    "whole float as category": item("category_id", 1.0),
    "whole float as height": changed("images", 0, "height", value=48.0),
    "size of 0": changed("images", 0, "height", value=0),
    "a long id": item("id", 2**62),
    "no size": changed("images", 0, "width", value=None),
    "crowd null": item("iscrowd", None),
    "crowd missing": item("iscrowd", ...),
    "crowd false": item("iscrowd", False),
    "area null": item("area", None),
    "area -1": item("area", -1),
    "box missing, polygon": without_box([RING]),
    "box null, polygon": item("bbox", None),
    "box empty, polygon": item("bbox", []),
    "box missing, run lengths": without_box(RLE),
    "short ring beside a whole one": item("segmentation", [[1, 2, 3, 4], RING]),
    "an empty ring": item("segmentation", [[]]),
    "no outline": item("segmentation", []),
    "plain run lengths": item("segmentation", RLE | {"counts": [48 * 64]}),
    "run lengths of whole floats": item("segmentation", {"size": [48.0, 64.0], "counts": [3072.0]}),
    "grouping category": changed(
        "categories",
        value=[{"id": 0, "name": "gear", "supercategory": "none"}]
        + [{**one, "supercategory": "gear"} for one in GOOD["categories"]],
    ),
}
BROKEN = {
    "annotations[1].id": [item("id", 2)],
    "annotations[0].id": [item("id", "1"), item("id", 1.5), item("id", 2**63)],
    "annotations[0].image_id": [
        item("image_id", 9),
        item("image_id", None),
        item("image_id", 2**53),
    ],
    "annotations[0].category_id": [item("category_id", 9), item("category_id", True)],
    "annotations[0].iscrowd": [item("iscrowd", 2), item("iscrowd", "0")],
    "annotations[0].area": [
        item("area", math.nan),
        item("area", "600"),
        item("area", 10**400),
    ],
    "annotations[0].bbox": [
        item("bbox", [5, 6, 20]),
        item("bbox", [5, 6, math.inf, 30]),
        item("bbox", [5, 6, 10**400, 30]),
        item("bbox", [25, 36, -20, -30]),
        item("bbox", [5, 6, "20", 30]),
        item("bbox", {"x": 5}),
        without_box([[]]),
        without_box([]),
        without_box([[1, 2, 3, 4]]),
    ],
    "annotations[0].segmentation": [
        item("segmentation", [[1, 2, 3, 4, 5, 10**400]]),
        item("segmentation", [[1, 2, 3, 4, 5, math.nan]]),
        item("segmentation", [[1, 2, 3]]),
        item("segmentation", [["1", 2, 3, 4, 5, 6]]),
        item("segmentation", "polygon"),
        item("segmentation", RING),
        item("segmentation", RLE | {"size": [64, 48]}),
        item("segmentation", RLE | {"counts": "04"}),
        item("segmentation", RLE | {"counts": [5, 5]}),
        item("segmentation", {"counts": "04"}),
    ],
    "annotations[0]": [changed("annotations", 0, value=7)],
    "images[0]": [
        changed("images", 0, "width", value=-64),
        changed("images", 0, "width", value="64"),
        changed("images", 0, "width", value=2**31),
    ],
    "images[0].id": [changed("images", 0, "id", value="1")],
    "categories[1].id": [changed("categories", 1, "id", value=1)],
    "categories[1].name": [
        changed("categories", 1, "name", value="helmet"),
        changed("categories", 1, "name", value=""),
        changed("categories", 1, "name", value=3),
    ],
}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    return tmp_path


def put(folder, data):
    (folder / "x.json").write_text(json.dumps(data))
    return folder / "x.json"


@pytest.mark.parametrize("data", MENDED.values(), ids=MENDED)
def test_what_is_mended_is_read_passed_and_scored_as_the_sound_file(folder, data):
    file = put(folder, data)
    sound = read_coco(put(folder / "..", GOOD), images=folder)
    file = put(folder, data)
    dataset = read_coco(file)
    assert dataset.classes == ("helmet", "head")
    for before, after in zip(sound.images[0].objects, dataset.images[0].objects, strict=True):
        assert (before.category_id, before.xywh) == (after.category_id, after.xywh)
        assert not after.iscrowd
    assert dataset.images[0].image_hw == (48, 64)
    assert not [one for one in check_dataset(dataset).errors if one.rule == "broken-entry"]
    for truth in (data, file, dataset_to_coco(dataset)):
        assert evaluate_detections(truth, FOUND).stats[:3] == pytest.approx((1, 1, 1))


@pytest.mark.parametrize(
    ("place", "data"),
    [(place, data) for place, several in BROKEN.items() for data in several],
)
def test_what_is_refused_is_refused_by_all_and_named(folder, place, data):
    file = put(folder, data)
    for refused, door in (
        (DataError, lambda: read_coco(file)),
        (EvaluationError, lambda: evaluate_detections(file, FOUND)),
        (EvaluationError, lambda: evaluate_detections(data, FOUND)),
    ):
        with pytest.raises(refused) as caught:
            door()
        assert f"{place}: " in str(caught.value)
        assert "convert FILE --check" in str(caught.value)
    if place.startswith("images"):  # nothing is left to look at
        return
    (part,) = read_splits(file, on_error="record").values()
    found = [one for one in check_dataset(part).errors if one.rule == "broken-entry"]
    assert f"{place}: " in found[0].message


@pytest.mark.parametrize("outline", [[[0, 0, 500, 0, 500, 30]], {"size": [4, 6], "counts": [24]}])
def test_outlines_are_compared_with_sizes_that_images_alone_have(folder, outline):
    """They were read, and the file that was written of them was refused as a bug."""
    data = copy.deepcopy(GOOD)
    data["images"] = [{"id": 1, "file_name": "a.png"}]
    data["annotations"][1]["segmentation"] = outline
    file = put(folder, data)
    with pytest.raises(DataError, match=r"annotations\[1\]\.segmentation: "):
        read_coco(file)
    dataset = read_coco(file, on_error="record")
    assert [item.id for item in dataset.images[0].objects] == [1]
    assert [finding.rule for finding in dataset.findings] == ["broken-entry"]


def test_the_linter_lists_every_broken_entry_and_looks_at_the_rest(folder):
    data = copy.deepcopy(GOOD)
    data["annotations"] += [
        {"id": 3, "image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4]},
        {"id": 4, "image_id": 1, "category_id": 9, "bbox": [1, 2, 3]},
        {"id": 6, "image_id": "1", "category_id": 1, "segmentation": RLE},
        {"id": 5, "image_id": 1, "category_id": 1, "bbox": [60, 6, 20, 30]},
    ]
    data["images"].append({"id": 2, "width": 5, "height": 5})
    report = check_dataset(read_coco(put(folder, data), on_error="record"))
    assert sorted((one.rule, one.message.partition(": ")[0]) for one in report.errors) == [
        ("box-outside", "annotation 5 (helmet)"),
        ("broken-entry", "annotations[2].image_id"),
        ("broken-entry", "annotations[3].bbox"),
        ("broken-entry", "annotations[4].image_id"),
        ("broken-entry", "images[1].file_name"),
    ]


def test_a_file_without_classes_is_read_but_neither_passed_nor_scored(folder):
    data = GOOD | {"categories": [], "annotations": []}
    report = check_dataset(read_coco(put(folder, data)))
    assert [one.rule for one in report.errors] == ["no-categories", "no-annotations"]
    with pytest.raises(EvaluationError, match="0 categories"):
        evaluate_detections(data, FOUND)


def test_an_area_below_0_counts_as_unknown_for_every_figure(folder):
    data = item("area", -1)
    report = evaluate_detections(data, FOUND)
    assert report.stats == evaluate_detections(GOOD, FOUND).stats
    assert any("areas below 0" in note for note in report.notes)


def test_missing_areas_are_those_of_the_masks_for_all(folder):
    ring = [5.0, 6.0, 25.0, 6.0, 25.0, 36.0]
    data = item("segmentation", [ring])
    del data["annotations"][0]["area"]
    expected = coco_mask.area(coco_mask.frPyObjects([ring], 48, 64)).sum()
    assert dataset_to_coco(read_coco(put(folder, data)))["annotations"][0]["area"] == expected
    assert read_content(data, where="x", outlines=False).area[0] == expected
    del data["annotations"][0]["segmentation"]
    assert read_content(data, where="x").area.tolist() == [600, 81]  # of the boxes


def test_other_fields_blanks_and_a_byte_order_mark_are_read(folder):
    data = copy.deepcopy(GOOD) | {"info": {"year": 2017, "by": ["é\u2028", -1.5e-3]}, "n": [1, [2]]}
    data["annotations"] *= 3
    for number, entry in enumerate(copy.deepcopy(data["annotations"])):
        data["annotations"][number] = entry | {"id": number, "note": "}]" * number}
    before = copy.deepcopy(data)
    for text in (json.dumps(data), json.dumps(data, indent=3, ensure_ascii=False)):
        for mark in ("", "\ufeff"):
            (folder / "x.json").write_text(mark + text, encoding="utf-8")
            dataset = read_coco(folder / "x.json")
            assert dataset.info == {"info": data["info"], "n": data["n"]}
            assert dataset_to_coco(dataset)["annotations"] == [
                {"iscrowd": 0, **entry} for entry in data["annotations"]
            ]
    read_content(data, where="x")
    assert data == before  # content that is in memory is not changed


@pytest.mark.parametrize("far", [1e7, 3e8, 1e9, -1e8])
def test_a_wild_coordinate_is_refused_before_it_takes_memory(folder, far):
    data = item("segmentation", [[0, 0, far, 0, far, 30]])
    del data["annotations"][0]["area"]
    with pytest.raises(DataError, match=r"annotations\[0\].segmentation: .*far outside"):
        read_coco(put(folder, data))


def test_names_that_are_no_utf8_are_written_and_found_again(folder):
    name = os.fsdecode(b"caf\xe9 50%.png")
    (folder / "a.png").rename(folder / name)
    write_coco(folder / "out.json", images=[GOOD["images"][0] | {"file_name": name}],
               annotations=GOOD["annotations"], categories=GOOD["categories"])  # fmt: skip
    held = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    assert held["images"][0]["file_name"] == "caf%E9 50%.png"
    assert read_coco(folder / "out.json").images[0].path == folder / name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": []} 3', "Extra data"),
        ('{"images": [1 2]}', "was the file cut"),
        ('{"images" []}', "was the file cut"),
        ("{} ", "lacks 'images'"),
        ("", "was the file cut"),
    ],
)
def test_text_that_is_no_object_is_explained(folder, text, message):
    (folder / "x.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_coco(folder / "x.json")


@pytest.mark.parametrize("batch", [1, 1000], ids=["long", "short"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_not_written(folder, bad, batch, monkeypatch):
    monkeypatch.setattr("pgvision.coco.writing._BATCH", batch)
    for entry in ({"id": 1, "bbox": [bad]}, {"id": 1, "note": None, "deep": {"a": [bad]}}):
        with pytest.raises(DataError, match="not finite"):
            write_coco(folder / "out.json", images=[], annotations=[entry], categories=[])
    assert not (folder / "out.json").exists()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab\"\\"), inner),
        max_leaves=12,
    )
)  # fmt: skip
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("batch", [2, 1000])
def test_any_field_is_written_as_it_is(tmp_path, monkeypatch, batch, value):
    monkeypatch.setattr("pgvision.coco.writing._BATCH", batch)
    entries = [{"id": number, "x": value} for number in range(3)]
    file = tmp_path / "out.json"
    write_coco(file, images=[], annotations=iter(entries), categories=[], info={"y": value})
    held = json.loads(file.read_text(encoding="utf-8"))
    expected = {"y": value, "images": [], "annotations": entries, "categories": []}
    assert held == expected
    assert json.dumps(held) == json.dumps(expected)


def test_an_error_of_the_records_is_not_called_a_number(tmp_path):
    def records():
        yield FOUND[0]
        raise ShapeError("a.jpg: no such shape")

    file, others = tmp_path / "found.json", {"images": [], "categories": []}
    with pytest.raises(ShapeError, match="^a.jpg: no such shape$"):
        write_coco(file, annotations=records(), **others)
    with pytest.raises(DataError, match=r"found\.json: contains a number that is not finite"):
        write_coco(file, annotations=[FOUND[0] | {"score": math.nan}], **others)
    assert list(tmp_path.iterdir()) == []
