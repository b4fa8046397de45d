"""What stands beside the twelve figures, against values found by hand or by brute force."""

import io
import json
from dataclasses import FrozenInstanceError, replace

import cv2
import numpy as np
import pytest
from rich.console import Console

from pgvision.errors import OptionError
from pgvision.evaluation import STAT_NAMES, evaluate_detections, match_scores
from pgvision.evaluation.metrics import best_f1, reliability
from pgvision.evaluation.report import report_figure
from pgvision.rle import mask_to_rle


def test_small_set_by_hand(small_set):
    # score 0.9 right; 0.7 is a head taken for a helmet; 0.6 is nowhere; 0.4 right; one missed.
    report = evaluate_detections(*small_set)
    helmet, head = report.per_class["helmet"], report.per_class["head"]
    assert (helmet.name, helmet.num_annotations, helmet.num_detections) == ("helmet", 2, 3)
    assert helmet.ap50 == pytest.approx(51 / 101)  # precision 1 up to recall 0.5
    assert head.ap == pytest.approx(1.0)
    assert (helmet.ar, head.ar) == (0.5, 1.0)
    assert report.ap == report.stats[0] == pytest.approx((51 / 101 + 1) / 2)
    assert (report.ap50, report.ap75) == report.stats[1:3]
    assert report.curves.shape == (2, 2, 101)
    assert (report.best_f1.threshold, report.best_f1.f1) == (0.4, pytest.approx(4 / 7))
    assert head.best_f1.threshold == 0.4
    assert helmet.best_f1.threshold == 0.9
    # rows helmet, head, background; the head at 0.7 overlaps as well as the head at 0.4 does
    assert report.confusion.tolist() == [[1, 0, 1], [0, 1, 0], [2, 0, 0]]
    half, three_quarters = report.score_free
    assert (half.iou, half.precision, half.recall) == (0.5, 0.5, pytest.approx(2 / 3))
    assert half.f1 == pytest.approx(4 / 7)
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
    report = evaluate_detections(truth, bare, scoreless="f1")
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
    assert report.per_class["helmet"].num_annotations == 2
    assert report.confusion.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert report.score_free[0].precision == pytest.approx(2 / 3)
    assert len(match_scores(truth, results)[0]) == 3


def mean_f1_set():
    """One box found exactly, one 9 of 40 pixels to the right, and a false one."""
    truth = {
        "images": [{"id": 1, "height": 120, "width": 160}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 40]},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [60, 0, 40, 40]},
        ],
    }
    found = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": score}
        for box, score in (([0, 0, 40, 40], 0.9), ([69, 0, 40, 40], 0.8), ([90, 70, 40, 40], 0.3))
    ]
    return truth, found


def test_mean_f1_by_hand():
    # IoU 31 / 49 = 0.633: two matches at 0.5, 0.55 and 0.6, one at the seven IoUs from 0.65 on
    truth, found = mean_f1_set()
    report = evaluate_detections(truth, found)
    assert report.threshold == report.best_f1.threshold == 0.8
    assert report.mean_f1 == pytest.approx((3 * 4 / (2 + 2) + 7 * 2 / (2 + 2)) / 10)
    bare = [{key: value for key, value in one.items() if key != "score"} for one in found]
    report = evaluate_detections(truth, bare, scoreless="f1")
    assert report.threshold is None
    assert report.mean_f1 == pytest.approx((3 * 4 / (3 + 2) + 7 * 2 / (3 + 2)) / 10)
    crowd = {"id": 3, "image_id": 1, "category_id": 1, "bbox": [80, 60, 80, 60], "iscrowd": 1}
    truth["annotations"].append(crowd)  # excuses the false one
    excused = evaluate_detections(truth, bare, scoreless="f1")
    assert excused.mean_f1 == pytest.approx(0.65)
    assert evaluate_detections(truth, []).mean_f1 == 0
    assert evaluate_detections({**truth, "annotations": []}, found).mean_f1 is None


