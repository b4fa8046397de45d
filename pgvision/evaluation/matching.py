"""COCO's precision and recall by an evaluator, and matching by pycocotools' rules.

AP comes from faster-coco-eval or pycocotools. For all other metrics the pairs of predictions and
annotations that overlap are computed once, and only those that can matter are kept: memory grows
with the pairs that overlap, not with all pairs of a dense image.
"""

import contextlib
import io
import threading
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pgvision.arrays import BoolArray, FloatArray, IntArray
from pgvision.evaluation.inputs import GroundTruth, Predictions
from pgvision.rle import Rle

Engine = Literal["faster", "pycocotools"]
IouType = Literal["bbox", "segm"]
MAX_DETS: Final = 100  # predictions kept for each image and class, as in COCO

LOWEST_IOU: Final = 0.5
_printing = threading.Lock()

# Where each figure is: (is recall, IoU index or all, area index, max-dets index).
_PLACES = (
    (False, None, 0, 2), (False, 0, 0, 2), (False, 5, 0, 2),
    (False, None, 1, 2), (False, None, 2, 2), (False, None, 3, 2),
    (True, None, 0, 0), (True, None, 0, 1), (True, None, 0, 2),
    (True, None, 1, 2), (True, None, 2, 2), (True, None, 3, 2),
)  # fmt: skip


def stat_names(max_dets: int = MAX_DETS) -> tuple[str, ...]:
    """Return the names of the 12 COCO figures in pycocotools' order.

    Example:
        >>> stat_names(300)[8]
        'AR_300'
    """
    return (
        "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
        "AR_1", "AR_10", f"AR_{max_dets}", "AR_small", "AR_medium", "AR_large",
    )  # fmt: skip


STAT_NAMES: Final = stat_names()


@dataclass(frozen=True, eq=False)
class Accumulated:
    """Accumulated precision and recall; -1 where undefined.

    Attributes:
        precision: ``(10, 101, k, 4, 3)``: IoU 0.5:0.05:0.95, recall 0:0.01:1, category, area
            (all, small, medium, large), at most 1, 10, ``max_dets`` detections.
        recall: ``(10, k, 4, 3)``.
    """

    precision: FloatArray
    recall: FloatArray

    def stats(self) -> tuple[float, ...]:
        """The 12 COCO figures in the order of `stat_names`."""
        stats = []
        for is_recall, iou, area, most in _PLACES:
            values = (self.recall if is_recall else self.precision)[..., area, most]
            stats.append(defined_mean(values if iou is None else values[iou]))
        return tuple(stats)

    def curves(self) -> FloatArray:
        """Return precision ``(classes, 2, 101)`` at IoU 0.5 and 0.75, over recall 0 to 1."""
        return self.precision[[0, 5], :, :, 0, 2].transpose(2, 0, 1)


def defined_mean(values: FloatArray) -> float:
    """Return the mean of the values above -1; -1 if there are none, as in pycocotools."""
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else -1.0


def run_engine(
    truth: GroundTruth,
    found: Predictions,
    *,
    iou_type: IouType,
    engine: Engine,
    max_dets: int = MAX_DETS,
) -> Accumulated:
    """Match and accumulate."""
    # 1. Choose the implementation; both have pycocotools' interface.
    coco: Any
    evaluator: Any
    if engine == "faster":
        from faster_coco_eval import COCO, COCOeval_faster

        coco, evaluator = COCO, COCOeval_faster
    else:
        from pycocotools.coco import COCO as ReferenceCoco
        from pycocotools.cocoeval import COCOeval

        coco, evaluator = ReferenceCoco, COCOeval
    # 2. Make both sides as the evaluators take them.
    images = [
        {"id": number, "file_name": "", "height": height, "width": width}
        for number in truth.image_ids.tolist()
        for height, width in [truth.image_hw[number] or (1, 1)]  # unknown sizes
    ]
    categories = [
        {"id": number, "name": name}
        for number, name in zip(truth.category_ids.tolist(), truth.names, strict=True)
    ]
    with contextlib.ExitStack() as stack:
        if engine == "pycocotools":
            # It prints its progress. Standard output belongs to all threads: one evaluation at a
            # time, or the last one would put back the output of another.
            stack.enter_context(_printing)
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        sides = []
        for annotations in (_truth_records(truth), _found_records(found)):
            side = coco()
            side.dataset = {"images": images, "categories": categories, "annotations": annotations}
            side.createIndex()
            sides.append(side)
        # 3. Match and accumulate.
        run = evaluator(*sides, iou_type)
        run.params.maxDets = [min(1, max_dets), min(10, max_dets), max_dets]
        run.evaluate()
        run.accumulate()
    return Accumulated(
        precision=np.asarray(run.eval["precision"], np.float64),
        recall=np.asarray(run.eval["recall"], np.float64),
    )


