"""What stands beside the twelve figures, against values found by hand or by brute force."""

import io
import json
from dataclasses import FrozenInstanceError

import cv2
import numpy as np
import pytest
from rich.console import Console

from pgvision.errors import OptionError
from pgvision.evaluation import STAT_NAMES, evaluate_detections, match_scores
from pgvision.evaluation.figures import best_f1, reliability


def test_small_set_by_hand(small_set):
    # score 0.9 right; 0.7 is a head taken for a helmet; 0.6 is nowhere; 0.4 right; one missed.
    report = evaluate_detections(*small_set)
    helmet, head = report.per_class
    assert (helmet.name, helmet.num_annotations, helmet.num_detections) == ("helmet", 2, 3)
    assert helmet.ap50 == pytest.approx(51 / 101)  # precision 1 up to recall 0.5
    assert head.ap == pytest.approx(1.0)
    assert (helmet.ar, head.ar) == (0.5, 1.0)
    assert report.ap == report.stats[0] == pytest.approx((51 / 101 + 1) / 2)
    assert report.curves.shape == (2, 2, 101)
    assert (report.best_f1.threshold, report.best_f1.f1) == (0.4, pytest.approx(4 / 7))
    assert head.best_f1.threshold == 0.4
    assert helmet.best_f1.threshold == 0.9
    # rows helmet, head, background; the head at 0.7 overlaps as well as the head at 0.4 does
    assert report.confusion.tolist() == [[1, 0, 1], [0, 1, 0], [2, 0, 0]]
    half, three_quarters = report.score_free
    assert (half.iou, half.precision, half.recall) == (0.5, 0.5, pytest.approx(2 / 3))
    assert half.f1 == pytest.approx(4 / 7)
    assert half.average_recall == 0.75
    assert three_quarters.num_matched == 2
    # bins 0.4 (1 right), 0.6 (0 of 1), 0.7 (0 of 1), 0.9 (1 right)
    assert report.reliability.ece == pytest.approx((0.6 + 0.6 + 0.7 + 0.1) / 4)
    scores, correct = match_scores(*small_set)
    assert dict(zip(scores.tolist(), correct.tolist(), strict=True)) == {
        0.9: True, 0.6: False, 0.7: False, 0.4: True
    }  # fmt: skip


def test_masks_give_the_figures_of_their_boxes(small_set):
    boxes, masks = evaluate_detections(*small_set), evaluate_detections(*small_set, "segm")
    assert boxes.stats == pytest.approx(masks.stats)
    assert boxes.confusion.tolist() == masks.confusion.tolist()
    assert boxes.score_free == masks.score_free


@pytest.mark.parametrize("seed", range(8))
def test_best_f1_is_that_of_trying_every_threshold(seed):
    rng = np.random.default_rng(seed)
    scores, correct = rng.integers(0, 8, 40) / 8, rng.random(40) < 0.4
    num_truth = int(correct.sum()) + int(rng.integers(1, 9))
    best = best_f1(scores, correct, num_truth)
    tried = [
        2 * correct[scores >= t].sum() / ((scores >= t).sum() + num_truth) for t in set(scores)
    ]
    assert best.f1 == pytest.approx(max(tried))
    kept = scores >= best.threshold
    assert best.precision == correct[kept].mean()
    assert best.recall == correct[kept].sum() / num_truth


def test_of_equally_good_thresholds_the_highest_counts():
    # one right of one kept, two right of four kept, two to find: F1 is 2 / 3 for both
    best = best_f1(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, False, True]), 2)
    assert (best.threshold, best.f1) == (0.9, pytest.approx(2 / 3))


def test_confusions_have_the_truth_in_rows(small_set):
    truth, results = small_set
    bare = [{key: value for key, value in r.items() if key != "score"} for r in results[:3]]
    # a helmet found and one missed; the head taken for a helmet; a helmet where nothing is
    report = evaluate_detections(truth, bare, scoreless="interval")
    assert report.confusion.tolist() == [[1, 0, 1], [1, 0, 0], [1, 0, 0]]


def test_reliability_edges_and_scores_that_are_no_probabilities():
    diagram = reliability(np.array([0.0, 1.0, 0.1]), np.array([False, True, True]))
    assert diagram.counts == (1, 1, *[0] * 7, 1)
    assert diagram.ece == pytest.approx(0.3)
    assert diagram.confidence[2] is None
    assert reliability(np.array([1.5]), np.array([True])) is None
    assert reliability(np.array([]), np.array([], bool)).ece is None


def test_crowds_excuse_predictions(small_set):
    truth, results = small_set
    truth["annotations"].append(
        {"id": 9, "image_id": 1, "category_id": 1, "bbox": [90, 70, 60, 45], "iscrowd": 1,
         "area": 2700}
    )  # fmt: skip
    report = evaluate_detections(truth, results)
    assert report.num_crowds == 1
    assert report.per_class[0].num_annotations == 2
    assert report.confusion.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert report.score_free[0].precision == pytest.approx(2 / 3)
    assert len(match_scores(truth, results)[0]) == 3


def test_report_is_frozen_json_and_a_table(small_set, tmp_path):
    report = evaluate_detections(*small_set)
    with pytest.raises(FrozenInstanceError):
        report.stats = ()
    report.save(tmp_path / "deep" / "report.json")
    content = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert content == report.to_dict()
    assert tuple(content["stats"]) == STAT_NAMES
    assert content["per_class"][1]["ap"] == pytest.approx(1)
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(report)
    text = console.export_text()
    for part in ("AP_small", "average_recall at IoU 0.75", "helmet", "best F1"):
        assert part in text


def test_png_is_a_picture_of_any_report(small_set, tmp_path):
    truth, results = small_set
    truth["categories"][0]["name"] = "_$h_1{"  # text, neither mathematics nor markup
    for name, found, options in (
        ("full", results, {}),
        ("bare", results, {"details": False}),
        ("empty", [], {}),
        ("scoreless", [{k: v for k, v in r.items() if k != "score"} for r in results],
         {"scoreless": "interval"}),
    ):  # fmt: skip
        evaluate_detections(truth, found, **options).save(tmp_path / f"{name}.png")
        picture = cv2.imread(str(tmp_path / f"{name}.png"))
        assert picture.shape == (600, 1800, 3)
        assert picture.std() > 10
    assert len(list(tmp_path.iterdir())) == 4
    with pytest.raises(OptionError, match=r"\.json or \.png"):
        evaluate_detections(truth, results).save(tmp_path / "report.pdf")