def box(category, *xywh, score=None, **more):
    scored = {} if score is None else {"score": score}
    return {"image_id": 1, "category_id": category, "bbox": list(xywh), **scored, **more}


def test_mean_iou_by_hand():
    truth = {
        "images": [{"id": 1, "height": 120, "width": 160}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            box(1, 0, 0, 20, 10, id=1), box(1, 7, 0, 20, 10, id=2), box(2, 60, 60, 10, 10, id=3),
            box(1, 100, 0, 50, 50, id=4, iscrowd=1),
        ],
    }  # fmt: skip
    found = [
        # 16 / 24 with the first, 17 / 23 with the second, which it would take if it took its best
        box(1, 4, 0, 20, 10, score=0.9),
        box(1, 20, 0, 7, 10, score=0.1),  # 7 / 20 with the second, below COCO's lowest IoU
        box(1, 60, 60, 10, 10, score=0.8),  # the third's place, but not its class
        box(1, 110, 10, 20, 20, score=0.7),  # in the crowd
    ]
    report = evaluate_detections(truth, found)
    assert report.miou == pytest.approx((16 / 24 + 7 / 20 + 0) / 3)
    assert report.to_dict()["miou"] == report.miou
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(report)
    (row,) = (line for line in console.export_text().splitlines() if "mean IoU" in line)
    assert "0.339" in row
    bare = [{key: value for key, value in one.items() if key != "score"} for one in found]
    assert evaluate_detections(truth, bare, scoreless="f1").miou == report.miou
    assert evaluate_detections(truth, []).miou == 0
    assert evaluate_detections({**truth, "annotations": []}, found).miou is None


def test_mean_iou_of_masks_is_of_masks():
    square, half = np.zeros((2, 40, 40), bool)
    square[10:20, 10:20] = True
    half[10:20, 10:20] = np.tri(10, dtype=bool)  # 55 of 100 pixels, the same box
    truth = {
        "images": [{"id": 1, "height": 40, "width": 40}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [box(1, 10, 10, 10, 10, id=1, segmentation=mask_to_rle(square))],
    }
    found = [box(1, 10, 10, 10, 10, score=0.5, segmentation=mask_to_rle(half))]
    assert evaluate_detections(truth, found, "segm").miou == pytest.approx(0.55)
    assert evaluate_detections(truth, found, "bbox").miou == 1


def test_a_report_says_what_was_scored_and_at_which_threshold(small_set, tmp_path):
    truth, found = mean_f1_set()
    (tmp_path / "val.json").write_text(json.dumps(truth))
    report = replace(
        evaluate_detections(tmp_path / "val.json", found), model="google/some", conf=0.25
    )
    content = report.to_dict()
    said = {name: content[name] for name in ("model", "data", "conf", "threshold", "mean_f1")}
    assert said == {
        "model": "google/some", "data": str(tmp_path / "val.json"), "conf": 0.25,
        "threshold": 0.8, "mean_f1": pytest.approx(0.65),
    }  # fmt: skip
    figure = report_figure(content)
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(report)
    for text in (figure.get_suptitle().replace("\n", " "), console.export_text()):
        for part in (
            "google/some on ", "val.json",
            "boxes of 1 images: 2 annotations (0 crowds), 3 detections",
            "of score >= 0.250", "AP 0.653", "mean F1 over IoU 0.5:0.95 0.650 (score >= 0.800)",
        ):  # fmt: skip
            assert part in text
    assert "score >= 0.800" in figure.axes[1].get_title()
    masks = evaluate_detections(small_set[0], small_set[1], "segm").to_dict()
    assert "masks of 2 images" in report_figure(masks).get_suptitle()


def many_classes(count):
    """``count`` classes with 3, 4, 5 ... boxes each, all found; the last has one box alone."""
    annotations = [
        {"image_id": 1, "category_id": number, "bbox": [5 * place, 4 * number, 4, 3]}
        for number in range(1, count + 1)
        for place in range(1 if number == count else number + 2)
    ]
    truth = {
        "images": [{"id": 1, "height": 480, "width": 640}],
        "categories": [
            {"id": number, "name": f"class {number} of a set with long names"}
            for number in range(1, count + 1)
        ],
        "annotations": [{**one, "id": row} for row, one in enumerate(annotations, 1)],
    }
    return truth, [{**one, "score": 1.0} for one in annotations]


@pytest.mark.parametrize("count", [2, 21, 40])
def test_nothing_in_the_picture_is_cut_or_hidden(count):
    figure = report_figure(evaluate_detections(*many_classes(count)).to_dict())
    figure.draw_without_rendering()
    left, middle, right = figure.axes
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0) >= 0 and drawn.x1 <= width and drawn.y1 <= height
    counts = [text.get_window_extent() for text in right.texts]  # all on bars as high as they go
    assert counts and all(box.y1 <= right.bbox.y1 for box in counts)
    assert left.get_legend().get_window_extent().y1 < left.bbox.y0
    shown = min(count, 20) + 1
    widest = max(text.get_window_extent().width for text in middle.texts)
    assert widest < middle.bbox.width / shown
    names = [text.get_text() for text in left.get_legend().get_texts()]
    assert len(names) == shown - 1
    # those with the most boxes; the last class of 21 and 40 has one
    assert any(name.startswith(f"class {count} ") for name in names) == (count < 21)
    assert any(name.startswith(f"class {count - 1} ") for name in names)


