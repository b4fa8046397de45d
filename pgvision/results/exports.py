"""Conversions of results: COCO categories, pandas, names and images as files, windows."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pgvision.arrays import ByteArray
from pgvision.errors import DataError, DependencyError, OptionError, require_module
from pgvision.files import replaced_path

if TYPE_CHECKING:
    import pandas as pd

# Optional packages, and how to install them.
FIFTYONE = ("fiftyone.core.labels", "to_fiftyone() needs fiftyone: pip install '.[fiftyone]'")
PANDAS = ("pandas", "tables need pandas: pip install pandas")
EDGES = ("left", "top", "right", "bottom")
IMAGE_ENDINGS: Final = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_SHOWN_SIDE: Final = 480  # pixels; a smaller image is enlarged to be shown


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


def encode_image(bgr: ByteArray, ending: str = ".jpg") -> bytes:
    """Encode an image in memory.

    Args:
        bgr: ``(h, w, 3)`` uint8.
        ending: One of ``IMAGE_ENDINGS``.

    Raises:
        OptionError: If the format cannot contain an image of this size.

    Example:
        >>> encode_image(np.zeros((2, 2, 3), np.uint8))[:2].hex()
        'ffd8'
    """
    import cv2

    try:
        # OpenCV raises or returns False, depending on the format.
        is_encoded, data = cv2.imencode(ending, bgr)
    except cv2.error:
        is_encoded, data = False, np.zeros(0, np.uint8)
    if not is_encoded or not len(data):
        height, width = bgr.shape[:2]
        raise OptionError(
            f"an image of {width} x {height} pixels cannot be written as {ending}; save it as .png"
        )
    return bytes(data)


def write_image(path: Path, bgr: ByteArray) -> None:
    """Write an image to a file; an older file of that name stays as it is after an error.

    Raises:
        OptionError: If the format cannot contain an image of this size.
        OSError: If the file cannot be written.
    """
    data = encode_image(bgr, path.suffix.lower())
    with replaced_path(path) as aside:
        aside.write_bytes(data)


def require_ending(path: Path, endings: tuple[str, ...]) -> str:
    """Return the ending of a path in lower case.

    Raises:
        OptionError: If it is not one of ``endings``.
    """
    ending = path.suffix.lower()
    if ending not in endings:
        known = ", ".join(endings)
        raise OptionError(f"cannot save to {str(path)!r}: its ending must be one of {known}")
    return ending


def show_image(bgr: ByteArray, title: str) -> None:
    """Show an image inline in a notebook, elsewhere in a window until a key is pressed.

    Raises:
        DependencyError: If there is no display, or OpenCV was built without windows.
    """
    import cv2

    # Labels of small images would be too small to be read.
    factor = max(1, -(-_SHOWN_SIDE // min(bgr.shape[:2])))
    large = cv2.resize(bgr, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    # 1. Notebook: display inline.
    notebook = sys.modules.get("IPython")
    if notebook is not None and hasattr(notebook.get_ipython(), "kernel"):
        data = encode_image(large.astype(np.uint8))
        notebook.display.display(notebook.display.Image(data=data))
        return
    # 2. Window; without a display OpenCV would abort the process.
    has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform == "linux" and not has_display:
        raise DependencyError("show: there is no display here; use save('out.jpg') instead")
    try:
        cv2.imshow(title, large)
        while cv2.waitKey(50) < 0 and cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1:
            pass
        cv2.destroyWindow(title)
    except cv2.error as error:
        raise DependencyError(
            f"show: this OpenCV has no windows ({error}); use save('out.jpg'), or install "
            "opencv-python instead of opencv-python-headless"
        ) from error