def _truth_records(truth: GroundTruth) -> list[dict[str, Any]]:
    return _records(
        truth.masks,
        image_id=truth.image,
        category_id=truth.category,
        bbox=truth.xywh,
        area=truth.area,
        iscrowd=truth.crowd.astype(np.int64),
    )


def _found_records(found: Predictions) -> list[dict[str, Any]]:
    area = found.xywh[:, 2] * found.xywh[:, 3]
    if found.masks is not None:
        from pycocotools import mask as coco_mask

        # One by one: given a list, pycocotools counts it in a uint8 and fails above 255 masks.
        area = np.array([float(coco_mask.area(mask)) for mask in found.masks], np.float64)
    return _records(
        found.masks,
        image_id=found.image,
        category_id=found.category,
        bbox=found.xywh,
        area=area,
        score=np.zeros(len(found)) if found.scores is None else found.scores,
        iscrowd=np.zeros(len(found), np.int64),
    )


def _records(masks: list[Rle] | None, **columns: NDArray[Any]) -> list[dict[str, Any]]:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    # Numbered from 1: pycocotools reads a match with annotation 0 as no match.
    records = [
        dict(zip(columns, row, strict=True), id=number) for number, row in enumerate(rows, 1)
    ]
    for record, mask in zip(records, masks or [], strict=False):
        record["segmentation"] = mask
    return records


class Pairs(NamedTuple):
    """Overlapping pairs of one image: of one class at any IoU, of two classes from IoU 0.5.

    Attributes:
        found: ``(p,)`` rows of predictions.
        truth: ``(p,)`` rows of annotations.
        iou: ``(p,)`` float64; against a crowd, intersection over the prediction's own area.
        same_class: ``(p,)`` bool.
    """

    found: IntArray
    truth: IntArray
    iou: FloatArray
    same_class: BoolArray

    def where(self, keep: BoolArray) -> "Pairs":
        """Return some of the pairs."""
        return Pairs._make(column[keep] for column in self)

    def at(self, iou: float, chosen: BoolArray | None = None) -> "Pairs":
        """Return the pairs of at least this IoU, as pycocotools compares, and of those chosen."""
        keep = self.iou >= min(iou, 1 - 1e-10)
        return self.where(keep if chosen is None else keep & chosen)