def test_report_is_frozen_json_and_a_table(small_set, tmp_path):
    report = evaluate_detections(*small_set)
    with pytest.raises(FrozenInstanceError):
        report.stats = ()
    report.save(tmp_path / "deep" / "report.json")
    content = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert content == report.to_dict()
    assert tuple(content["stats"]) == STAT_NAMES
    assert content["per_class"][1]["ap"] == pytest.approx(1)
    report.save(tmp_path / "report.csv")
    header, helmet, head = (tmp_path / "report.csv").read_text().splitlines()
    assert header.startswith("name,ap,ap50,ap75,ar,best_f1,threshold,precision,recall,num_")
    assert head.split(",")[0] == "head" and helmet.endswith(",2,3")
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(report)
    text = console.export_text()
    assert "…" not in text  # nothing is cut at 80 columns
    for part in ("AP_small", "recall of all predictions at IoU 0.75", "helmet", "best F1"):
        assert part in text


def test_the_table_names_its_figures(small_set):
    report = evaluate_detections(*small_set)
    console = Console(width=200, file=io.StringIO())
    console.print(report)
    lines = console.file.getvalue().splitlines()
    best = [line for line in lines if "at IoU 0.5, score >= 0.400" in line]
    values = (report.best_f1.f1, report.best_f1.precision, report.best_f1.recall)
    for line, name, value in zip(best, ("best F1", "precision", "recall"), values, strict=True):
        assert f" {name} at IoU" in line and f"{value:.3f}" in line


def test_png_is_a_picture_of_any_report(small_set, tmp_path):
    truth, results = small_set
    truth["categories"][0]["name"] = "_$h_1{"  # text, neither mathematics nor markup
    for name, found, options in (
        ("full", results, {}),
        ("bare", results, {"details": False}),
        ("empty", [], {}),
        ("scoreless", [{k: v for k, v in r.items() if k != "score"} for r in results],
         {"scoreless": "f1"}),
    ):  # fmt: skip
        evaluate_detections(truth, found, **options).save(tmp_path / f"{name}.png")
        picture = cv2.imread(str(tmp_path / f"{name}.png"))
        assert picture.shape == (800, 2000, 3)
        assert picture.std() > 10
    assert len(list(tmp_path.iterdir())) == 4
    with pytest.raises(OptionError, match=r"\.json, \.csv or \.png"):
        evaluate_detections(truth, results).save(tmp_path / "report.pdf")
