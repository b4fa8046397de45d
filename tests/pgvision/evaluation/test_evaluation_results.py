"""Result objects go in as they are, with the image ids of the ground truth."""

import dataclasses

import numpy as np
import pytest

from pgvision.errors import EvaluationError, PgvisionError
from pgvision.evaluation import evaluate_detections, find_mistakes, match_scores
from pgvision.evaluation.inputs import count_outputs
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
    shares = report.outputs.to_dict()["shares"]
    assert shares == {
        "rejects": 0.5, "truncation": 0.5, "duplicates": 0, "unmatched": 0.5, "whole_image": 0.5
    }  # fmt: skip
    assert (report.outputs.num_objects, report.outputs.with_unmatched) == (5, 1)


def test_duplicates_are_equal_label_and_box():
    row = ([40, 40, 30, 30], "head", 0.4)
    counts = count_outputs([detections([row, row, row]), detections([row]), detections([])])
    assert (counts.num_outputs, counts.num_objects, counts.with_duplicates) == (3, 4, 1)
    assert counts.to_dict()["shares"]["duplicates"] == pytest.approx(1 / 3)


def test_masks_of_results(small_set):
    truth, _ = small_set
    result = SegmentationResult(
        image_hw=(120, 160), xyxy=[[10, 10, 30, 30]], labels=["helmet"], class_ids=[0],
        classes=CLASSES, scores=[0.9], mask_logits=np.ones((1, 64, 64)),
    )  # fmt: skip
    report = evaluate_detections(truth, [(1, result)], "segm")
    assert report.per_class["helmet"].ap == pytest.approx(51 / 101)


def test_scoreless_results_are_refused_or_scored_without_ap(small_set, pairs):
    truth, _ = small_set
    bare = [(image, dataclasses.replace(result, scores=None)) for image, result in pairs]
    with pytest.raises(EvaluationError, match="no record has a score"):
        evaluate_detections(truth, bare)
    report = evaluate_detections(truth, bare, scoreless="f1")
    assert (report.ap, report.stats, report.mean_f1 > 0) == (None, None, True)
    with pytest.raises(EvaluationError, match=r"results\[2\].score: is missing"):
        evaluate_detections(truth, [pairs[0], bare[1]])


def test_what_is_no_pair_is_refused(small_set, pairs):
    truth, _ = small_set
    one = pairs[0][1]
    failure = Failure(source="x.jpg", index=0, error=PgvisionError("cut"))
    for given, message in (
        ([one], r"\[0\]: is DetectionResult, expected \(image_id, result\)"),
        ([pairs[0], one], r"\[1\]: is DetectionResult, expected \(image_id, result\)"),
        ([(1, failure)], r"\[0\]: is Failure, expected \(image_id, result\)"),
        ([(1, "text")], r"\[0\]: is str, expected \(image_id, result\)"),
        ([pairs[0], (1, one)], "image id 1 has a result already"),
        ([("1", one)], "is '1', expected an integer"),
        ([(7, one)], "is 7, which the ground truth lacks"),
        ([(1, dataclasses.replace(one, classes=("helmet", "cat")))], r"\['cat'\] are no ground"),
    ):
        with pytest.raises(EvaluationError, match=message):
            evaluate_detections(truth, given)


def test_classes_and_images_that_were_not_queried_are_named(small_set, pairs):
    truth, _ = small_set
    assert evaluate_detections(truth, pairs).notes == ()
    truth["categories"] += [{"id": 3, "name": "vest"}, {"id": 4, "name": "boot"}]
    truth["images"].append({"id": 9, "height": 120, "width": 160})
    (classes, images) = evaluate_detections(truth, pairs).notes
    assert classes.startswith("2 of 4 classes were not queried (vest, boot)")
    assert images.startswith("1 of 3 images have no result (ids 9)")
    alone = {"classes": CLASSES, "image_ids": [1, 2]}
    assert evaluate_detections(truth, pairs, **alone).notes == ()
    second = dataclasses.replace(pairs[1][1][:0], classes=("head",))
    notes = evaluate_detections(truth, [pairs[0], (2, second)], **alone).notes
    assert notes == (
        "1 classes were queried for some images only (helmet): their annotations count as missed "
        "in the others",
    )


def test_mistakes_are_those_of_the_metric(small_set):
    truth, results = small_set
    crowd = {"id": 9, "image_id": 1, "category_id": 1, "bbox": [90, 70, 60, 45], "iscrowd": 1}
    truth["annotations"].insert(0, crowd)
    found = find_mistakes(truth, results)
    # The prediction at (100, 80) is on the crowd; the helmet at (60, 10) was missed.
    assert found[1].missed.tolist() == [False, True]
    assert found[1].wrong.tolist() == [False, False]
    assert (found[2].missed.tolist(), found[2].wrong.tolist()) == ([False], [True, False])
    assert [one.count for one in found.values()] == [1, 1]
    masks = find_mistakes({**truth, "annotations": truth["annotations"][1:]}, results, "segm")
    assert masks[1].wrong.tolist() == [False, True]


def test_mistakes_of_dense_images_count_as_many_predictions_as_the_metric():
    image = {"id": 1, "height": 10, "width": 1500}
    boxes = [[10 * at, 0, 9, 9] for at in range(150)]
    truth = {"images": [image], "categories": [{"id": 3, "name": "helmet"}], "annotations": []}
    found = []
    for number, box in enumerate(boxes, 1):
        entry = {"image_id": 1, "category_id": 3, "bbox": box}
        truth["annotations"].append({"id": number, **entry})
        found.append({**entry, "score": 1 - number / 1000})
    assert find_mistakes(truth, found)[1].count == 2 * 50
    assert find_mistakes(truth, found, max_dets=150)[1].count == 0
    assert [len(match_scores(truth, found, max_dets=most)[0]) for most in (100, 150)] == [100, 150]


def test_ids_and_sizes_of_pairs_are_checked(small_set, pairs):
    truth, _ = small_set
    unknown = [*pairs, (99, pairs[0][1][[]]), ([1], pairs[0][1])]
    with pytest.raises(EvaluationError) as caught:
        evaluate_detections(truth, unknown)
    place = len(pairs)
    assert f"[{place}].image_id: is 99, which the ground truth lacks" in str(caught.value)
    assert f"[{place + 1}].image_id: is [1], expected an integer" in str(caught.value)
    image_id, result = pairs[0]
    height, width = result.image_hw
    small = dataclasses.replace(result[[]], image_hw=(height // 2, width // 2))
    notes = evaluate_detections(truth, [(image_id, small), *pairs[1:]]).notes
    assert any(f"another size than the ground truth states (ids {image_id})" in n for n in notes)
    assert not any("another size" in n for n in evaluate_detections(truth, pairs).notes)
