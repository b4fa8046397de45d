"""Boxes and masks scored as COCO does, with further metrics for generative detectors."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np

from pgvision.arrays import BoolArray, FloatArray, IntArray
from pgvision.errors import EvaluationError, require_choice, require_count
from pgvision.evaluation import metrics
from pgvision.evaluation.inputs import (
    GroundTruth,
    Predictions,
    ResultsSource,
    TruthSource,
    load_inputs,
)
from pgvision.evaluation.matching import (
    MAX_DETS,
    Accumulated,
    Engine,
    IouType,
    defined_mean,
    greedy_match,
    overlapping_pairs,
    rows_by_image,
    run_engine,
)
from pgvision.evaluation.report import ClassMetrics, DetectionReport

Scoreless = Literal["refuse", "f1"]

_NO_SCORES: Final = (
    "results: no record has a score, and AP ranks predictions by score: without scores it would be "
    "that of the file's order. Fix: score the predictions (Detector does), or pass "
    'scoreless="f1" for precision, recall, F1 and IoU without AP; do not write 1.0 for unknown.'
)


def evaluate_detections(
    gt: TruthSource,
    results: ResultsSource,
    iou_type: IouType = "bbox",
    engine: Engine = "faster",
    *,
    classes: Sequence[str] | None = None,
    image_ids: Collection[int] | None = None,
    max_dets: int = MAX_DETS,
    scoreless: Scoreless = "refuse",
    details: bool = True,
) -> DetectionReport:
    """Score boxes or masks against COCO ground truth.

    Args:
        gt: A COCO annotation file, its dict, or a pycocotools ``COCO``.
        results: A COCO results file, its records (boxes are left, top, width, height in pixels;
            lists, tuples or arrays), or ``(image_id, result)`` pairs of results.
        iou_type: ``"bbox"`` or ``"segm"``.
        engine: ``"faster"`` (faster-coco-eval) or ``"pycocotools"``, the reference. Both give the
            same numbers.
        classes: Names of the classes to score, if not all were queried; others are left out.
        image_ids: Ids of the images to score, if there are not results for all.
        max_dets: Predictions kept for each image and class. COCO keeps 100; dense scenes (shelves,
            crowds) need more.
        scoreless: Predictions without scores: ``"refuse"`` them, or compute all metrics but AP
            (``"f1"``).
        details: Whether to add to the COCO figures and the AP of each class:
            F1 without order, best thresholds, mean F1, mean IoU, reliability, confusion.

    Returns:
        The report. Its ``notes`` name classes and images that were not queried.

    Raises:
        EvaluationError: If the ground truth or the results are not sound, or results have no
            scores and ``scoreless`` is ``"refuse"``.
        OptionError: If an option, a class or an image id is unknown.

    Source:
        cocodataset/cocoapi, PythonAPI/pycocotools/cocoeval.py.

    Example:
        >>> truth = {
        ...     "images": [{"id": 1, "height": 40, "width": 60}],
        ...     "categories": [{"id": 3, "name": "helmet"}],
        ...     "annotations": [
        ...         {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 20]}]}
        >>> found = [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 20], "score": 0.9}]
        >>> report = evaluate_detections(truth, found)
        >>> round(report.ap50, 6), round(report.per_class["helmet"].ap, 6)
        (1.0, 1.0)
    """
    # 1. Check the inputs.
    require_choice("iou_type", iou_type, get_args(IouType))
    require_choice("engine", engine, get_args(Engine))
    require_choice("scoreless", scoreless, get_args(Scoreless))
    require_count("max_dets", max_dets, least=1)
    masks = iou_type == "segm"
    truth, found = load_inputs(gt, results, masks=masks, classes=classes, image_ids=image_ids)
    if found.scores is None and scoreless == "refuse":
        raise EvaluationError(_NO_SCORES)
    # 2. Compute the COCO figures.
    accumulated = None
    if found.scores is not None:
        accumulated = run_engine(truth, found, iou_type=iou_type, engine=engine, max_dets=max_dets)
    report = DetectionReport(
        iou_type=iou_type,
        engine=engine,
        max_dets=max_dets,
        stats=None if accumulated is None else accumulated.stats(),
        per_class=_per_class(truth, found, accumulated),
        curves=None if accumulated is None else accumulated.curves(),
        outputs=found.outputs,
        data=str(gt) if isinstance(gt, str | Path) else None,
        num_images=len(truth.image_ids),
        num_annotations=len(truth),
        num_crowds=int(truth.crowd.sum()),
        num_detections=len(found),
        notes=(*truth.notes, *found.notes, *_score_notes(found)),
    )
    # 3. Compute the metrics that COCO does not have.
    return _with_details(report, truth, found) if details else report


def _score_notes(found: Predictions) -> tuple[str, ...]:
    if found.scores is None or len(found) < 2 or len(np.unique(found.scores)) > 1:
        return ()
    return (
        f"all {len(found)} scores are {found.scores[0]:g}: AP is that of the file's order; quote "
        "F1 instead",
    )


def _per_class(
    truth: GroundTruth, found: Predictions, accumulated: Accumulated | None
) -> dict[str, ClassMetrics]:
    # COCO's means over recall and IoU, of all areas and the most detections.
    annotations = truth.count_by_class(truth.category[~truth.crowd])
    detections = truth.count_by_class(found.category)
    entries = {}
    for place, name in enumerate(truth.names):
        values: dict[str, float | None] = dict.fromkeys(("ap", "ap50", "ap75", "ar"))
        if accumulated is not None:
            precision = accumulated.precision[:, :, place, 0, 2]
            recall = accumulated.recall[:, place, 0, 2]
            means = map(defined_mean, (precision, precision[0], precision[5], recall))
            for key, mean in zip(values, means, strict=True):
                values[key] = None if mean == -1 else mean
        entries[name] = ClassMetrics(
            category_id=int(truth.category_ids[place]),
            name=name,
            best_f1=None,
            num_annotations=int(annotations[place]),
            num_detections=int(detections[place]),
            **values,
        )
    return entries


def _with_details(
    report: DetectionReport, truth: GroundTruth, found: Predictions
) -> DetectionReport:
    """Add the metrics that COCO does not have; overlaps are computed once for all."""
    # 1. Overlaps of predictions and annotations.
    pairs = overlapping_pairs(truth, found)
    best, threshold, diagram, per_class = None, None, None, dict(report.per_class)
    # 2. Metrics that need scores: the best threshold, and how reliable scores are.
    if found.scores is not None:
        match = greedy_match(truth, found, pairs, iou=0.5, max_dets=report.max_dets)
        counted, correct = match >= -1, match >= 0
        best = metrics.best_f1(found.scores[counted], correct[counted], int((~truth.crowd).sum()))
        threshold = None if best is None else best.threshold
        diagram = metrics.reliability(found.scores[counted], correct[counted])
        for name, entry in per_class.items():
            rows = counted & (found.category == entry.category_id)
            best_here = metrics.best_f1(found.scores[rows], correct[rows], entry.num_annotations)
            per_class[name] = replace(entry, best_f1=best_here)
    # 3. Metrics that need none.
    return replace(
        report,
        per_class=per_class,
        score_free=tuple(metrics.score_free(truth, pairs, len(found), iou) for iou in (0.5, 0.75)),
        best_f1=best,
        mean_f1=metrics.mean_f1(truth, found, pairs, threshold=threshold),
        miou=metrics.mean_iou(truth, pairs),
        threshold=threshold,
        reliability=diagram,
        confusion=metrics.confusion_matrix(truth, found, pairs, threshold=threshold),
    )


def match_scores(
    gt: TruthSource, results: ResultsSource, iou_type: IouType = "bbox", *, max_dets: int = MAX_DETS
) -> tuple[FloatArray, BoolArray]:
    """Return scores and whether each prediction is correct at IoU 0.5, to fit a calibration.

    Args:
        gt: Ground truth, as in :func:`evaluate_detections`.
        results: Scored predictions, likewise.
        iou_type: ``"bbox"`` or ``"segm"``.
        max_dets: Likewise.

    Returns:
        ``(m,)`` scores and ``(m,)`` bool, without predictions that match only a crowd.

    Raises:
        EvaluationError: If the inputs are not sound or have no scores.
    """
    found, match, _ = _matched(gt, results, iou_type, max_dets)
    if found.scores is None:
        raise EvaluationError(_NO_SCORES)
    return found.scores[match >= -1], match[match >= -1] >= 0


@dataclass(frozen=True, eq=False)
class Mistakes:
    """Mistakes in one image, by the matching of AP.

    Attributes:
        missed: ``(g,)`` bool over its annotations without crowds, in the order of the file.
        wrong: ``(n,)`` bool over its predictions, in the order given: neither matched nor on a
            crowd of their class.
    """

    missed: BoolArray
    wrong: BoolArray

    @property
    def count(self) -> int:
        """Misses plus false predictions."""
        return int(self.missed.sum() + self.wrong.sum())


def find_mistakes(
    gt: TruthSource, results: ResultsSource, iou_type: IouType = "bbox", *, max_dets: int = MAX_DETS
) -> dict[int, Mistakes]:
    """Find what was missed and what is wrong in each image, as AP at IoU 0.5 counts it.

    Args:
        gt: Ground truth, as in :func:`evaluate_detections`.
        results: Predictions, likewise; leave out those below the threshold of interest.
        iou_type: ``"bbox"`` or ``"segm"``.
        max_dets: As in :func:`evaluate_detections`; further predictions are wrong.

    Returns:
        The mistakes of each image of the ground truth, by image id.

    Raises:
        EvaluationError: If the inputs are not sound.

    Example:
        >>> truth = {"images": [{"id": 1}], "categories": [{"id": 3, "name": "helmet"}],
        ...          "annotations": [
        ...              {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 20]}]}
        >>> find_mistakes(truth, [])[1].missed.tolist()
        [True]
    """
    # 1. Match as AP does.
    found, match, truth = _matched(gt, results, iou_type, max_dets)
    is_missed = np.ones(len(truth), np.bool_)
    is_missed[match[match >= 0]] = False
    # -1: unmatched; -3: dropped by max_dets.
    wrong = (match == -1) | (match == -3)
    # 2. Group both sides by image.
    annotations = rows_by_image(truth.image[~truth.crowd])
    predictions = rows_by_image(found.image)
    missed, nothing = is_missed[~truth.crowd], np.zeros(0, np.int64)
    return {
        number: Mistakes(
            missed[annotations.get(number, nothing)], wrong[predictions.get(number, nothing)]
        )
        for number in truth.image_ids.tolist()
    }


def _matched(
    gt: TruthSource, results: ResultsSource, iou_type: IouType, max_dets: int
) -> tuple[Predictions, IntArray, GroundTruth]:
    require_choice("iou_type", iou_type, get_args(IouType))
    require_count("max_dets", max_dets, least=1)
    truth, found = load_inputs(gt, results, masks=iou_type == "segm")
    pairs = overlapping_pairs(truth, found)
    return found, greedy_match(truth, found, pairs, iou=0.5, max_dets=max_dets), truth
