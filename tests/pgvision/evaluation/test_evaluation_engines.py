"""Both engines give pycocotools' twelve figures, and our own matching gives its matches."""

import contextlib
import copy
import io
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pgvision.errors import OptionError
from pgvision.evaluation import STAT_NAMES, evaluate_detections, match_scores
from pgvision.evaluation.inputs import load_inputs
from pgvision.evaluation.matching import greedy_match, overlapping_pairs
from pgvision.rle import mask_to_rle


def pycocotools_run(truth, results, iou_type):
    """pycocotools as its own documentation uses it, apart from ids that start at 1."""
    truth, results = copy.deepcopy(truth), copy.deepcopy(results)
    for record in truth["annotations"]:
        record["id"] += 1
    if iou_type == "segm":
        for record in results:
            del record["bbox"]  # or it would take the box's area for the mask's
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = truth
        gt.createIndex()
        dt = gt.loadRes(results)
        run = COCOeval(gt, dt, iou_type)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(16))
def test_engines_agree_with_pycocotools(random_set, seed, iou_type):
    truth, results = random_set(seed, masks=iou_type == "segm")
    if not results:
        pytest.skip("pycocotools cannot load an empty list")
    run = pycocotools_run(truth, results, iou_type)
    curves = run.eval["precision"][[0, 5], :, :, 0, 2].transpose(2, 0, 1)
    for engine in ("faster", "pycocotools"):
        report = evaluate_detections(truth, results, iou_type, engine, details=False)
        assert np.abs(np.array(report.stats) - run.stats).max() <= 1e-9, engine
        np.testing.assert_allclose([report.ap, report.ap50, report.ap75], run.stats[:3], atol=1e-9)
        np.testing.assert_allclose(report.curves, curves, atol=1e-9)
        assert report.engine == engine


@pytest.mark.parametrize("seed", range(6))
def test_scores_to_calibrate_are_those_that_count(random_set, seed):
    """What matches a crowd is neither right nor wrong."""
    truth, results = random_set(seed)
    run, expected, num_ignored = pycocotools_run(truth, results, "bbox"), [], 0
    for one in run.evalImgs:
        if one is not None and one["aRng"] == run.params.areaRng[0]:
            matches, ignored = one["dtMatches"][0] > 0, one["dtIgnore"][0].astype(bool)
            num_ignored += int(ignored.sum())
            counted = zip(one["dtScores"], matches, ignored, strict=True)
            expected += [(score, match) for score, match, out in counted if not out]
    found = sorted(zip(*match_scores(truth, results, "bbox"), strict=True))
    assert num_ignored > 0
    np.testing.assert_allclose(np.array(found, float), np.array(sorted(expected), float))


def tied_set():
    """A prediction halfway between two annotations, and one that only the second could still take.

    IoU 18 / 22 with both; which one the first takes decides what the second finds.
    """
    boxes = [[10, 10, 20, 10], [14, 10, 20, 10], [12, 10, 20, 10], [16, 10, 20, 10]]
    records = [
        {
            "image_id": 1, "category_id": 1, "bbox": box,
            "segmentation": coco_mask.frPyObjects(np.array([box], float), 120, 160)[0],
        }
        for box in boxes
    ]  # fmt: skip
    truth = {
        "images": [{"id": 1, "height": 120, "width": 160}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {**record, "id": row, "area": 200, "iscrowd": 0}
            for row, record in enumerate(records[:2])
        ],
    }
    return truth, [
        {**record, "score": score} for record, score in zip(records[2:], (0.9, 0.8), strict=True)
    ]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [0, 1, 4, 5, 6, 7, 8, "tied"])