def overlapping_pairs(truth: GroundTruth, found: Predictions) -> Pairs:
    """Return the pairs of predictions and annotations of one image that overlap.

    Args:
        truth: The ground truth.
        found: The predictions.
    """
    from pycocotools import mask as coco_mask

    # 1. Compute the IoUs image by image.
    parts = []
    annotations = rows_by_image(truth.image)
    for image, rows in rows_by_image(found.image).items():
        columns = annotations.get(image)
        if columns is None:
            continue
        sides: list[Any] = [found.xywh[rows], truth.xywh[columns]]
        if found.masks is not None and truth.masks is not None:
            sides = [[found.masks[row] for row in rows], [truth.masks[row] for row in columns]]
        iou = np.asarray(coco_mask.iou(*sides, truth.crowd[columns].astype(np.uint8)))
        # 2. Pairs of two classes matter for confusions alone, from IoU 0.5.
        same = found.category[rows][:, None] == truth.category[columns]
        first, second = np.nonzero((iou >= LOWEST_IOU) | ((iou > 0) & same))
        parts.append((rows[first], columns[second], iou[first, second], same[first, second]))
    # 3. Join the images.
    if not parts:
        none = np.zeros(0, np.int64)
        return Pairs(none, none, np.zeros(0), np.zeros(0, np.bool_))
    return Pairs._make(map(np.concatenate, zip(*parts, strict=True)))


def rows_by_image(image: IntArray) -> dict[int, IntArray]:
    """Return the rows of each image id, in order."""
    order = np.argsort(image, kind="stable")
    starts = np.flatnonzero(np.diff(image[order])) + 1
    groups = np.split(order, starts) if len(order) else []
    return {int(image[rows[0]]): rows for rows in groups}


def kept_predictions(truth: GroundTruth, found: Predictions, max_dets: int = MAX_DETS) -> IntArray:
    """Return the rows of the best predictions of each image and class, the best first."""
    group = np.searchsorted(truth.image_ids, found.image) * len(truth.category_ids)
    group += truth.class_places(found.category)
    scores = np.zeros(len(found)) if found.scores is None else found.scores
    order = np.lexsort((-scores, group))
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.diff(np.append(starts, len(order)))
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    return order[rank < max_dets]


def greedy_match(
    truth: GroundTruth, found: Predictions, pairs: Pairs, *, iou: float, max_dets: int = MAX_DETS
) -> IntArray:
    """Match at one IoU as pycocotools does: by falling score, each takes the best annotation left.

    Args:
        truth: The ground truth.
        found: The predictions.
        pairs: By `overlapping_pairs`.
        iou: Threshold, at least 0.5.
        max_dets: Predictions kept for each image and class.

    Returns:
        ``(n,)`` annotation row of each prediction; -1 no match, -2 matched to a crowd (ignored),
        -3 not among those kept.
    """
    # 1. Candidate pairs, with the predictions' ranks.
    kept = kept_predictions(truth, found, max_dets)
    place = np.full(len(found), -1)
    place[kept] = np.arange(len(kept))
    near = pairs.at(iou, pairs.same_class & (place[pairs.found] >= 0))
    is_crowd = truth.crowd[near.truth]
    # pycocotools prefers the later annotation of a tie, and any annotation to a crowd.
    order = np.lexsort((-near.truth, -near.iou, is_crowd, place[near.found]))
    # 2. Match in this order: -3 is dropped, -2 on a crowd, -1 unmatched.
    result = np.full(len(found), -3)
    result[kept] = -1
    matched: dict[int, int] = {}
    taken: set[int] = set()
    rows = np.column_stack([near.found, near.truth, is_crowd])[order]
    for prediction, annotation, to_crowd in rows.tolist():
        if prediction in matched:
            continue
        if to_crowd:
            matched[prediction] = -2
        elif annotation not in taken:
            taken.add(annotation)
            matched[prediction] = annotation
    result[list(matched)] = list(matched.values())
    return result


def largest_matching(pairs: Pairs) -> IntArray:
    """Return the annotation rows of a largest one-to-one assignment, whatever the scores."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    if not len(pairs.found):
        return pairs.truth
    # A bipartite graph of predictions and annotations.
    ones = np.ones(len(pairs.found), np.int8)
    rows, columns = (part.astype(np.int32) for part in (pairs.found, pairs.truth))
    near = csr_array((ones, (rows, columns)))  # older SciPy takes indices of 32 bits only
    partner = maximum_bipartite_matching(near, perm_type="column")
    matched: IntArray = np.sort(partner[partner >= 0]).astype(np.int64)
    return matched
