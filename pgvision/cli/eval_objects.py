"""Predict and score boxes or masks, resumably: what `pgvision eval` does for objects."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pgvision.cli.console import Meter, say
from pgvision.datasets import Dataset, ImageRecord, dataset_to_coco
from pgvision.errors import DataError, OptionError
from pgvision.evaluation import DetectionReport, count_answers, evaluate_detections, match_scores
from pgvision.evaluation.calibration import fit_calibration
from pgvision.files import write_text
from pgvision.results import DetectionResult, Failure, result_from_dict
from pgvision.tasks import Detector, Segmenter

_ANSWERS = "answers.jsonl"
_RUN = "run.json"


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How predictions are scored.

    Attributes:
        iou_type: Boxes or masks.
        engine: The evaluator.
        scoreless: What to do with predictions without scores.
    """

    iou_type: Literal["bbox", "segm"]
    engine: Literal["faster", "hotcoco", "pycocotools"]
    scoreless: Literal["refuse", "interval"]


class Answers:
    """Answers on disk, one line an image, so that a stopped run goes on where it was.

    Args:
        folder: The run's folder.
        run: What makes the answers what they are: data, model, task, thresholds.

    Raises:
        OptionError: If the folder holds answers of another run.
    """

    def __init__(self, folder: Path, run: Mapping[str, object]) -> None:
        """Look at what is there."""
        self.path = folder / _ANSWERS
        self._found: dict[int, DetectionResult | None] = {}
        folder.mkdir(parents=True, exist_ok=True)
        seal = folder / _RUN
        if seal.exists():
            # An option that an older version did not know yet was not used then.
            sealed = dict.fromkeys(run) | json.loads(seal.read_text(encoding="utf-8"))
            if sealed != dict(run):
                raise OptionError(f"--out {folder}: holds another run ({_RUN}); name another one")
        if self.path.exists() and not seal.exists():
            raise OptionError(f"--out {folder}: {_ANSWERS} without {_RUN}; name another folder")
        write_text(seal, json.dumps(dict(run), indent=1))
        if self.path.exists():
            self._read()

    def __contains__(self, image_id: int) -> bool:
        """Whether an image was answered before."""
        return image_id in self._found

    def __len__(self) -> int:
        """Count the images answered, failures included."""
        return len(self._found)

    def add(self, image_id: int, result: DetectionResult | None) -> None:
        """Keep an answer, or None for an image that could not be read."""
        line = {"image_id": image_id, "result": None if result is None else result.to_dict()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self._found[image_id] = result

    def results(self) -> Iterator[tuple[int, DetectionResult]]:
        """Give image ids with their results.

        Yields:
            Pairs, in the order in which they were answered.
        """
        for image_id, result in self._found.items():
            if result is not None:
                yield image_id, result

    def _read(self) -> None:
        """Read lines back; one that a stop cut in the middle is asked again."""
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                data = json.loads(line)
            except ValueError:
                break
            found = data["result"]
            result = None if found is None else result_from_dict(found)
            if not isinstance(result, DetectionResult | None):
                raise DataError(f"{self.path}: expected boxes, got a {type(result).__name__}")
            self._found[int(data["image_id"])] = result
            kept.append(line)
        write_text(self.path, "".join(line + "\n" for line in kept))


def predict(dataset: Dataset, detector: Detector | Segmenter, answers: Answers) -> int:
    """Ask for every image that has no answer yet.

    Args:
        dataset: The images.
        detector: What answers.
        answers: Where answers go.

    Returns:
        The number of images that could not be read.
    """
    left = [image for image in dataset.images if image.id not in answers]
    if len(answers):
        say(f"going on after {len(answers)} of {len(dataset.images)} images")
    num_failed = 0
    # One stream for all, so that reading runs ahead of the model.
    outcomes = detector.stream([image.path for image in left], on_error="record")
    with Meter("pictures", len(left)) as meter:
        for image, outcome in zip(left, outcomes, strict=True):
            result = _checked(image, outcome)
            num_failed += result is None
            answers.add(image.id, result)
            meter.advance()
    return num_failed


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


def score(dataset: Dataset, answers: Answers, folder: Path, scoring: Scoring) -> DetectionReport:
    """Write ``results.json`` (COCO), ``report.json`` and ``report.png``.

    Args:
        dataset: The truth.
        answers: The answers.
        folder: Where the files go.
        scoring: How.

    Returns:
        The report.
    """
    records = coco_records(dataset, answers, scoring.iou_type)
    write_text(folder / "results.json", json.dumps(records, allow_nan=False))
    report = evaluate_detections(
        dataset_to_coco(dataset),
        records,
        scoring.iou_type,
        scoring.engine,
        scoreless=scoring.scoreless,
        answers=count_answers(result for _, result in answers.results()),
    )
    report.save(folder / "report.json")
    report.save(folder / "report.png")
    return report


def coco_records(
    dataset: Dataset, answers: Answers, iou_type: Literal["bbox", "segm"]
) -> list[dict[str, object]]:
    """Give all objects as COCO results, with the ids of the data set.

    Returns:
        One record an object.
    """
    ids = {category.name: category.id for category in dataset.categories}
    records = []
    for image_id, result in answers.results():
        for record in result.to_coco(image_id=image_id, category_ids=ids):
            if iou_type == "bbox":
                record.pop("segmentation", None)
            records.append(record)
    return records


def calibrate(
    dataset: Dataset,
    answers: Answers,
    scoring: Scoring,
    method: Literal["temperature", "isotonic"],
    path: Path,
) -> bool:
    """Fit a map from scores to precision on these answers, for ``Detector(calibrate=...)``.

    Args:
        dataset: The truth.
        answers: The answers.
        scoring: How they are scored.
        method: The shape of the map.
        path: Where it goes.

    Returns:
        Whether there is one: where nothing was found, that is said, and no file is written.
    """
    records = coco_records(dataset, answers, scoring.iou_type)
    scores, correct = match_scores(dataset_to_coco(dataset), records, scoring.iou_type)
    if not len(scores):
        say(
            f"--calibrate: nothing was found in {len(answers)} images, so there is nothing to "
            f"calibrate and no {path.name}; the other files are written",
            style="red",
        )
        return False
    fit_calibration(scores, correct, method).save(path)
    return True
