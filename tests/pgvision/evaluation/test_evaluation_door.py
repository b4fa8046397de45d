"""Everything that evaluators swallow is refused, with its place and a fix."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pgvision.errors import EvaluationError, OptionError
from pgvision.evaluation import evaluate_detections
from pgvision.rle import run_total

NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"score": NAN}, r"results\[2\].score: is nan"),
        ({"score": float("inf")}, r"results\[2\].score: is inf"),
        ({"score": None}, r"results\[2\].score: is missing"),
        ({"score": "0.5"}, r"results\[2\].score: is '0.5'"),
        ({"score": True}, r"results\[2\].score: is True"),
        ({"image_id": 77}, r"results\[2\].image_id: is 77, which the ground truth lacks"),
        ({"image_id": "1"}, r"results\[2\].image_id: is '1', expected an integer"),
        ({"image_id": 1.5}, r"results\[2\].image_id: is 1.5, expected an integer"),
        ({"image_id": 2**70}, r"results\[2\].image_id: .* below 2\*\*53"),
        ({"category_id": 9}, r"results\[2\].category_id: is 9"),
        ({"category_id": "head"}, r"results\[2\].category_id: is 'head'"),
        ({"bbox": [1, 2, 3]}, r"results\[2\].bbox: is \[1, 2, 3\], expected 4 numbers"),
        ({"bbox": [1, 2, NAN, 3]}, r"results\[2\].bbox: .* a coordinate is nan"),
        ({"bbox": [50, 50, -3, 3]}, r"results\[2\].bbox: .* not corners"),
        ({"bbox": ["1", 2, 3, 4]}, r"results\[2\].bbox: .* a coordinate is '1'"),
        ({"bbox": "1234"}, r"results\[2\].bbox"),
        ({"bbox": None}, r"results\[2\].bbox"),
    ],
)
def test_broken_results(small_set, change, place):
    truth, results = small_set
    results[2].update(change)
    with pytest.raises(EvaluationError, match=place) as refused:
        evaluate_detections(truth, results)
    assert "Fix:" in str(refused.value)


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "score"])
def test_missing_keys_in_results(small_set, key):
    truth, results = small_set
    del results[1][key]
    with pytest.raises(EvaluationError, match=rf"results\[1\].{key}: is missing"):
        evaluate_detections(truth, results)


def test_all_problems_are_counted_and_the_first_ones_shown(small_set):
    truth, results = small_set
    for record in results:
        record.update(score=NAN, image_id="x")
    with pytest.raises(EvaluationError, match="8 problems") as refused:
        evaluate_detections(truth, results)
    assert "and 3 more" in str(refused.value)


def edit(path, value):
    """A change to a nested place; `...` deletes it."""

    def apply(content):
        target = content
        for step in path[:-1]:
            target = target[step]
        if value is ...:
            del target[path[-1]]
        else:
            target[path[-1]] = value

    return apply


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (edit(["categories"], ...), "lacks 'categories'"),
        (edit(["images"], []), "0 images"),
        (edit(["categories"], []), "0 categories"),
        (edit(["images", 1, "id"], 1), r"images\[1\].id: is 1, as images\[0\]"),
        (edit(["images", 1, "id"], "2"), r"images\[1\].id: is '2', expected an integer"),
        (edit(["images", 1, "height"], -3), r"images\[1\]: height and width are -3"),
        (edit(["images", 1], 3), r"images\[1\]: is a number, expected an object"),
        (edit(["annotations"], {"a": 1}), "annotations: expected a list"),
        (edit(["annotations", 2, "id"], 1), r"annotations\[2\].id: is 1, as annotations\[0\]"),
        (edit(["annotations", 2, "id"], ...), r"annotations\[2\].id: is missing"),
        (edit(["annotations", 2, "image_id"], 8), r"annotations\[2\].image_id: is 8"),
        (edit(["annotations", 2, "category_id"], 8), r"annotations\[2\].category_id: is 8"),
        (edit(["annotations", 2, "bbox"], [0, 0, NAN, 1]), r"annotations\[2\].bbox"),
        (edit(["annotations", 2, "area"], NAN), r"annotations\[2\].area: is nan"),
        (edit(["annotations", 2, "iscrowd"], 2), r"annotations\[2\].iscrowd: is 2"),
        (edit(["categories", 1, "id"], 1), r"categories\[1\].id: is 1"),
        (edit(["categories", 1, "name"], "helmet"), "'helmet' is the name of two categories"),
        (edit(["categories", 1, "name"], None), r"categories\[1\].name"),
    ],
)
def test_broken_ground_truth(small_set, change, place):
    truth, results = copy.deepcopy(small_set)
    change(truth)
    with pytest.raises(EvaluationError, match=place):
        evaluate_detections(truth, results)


def test_files_that_are_cut_missing_or_no_json(small_set, tmp_path):
    truth, results = small_set
    cut = tmp_path / "cut.json"
    cut.write_text(json.dumps(truth)[:-40])
    with pytest.raises(EvaluationError, match="not complete JSON: .* at line 1"):
        evaluate_detections(cut, results)
    with pytest.raises(EvaluationError, match="No such file"):
        evaluate_detections(truth, tmp_path / "none.json")
    cut.write_bytes(b'["\xff\xfe"]')
    with pytest.raises(EvaluationError, match="UTF-8"):
        evaluate_detections(truth, cut)
    cut.write_text(json.dumps({"annotations": results}))
    with pytest.raises(EvaluationError, match="expected a list of objects, got dict"):
        evaluate_detections(truth, cut)
    cut.write_text("[NaN]")
    with pytest.raises(EvaluationError, match=r"\[0\]: is a number, expected an object"):
        evaluate_detections(truth, cut)
    with pytest.raises(EvaluationError, match="expected a COCO file"):
        evaluate_detections(7, results)


@pytest.mark.parametrize(
    ("segmentation", "place"),
    [
        (
            {"size": [160, 120], "counts": "0"},
            r"RLE size is \[160, 120\], but the image is \[120, 160\]",
        ),
        ({"size": [120, 160], "counts": "04"}, "runs over 4 pixels, expected 19200"),
        ({"size": [120, 160], "counts": "~~"}, "broken counts"),
        ({"size": [120, 160], "counts": "é"}, "broken counts"),
        ({"size": [120, 160], "counts": [5, -5]}, "broken counts"),
        ({"size": [120, 160], "counts": [19200, 5]}, "runs over 19205"),
        ({"counts": "04"}, "expected an RLE"),
        ([[1, 2, 3, 4, 5, 6]], "expected an RLE"),
        (None, "expected an RLE"),
    ],
)
def test_broken_masks(small_set, segmentation, place):
    truth, results = small_set
    results[1]["segmentation"] = segmentation
    with pytest.raises(EvaluationError, match=rf"results\[1\].segmentation: .*{place}"):
        evaluate_detections(truth, results, "segm")


@pytest.mark.parametrize("far", [1e7, 3e8, -1e9, 1e300])
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_wild_coordinates_are_refused_before_they_take_memory(small_set, far, iou_type):
    truth, results = small_set
    truth["annotations"][1]["segmentation"] = [[0, 0, far, 0, far, 30]]
    del truth["annotations"][1]["area"]
    with pytest.raises(EvaluationError, match=r"annotations\[1\].segmentation: .*far outside"):
        evaluate_detections(truth, results, iou_type)
    for image in truth["images"]:  # an unknown size
        image.pop("height")
    with pytest.raises(EvaluationError, match=r"annotations\[1\].segmentation: .*far outside"):
        evaluate_detections(truth, results, "bbox")


@pytest.mark.parametrize("polygons", [[], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, NAN]], "x", [[1] * 7]])
def test_broken_polygons_in_ground_truth(small_set, polygons):
    truth, results = small_set
    truth["annotations"][1]["segmentation"] = polygons
    with pytest.raises(EvaluationError, match=r"annotations\[1\].segmentation"):
        evaluate_detections(truth, results, "segm")


def test_masks_need_image_sizes_and_boxes_do_not(small_set):
    truth, results = small_set
    for image in truth["images"]:
        del image["height"], image["width"]
    assert evaluate_detections(truth, results, engine="faster").stats[0] > 0
    with pytest.raises(EvaluationError, match=r"images\[0\]: height and width"):
        evaluate_detections(truth, results, "segm")


@pytest.mark.parametrize(
    "options", [{"iou_type": "keypoints"}, {"engine": "x"}, {"scoreless": "yes"}]
)
def test_unknown_options(small_set, options):
    with pytest.raises(OptionError, match=r"expected one of .*Fix:"):
        evaluate_detections(*small_set, **options)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=9), min_size=1, max_size=6))
def test_run_totals_are_the_sums_of_runs(masks):
    packed = [
        coco_mask.frPyObjects({"size": [1, max(1, sum(runs))], "counts": runs}, 1, 1)["counts"]
        for runs in masks
    ]
    assert list(map(run_total, packed)) == [sum(runs) for runs in masks]


def test_a_broken_rle_has_no_total():
    mask = np.zeros((40, 50), np.uint8, order="F")
    mask[3:30, 7:40] = 1
    good = coco_mask.encode(mask)["counts"]
    unfinished = good[:-1] + b"P"  # bit 5 says that more follows
    assert list(map(run_total, [good, unfinished, b""])) == [2000, None, 0]
