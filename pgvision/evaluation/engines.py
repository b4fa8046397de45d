"""Three evaluators behind one function: checked columns in, COCO's precision and recall out.

Annotations are numbered from 1 here, whatever the file says: pycocotools takes a match with the
annotation of id 0 for no match.
"""

import contextlib
import io
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pgvision.errors import DependencyError, OptionError
from pgvision.evaluation.ground_truth import GroundTruth
from pgvision.evaluation.predictions import Predictions

Engine = Literal["faster", "hotcoco", "pycocotools"]
IouType = Literal["bbox", "segm"]

STAT_NAMES = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
# Where each of them is: (is recall, IoU index or all, area index, max-dets index).
_FIGURES = (
    (False, None, 0, 2), (False, 0, 0, 2), (False, 5, 0, 2),
    (False, None, 1, 2), (False, None, 2, 2), (False, None, 3, 2),
    (True, None, 0, 0), (True, None, 0, 1), (True, None, 0, 2),
    (True, None, 1, 2), (True, None, 2, 2), (True, None, 3, 2),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Accumulated:
    """What an engine accumulates; -1 where nothing is defined.

    Attributes:
        precision: ``(10, 101, k, 4, 3)``: IoU 0.5:0.05:0.95, recall 0:0.01:1, category, area
            (all, small, medium, large), at most 1, 10, 100 detections.
        recall: ``(10, k, 4, 3)``.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    def stats(self) -> tuple[float, ...]:
        """The 12 COCO figures in pycocotools' order, that of ``STAT_NAMES``."""
        figures = []
        for is_recall, iou, area, most in _FIGURES:
            values = (self.recall if is_recall else self.precision)[..., area, most]
            figures.append(defined_mean(values if iou is None else values[iou]))
        return tuple(figures)


def defined_mean(values: NDArray[np.float64]) -> float:
    """Mean of the values above -1; -1 if there are none, as pycocotools has it."""
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else -1.0


def require_engine(engine: str) -> None:
    """Refuse an unknown engine.

    Raises:
        OptionError: If ``engine`` is none of the three.
    """
    if engine not in get_args(Engine):
        raise OptionError(
            f"engine: expected one of {', '.join(get_args(Engine))}, got {engine!r}. "
            "Fix: leave it out for faster-coco-eval."
        )


def run_engine(
    truth: GroundTruth, found: Predictions, *, iou_type: IouType, engine: Engine
) -> Accumulated:
    """Match and accumulate with one of the evaluators.

    Raises:
        DependencyError: If the engine is not installed.
        OptionError: If ``engine`` is unknown.
    """
    require_engine(engine)
    if engine == "hotcoco":
        return _run_hotcoco(truth, found, iou_type)
    if engine == "faster":
        return _run_faster(truth, found, iou_type)
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _run_classic(COCO, COCOeval, truth, found, iou_type)


def _run_faster(truth: GroundTruth, found: Predictions, iou_type: IouType) -> Accumulated:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise _missing("faster", "faster-coco-eval") from error
    return _run_classic(COCO, COCOeval_faster, truth, found, iou_type)


def _missing(engine: str, package: str) -> DependencyError:
    return DependencyError(
        f"engine {engine!r} needs the package {package}, which is not installed. "
        f"Fix: pip install {package}, or use engine='pycocotools'."
    )


def _run_classic(
    dataset: Any, evaluator: Any, truth: GroundTruth, found: Predictions, iou_type: IouType
) -> Accumulated:
    """Evaluators that index Python dicts: pycocotools and faster-coco-eval."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        sides = []
        for annotations in (_truth_dicts(truth), _found_dicts(found)):
            side = dataset()
            side.dataset = {
                "images": _image_dicts(truth),
                "categories": _category_dicts(truth),
                "annotations": annotations,
            }
            side.createIndex()
            sides.append(side)
        run = evaluator(*sides, iou_type)
        run.evaluate()
        run.accumulate()
    return _accumulated(run)


def _run_hotcoco(truth: GroundTruth, found: Predictions, iou_type: IouType) -> Accumulated:
    try:
        import hotcoco
    except ImportError as error:
        raise _missing("hotcoco", "hotcoco") from error
    gt = hotcoco.COCO.from_arrays(
        _image_dicts(truth),
        _category_dicts(truth),
        truth.image,
        truth.category,
        truth.xywh,
        area=truth.area,
        iscrowd=truth.crowd.astype(np.int64),
        segmentation=truth.segmentation,
    )
    if iou_type == "segm":
        dt = hotcoco.COCO({
            "images": _image_dicts(truth),
            "categories": _category_dicts(truth),
            "annotations": _found_dicts(found),
        })  # fmt: skip
    else:
        dt = gt.load_res(
            np.column_stack([found.image, found.xywh, _score_column(found), found.category])
        )
    run = hotcoco.COCOeval(gt, dt, iou_type)
    run.evaluate()
    run.accumulate()
    return _accumulated(run)


def _accumulated(run: Any) -> Accumulated:
    return Accumulated(
        np.asarray(run.eval["precision"], np.float64), np.asarray(run.eval["recall"], np.float64)
    )


def _score_column(found: Predictions) -> NDArray[np.float64]:
    return np.ones(len(found)) if found.scores is None else found.scores


def _image_dicts(truth: GroundTruth) -> list[dict[str, Any]]:
    records = []
    for number in truth.image_ids.tolist():
        height, width = truth.image_hw[number] or (1, 1)  # boxes are scored without image sizes
        records.append({"id": number, "file_name": "", "height": height, "width": width})
    return records


def _category_dicts(truth: GroundTruth) -> list[dict[str, Any]]:
    return [
        {"id": number, "name": name}
        for number, name in zip(truth.category_ids.tolist(), truth.names, strict=True)
    ]


def _truth_dicts(truth: GroundTruth) -> list[dict[str, Any]]:
    records = [
        {
            "id": row, "image_id": image, "category_id": category,
            "bbox": box, "area": area, "iscrowd": int(crowd),
        }
        for row, (image, category, box, area, crowd) in enumerate(
            zip(
                truth.image.tolist(), truth.category.tolist(), truth.xywh.tolist(),
                truth.area.tolist(), truth.crowd.tolist(), strict=True,
            ),
            start=1,
        )
    ]  # fmt: skip
    for record, segmentation in zip(records, truth.segmentation or [], strict=False):
        record["segmentation"] = segmentation
    return records


def _found_dicts(found: Predictions) -> list[dict[str, Any]]:
    areas = found.xywh[:, 2] * found.xywh[:, 3]
    if found.masks is not None:
        from pycocotools import mask as coco_mask

        # One by one: given a list, pycocotools counts it in a uint8 and fails above 255 masks.
        areas = np.array([float(coco_mask.area(mask)) for mask in found.masks], np.float64)
    records = [
        {
            "id": row, "image_id": image, "category_id": category,
            "bbox": box, "area": area, "score": score, "iscrowd": 0,
        }
        for row, (image, category, box, area, score) in enumerate(
            zip(
                found.image.tolist(), found.category.tolist(), found.xywh.tolist(),
                areas.tolist(), _score_column(found).tolist(), strict=True,
            ),
            start=1,
        )
    ]  # fmt: skip
    for record, rle in zip(records, found.masks or [], strict=False):
        record["segmentation"] = rle
    return records
