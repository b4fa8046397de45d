"""Ways out of a result: supervision, FiftyOne, COCO, YOLO, pandas, crops."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pgvision.arrays import BoolArray, ByteArray, FloatArray
from pgvision.boxes import xyxy_to_cxcywh, xyxy_to_xywh
from pgvision.errors import DataError, DependencyError, OptionError
from pgvision.results.checks import require_count
from pgvision.results.objects import Objects

if TYPE_CHECKING:
    import fiftyone.core.labels as fol
    import pandas as pd
    import supervision as sv


_log = logging.getLogger(__name__)
_EDGES = ("left", "top", "right", "bottom")


def to_supervision(result: Objects) -> sv.Detections:
    """See `DetectionResult.to_supervision`."""
    import supervision as sv

    texts = np.empty(len(result), dtype=object)
    texts[:] = result.texts
    data: dict[str, Any] = {
        # supervision's own word for it: its annotators and trackers look for this key.
        "class_name": np.array([label or "" for label in result.labels], dtype=str),
        "text": texts,
        "prefix": np.array([result.prefix] * len(result), dtype=str),
    }
    for name in ("edge_std", "loc_yxyx"):
        if (value := getattr(result, name)) is not None:
            data[name] = value.copy()
    # Copies, because supervision's users write into its arrays.
    return sv.Detections(
        xyxy=result.xyxy.copy(),
        confidence=None if result.scores is None else result.scores.copy(),
        class_id=result.class_ids.astype(int),
        tracker_id=None if result.tracker_ids is None else result.tracker_ids.astype(int),
        data=data,
    )


def to_fiftyone(result: Objects, masks: Iterable[BoolArray] | None = None) -> fol.Detections:
    """See `DetectionResult.to_fiftyone`; ``masks`` are those of the boxes."""
    labels = fiftyone_labels()
    height, width = result.image_hw
    shares = xyxy_to_xywh(result.xyxy) / np.array([width, height, width, height], np.float32)
    parts = [{}] * len(result) if masks is None else [{"mask": mask} for mask in masks]
    return labels.Detections(
        detections=[
            labels.Detection(
                label=label,
                bounding_box=shares[row].tolist(),
                confidence=None if result.scores is None else float(result.scores[row]),
                index=None if result.tracker_ids is None else int(result.tracker_ids[row]),
                **parts[row],
            )
            for row, label in enumerate(result.labels)
        ]
    )


def fiftyone_labels() -> Any:
    """Return ``fiftyone.core.labels``, which needs no database.

    Raises:
        DependencyError: If fiftyone is not installed.
    """
    try:
        import fiftyone.core.labels as fol
    except ImportError as error:
        message = "to_fiftyone() needs fiftyone: pip install 'pgvision[fiftyone]'"
        raise DependencyError(message) from error
    return fol


def to_coco(
    result: Objects,
    image_id: int,
    category_ids: Mapping[str, int] | None,
    segmentations: list[dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """See `DetectionResult.to_coco`."""
    listed = []
    boxes = xyxy_to_xywh(result.xyxy).tolist()
    for row, label in enumerate(result.labels):
        category_id = _category_id(int(result.class_ids[row]), label, category_ids)
        if category_id is None:
            continue
        entry: dict[str, Any] = {
            "image_id": image_id,
            "category_id": category_id,
            "bbox": boxes[row],
        }
        if result.scores is not None:
            entry["score"] = float(result.scores[row])
        if segmentations is not None:
            entry["segmentation"] = segmentations[row]
        listed.append(entry)
    _warn_left_out(result, len(result) - len(listed), "COCO category")
    return listed


def to_yolo(result: Objects, scores: bool) -> list[str]:
    """See `DetectionResult.to_yolo`."""
    if scores and result.scores is None:
        raise OptionError("scores=True, but this result's scores are unknown")
    height, width = result.image_hw
    parts = xyxy_to_cxcywh(result.xyxy) / np.array([width, height, width, height], np.float32)
    lines = []
    for row in np.flatnonzero(result.class_ids >= 0):
        numbers = [f"{part:.6f}" for part in parts[row]]
        if scores and result.scores is not None:
            numbers.append(f"{result.scores[row]:.6f}")
        lines.append(" ".join([str(result.class_ids[row]), *numbers]))
    _warn_left_out(result, len(result) - len(lines), "YOLO class")
    return lines


def to_pandas(result: Objects) -> pd.DataFrame:
    """See `DetectionResult.to_pandas`."""
    try:
        import pandas as pd
    except ImportError as error:
        raise DependencyError("to_pandas() needs pandas: pip install pandas") from error
    n = len(result)
    edges, spread = result.xyxy, result.edge_std
    columns: dict[str, Any] = {
        "source": pd.Series([result.source] * n, dtype=object),
        "frame_index": np.full(n, result.frame_index),
        "time": pd.Series([result.time] * n, dtype="Float64"),
        "label": pd.Series(result.labels, dtype=object),
        "text": pd.Series(result.texts, dtype=object),
        "class_id": result.class_ids,
        "score": np.full(n, np.nan, np.float32) if result.scores is None else result.scores,
    }
    columns |= {edge: edges[:, column] for column, edge in enumerate(_EDGES)}
    trackers = [None] * n if result.tracker_ids is None else result.tracker_ids
    columns["tracker_id"] = pd.array(trackers, dtype="Int64")
    for column, edge in enumerate(_EDGES):
        unknown = np.full(n, np.nan, np.float32)
        columns[f"{edge}_std"] = unknown if spread is None else spread[:, column]
    return pd.DataFrame(columns)


def crops(picture: ByteArray, xyxy: FloatArray, padding: int) -> list[ByteArray]:
    """See `DetectionResult.crops`."""
    margin = require_count(padding, "padding")
    height, width = picture.shape[:2]
    cut = []
    for left, top, right, bottom in xyxy.tolist():
        # A box of no width on the right border still gets the last column.
        x0 = min(max(int(np.floor(left)) - margin, 0), width - 1)
        y0 = min(max(int(np.floor(top)) - margin, 0), height - 1)
        x1 = max(min(int(np.ceil(right)) + margin, width), x0 + 1)
        y1 = max(min(int(np.ceil(bottom)) + margin, height), y0 + 1)
        cut.append(picture[y0:y1, x0:x1].copy())
    return cut


def _category_id(
    class_id: int, label: str | None, category_ids: Mapping[str, int] | None
) -> int | None:
    if category_ids is None:
        return class_id + 1 if class_id >= 0 else None
    if label is not None and label in category_ids:
        return int(category_ids[label])
    if class_id >= 0:
        known = ", ".join(map(repr, category_ids))
        raise DataError(f"category_ids has no id for the class {label!r}; it knows {known}")
    return None


def _warn_left_out(result: Objects, count: int, what: str) -> None:
    if count:
        _log.warning(
            "%d of %d objects have a label that is none of %s: they have no %s and are left out",
            *(count, len(result), list(result.classes), what),
        )
