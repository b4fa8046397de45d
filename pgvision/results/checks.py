"""Checks that results run on their fields, each returning a read-only copy of what was passed."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pgvision.arrays import ByteArray, FloatArray, IntArray
from pgvision.boxes import require_boxes
from pgvision.errors import OptionError, ShapeError

_WHOLE = (int, np.integer)
_REAL = (int, float, np.integer, np.floating)


def require_count(value: object, name: str) -> int:
    """Check that ``value`` is a whole number of at least 0.

    Returns:
        ``value`` as an int.

    Raises:
        OptionError: If it is not.

    Example:
        >>> require_count(3, "frame_index")
        3
    """
    if isinstance(value, _WHOLE) and not isinstance(value, bool) and value >= 0:
        return int(value)
    raise OptionError(f"{name} must be a whole number of at least 0, got {value!r}")


def require_seconds(value: object, name: str) -> float:
    """Check that ``value`` is a finite number of seconds, 0 or more.

    Returns:
        ``value`` as a float.

    Raises:
        OptionError: If it is not.

    Example:
        >>> require_seconds(2, "time")
        2.0
    """
    if isinstance(value, _REAL) and math.isfinite(value) and value >= 0:
        return float(value)
    raise OptionError(f"{name} must be seconds, a finite number of at least 0, got {value!r}")


def require_timings(timings: Mapping[str, float]) -> dict[str, float]:
    """Check a mapping of phases to seconds.

    Returns:
        A new dict.

    Raises:
        OptionError: If a duration is not a finite number of at least 0.

    Example:
        >>> require_timings({"decode": 0.5})
        {'decode': 0.5}
    """
    return {
        str(phase): require_seconds(seconds, f"timings[{phase!r}]")
        for phase, seconds in timings.items()
    }


def require_score(value: object, name: str = "score") -> float:
    """Check one score.

    Returns:
        ``value`` as a float in [0, 1].

    Raises:
        OptionError: If it is not a number in [0, 1].

    Example:
        >>> require_score(1)
        1.0
    """
    if isinstance(value, _REAL) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise OptionError(f"{name} must be a number in [0, 1], or None if unknown, got {value!r}")


def require_presence(presence: Mapping[str, float]) -> dict[str, float]:
    """Check a mapping of classes to scores.

    Returns:
        A new dict.

    Raises:
        OptionError: If a score is not a number in [0, 1].

    Example:
        >>> require_presence({"helmet": 0.5})
        {'helmet': 0.5}
    """
    return {
        str(name): require_score(score, f"presence[{name!r}]") for name, score in presence.items()
    }


def frozen_boxes(xyxy: ArrayLike, image_hw: tuple[int, int]) -> FloatArray:
    """Check boxes: ``(n, 4)``, finite, left <= right, top <= bottom, inside the image.

    Returns:
        A read-only float32 copy.

    Raises:
        ShapeError: If a box is not that.

    Example:
        >>> frozen_boxes([[0, 0, 640, 480]], (480, 640)).flags.writeable
        False
    """
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


def frozen_reals(
    values: ArrayLike, name: str, shape: tuple[int, ...], *, unit: bool = False
) -> FloatArray:
    """Check finite real numbers of one shape, in [0, 1] if ``unit``.

    Returns:
        A read-only float32 copy.

    Raises:
        ShapeError: If shape, dtype or range are others.

    Example:
        >>> frozen_reals([0.5], "scores", (1,), unit=True).tolist()
        [0.5]
    """
    array = _of_shape(values, name, shape, kinds="fiu", promise="real numbers")
    with np.errstate(over="ignore"):
        frozen = array.astype(np.float32)
    if not np.isfinite(frozen).all():
        raise ShapeError(f"{name} must be finite; pass None if they are unknown")
    if unit and frozen.size and (frozen.min() < 0 or frozen.max() > 1):
        raise ShapeError(f"{name} must be in [0, 1], got {frozen.min()} to {frozen.max()}")
    frozen.setflags(write=False)
    return frozen


def frozen_wholes(
    values: ArrayLike,
    name: str,
    shape: tuple[int, ...],
    *,
    low: int | None = None,
    high: int | None = None,
) -> IntArray:
    """Check whole numbers of one shape, from ``low`` to ``high`` (both included).

    Returns:
        A read-only int64 copy.

    Raises:
        ShapeError: If shape, dtype or range are others.

    Example:
        >>> frozen_wholes([0, -1], "class_ids", (2,), low=-1, high=0).tolist()
        [0, -1]
    """
    array = _of_shape(values, name, shape, kinds="iu", promise="whole numbers")
    frozen = array.astype(np.int64)
    if frozen.size:
        smallest, largest = int(frozen.min()), int(frozen.max())
        if (low is not None and smallest < low) or (high is not None and largest > high):
            raise ShapeError(f"{name} must be {low} to {high}, got {smallest} to {largest}")
    frozen.setflags(write=False)
    return frozen


def frozen_image(image: object, image_hw: tuple[int, int]) -> ByteArray:
    """Check that ``image`` is BGR of the size that the result speaks of.

    Returns:
        A read-only view: a picture is too large to copy for each frame of a video.

    Raises:
        ShapeError: If it is not ``(h, w, 3)`` uint8.

    Example:
        >>> frozen_image(np.zeros((4, 6, 3), np.uint8), (4, 6)).shape
        (4, 6, 3)
    """
    expected = (*image_hw, 3)
    if not isinstance(image, np.ndarray) or image.shape != expected or image.dtype != np.uint8:
        got = (
            f"{image.shape} {image.dtype}"
            if isinstance(image, np.ndarray)
            else type(image).__name__
        )
        raise ShapeError(
            f"image must be a BGR array of shape {expected} and dtype uint8, got {got}"
        )
    view: ByteArray = image.view()
    view.setflags(write=False)
    return view


def _of_shape(
    values: ArrayLike, name: str, shape: tuple[int, ...], *, kinds: str, promise: str
) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ShapeError(f"{name} must have shape {shape}, got ragged rows") from error
    if array.size == 0 and 0 in shape and array.shape == (0,):
        array = np.zeros(shape, dtype=np.int64)
    if array.shape != shape:
        raise ShapeError(f"{name} must have shape {shape}, got {array.shape}")
    if array.dtype.kind not in kinds:
        raise ShapeError(f"{name} must be {promise}, got dtype {array.dtype}")
    return array
