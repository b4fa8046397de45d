"""Predict and score boxes or masks, resumably: what `pgvision eval` does for objects."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pgvision.cli.console import Meter, say
from pgvision.cli.eval_answers import Answers
from pgvision.datasets import Dataset, ImageRecord, dataset_to_coco
from pgvision.errors import DataError
from pgvision.evaluation import DetectionReport, count_outputs, evaluate_detections, match_scores
from pgvision.evaluation.calibration import fit_calibration
from pgvision.files import write_text
from pgvision.results import DetectionResult, Failure
from pgvision.tasks import Detector, Segmenter


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How predictions are scored.

    Attributes:
        iou_type: Boxes or masks.
        engine: The evaluator.
        scoreless: What to do with predictions without scores.
        model: What predicts, for the report.
        data: What is scored on, for the report.
        conf: Score below which objects were dropped, for the report.
    """

    iou_type: Literal["bbox", "segm"]
    engine: Literal["faster", "pycocotools"]
    scoreless: Literal["refuse", "f1"]
    model: str | None = None
    data: str | None = None
    conf: float | None = None


def predict(
    dataset: Dataset, detector: Detector | Segmenter, answers: Answers
) -> dict[int, DetectionResult]:
    """Ask for every image that has no answer yet.

    Args:
        dataset: The images.
        detector: What answers.
        answers: Where answers go.

    Returns:
        All answers by image id; images that could not be read are missing.

    Raises:
        DataError: If not one image could be read.
    """
    left = [image for image in dataset.images if not answers.holds(image)]
    if len(left) < len(dataset.images):
        done = len(dataset.images) - len(left)
        say(f"going on after {done} of {len(dataset.images)} images")
    # One stream for all, so that reading runs ahead of the model.
    outcomes = detector.stream([image.path for image in left], on_error="record")
    with Meter("pictures", len(left)) as meter:
        for image, outcome in zip(left, outcomes, strict=True):
            result = _checked(image, outcome)
            if result is not None:
                answers.add(image, result)
            meter.advance()
    found = dict(answers.results(dataset.images))
    if dataset.images and not found:
        count = len(dataset.images)
        raise DataError(
            f"{count} of {count} pictures unread, so there is nothing to score: see above; "
            "--images names the folder where they lie"
        )
    return found


def _checked(image: ImageRecord, outcome: DetectionResult | Failure) -> DetectionResult | None:
    if isinstance(outcome, Failure):
        say(f"failed: {outcome.error}", style="red")
        return None
    if outcome.image_hw != image.image_hw:
        say(
            f"failed: {image.path} is {outcome.image_hw}, the annotations say {image.image_hw} "
            "(height, width): pgvision convert --check",
            style="red",
        )
        return None
    return outcome


def score(
    dataset: Dataset, found: Mapping[int, DetectionResult], folder: Path, scoring: Scoring
) -> DetectionReport:
    """Write ``results.json`` (COCO), ``report.json`` and ``report.png``.

    Args:
        dataset: The truth.
        found: The answers by image id.
        folder: Where the files go.
        scoring: How.

    Returns:
        The report.
    """
    records = coco_records(dataset, found, scoring.iou_type)
    write_text(folder / "results.json", json.dumps(records, allow_nan=False))
    report = evaluate_detections(
        dataset_to_coco(dataset),
        records,
        scoring.iou_type,
        scoring.engine,
        scoreless=scoring.scoreless,
        image_ids=list(found),
        outputs=count_outputs(found.values()),
    )
    report = replace(report, model=scoring.model, data=scoring.data, conf=scoring.conf)
    if unread := len(dataset.images) - len(found):
        names = [image.file_name for image in dataset.images if image.id not in found]
        shown = ", ".join(names[:5]) + (", ..." if unread > 5 else "")
        note = f"{unread} of {len(dataset.images)} images unread and not scored: {shown}"
        report = replace(report, notes=(*report.notes, note))
    report.save(folder / "report.json")
    report.save(folder / "report.png")
    return report


def coco_records(
    dataset: Dataset, found: Mapping[int, DetectionResult], iou_type: Literal["bbox", "segm"]
) -> list[dict[str, object]]:
    """Give all objects as COCO results, with the ids of the data set.

    Returns:
        One record an object.
    """
    ids = {category.name: category.id for category in dataset.categories}
    records = []
    for image_id, result in found.items():
        for record in result.to_coco(image_id=image_id, category_ids=ids):
            # pycocotools takes an object's size from its box where a record has one, mask or not.
            record.pop("bbox" if iou_type == "segm" else "segmentation", None)
            records.append(record)
    return records


def calibrate(
    dataset: Dataset,
    found: Mapping[int, DetectionResult],
    scoring: Scoring,
    method: Literal["temperature", "isotonic"],
    path: Path,
) -> bool:
    """Fit a map from scores to precision on these answers, for ``Detector(calibrate=...)``.

    Args:
        dataset: The truth.
        found: The answers by image id.
        scoring: How they are scored.
        method: The shape of the map.
        path: Where it goes.

    Returns:
        Whether there is one: where nothing was found, that is said, and no file is written.
    """
    records = coco_records(dataset, found, scoring.iou_type)
    scores, correct = match_scores(dataset_to_coco(dataset), records, scoring.iou_type)
    if not len(scores):
        say(
            f"--calibrate: nothing was found in {len(found)} images, so there is nothing to "
            f"calibrate and no {path.name}; the other files are written",
            style="red",
        )
        return False
    fit_calibration(scores, correct, method).save(path)
    return True
