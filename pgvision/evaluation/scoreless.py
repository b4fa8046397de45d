"""What can be said of predictions without scores: figures that need no order, bounds on AP.

COCO's AP ranks predictions. Without scores every order is as good as any other, so one AP is a
number of the file's order and not of the model. The bounds hold for all orders.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgvision.evaluation.ground_truth import GroundTruth
from pgvision.evaluation.matching import MAX_PER_CLASS, Pairs, group_pairs, groups, most_matches
from pgvision.evaluation.predictions import Predictions

IOUS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
_SEARCHED = 6  # predictions in one cluster whose orders are all tried
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ScoreFree:
    """Figures at one IoU that no order of predictions can change.

    Attributes:
        iou: The threshold.
        precision: Matched predictions over all that are not excused by a crowd; None without any.
        recall: Matched annotations over all; None without annotations.
        f1: Harmonic mean of the two; None if either is undefined.
        average_recall: Recall averaged over classes that have annotations (COCO's AR at one IoU).
        num_matched: Matches in the largest one-to-one assignment within image and class.
    """

    iou: float
    precision: float | None
    recall: float | None
    f1: float | None
    average_recall: float | None
    num_matched: int


@dataclass(frozen=True, kw_only=True)
class ApInterval:
    """Bounds (lowest, highest) that AP keeps to under every order of the predictions.

    The lowest ranks matches as late as they can come, the highest before all false predictions.
    At one IoU both are reached unless several predictions compete for several annotations, touch
    crowds, or are over 100 of a class in one image; then, and over ten IoUs with one order for
    all of them, the bounds may be wider than what is reachable, never narrower.

    Attributes:
        ap: Over IoU 0.5:0.95; (-1, -1) without annotations, as pycocotools has it.
        ap50: At IoU 0.5.
        ap75: At IoU 0.75.
        per_class: ``ap`` of each category name that has annotations.
    """

    ap: Interval
    ap50: Interval
    ap75: Interval
    per_class: dict[str, Interval]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: each interval as a list of two."""
        return {
            "ap": list(self.ap),
            "ap50": list(self.ap50),
            "ap75": list(self.ap75),
            "per_class": {name: list(pair) for name, pair in self.per_class.items()},
        }


def score_free(truth: GroundTruth, pairs: Pairs, iou: float) -> ScoreFree:
    """Precision, recall, F1 and average recall of predictions at one IoU.

    Args:
        truth: The ground truth.
        pairs: Pairs by ``group_pairs(..., most=None)``, of all predictions or of chosen ones.
        iou: Threshold, at least 0.5.
    """
    crowd = truth.crowd[pairs.truth]
    on_crowd = np.unique(pairs.at(iou, crowd).found)
    matched = most_matches(pairs.at(iou, ~crowd))
    # Those that no crowd would excuse are matched first; of the others, the rest is excused.
    plain = most_matches(pairs.at(iou, ~crowd & ~np.isin(pairs.found, on_crowd)))
    counted = len(pairs.kept) - (len(on_crowd) - (len(matched) - len(plain)))
    totals = _per_class(truth, np.flatnonzero(~truth.crowd))
    hits = _per_class(truth, matched)
    precision = len(matched) / counted if counted else None
    recall = len(matched) / int(totals.sum()) if totals.any() else None
    f1 = None
    if precision is not None and recall is not None:
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    present = totals > 0
    average = float(np.mean(hits[present] / totals[present])) if present.any() else None
    return ScoreFree(
        iou=iou, precision=precision, recall=recall, f1=f1, average_recall=average,
        num_matched=len(matched),
    )  # fmt: skip


def mean_iou(truth: GroundTruth, pairs: Pairs) -> float | None:
    """IoU of each annotation with the prediction that is taken for it, averaged.

    Taken are those of the one-to-one assignment, within image and class, with the largest sum of
    IoUs. A missed annotation counts 0, and crowds are no annotations. What was found besides costs
    nothing here: precision and F1 count that.

    Args:
        truth: The ground truth.
        pairs: Pairs by ``group_pairs(..., most=None, lowest=0.0)``.

    Returns:
        The mean, in [0, 1]; None without annotations.
    """
    from scipy.optimize import linear_sum_assignment

    total = int((~truth.crowd).sum())
    if not total:
        return None
    reached = 0.0
    for edges in _clusters(pairs.at(0.0, ~truth.crowd[pairs.truth])):
        found, row = np.unique([edge[0] for edge in edges], return_inverse=True)
        wanted, column = np.unique([edge[1] for edge in edges], return_inverse=True)
        overlap = np.zeros((len(found), len(wanted)))
        overlap[row, column] = [edge[2] for edge in edges]
        reached += float(overlap[linear_sum_assignment(overlap, maximize=True)].sum())
    return reached / total


def mean_f1(truth: GroundTruth, found: Predictions, *, threshold: float | None) -> float | None:
    """F1 over all classes, averaged over IoU 0.5:0.05:0.95.

    What generative detectors without scores report beside AP. At each IoU it is twice the matches
    of the largest one-to-one assignment within image and class, over predictions plus annotations;
    crowds are no annotations, and excuse predictions on them.

    Args:
        truth: The ground truth.
        found: The predictions.
        threshold: Score that a prediction needs; None takes all.

    Returns:
        The mean, in [0, 1]; None without annotations.
    """
    chosen = None
    if threshold is not None and found.scores is not None:
        chosen = found.scores >= threshold
    pairs = group_pairs(truth, found, most=None, chosen=chosen)
    each = [score_free(truth, pairs, float(iou)) for iou in IOUS]
    if each[0].recall is None:
        return None
    return sum(figures.f1 or 0.0 for figures in each) / len(each)


def _per_class(truth: GroundTruth, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    place = np.searchsorted(truth.category_ids, truth.category[rows])
    return np.bincount(place, minlength=len(truth.category_ids))


def ap_interval(truth: GroundTruth, found: Predictions) -> ApInterval:
    """Bounds on AP over all orders of the predictions, as if every score were equal."""
    pairs = group_pairs(truth, found, most=None)
    totals = _per_class(truth, np.flatnonzero(~truth.crowd))
    bounds = np.array([_class_bounds(truth, found, pairs, totals, iou) for iou in IOUS])
    present = np.flatnonzero(totals > 0)
    if not len(present):
        none = (-1.0, -1.0)
        return ApInterval(ap=none, ap50=none, ap75=none, per_class={})
    bounds = bounds[:, :, present]  # (10 IoUs, 2 bounds, classes)
    return ApInterval(
        ap=_pair(bounds.mean(axis=(0, 2))),
        ap50=_pair(bounds[0].mean(axis=1)),
        ap75=_pair(bounds[5].mean(axis=1)),
        per_class={
            truth.names[place]: _pair(bounds[:, :, column].mean(axis=0))
            for column, place in enumerate(present)
        },
    )


def _pair(values: NDArray[np.float64]) -> Interval:
    return float(values[0]), float(values[1])


def _class_bounds(
    truth: GroundTruth,
    found: Predictions,
    pairs: Pairs,
    totals: NDArray[np.int64],
    iou: float,
) -> NDArray[np.float64]:
    """``(2, k)`` lowest and highest AP of each class at one IoU."""
    crowd = truth.crowd[pairs.truth]
    real, excuses = pairs.at(iou, ~crowd), pairs.at(iou, crowd)
    excused = np.zeros(len(found), bool)
    excused[excuses.found] = True
    stray = ~excused
    stray[real.found] = False
    num = len(totals)
    found_class = np.searchsorted(truth.category_ids, found.category)
    strays = np.bincount(found_class[stray], minlength=num)
    found_group = groups(truth, found.image, found.category)
    size = np.bincount(found_group, minlength=len(truth.image_ids) * num)
    fewest, most = np.zeros_like(size), np.zeros_like(size)
    rivals: list[list[int]] = [[] for _ in range(num)]
    for edges in _clusters(real):
        rows = {edge[0] for edge in edges}
        first = edges[0][0]
        low, high = _match_range(edges)
        fewest[found_group[first]] += low
        most[found_group[first]] += high
        plain = sum(not excused[row] for row in rows)
        rivals[found_class[first]].append(min(plain, len(rows) - low))
    over = np.maximum(size - MAX_PER_CLASS, 0)  # which hundred are kept is again up to the order
    low_hits = np.maximum(fewest - over, 0).reshape(-1, num).sum(axis=0)
    high_hits = np.minimum(most, MAX_PER_CLASS).reshape(-1, num).sum(axis=0)
    bounds = np.zeros((2, num))
    for place in np.flatnonzero(totals):
        total = int(totals[place])
        bounds[0, place] = _lowest(int(low_hits[place]), total, int(strays[place]), rivals[place])
        bounds[1, place] = _lowest(int(high_hits[place]), total, 0, [])
    return bounds


def _lowest(hits: int, total: int, strays: int, rivals: list[int]) -> float:
    """The AP of ``hits`` matches that come as late as they can.

    Strays, which overlap no annotation, may all come first. A cluster's rivals are false only
    after one of them has matched, so before the j-th match at most j - 1 clusters have shed theirs.
    """
    if not hits:
        return 0.0
    shed = np.zeros(hits)
    largest = sorted(rivals, reverse=True)[: hits - 1]
    shed[1 : len(largest) + 1] = largest
    rank = np.arange(1, hits + 1)
    precision = rank / (rank + strays + np.cumsum(shed))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(rank / total, _RECALLS, "left")
    return float(envelope[reached[reached < hits]].sum() / len(_RECALLS))


Edge = tuple[int, int, float]


def _clusters(pairs: Pairs) -> list[list[Edge]]:
    """Edges grouped by what hangs together: predictions that compete for annotations."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    found, row = np.unique(pairs.found, return_inverse=True)
    truth, column = np.unique(pairs.truth, return_inverse=True)
    if not len(row):
        return []
    size = len(found) + len(truth)
    edges = coo_array((np.ones(len(row), np.int8), (row, len(found) + column)), shape=(size, size))
    cluster = connected_components(edges, directed=False)[1][row]
    order = np.argsort(cluster, kind="stable")
    columns = [values[order].tolist() for values in (pairs.found, pairs.truth, pairs.iou)]
    ends = [*(np.flatnonzero(np.diff(cluster[order])) + 1).tolist(), len(order)]
    rows = list(zip(*columns, strict=True))
    return [rows[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def _match_range(edges: list[Edge]) -> tuple[int, int]:
    """Fewest and most matches that any order of a cluster's predictions leads to."""
    found = sorted({edge[0] for edge in edges})
    if len(found) == 1 or len({edge[1] for edge in edges}) == 1:
        return 1, 1
    wishes: dict[int, list[int]] = {
        row: [truth for _, truth, _ in sorted(
            (edge for edge in edges if edge[0] == row), key=lambda edge: (-edge[2], -edge[1])
        )]
        for row in found
    }  # fmt: skip
    if len(found) <= _SEARCHED:
        sizes = {_in_order(order, wishes) for order in permutations(found)}
        return min(sizes), max(sizes)
    columns = [np.array(values) for values in zip(*edges, strict=True)]
    largest = len(most_matches(Pairs(columns[0], columns[1], columns[2], columns[0])))
    return (largest + 1) // 2, largest  # a greedy matching has at least half of the largest


def _in_order(order: tuple[int, ...], wishes: dict[int, list[int]]) -> int:
    taken: set[int] = set()
    for found in order:
        free = next((truth for truth in wishes[found] if truth not in taken), None)
        if free is not None:
            taken.add(free)
    return len(taken)
