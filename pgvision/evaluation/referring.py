"""Referring segmentation: one phrase, one mask; and big_vision's figures with its arithmetic."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgvision.errors import EvaluationError
from pgvision.masks import paste_mask

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True)
class ReferringReport:
    """Figures over pairs of a true and a predicted mask.

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


def evaluate_referring(
    pairs: Iterable[tuple[NDArray[np.bool_], NDArray[np.bool_] | None]],
) -> ReferringReport:
    """Score predicted masks of phrases.

    Args:
        pairs: ``(true mask, predicted mask)``, each ``(h, w)`` bool of one size; None for no
            prediction. Read one by one, so a generator keeps memory small.

    Returns:
        The figures. Two empty masks agree (IoU 1); a missing prediction never does.

    Raises:
        EvaluationError: If there are no pairs, or masks of a pair differ in shape or dtype.

    Source:
        Precision at IoU and overall (cumulative) IoU as in Hu et al. 2016 (arXiv 1603.06180).

    Example:
        >>> mask = np.eye(4, dtype=bool)
        >>> evaluate_referring([(mask, mask), (mask, None)]).miou
        0.5
    """
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


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferringAnswer:
    """One referring example as big_vision scores it.

    Attributes:
        mask: ``(h, w)`` bool, the true mask at the original image's size.
        box_yxyx: True box in [0, 1]: top, left, bottom, right.
        loc_yxyx: The 4 predicted bins in [0, 1023] in the order written, or None if the answer
            did not hold 4 loc and 16 seg tokens.
        mask_logits: ``(64, 64)`` float32 decoder output, above 0 inside; None likewise.
    """

    mask: NDArray[np.bool_]
    box_yxyx: tuple[float, float, float, float]
    loc_yxyx: tuple[int, int, int, int] | None
    mask_logits: NDArray[np.float32] | None


@dataclass(frozen=True, kw_only=True)
class BigVisionReferring:
    """big_vision's figures.

    Attributes:
        miou: Mean mask IoU; invalid answers count 0.
        boxacc: Share of boxes with IoU of at least 0.5 and 0.75.
        invalid: Number of answers that are no valid box and mask.
        total: Number of answers.
    """

    miou: float
    boxacc: dict[float, float]
    invalid: int
    total: int


def big_vision_referring(answers: Iterable[ReferringAnswer]) -> BigVisionReferring:
    """Score answers as big_vision's segmentation evaluator does, to the last bit.

    Bins are divided by 1023, box corners in pixels are cut (not rounded) to integers, and the 64 x
    64 mask is resized to that box by Pillow's bilinear filter before it is compared with 0.

    Args:
        answers: The examples, read one by one.

    Returns:
        Its ``miou``, ``boxacc/0.5``, ``boxacc/0.75``, ``invalid`` and ``total``.

    Raises:
        EvaluationError: If there are no answers.

    Source:
        google-research/big_vision, evaluators/proj/paligemma/transfers/segmentation.py.

    Example:
        >>> truth = np.zeros((10, 10), bool)
        >>> truth[:5, :5] = True
        >>> answer = ReferringAnswer(
        ...     mask=truth, box_yxyx=(0, 0, 0.5, 0.5), loc_yxyx=None, mask_logits=None)
        >>> big_vision_referring([answer]).invalid
        1
    """
    ious: list[float] = []
    boxes: list[float] = []
    invalid = 0
    for answer in answers:
        valid = _is_valid(answer)
        bins = answer.loc_yxyx if valid and answer.loc_yxyx is not None else (0, 0, 0, 0)
        box = np.array(bins) / 1023
        boxes.append(_box_iou(box, answer.box_yxyx))
        height, width = answer.mask.shape
        y1, x1, y2, x2 = (int(v) for v in box * np.array([height, width, height, width]))
        if not valid or answer.mask_logits is None or x2 <= x1 or y2 <= y1:
            ious.append(0.0)
            invalid += 1
            continue
        guess, _ = paste_mask(answer.mask_logits, (x1, y1, x2, y2), (height, width))
        shared = int((answer.mask[y1:y2, x1:x2] & guess).sum())
        # No true pixel and none found: big_vision divides by 0 there; nothing is shared, so 0.
        ious.append(shared / max(int(answer.mask.sum()) + int(guess.sum()) - shared, 1))
    if not ious:
        raise EvaluationError("answers: expected at least one. Fix: check the split's name.")
    return BigVisionReferring(
        miou=sum(ious) / len(ious),
        boxacc={t: sum(t <= iou for iou in boxes) / len(boxes) for t in (0.5, 0.75)},
        invalid=invalid,
        total=len(ious),
    )


def _is_valid(answer: ReferringAnswer) -> bool:
    if answer.loc_yxyx is None or answer.mask_logits is None:
        return False
    top, left, bottom, right = answer.loc_yxyx
    in_range = all(0 <= place <= 1023 for place in answer.loc_yxyx)
    return in_range and bottom > top and right > left


def _box_iou(found: NDArray[np.float64], truth: tuple[float, float, float, float]) -> float:
    overlap = (*np.maximum(found[:2], truth[:2]), *np.minimum(found[2:], truth[2:]))
    union = _area(found) + _area(truth) - _area(overlap)
    return _area(overlap) / union if union > 0 else 0.0


def _area(box_yxyx: Any) -> float:
    y1, x1, y2, x2 = box_yxyx
    return max(float(x2 - x1), 0.0) * max(float(y2 - y1), 0.0)
