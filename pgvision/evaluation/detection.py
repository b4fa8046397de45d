"""Boxes and masks scored as COCO does, behind a door that lets nothing odd through."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pgvision.errors import EvaluationError, OptionError
from pgvision.evaluation.answers import AnswerCounts
from pgvision.evaluation.engines import (
    Accumulated,
    Engine,
    IouType,
    defined_mean,
    require_engine,
    run_engine,
)
from pgvision.evaluation.figures import best_f1, confusion_matrix, reliability
from pgvision.evaluation.ground_truth import GroundTruth, load_ground_truth
from pgvision.evaluation.matching import greedy_match, group_pairs
from pgvision.evaluation.predictions import Predictions, load_predictions
from pgvision.evaluation.report import ClassFigures, DetectionReport
from pgvision.evaluation.scoreless import ap_interval, mean_f1, mean_iou, score_free

Scoreless = Literal["refuse", "interval"]


def evaluate_detections(
    gt: object,
    results: object,
    iou_type: IouType = "bbox",
    engine: Engine = "faster",
    *,
    scoreless: Scoreless = "refuse",
    details: bool = True,
    answers: AnswerCounts | None = None,
) -> DetectionReport:
    """Score boxes or masks against COCO ground truth.

    Args:
        gt: A COCO annotation file, its dict, or a pycocotools ``COCO``.
        results: A COCO results file, its records (boxes are left, top, width, height in pixels;
            lists, tuples or arrays), or ``(image_id, result)`` pairs of results.
        iou_type: ``"bbox"`` or ``"segm"``.
        engine: ``"faster"`` (faster-coco-eval; pycocotools stands in, with a note, where it is
            not installed), ``"hotcoco"`` or ``"pycocotools"``. All give the same figures.
        scoreless: What to do with predictions that have no scores: ``"refuse"``, or
            ``"interval"`` for bounds on AP over all orders. Constant scores get the interval too
            when it is asked for.
        details: Whether to compute what stands beside the COCO figures and the per-class AP:
            figures without order, best thresholds, mean F1, mean IoU, reliability, confusions.
        answers: Counts of the answers behind ``results``, where those are plain records.

    Returns:
        The report.

    Raises:
        EvaluationError: If the ground truth or the results are not sound, or results have no
            scores and ``scoreless`` is ``"refuse"``.
        OptionError: If an option is unknown.
        DependencyError: If the engine asked for is not installed.

    Source:
        cocodataset/cocoapi, PythonAPI/pycocotools/cocoeval.py.

    Example:
        >>> truth = {
        ...     "images": [{"id": 1, "height": 40, "width": 60}],
        ...     "categories": [{"id": 3, "name": "helmet"}],
        ...     "annotations": [
        ...         {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 20]}]}
        >>> found = [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 20], "score": 0.9}]
        >>> report = evaluate_detections(truth, found, engine="pycocotools")
        >>> [round(figure, 6) for figure in report.stats[:3]]
        [1.0, 1.0, 1.0]
    """
    _require_options(iou_type, engine, scoreless)
    masks = iou_type == "segm"
    truth = load_ground_truth(gt, masks=masks)
    found = load_predictions(results, truth, masks=masks)
    if found.scores is None and scoreless == "refuse":
        raise EvaluationError(_NO_SCORES)
    used, notes = _available(engine)
    equal = found.scores is None or (len(found) > 1 and len(np.unique(found.scores)) == 1)
    figures = None
    if found.scores is not None:
        figures = run_engine(truth, found, iou_type=iou_type, engine=used)
    report = DetectionReport(
        iou_type=iou_type,
        engine=used,
        stats=None if figures is None else figures.stats(),
        ap_interval=ap_interval(truth, found) if equal and scoreless == "interval" else None,
        per_class=_per_class(truth, found, figures),
        curves=None if figures is None else figures.precision[[0, 5], :, :, 0, 2].T.swapaxes(1, 2),
        score_free=(),
        best_f1=None,
        mean_f1=None,
        miou=None,
        threshold=None,
        reliability=None,
        confusion=None,
        answers=answers or found.answers,
        data=str(gt) if isinstance(gt, str | Path) else None,
        num_images=len(truth.image_ids),
        num_annotations=len(truth),
        num_crowds=int(truth.crowd.sum()),
        num_detections=len(found),
        notes=(*truth.notes, *notes, *_notes(found, equal=equal)),
    )
    return _with_details(report, truth, found) if details else report


_NO_SCORES = (
    "results: not one record has a score, and AP ranks predictions by score: any number it gave "
    "would be that of the file's order. Fix: score the predictions (Detector does), or pass "
    'scoreless="interval" for the range of AP over all orders, beside precision, recall and F1; '
    "do not write 1.0 for unknown."
)


def _require_options(iou_type: str, engine: str, scoreless: str) -> None:
    require_engine(engine)
    for name, value, known in (
        ("iou_type", iou_type, get_args(IouType)),
        ("scoreless", scoreless, get_args(Scoreless)),
    ):
        if value not in known:
            raise OptionError(
                f"{name}: expected one of {', '.join(known)}, got {value!r}. Fix: choose one."
            )


def _available(engine: Engine) -> tuple[Engine, tuple[str, ...]]:
    if engine == "faster" and find_spec("faster_coco_eval") is None:
        return "pycocotools", ("faster-coco-eval is not installed: pycocotools ran in its place",)
    return engine, ()


def _notes(found: Predictions, *, equal: bool) -> tuple[str, ...]:
    if found.scores is not None and equal:
        return (
            f"all {len(found)} scores are {found.scores[0]:g}: the AP above is that of the file's "
            'order; scoreless="interval" gives its range over all orders',
        )
    return ()


def _per_class(
    truth: GroundTruth, found: Predictions, figures: Accumulated | None
) -> tuple[ClassFigures, ...]:
    annotations = _class_counts(truth, truth.category[~truth.crowd])
    detections = _class_counts(truth, found.category)
    entries = []
    for place, name in enumerate(truth.names):
        ap = ap50 = ap75 = ar = None
        if figures is not None:
            precision = figures.precision[:, :, place, 0, 2]
            ap, ap50, ap75 = map(_defined, (precision, precision[0], precision[5]))
            ar = _defined(figures.recall[:, place, 0, 2])
        entries.append(
            ClassFigures(
                category_id=int(truth.category_ids[place]), name=name,
                ap=ap, ap50=ap50, ap75=ap75, ar=ar, best_f1=None,
                num_annotations=int(annotations[place]), num_detections=int(detections[place]),
            )
        )  # fmt: skip
    return tuple(entries)


def _defined(values: NDArray[np.float64]) -> float | None:
    mean = defined_mean(values)
    return None if mean == -1 else mean


def _class_counts(truth: GroundTruth, category: NDArray[np.int64]) -> NDArray[np.int64]:
    place = np.searchsorted(truth.category_ids, category)
    return np.bincount(place, minlength=len(truth.category_ids))


def _with_details(
    report: DetectionReport, truth: GroundTruth, found: Predictions
) -> DetectionReport:
    everything = group_pairs(truth, found, most=None, lowest=0.0)
    report = replace(
        report,
        score_free=tuple(score_free(truth, everything, iou) for iou in (0.5, 0.75)),
        miou=mean_iou(truth, everything),
    )
    if found.scores is None:
        return _at_threshold(report, truth, found, None)
    match = greedy_match(group_pairs(truth, found), truth.crowd, len(found), iou=0.5)
    counted, correct = match >= -1, match >= 0
    best = best_f1(found.scores[counted], correct[counted], int((~truth.crowd).sum()))
    per_class = tuple(
        replace(
            entry,
            best_f1=best_f1(found.scores[chosen], correct[chosen], entry.num_annotations),
        )
        for entry in report.per_class
        for chosen in [counted & (found.category == entry.category_id)]
    )
    report = replace(
        report,
        best_f1=best,
        per_class=per_class,
        reliability=reliability(found.scores[counted], correct[counted]),
    )
    return _at_threshold(report, truth, found, None if best is None else best.threshold)


def _at_threshold(
    report: DetectionReport, truth: GroundTruth, found: Predictions, threshold: float | None
) -> DetectionReport:
    return replace(
        report,
        threshold=threshold,
        mean_f1=mean_f1(truth, found, threshold=threshold),
        confusion=confusion_matrix(truth, found, threshold=threshold),
    )


def match_scores(
    gt: object, results: object, iou_type: IouType = "bbox", *, iou: float = 0.5
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores and whether each prediction is right: what a calibration is fitted to.

    Args:
        gt: Ground truth, as in :func:`evaluate_detections`.
        results: Scored predictions, likewise.
        iou_type: ``"bbox"`` or ``"segm"``.
        iou: Overlap that makes a prediction right, at least 0.5.

    Returns:
        ``(m,)`` scores and ``(m,)`` bool, without predictions that only a crowd excuses.

    Raises:
        EvaluationError: If the inputs are not sound or have no scores.
        OptionError: If ``iou`` is outside [0.5, 1].
    """
    if not 0.5 <= iou <= 1:
        raise OptionError(f"iou: expected 0.5 to 1, got {iou}. Fix: 0.5 is COCO's loosest match.")
    _require_options(iou_type, "pycocotools", "refuse")
    truth = load_ground_truth(gt, masks=iou_type == "segm")
    found = load_predictions(results, truth, masks=iou_type == "segm")
    if found.scores is None:
        raise EvaluationError(_NO_SCORES)
    match = greedy_match(group_pairs(truth, found), truth.crowd, len(found), iou=iou)
    return found.scores[match >= -1], match[match >= -1] >= 0
