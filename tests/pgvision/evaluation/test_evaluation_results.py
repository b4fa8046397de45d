"""Result objects go in as they are, with the image ids of the ground truth."""

import dataclasses

import numpy as np
import pytest

from pgvision.errors import EvaluationError, PgvisionError
from pgvision.evaluation import count_answers, evaluate_detections
from pgvision.results import DetectionResult, Failure, SegmentationResult
from pgvision.tokens import Reject

CLASSES = ("helmet", "head")


def detections(rows, **more):
    """Rows of (left, top, width, height), label, score."""
    return DetectionResult(
        image_hw=(120, 160),
        xyxy=np.array([[x, y, x + w, y + h] for (x, y, w, h), _, _ in rows]).reshape(-1, 4),
        labels=[label for _, label, _ in rows],
        class_ids=[CLASSES.index(label) if label in CLASSES else -1 for _, label, _ in rows],
        classes=CLASSES,
        scores=[score for _, _, score in rows],
        **more,
    )


@pytest.fixture
def pairs(small_set):
    """The predictions of the small set as results, and one unmatched box over the whole image."""
    reject = Reject(text="<loc0001>", reason="too few locations", start=0, end=9)
    return [
        (1, detections([([10, 10, 20, 20], "helmet", 0.9), ([100, 80, 20, 20], "helmet", 0.6),
                        ([0, 0, 160, 120], "sky", 0.5)], rejects=[reject])),
        (2, detections([([40, 40, 30, 30], "helmet", 0.7), ([40, 40, 30, 30], "head", 0.4)],
                       truncated=True)),
    ]  # fmt: skip


def test_pairs_score_as_their_records(small_set, pairs):
    truth, results = small_set
    report = evaluate_detections(truth, pairs)
    assert report.stats == pytest.approx(evaluate_detections(truth, results).stats)
    shares = report.answers.to_dict()["shares"]
    assert shares == {
        "rejects": 0.5, "truncation": 0.5, "duplicates": 0, "unmatched": 0.5, "whole_image": 0.5
    }  # fmt: skip
    assert (report.answers.num_objects, report.answers.num_unmatched) == (5, 1)
    given = evaluate_detections(truth, results, answers=report.answers)
    assert given.to_dict()["answers"] == report.to_dict()["answers"]


def test_duplicates_are_equal_label_and_box():
    row = ([40, 40, 30, 30], "head", 0.4)
    counts = count_answers([detections([row, row, row]), detections([row]), detections([])])
    assert (counts.num_answers, counts.num_duplicates, counts.with_duplicates) == (3, 2, 1)
    assert counts.share("duplicates") == pytest.approx(1 / 3)


def test_masks_of_results(small_set):
    truth, _ = small_set
    result = SegmentationResult(
        image_hw=(120, 160), xyxy=[[10, 10, 30, 30]], labels=["helmet"], class_ids=[0],
        classes=CLASSES, scores=[0.9], mask_logits=np.ones((1, 64, 64)),
    )  # fmt: skip
    report = evaluate_detections(truth, [(1, result)], "segm")
    assert report.per_class[0].ap == pytest.approx(51 / 101)


def test_scoreless_results_are_refused_or_bounded(small_set, pairs):
    truth, _ = small_set
    bare = [(image, dataclasses.replace(result, scores=None)) for image, result in pairs]
    with pytest.raises(EvaluationError, match="not one record has a score"):
        evaluate_detections(truth, bare)
    report = evaluate_detections(truth, bare, scoreless="interval")
    assert report.ap_interval.ap[0] < report.ap_interval.ap[1]
    with pytest.raises(EvaluationError, match=r"results\[2\].score: is missing"):
        evaluate_detections(truth, [pairs[0], bare[1]])


def test_what_is_no_pair_is_refused(small_set, pairs):
    truth, _ = small_set
    one = pairs[0][1]
    failure = Failure(source="x.jpg", index=0, error=PgvisionError("cut"))
    for given, message in (
        ([one], "bare result objects"),
        ([pairs[0], one], r"\[1\]: is DetectionResult, expected \(image_id, result\)"),
        ([(1, failure)], "is a failure: cut"),
        ([(1, "text")], "has no to_coco"),
        ([pairs[0], (1, one)], "image id 1 has a result already"),
        ([("1", one)], "is '1', expected an integer"),
        ([(7, one)], "is 7, which the ground truth lacks"),
        ([(1, dataclasses.replace(one, classes=("helmet", "cat")))], r"\['cat'\] are no ground"),
    ):
        with pytest.raises(EvaluationError, match=message):
            evaluate_detections(truth, given)
