"""Checks of the fields of results; arrays become read-only copies."""

import math
import sys
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pgvision.arrays import BoolArray, ByteArray, FloatArray, IntArray
from pgvision.boxes import require_boxes
from pgvision.errors import OptionError, ShapeError

_MAX_FLOAT = sys.float_info.max
Index = int | slice | Sequence[int] | Sequence[bool] | IntArray | BoolArray


def require_number(value: object, name: str, *, most: float = math.inf) -> float:
    """Return ``value`` as a float.

    Raises:
        OptionError: If it is not a finite number from 0 to ``most``.

    Example:
        >>> require_number(1, "score", most=1.0)
        1.0
    """
    is_number = isinstance(value, int | float | np.integer | np.floating)
    # An integer of 400 digits is valid JSON, and too large for a float.
    if is_number and not isinstance(value, bool) and 0 <= value <= min(most, _MAX_FLOAT):  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    bounds = f"in [0, {most:g}]" if most < math.inf else "finite and at least 0"
    raise OptionError(f"{name} must be a number {bounds}, or None if unknown, got {value!r}")


def require_numbers(
    values: Mapping[str, float], name: str, *, most: float = math.inf
) -> dict[str, float]:
    """Return a new dict of numbers, each checked as in `require_number`.

    Raises:
        OptionError: If ``values`` is no mapping, or a value is no such number.

    Example:
        >>> require_numbers({"decode": 0.5}, "timings")
        {'decode': 0.5}
    """
    if not isinstance(values, Mapping):
        raise OptionError(f"{name} must be a dict of numbers, got {values!r:.60}")
    return {
        str(key): require_number(value, f"{name}[{key!r}]", most=most)
        for key, value in values.items()
    }


def frozen(
    values: ArrayLike | None,
    name: str,
    shape: tuple[int, ...],
    dtype: type[np.generic],
    *,
    low: float = -_MAX_FLOAT,
    high: float = _MAX_FLOAT,
) -> Any:
    """Return a read-only copy of finite numbers of one shape and range; None if unknown.

    Args:
        values: The numbers, or None.
        name: Name of the field in errors.
        shape: The expected shape.
        dtype: float32, or int64 for whole numbers.
        low: Least value.
        high: Largest value.

    Raises:
        ShapeError: If shape, kind or range differ.

    Example:
        >>> frozen([0.5], "scores", (1,), np.float32, low=0, high=1).flags.writeable
        False
    """
    if values is None:
        return None
    # 1. Check shape and dtype before converting: a cast would hide errors.
    kind = "whole" if np.issubdtype(dtype, np.integer) else "real"
    expected = f"{name} must be {kind} numbers of shape {shape}"
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ShapeError(f"{expected}, got ragged rows") from error
    if array.shape == (0,) and 0 in shape:
        array = np.zeros(shape, np.int64)
    if array.shape != shape or array.dtype.kind not in ("iu" if kind == "whole" else "fiu"):
        raise ShapeError(f"{expected}, got {array.shape} {array.dtype}")
    # 2. Convert, and check values; NaN and infinity are in no range.
    with np.errstate(over="ignore"):
        copy = array.astype(dtype)
    least, most = (float(copy.min()), float(copy.max())) if copy.size else (low, high)
    if not low <= least <= most <= high:
        bounds = "finite" if low < 0 else f"finite and at least {low:g}"
        if high < _MAX_FLOAT:
            bounds = f"in [{low:g}, {high:g}]"
        raise ShapeError(
            f"{name} must be {bounds}, got {least:g} to {most:g}; pass None if they are unknown"
        )
    # 3. Results are immutable, arrays included.
    copy.setflags(write=False)
    return copy


def frozen_boxes(xyxy: ArrayLike, image_hw: tuple[int, int]) -> FloatArray:
    """Return a read-only float32 copy of boxes.

    Raises:
        ShapeError: If they are not ``(n, 4)``, finite, left <= right, top <= bottom, inside the
            image.

    Example:
        >>> frozen_boxes([[0, 0, 640, 480]], (480, 640)).flags.writeable
        False
    """
    # A box outside the image would shift crops, masks and metrics.
    boxes = require_boxes(xyxy, "xyxy").copy()
    height, width = image_hw
    bad = (
        (boxes[:, :2] > boxes[:, 2:]).any(axis=1)
        | (boxes < 0).any(axis=1)
        | (boxes > [width, height, width, height]).any(axis=1)
    )
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ShapeError(
            f"xyxy must be left, top, right, bottom inside a {width} x {height} image (width x "
            f"height), got {boxes[row].tolist()} in row {row}; see pgvision.boxes.clip_boxes"
        )
    boxes.setflags(write=False)
    return boxes


def frozen_image(image: object, image_hw: tuple[int, int]) -> ByteArray:
    """Return a read-only view of a BGR image; it is too large to copy for each frame of a video.

    Raises:
        ShapeError: If it is not ``(h, w, 3)`` uint8 of the expected size.

    Example:
        >>> frozen_image(np.zeros((4, 6, 3), np.uint8), (4, 6)).shape
        (4, 6, 3)
    """
    # A view, because a copy of each frame of a video would take gigabytes.
    expected = (*image_hw, 3)
    if not isinstance(image, np.ndarray) or image.shape != expected or image.dtype != np.uint8:
        got = type(image).__name__
        if isinstance(image, np.ndarray):
            got = f"{image.shape} {image.dtype}"
        raise ShapeError(
            f"image must be a BGR array of shape {expected} and dtype uint8, got {got}"
        )
    view: ByteArray = image.view()
    view.setflags(write=False)
    return view


def require_names(
    names: Sequence[str | None], what: str, *, count: int | None = None
) -> tuple[Any, ...]:
    """Return names as a tuple; with ``count`` one for each box, None for a missing name.

    Raises:
        OptionError: If one is not a name.
        ShapeError: If there are not ``count``.
    """
    kinds = str if count is None else (str, NoneType)
    if isinstance(names, str) or not all(isinstance(name, kinds) for name in names):
        raise OptionError(f"{what} must be a sequence of names, got {names!r:.80}")
    if count is not None and len(names) != count:
        raise ShapeError(f"{what} must name all {count} boxes, got {len(names)}")
    return tuple(names)
