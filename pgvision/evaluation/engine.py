"""COCO's precision and recall, by faster-coco-eval or pycocotools, from checked columns.

Annotations are numbered from 1 here: pycocotools reads a match with the annotation of id 0 as no
match.
"""

import contextlib
import io
import threading
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pgvision.arrays import FloatArray
from pgvision.evaluation.inputs import GroundTruth, Predictions
from pgvision.rle import Rle

Engine = Literal["faster", "pycocotools"]
IouType = Literal["bbox", "segm"]
MAX_DETS: Final = 100  # predictions kept for each image and class, as in COCO

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
    records = [
        dict(zip(columns, row, strict=True), id=number) for number, row in enumerate(rows, 1)
    ]
    for record, mask in zip(records, masks or [], strict=False):
        record["segmentation"] = mask
    return records
