"""Which prediction goes with which annotation, by pycocotools' rules, without its loops.

Only pairs that overlap enough are ever looked at one by one, and those are few.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgvision.evaluation.ground_truth import GroundTruth
from pgvision.evaluation.predictions import Predictions

MAX_PER_CLASS = 100  # pycocotools keeps so many predictions per image and class
LOWEST_IOU = 0.5


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of the same group (image and class, or image) that overlap enough.

    Attributes:
        found: ``(p,)`` rows of predictions; predictions appear by falling score within a group.
        truth: ``(p,)`` rows of annotations.
        iou: ``(p,)`` float64; against a crowd, intersection over the prediction's own area.
        kept: ``(m,)`` rows of the predictions that take part: the best 100 of each group.
    """

    found: NDArray[np.int64]
    truth: NDArray[np.int64]
    iou: NDArray[np.float64]
    kept: NDArray[np.int64]

    def at(self, iou: float, chosen: NDArray[np.bool_] | None = None) -> "Pairs":
        """The pairs with at least this IoU, and, if given, only those ``chosen`` of ``p``."""
        keep = self.iou >= min(iou, 1 - 1e-10)
        if chosen is not None:
            keep &= chosen
        return Pairs(self.found[keep], self.truth[keep], self.iou[keep], self.kept)


def group_pairs(
    truth: GroundTruth,
    found: Predictions,
    *,
    by_class: bool = True,
    most: int | None = MAX_PER_CLASS,
    chosen: NDArray[np.bool_] | None = None,
    lowest: float = LOWEST_IOU,
) -> Pairs:
    """All pairs of predictions and annotations of one image, and of one class if ``by_class``.

    Args:
        truth: The ground truth.
        found: The predictions.
        by_class: Whether only equal classes pair up.
        most: Predictions kept per group, the best first; None keeps all.
        chosen: ``(n,)`` predictions that take part; None means all.
        lowest: IoU that a pair has at least; 0 takes all that overlap.
    """
    truth_group = groups(truth, truth.image, truth.category, by_class=by_class)
    found_group = groups(truth, found.image, found.category, by_class=by_class)
    scores = np.zeros(len(found)) if found.scores is None else found.scores
    order = np.lexsort((-scores, found_group))
    if chosen is not None:
        order = order[chosen[order]]
    if most is not None:
        order = order[_rank(found_group[order]) < most]
    rows = np.argsort(truth_group, kind="stable")
    sorted_groups = truth_group[rows]
    first = np.searchsorted(sorted_groups, found_group[order], "left")
    count = np.searchsorted(sorted_groups, found_group[order], "right") - first
    pair_found = np.repeat(order, count)
    pair_truth = rows[np.repeat(first, count) + _rank(np.repeat(np.arange(len(order)), count))]
    iou = _pair_iou(truth, found, pair_found, pair_truth, order, found_group)
    keep = (iou >= lowest) & (iou > 0)
    return Pairs(pair_found[keep], pair_truth[keep], iou[keep], order)


def groups(
    truth: GroundTruth,
    image: NDArray[np.int64],
    category: NDArray[np.int64],
    *,
    by_class: bool = True,
) -> NDArray[np.int64]:
    """A number for each row's image, or for its image and class."""
    place = np.searchsorted(truth.image_ids, image)
    if not by_class:
        return place
    return place * len(truth.category_ids) + np.searchsorted(truth.category_ids, category)


def _rank(sorted_groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of each element within its run of equal values."""
    starts = np.flatnonzero(np.diff(sorted_groups, prepend=-1))
    sizes = np.diff(np.append(starts, len(sorted_groups)))
    return np.arange(len(sorted_groups)) - np.repeat(starts, sizes)


def _pair_iou(
    truth: GroundTruth,
    found: Predictions,
    pair_found: NDArray[np.int64],
    pair_truth: NDArray[np.int64],
    order: NDArray[np.int64],
    found_group: NDArray[np.int64],
) -> NDArray[np.float64]:
    crowd = truth.crowd[pair_truth]
    if found.masks is not None:
        return _mask_iou(truth, found, pair_found, pair_truth, found_group)
    a, b = found.xywh[pair_found], truth.xywh[pair_truth]
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    area = a[:, 2] * a[:, 3]
    union = np.where(crowd, area, area + b[:, 2] * b[:, 3] - shared)
    iou: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def _mask_iou(
    truth: GroundTruth,
    found: Predictions,
    pair_found: NDArray[np.int64],
    pair_truth: NDArray[np.int64],
    found_group: NDArray[np.int64],
) -> NDArray[np.float64]:
    """IoU of mask pairs, group by group; pairs of a group are a full grid, row by row."""
    from pycocotools import mask as coco_mask

    truth_masks, found_masks = truth.rles(), found.masks or []
    iou = np.zeros(len(pair_found))
    starts = np.flatnonzero(np.diff(found_group[pair_found], prepend=-1))
    ends = np.append(starts, len(pair_found))[1:]  # none where nothing can pair up
    for begin, end in zip(starts, ends, strict=True):
        rows = pair_found[begin:end]
        wide = int(np.argmax(rows != rows[0])) or len(rows)
        columns = pair_truth[begin : begin + wide]
        grid = coco_mask.iou(
            [found_masks[row] for row in rows[::wide]],
            [truth_masks[column] for column in columns],
            truth.crowd[columns].astype(np.uint8),
        )
        iou[begin:end] = np.asarray(grid).ravel()
    return iou


def greedy_match(
    pairs: Pairs, crowd: NDArray[np.bool_], num_found: int, *, iou: float
) -> NDArray[np.int64]:
    """Match at one IoU as pycocotools does: by falling score, each takes the best annotation left.

    Args:
        pairs: Pairs by :func:`group_pairs`.
        crowd: ``(g,)`` which annotations are crowds; a crowd takes any number of predictions.
        num_found: Number of predictions, ``n``.
        iou: Threshold, at least 0.5.

    Returns:
        ``(n,)`` annotation row of each prediction; -1 no match, -2 matched to a crowd (ignored),
        -3 not among the 100 kept.
    """
    near = pairs.at(iou)
    place = np.full(num_found, -1)
    place[pairs.kept] = np.arange(len(pairs.kept))
    is_crowd = crowd[near.truth]
    # pycocotools lets a later annotation win a tie, and any annotation win against a crowd
    order = np.lexsort((-near.truth, -near.iou, is_crowd, place[near.found]))
    result = np.full(num_found, -3)
    result[pairs.kept] = -1
    matched: dict[int, int] = {}
    taken: set[int] = set()
    rows = np.column_stack([near.found, near.truth, is_crowd])[order]
    for found, truth, to_crowd in rows.tolist():
        if found in matched:
            continue
        if to_crowd:
            matched[found] = -2
        elif truth not in taken:
            taken.add(truth)
            matched[found] = truth
    result[list(matched)] = list(matched.values())
    return result


def most_matches(pairs: Pairs) -> NDArray[np.int64]:
    """Annotation rows of a largest one-to-one assignment; how many they are, no order changes."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    found, row = np.unique(pairs.found, return_inverse=True)
    truth, column = np.unique(pairs.truth, return_inverse=True)
    if not len(row):
        return truth
    near = csr_array((np.ones(len(row), np.int8), (row, column)), shape=(len(found), len(truth)))
    partner = maximum_bipartite_matching(near, perm_type="column")
    matched: NDArray[np.int64] = np.sort(truth[partner[partner >= 0]])
    return matched
