"""Figures beside AP: the best threshold, reliability of scores, confusions."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgvision.evaluation.ground_truth import GroundTruth
from pgvision.evaluation.matching import group_pairs
from pgvision.evaluation.predictions import Predictions


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


def best_f1(
    scores: NDArray[np.float64], correct: NDArray[np.bool_], num_truth: int
) -> BestF1 | None:
    """Find the threshold with the best F1; of equals, the highest.

    Args:
        scores: ``(n,)`` scores of counted predictions.
        correct: ``(n,)`` whether each is matched.
        num_truth: Annotations that could be found.

    Returns:
        The best cut between distinct scores, or None when there is nothing to cut or to find.

    Example:
        >>> best = best_f1(np.array([0.9, 0.8, 0.3]), np.array([True, True, False]), 2)
        >>> best.threshold, best.f1
        (0.8, 1.0)
    """
    if not len(scores) or not num_truth:
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(correct[order])
    kept = np.arange(1, len(scores) + 1)
    cuts = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    f1 = 2 * hits[cuts] / (kept[cuts] + num_truth)
    best = cuts[int(np.argmax(f1))]
    return BestF1(
        threshold=float(scores[order][best]),
        f1=float(2 * hits[best] / (kept[best] + num_truth)),
        precision=float(hits[best] / kept[best]),
        recall=float(hits[best] / num_truth),
    )


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Scores against how often they are right, in bins of equal width over [0, 1].

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

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: lists for tuples."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }


def reliability(
    scores: NDArray[np.float64], correct: NDArray[np.bool_], *, num_bins: int = 10
) -> Reliability | None:
    """Compare scores with precision.

    Args:
        scores: ``(n,)`` scores.
        correct: ``(n,)`` whether each is right.
        num_bins: Bins over [0, 1].

    Returns:
        The diagram, or None if a score lies outside [0, 1] and so is no probability.

    Source:
        Guo et al. 2017, On Calibration of Modern Neural Networks (arXiv 1706.04599), eq. 3.

    Example:
        >>> reliability(np.array([0.8, 0.8]), np.array([True, False])).ece
        0.30000000000000004
    """
    if len(scores) and (scores.min() < 0 or scores.max() > 1):
        return None
    edges = np.linspace(0, 1, num_bins + 1)
    place = np.minimum((scores * num_bins).astype(np.int64), num_bins - 1)
    counts = np.bincount(place, minlength=num_bins)
    summed = np.bincount(place, weights=scores, minlength=num_bins)
    right = np.bincount(place, weights=correct, minlength=num_bins)
    gap = float(np.abs(summed - right).sum() / len(scores)) if len(scores) else None
    return Reliability(
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        confidence=_means(summed.tolist(), counts.tolist()),
        precision=_means(right.tolist(), counts.tolist()),
        ece=gap,
    )


def _means(sums: list[float], counts: list[int]) -> tuple[float | None, ...]:
    return tuple(
        total / count if count else None for total, count in zip(sums, counts, strict=True)
    )


def confusion_matrix(
    truth: GroundTruth, found: Predictions, *, threshold: float | None, iou: float = 0.5
) -> NDArray[np.int64]:
    """Which class was taken for which, whatever the class: pairs by falling IoU within an image.

    Args:
        truth: The ground truth; crowds are no annotations here, but excuse predictions on them.
        found: The predictions.
        threshold: Score that a prediction needs; None takes all.
        iou: Overlap that a pair needs.

    Returns:
        ``(k + 1, k + 1)`` counts: rows the true class, columns the predicted one; the last row
        is nothing there (false predictions), the last column nothing found (misses).
    """
    num = len(truth.category_ids)
    chosen = np.ones(len(found), bool)
    if threshold is not None and found.scores is not None:
        chosen = found.scores >= threshold
    everything = group_pairs(truth, found, by_class=False, most=None, chosen=chosen)
    crowd = truth.crowd[everything.truth]
    near, excuses = everything.at(iou, ~crowd), everything.at(iou, crowd)
    true_class = np.searchsorted(truth.category_ids, truth.category)
    found_class = np.searchsorted(truth.category_ids, found.category)
    differ = true_class[near.truth] != found_class[near.found]
    order = np.lexsort((near.truth, near.found, differ, -near.iou))
    matrix = np.zeros((num + 1, num + 1), np.int64)
    seen_found, seen_truth = np.zeros(len(found), bool), truth.crowd.copy()
    for f, t in zip(near.found[order].tolist(), near.truth[order].tolist(), strict=True):
        if not seen_found[f] and not seen_truth[t]:
            seen_found[f] = seen_truth[t] = True
            matrix[true_class[t], found_class[f]] += 1
    same = true_class[excuses.truth] == found_class[excuses.found]
    seen_found[excuses.found[same]] = True
    spurious = found_class[chosen & ~seen_found]
    matrix[num] += np.bincount(spurious, minlength=num + 1)
    matrix[:, num] += np.bincount(true_class[~seen_truth], minlength=num + 1)
    return matrix