def test_own_matching_is_that_of_pycocotools(random_set, seed, iou_type):
    truth, results = tied_set() if seed == "tied" else random_set(seed, masks=iou_type == "segm")
    run = pycocotools_run(truth, results, iou_type)
    gt, found = load_inputs(truth, results, masks=iou_type == "segm")
    pairs = overlapping_pairs(gt, found)
    for place, iou in ((0, 0.5), (5, 0.75)):
        expected = np.full(len(results), -3)
        for group in run.evalImgs:
            if group is None or group["aRng"] != [0, 1e10]:
                continue
            rows = np.array(group["dtIds"], int) - 1
            matched = group["dtMatches"][place].astype(int) - 1
            expected[rows] = np.where(group["dtIgnore"][place], -2, matched)
        mine = greedy_match(gt, found, pairs, iou=iou)
        assert mine.tolist() == expected.tolist()


@pytest.mark.parametrize("engine", ["faster", "pycocotools"])
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_a_missing_area_is_that_of_the_mask(engine, iou_type):
    # 40 x 40, and a triangle half as large: COCO counts areas up to 32 x 32 as small
    corners = [10.0, 10, 50, 10, 10, 50]
    truth = {
        "images": [{"id": 1, "height": 120, "width": 160}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40],
             "segmentation": [corners]}
        ],
    }  # fmt: skip
    (rle,) = coco_mask.frPyObjects([corners], 120, 160)
    found = {
        "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "score": 0.9,
        "segmentation": rle,
    }  # fmt: skip
    stats = dict(
        zip(STAT_NAMES, evaluate_detections(truth, [found], iou_type, engine).stats, strict=True)
    )
    assert stats["AP_small"] == pytest.approx(1)
    assert stats["AP_medium"] == stats["AP_large"] == -1


