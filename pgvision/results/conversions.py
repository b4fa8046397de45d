"""Parts of the conversions of detections: FiftyOne, COCO categories, pandas, crops, file names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pgvision.arrays import BoolArray, ByteArray, FloatArray, IntArray
from pgvision.errors import DataError, require_module

if TYPE_CHECKING:
    import fiftyone.core.labels as fol
    import pandas as pd

# Optional packages, and how to install them.
FIFTYONE = ("fiftyone.core.labels", "to_fiftyone() needs fiftyone: pip install '.[fiftyone]'")
PANDAS = ("pandas", "tables need pandas: pip install pandas")
EDGES = ("left", "top", "right", "bottom")


def fiftyone_detections(
    labels: Sequence[str | None],
    xywhn: FloatArray,
    scores: FloatArray | None,
    tracker_ids: IntArray | None,
    masks: Sequence[BoolArray],
) -> fol.Detections:
    """See `DetectionResult.to_fiftyone`; ``masks`` are those of the boxes, or empty."""
    fiftyone = require_module(*FIFTYONE)
    return fiftyone.Detections(
        detections=[
            fiftyone.Detection(
                label=label,
                bounding_box=xywhn[row].tolist(),
                confidence=None if scores is None else float(scores[row]),
                index=None if tracker_ids is None else int(tracker_ids[row]),
                **({"mask": masks[row]} if masks else {}),
            )
            for row, label in enumerate(labels)
        ]
    )


def category_id_of(
    class_id: int, label: str | None, category_ids: Mapping[str, int] | None
) -> int | None:
    """Return the COCO id of an object's category; None if it has none.

    Raises:
        DataError: If ``category_ids`` lacks the class that was found.
    """
    if category_ids is None:
        return class_id + 1 if class_id >= 0 else None
    if label is not None and label in category_ids:
        return int(category_ids[label])
    if class_id >= 0:
        known = ", ".join(map(repr, category_ids))
        raise DataError(f"category_ids has no id for the class {label!r}; it contains {known}")
    return None


def file_name(text: str) -> str:
    """Return a text as the name of a file or folder on any system: at most 100 bytes."""
    plain = re.sub(r'[\x00-\x1f/\\:*?"<>|]', "-", text).encode("utf-8", "ignore")[:100]
    return plain.decode("utf-8", "ignore").strip(". ") or "unnamed"


def pandas_table(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Return the columns of `DetectionResult.to_rows` as a table.

    Raises:
        DependencyError: If pandas is not installed.
    """
    pandas = require_module(*PANDAS)
    kinds = {"time": "Float64", "tracker_id": "Int64"}
    kinds |= dict.fromkeys(("frame_index", "class_id", "area"), "int64")
    kinds |= dict.fromkeys(("score", *EDGES, *(f"{edge}_std" for edge in EDGES)), "float32")
    table: pd.DataFrame = pandas.DataFrame(dict(columns))
    return table.astype({name: kind for name, kind in kinds.items() if name in columns})


def cut_boxes(bgr: ByteArray, xyxy: FloatArray, margin: int) -> list[ByteArray]:
    """See `DetectionResult.crops`."""
    height, width = bgr.shape[:2]
    low = np.floor(xyxy[:, :2]).astype(int) - margin
    high = np.ceil(xyxy[:, 2:]).astype(int) + margin
    # A box of no width on the right border still gets the last column.
    low = np.clip(low, 0, [width - 1, height - 1])
    high = np.maximum(np.minimum(high, [width, height]), low + 1)
    corners = zip(low.tolist(), high.tolist(), strict=True)
    return [bgr[y0:y1, x0:x1].copy() for (x0, y0), (x1, y1) in corners]
