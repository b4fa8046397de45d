"""Metrics in addition to AP: F1, mean IoU, reliability, confusion, and those of referring masks.

AP ranks predictions by score. Metrics of sets of predictions need no order: they are defined for
generative models without scores, and describe the output at one threshold.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pgvision.arrays import BoolArray, FloatArray, IntArray
from pgvision.errors import EvaluationError
from pgvision.evaluation.inputs import GroundTruth, Predictions
from pgvision.evaluation.matching import Pairs, largest_matching

IOUS: Final = np.linspace(0.5, 0.95, 10)
_BINS: Final = 10  # of scores, for reliability
REFERRING_IOUS: Final = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True)
class BestF1:
    """The score threshold with the best F1 at IoU 0.5; predictions at or above it are kept.

    Attributes:
        threshold: The score.
        f1: F1 there.
        precision: Precision there.
        recall: Recall there.
    """

    threshold: float
    f1: float
    precision: float
    recall: float


def best_f1(scores: FloatArray, correct: BoolArray, num_truth: int) -> BestF1 | None:
    """Find the threshold with the best F1; of equals, the highest.

    Args:
        scores: ``(n,)`` scores of counted predictions.
        correct: ``(n,)`` whether each is matched.
        num_truth: Annotations that could be found.

    Returns:
        The best cut between distinct scores, or None without predictions or annotations.

    Example:
        >>> best = best_f1(np.array([0.9, 0.8, 0.3]), np.array([True, True, False]), 2)
        >>> best.threshold, best.f1
        (0.8, 1.0)
    """
    if not len(scores) or not num_truth:
        return None
    # 1. Hits among the best predictions, for each number of them.
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(correct[order])
    kept = np.arange(1, len(scores) + 1)
    # Equal scores are kept or dropped together.
    cuts = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    # 2. The best cut.
    f1 = 2 * hits[cuts] / (kept[cuts] + num_truth)
    best = cuts[int(np.argmax(f1))]
    return BestF1(
        threshold=float(scores[order][best]),
        f1=float(2 * hits[best] / (kept[best] + num_truth)),
        precision=float(hits[best] / kept[best]),
        recall=float(hits[best] / num_truth),
    )


@dataclass(frozen=True, kw_only=True)
class ScoreFree:
    """Metrics at one IoU that do not depend on the order of predictions.

    Attributes:
        iou: The threshold.
        precision: Matched predictions over all that are not ignored for a crowd; None without any.
        recall: Matched annotations over all; None without annotations.
        f1: Harmonic mean of the two; None if either is undefined.
        num_matched: Matches in the largest one-to-one assignment within image and class.
    """

    iou: float
    precision: float | None
    recall: float | None
    f1: float | None
    num_matched: int


def score_free(truth: GroundTruth, pairs: Pairs, num_found: int, iou: float) -> ScoreFree:
    """Compute precision, recall and F1 of predictions at one IoU.

    Args:
        truth: The ground truth.
        pairs: By `overlapping_pairs`, of all predictions or of some.
        num_found: Number of these predictions.
        iou: Threshold, at least 0.5.
    """
    # 1. Match by the largest assignment.
    near = pairs.at(iou, pairs.same_class)
    crowd = truth.crowd[near.truth]
    on_crowd = np.unique(near.found[crowd])
    matched = largest_matching(near.where(~crowd))
    # Predictions that no crowd would ignore are matched first; the rest of the others is ignored.
    plain = near.where(~crowd & ~np.isin(near.found, on_crowd))
    num_plain = len(largest_matching(plain)) if len(on_crowd) else len(matched)
    counted = num_found - (len(on_crowd) - (len(matched) - num_plain))
    # 2. Precision and recall.
    total = int((~truth.crowd).sum())
    precision = len(matched) / counted if counted else None
    recall = len(matched) / total if total else None
    f1 = None
    if precision is not None and recall is not None:
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return ScoreFree(iou=iou, precision=precision, recall=recall, f1=f1, num_matched=len(matched))


def mean_f1(
    truth: GroundTruth, found: Predictions, pairs: Pairs, *, threshold: float | None
) -> float | None:
    """Average F1 over all classes over IoU 0.5:0.05:0.95.

    Used for generative detectors without scores. At each IoU it is twice the matches
    of the largest one-to-one assignment within image and class, over predictions plus annotations;
    crowds are no annotations, and predictions on them are ignored.

    Args:
        truth: The ground truth.
        found: The predictions.
        pairs: By `overlapping_pairs`.
        threshold: Score that a prediction needs; None takes all.

    Returns:
        The mean, in [0, 1]; None without annotations.
    """
    chosen = _above(found, threshold)
    kept = pairs.where(chosen[pairs.found] & pairs.same_class & (pairs.iou >= IOUS[0]))
    each = [score_free(truth, kept, int(chosen.sum()), float(iou)) for iou in IOUS]
    if each[0].recall is None:
        return None
    return sum(result.f1 or 0.0 for result in each) / len(each)


def _above(found: Predictions, threshold: float | None) -> BoolArray:
    if threshold is None or found.scores is None:
        return np.ones(len(found), np.bool_)
    return found.scores >= threshold


def mean_iou(truth: GroundTruth, pairs: Pairs) -> float | None:
    """Average the IoU of each annotation with the prediction that is assigned to it.

    The assignment is one-to-one within image and class, with the largest sum of IoUs. A missed
    annotation counts 0, and crowds are no annotations. False predictions do not count here, but in
    precision and F1.

    Args:
        truth: The ground truth.
        pairs: By `overlapping_pairs`.

    Returns:
        The mean, in [0, 1]; None without annotations.
    """
    from scipy.optimize import linear_sum_assignment

    total = int((~truth.crowd).sum())
    if not total:
        return None
    # 1. Group the pairs by image and class.
    near = pairs.where(pairs.same_class & ~truth.crowd[pairs.truth])
    order = np.lexsort((truth.category[near.truth], truth.image[near.truth]))
    places = np.column_stack([truth.image, truth.category])[near.truth[order]]
    ends = np.flatnonzero((np.diff(places, axis=0) != 0).any(axis=1)) + 1
    # 2. Solve an assignment for each group.
    reached = 0.0
    for rows in np.split(order, ends) if len(order) else ():
        found, row = np.unique(near.found[rows], return_inverse=True)
        wanted, column = np.unique(near.truth[rows], return_inverse=True)
        overlap = np.zeros((len(found), len(wanted)))
        overlap[row, column] = near.iou[rows]
        reached += float(overlap[linear_sum_assignment(overlap, maximize=True)].sum())
    return reached / total


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Scores against the share that is correct, in bins of equal width over [0, 1].

    Attributes:
        edges: Bin edges, one more than bins.
        counts: Predictions in each bin.
        confidence: Mean score of each bin; None where empty.
        precision: Share of correct predictions of each bin; None where empty.
        ece: Expected calibration error: mean gap of the two, weighted by counts; None if empty.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    confidence: tuple[float | None, ...]
    precision: tuple[float | None, ...]
    ece: float | None


def reliability(scores: FloatArray, correct: BoolArray) -> Reliability | None:
    """Compare scores with precision.

    Args:
        scores: ``(n,)`` scores.
        correct: ``(n,)`` whether each is correct.

    Returns:
        The diagram, or None if a score is outside [0, 1] and so is no probability.

    Source:
        Guo et al. 2017, On Calibration of Modern Neural Networks (arXiv 1706.04599), eq. 3.

    Example:
        >>> reliability(np.array([0.8, 0.8]), np.array([True, False])).ece
        0.30000000000000004
    """
    if len(scores) and (scores.min() < 0 or scores.max() > 1):
        return None
    # 1. Sort the predictions into bins.
    edges = np.linspace(0, 1, _BINS + 1)
    place = np.minimum((scores * _BINS).astype(np.int64), _BINS - 1)
    counts = np.bincount(place, minlength=_BINS)
    summed = np.bincount(place, weights=scores, minlength=_BINS)
    right = np.bincount(place, weights=correct, minlength=_BINS)
    # Expected calibration error: gaps of the bins, weighted by their counts.
    gap = float(np.abs(summed - right).sum() / len(scores)) if len(scores) else None
    return Reliability(
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        confidence=_means(summed, counts),
        precision=_means(right, counts),
        ece=gap,
    )


def _means(sums: NDArray[Any], counts: NDArray[Any]) -> tuple[float | None, ...]:
    pairs = zip(sums.tolist(), counts.tolist(), strict=True)
    return tuple(total / count if count else None for total, count in pairs)


def confusion_matrix(
    truth: GroundTruth,
    found: Predictions,
    pairs: Pairs,
    *,
    threshold: float | None,
    iou: float = 0.5,
) -> IntArray:
    """Count which class was predicted for which, by pairs of falling IoU within an image.

    Args:
        truth: The ground truth; crowds are no annotations here, but predictions on them of their
            class are ignored.
        found: The predictions.
        pairs: By `overlapping_pairs`.
        threshold: Score that a prediction needs; None takes all.
        iou: Overlap that a pair needs, at least 0.5.

    Returns:
        ``(k + 1, k + 1)`` counts: rows the true class, columns the predicted one; the last row
        is background (false predictions), the last column misses.
    """
    # 1. Pairs by falling IoU; predictions on crowds are ignored.
    num = len(truth.category_ids)
    chosen = _above(found, threshold)
    near = pairs.at(iou, chosen[pairs.found])
    crowd = truth.crowd[near.truth]
    ignored = near.found[crowd & near.same_class]
    near = near.where(~crowd)
    true_class, found_class = truth.class_places(truth.category), truth.class_places(found.category)
    # The same class wins among pairs of equal IoU.
    order = np.lexsort((near.truth, near.found, ~near.same_class, -near.iou))
    # 2. Pair each prediction and annotation once.
    matrix = np.zeros((num + 1, num + 1), np.int64)
    seen_found, seen_truth = np.zeros(len(found), np.bool_), truth.crowd.copy()
    for f, t in zip(near.found[order].tolist(), near.truth[order].tolist(), strict=True):
        if not seen_found[f] and not seen_truth[t]:
            seen_found[f] = seen_truth[t] = True
            matrix[true_class[t], found_class[f]] += 1
    # 3. The rest are false predictions and misses.
    seen_found[ignored] = True
    matrix[num] += np.bincount(found_class[chosen & ~seen_found], minlength=num + 1)
    matrix[:, num] += np.bincount(true_class[~seen_truth], minlength=num + 1)
    return matrix


@dataclass(frozen=True, kw_only=True)
class ReferringReport:
    """Metrics over pairs of a true and a predicted mask.

    Attributes:
        miou: Mean of the IoUs; 0 for a missing prediction.
        ciou: Summed intersections over summed unions (large objects weigh more).
        precision: Share of pairs with IoU of at least each threshold 0.5 to 0.9.
        num_missing: Pairs without a prediction.
        num_pairs: Pairs.
    """

    miou: float
    ciou: float
    precision: dict[float, float]
    num_missing: int
    num_pairs: int


def evaluate_referring(pairs: Iterable[tuple[BoolArray, BoolArray | None]]) -> ReferringReport:
    """Score predicted masks of phrases.

    Args:
        pairs: ``(true mask, predicted mask)``, each ``(h, w)`` bool of one size; None for no
            prediction. They are read one by one, so that a generator saves memory.

    Returns:
        The metrics. Two empty masks agree (IoU 1); a missing prediction never does.

    Raises:
        EvaluationError: If there are no pairs, or masks of a pair differ in shape or dtype.

    Source:
        Precision at IoU and overall (cumulative) IoU as in Hu et al. 2016 (arXiv 1603.06180).

    Example:
        >>> mask = np.eye(4, dtype=bool)
        >>> evaluate_referring([(mask, mask), (mask, None)]).miou
        0.5
    """
    # 1. Count the pixels of intersection and union.
    shared, joined, absent = [], [], []
    for index, (truth, found) in enumerate(pairs):
        guess = np.zeros_like(truth) if found is None else found
        if truth.dtype != bool or guess.dtype != bool or truth.shape != guess.shape:
            raise EvaluationError(
                f"pairs[{index}]: expected two (h, w) bool masks of one size, got {truth.shape} "
                f"{truth.dtype} and {guess.shape} {guess.dtype}. "
                "Fix: paste the mask into the frame."
            )
        absent.append(found is None)
        shared.append(int((truth & guess).sum()))
        joined.append(int((truth | guess).sum()))
    if not shared:
        raise EvaluationError("pairs: expected at least one pair. Fix: check the split's name.")
    # 2. Compute the metrics.
    inter, union = np.array(shared), np.array(joined)
    agree = (union == 0) & ~np.array(absent)  # a missing prediction agrees with nothing
    iou = np.where(agree, 1.0, inter / np.maximum(union, 1))
    return ReferringReport(
        miou=float(iou.mean()),
        ciou=float(inter.sum() / union.sum()) if union.sum() else float(not any(absent)),
        precision={threshold: float((iou >= threshold).mean()) for threshold in REFERRING_IOUS},
        num_missing=sum(absent),
        num_pairs=len(iou),
    )