@pytest.mark.parametrize("engine", ["faster", "pycocotools"])
def test_more_masks_than_a_byte_counts(engine):
    squares = []
    for corner in range(100):
        frame = np.zeros((30, 30), np.bool_)
        top, left = divmod(corner, 10)
        frame[3 * top : 3 * top + 2, 3 * left : 3 * left + 2] = True
        squares.append(mask_to_rle(frame))
    annotations = [
        {
            "id": 100 * image + number, "image_id": image, "category_id": 1, "area": 4,
            "iscrowd": 0, "bbox": [3 * (number % 10), 3 * (number // 10), 2, 2],
            "segmentation": square,
        }
        for image in range(3)
        for number, square in enumerate(squares)
    ]  # fmt: skip
    truth = {
        "images": [{"id": image, "height": 30, "width": 30} for image in range(3)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "square"}],
    }
    results = [
        {
            "image_id": one["image_id"], "category_id": 1, "score": 0.9,
            "bbox": one["bbox"], "segmentation": one["segmentation"],
        }
        for one in annotations
    ]  # fmt: skip
    report = evaluate_detections(truth, results, "segm", engine)
    assert report.stats[0] == pytest.approx(1.0)


@pytest.mark.parametrize("engine", ["faster", "pycocotools"])
def test_no_detections_are_zeros(small_set, engine):
    report = evaluate_detections(small_set[0], [], engine=engine)
    assert report.stats == (0, 0, 0, 0, -1, -1, 0, 0, 0, 0, -1, -1)
    assert report.best_f1 is None
    assert report.confusion.tolist() == [[0, 0, 2], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("engine", ["faster", "pycocotools"])
def test_no_annotations_are_undefined(small_set, engine):
    truth, results = small_set
    report = evaluate_detections({**truth, "annotations": []}, results, engine=engine)
    assert report.stats == (-1,) * 12
    assert all(metrics.ap is None for metrics in report.per_class.values())
    assert evaluate_detections({**truth, "annotations": []}, []).stats == (-1,) * 12


def test_inputs_are_not_changed_and_may_come_in_any_form(small_set, tmp_path):
    import json

    truth, results = small_set
    before = copy.deepcopy((truth, results))
    expected = evaluate_detections(truth, results).stats
    assert (truth, results) == before
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "dt.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        as_object = COCO(str(tmp_path / "gt.json"))
    loose = [
        {**record, "bbox": convert(record["bbox"]), "image_id": np.int64(record["image_id"]),
         "score": np.float32(record["score"])}
        for record, convert in zip(results, [tuple, np.array, list, np.float32], strict=True)
    ]  # fmt: skip
    for gt, dt in (
        (tmp_path / "gt.json", str(tmp_path / "dt.json")),
        (as_object, results),
        (truth, loose),
    ):
        assert evaluate_detections(gt, dt).stats == expected


def test_missing_area_and_iscrowd_are_filled_in(small_set):
    truth, results = small_set
    bare = copy.deepcopy(truth)
    for record in bare["annotations"]:
        del record["area"], record["iscrowd"], record["id"]
    for iou_type in ("bbox", "segm"):
        report = evaluate_detections(bare, results, iou_type)
        assert report.stats == evaluate_detections(truth, results, iou_type).stats
        assert "3 annotations have no area" in report.notes[0]


@pytest.mark.parametrize("engine", ["faster", "pycocotools"])
def test_masks_of_which_none_can_match_are_zeros(small_set, engine):
    truth, results = small_set
    other_class = [{**results[0], "category_id": 2}]
    for found in ([], other_class):
        report = evaluate_detections(truth, found, "segm", engine)
        assert report.stats == (0, 0, 0, 0, -1, -1, 0, 0, 0, 0, -1, -1)
        assert report.confusion.trace() == 0
        scores, correct = match_scores(truth, found, "segm")
        assert (len(scores), correct.any()) == (len(found), False)
    bare = [{key: value for key, value in other_class[0].items() if key != "score"}]
    report = evaluate_detections(truth, bare, "segm", engine, scoreless="f1")
    assert (report.ap, report.score_free[0].f1) == (None, 0)


@pytest.mark.parametrize("max_dets", [5, 300])
def test_max_dets_is_that_of_pycocotools(random_set, max_dets):
    truth, results = random_set(4)  # 130 predictions of one class in one image
    run = pycocotools_run(truth, results, "bbox")
    run.params.maxDets = [1, min(10, max_dets), max_dets]
    with contextlib.redirect_stdout(io.StringIO()):
        run.evaluate()
        run.accumulate()
    precision, recall = run.eval["precision"][..., 0, 2], run.eval["recall"][..., 0, 2]
    for engine in ("faster", "pycocotools"):
        report = evaluate_detections(truth, results, engine=engine, max_dets=max_dets)
        assert report.ap == pytest.approx(precision[precision > -1].mean(), abs=1e-9)
        assert report.stats[8] == pytest.approx(recall[recall > -1].mean(), abs=1e-9)
        assert list(report.to_dict()["stats"])[8] == f"AR_{max_dets}"
    scored = sum(report.reliability.counts)
    assert scored < len(results) if max_dets == 5 else scored <= len(results)


def test_the_figures_of_each_class_are_those_of_pycocotools(random_set):
    differ = 0
    for seed in range(6):
        truth, results = random_set(seed)
        run = pycocotools_run(truth, results, "bbox")
        precision, recall = run.eval["precision"][..., 0, 2], run.eval["recall"][..., 0, 2]
        report = evaluate_detections(truth, results)
        for place, name in enumerate(["class 2", "class 4", "class 7"]):  # by their ids
            of_class, found = precision[:, :, place], report.per_class[name]
            means = (of_class, of_class[0], of_class[5], recall[:, place])
            expected = [None if (one == -1).all() else one[one > -1].mean() for one in means]
            shown = [found.ap, found.ap50, found.ap75, found.ar]
            assert shown == [one and pytest.approx(one, abs=1e-9) for one in expected]
            differ += of_class[5].mean() != of_class[6].mean()
    assert differ > 3  # 0.75 is not mistaken for 0.8


def test_classes_and_images_are_scored_alone(random_set):
    truth, results = random_set(7)
    classes, image_ids = ["class 2", "class 7"], [3, 9, 10**9]
    kept = copy.deepcopy(truth)
    kept["images"] = [image for image in truth["images"] if image["id"] in image_ids]
    kept["categories"] = [one for one in truth["categories"] if one["name"] in classes]
    inside = lambda one: one["image_id"] in image_ids and one["category_id"] in (2, 7)  # noqa: E731
    kept["annotations"] = [one for one in truth["annotations"] if inside(one)]
    expected = evaluate_detections(kept, [one for one in results if inside(one)])
    report = evaluate_detections(truth, results, classes=classes, image_ids=image_ids)
    assert report.stats == expected.stats
    assert report.confusion.tolist() == expected.confusion.tolist()
    assert (report.num_images, list(report.per_class)) == (3, ["class 2", "class 7"])
    assert any("predictions of other classes or images" in note for note in report.notes)
    for bad in ({"classes": ["x"]}, {"classes": "class 2"}, {"image_ids": [4]}, {"classes": []}):
        with pytest.raises(OptionError, match=next(iter(bad))):
            evaluate_detections(truth, results, **bad)
    with pytest.raises(OptionError, match="max_dets"):
        evaluate_detections(truth, results, max_dets=0)


def test_details_of_a_dense_set_need_little_memory():
    # All pairs at once took 154 bytes a pair, four times: 1.4 GB here.
    rng = np.random.default_rng(0)
    truth = {
        "images": [{"id": i, "height": 2000, "width": 2000} for i in range(60)],
        "categories": [{"id": 1, "name": "box"}],
        "annotations": [],
    }
    results = []
    for image in range(60):
        places = rng.uniform(0, 1900, (150, 2)).tolist()
        for x, y in places:
            record = {"image_id": image, "category_id": 1, "bbox": [x, y, 60, 60]}
            truth["annotations"].append({**record, "id": len(truth["annotations"]) + 1})
            results += [{**record, "score": float(rng.random())} for _ in range(2)]
    gt, found = load_inputs(truth, results)
    tracemalloc.start()
    pairs = overlapping_pairs(gt, found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(pairs.found) >= len(results)
    assert peak < 300e6


def test_selections_may_be_arrays_or_iterators_and_take_no_quadratic_time(small_set):
    truth, results = small_set
    report = evaluate_detections(truth, results, image_ids=np.array([1, 2]))
    assert report.stats == evaluate_detections(truth, results, image_ids=[1, 2]).stats
    names = [category["name"] for category in truth["categories"]][:1]
    report = evaluate_detections(truth, results, classes=iter(names))
    assert report.stats == evaluate_detections(truth, results, classes=names).stats
    many = {"images": [{"id": number} for number in range(30_000)], "annotations": [],
            "categories": truth["categories"]}  # fmt: skip
    began = time.process_time()
    report = evaluate_detections(many, [], image_ids=range(30_000), details=False)
    assert report.num_images == 30_000
    assert time.process_time() - began < 10  # 30 s when a set was made for each id


@pytest.mark.parametrize("value", [2.5, "100", 0])
def test_max_dets_that_is_no_count_is_refused(small_set, value):
    with pytest.raises(OptionError, match="max_dets: expected a whole number"):
        evaluate_detections(*small_set, max_dets=value)
    with pytest.raises(OptionError, match="max_dets: expected a whole number"):
        match_scores(*small_set, max_dets=value)
    assert len(match_scores(*small_set, max_dets=1)[0]) == 3  # one of each image and class


def test_evaluations_in_threads_give_back_the_standard_output(small_set, capsys):
    out = sys.stdout

    def evaluate():
        for engine in ("pycocotools", "faster"):
            for _ in range(5):
                evaluate_detections(*small_set, engine=engine, details=False)

    threads = [threading.Thread(target=evaluate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.stdout is out
    assert capsys.readouterr().out == ""
