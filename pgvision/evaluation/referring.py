"""Referring segmentation: one mask for a phrase."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pgvision.arrays import BoolArray
from pgvision.errors import EvaluationError

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


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
        precision={threshold: float((iou >= threshold).mean()) for threshold in THRESHOLDS},
        num_missing=sum(absent),
        num_pairs=len(iou),
    )
