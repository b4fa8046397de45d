"""Boxes in pixels: conversions, clipping, overlap and non-maximum suppression.

Every function takes and returns ``(n, 4)`` float32. ``xyxy`` is left, top, right, bottom; ``xywh``
is left, top, width, height (COCO's order); ``cxcywh`` is centre x, centre y, width, height.
Coordinates are continuous: a box from 0 to 10 is 10 pixels wide, not 11.
"""

import numpy as np
from numpy.typing import ArrayLike

from pgvision.arrays import FloatArray, IntArray
from pgvision.errors import OptionError, ShapeError


def require_boxes(boxes: ArrayLike, name: str = "xyxy") -> FloatArray:
    """Check that something is ``(n, 4)`` finite numbers, and give it back as float32.

    Args:
        boxes: ``(n, 4)`` numbers in any order of coordinates. An empty list is zero boxes.
        name: What to call the argument in the error.

    Returns:
        ``(n, 4)`` float32. The caller's own array, not a copy, if it already is that.

    Raises:
        ShapeError: If the shape is not ``(n, 4)``, or a value is no number, NaN or infinite.

    Example:
        >>> require_boxes([[1, 2, 3, 4]]).dtype
        dtype('float32')
    """
    # 1. Shape; numpy raises for rows of unequal length.
    try:
        array = np.asarray(boxes)
    except ValueError as error:
        raise ShapeError(f"{name} must be (n, 4) numbers, got rows of unequal length") from error
    if array.shape == (0,):
        array = array.astype(np.float32).reshape(0, 4)
    # A cast of text or booleans would hide an error.
    if array.ndim != 2 or array.shape[1] != 4 or array.dtype.kind not in "fiu":
        hint = "; wrap a single box in a list" if array.shape == (4,) else ""
        raise ShapeError(
            f"{name} must be real numbers of shape (n, 4), got {array.dtype} {array.shape}{hint}"
        )
    # 2. Values. Huge float64 values overflow to infinity here and are refused in the next line.
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ShapeError(f"{name} must be finite, got {array[row].tolist()} in row {row}")
    return array


def xyxy_to_xywh(xyxy: ArrayLike) -> FloatArray:
    """Left, top, right, bottom to left, top, width, height.

    Returns:
        ``(n, 4)`` float32: left, top, width, height.

    Raises:
        ShapeError: If ``xyxy`` is not ``(n, 4)`` finite numbers.

    Example:
        >>> xyxy_to_xywh([[10, 20, 40, 60]]).tolist()
        [[10.0, 20.0, 30.0, 40.0]]
    """
    boxes = require_boxes(xyxy, "xyxy")
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def xyxy_to_cxcywh(xyxy: ArrayLike) -> FloatArray:
    """Left, top, right, bottom to centre x, centre y, width, height.

    Returns:
        ``(n, 4)`` float32: centre x, centre y, width, height.

    Raises:
        ShapeError: If ``xyxy`` is not ``(n, 4)`` finite numbers.

    Example:
        >>> xyxy_to_cxcywh([[10, 20, 40, 60]]).tolist()
        [[25.0, 40.0, 30.0, 40.0]]
    """
    boxes = require_boxes(xyxy, "xyxy")
    size = boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([boxes[:, :2] + size / 2, size], axis=1)


def clip_boxes(xyxy: ArrayLike, *, image_hw: tuple[int, int]) -> FloatArray:
    """Clip every edge to the image.

    A box wholly outside becomes one of zero width or height on the border; it is not dropped, so
    that rows keep belonging to their scores and labels.

    Args:
        xyxy: ``(n, 4)`` pixels: left, top, right, bottom.
        image_hw: Height and width of the image, in pixels.

    Returns:
        A new ``(n, 4)`` float32 array.

    Raises:
        ShapeError: If ``xyxy`` is not ``(n, 4)`` finite numbers.

    Example:
        >>> clip_boxes([[-5, 10, 700, 20]], image_hw=(480, 640)).tolist()
        [[0.0, 10.0, 640.0, 20.0]]
    """
    height, width = image_hw
    limits = np.array([width, height, width, height], dtype=np.float32)
    return np.clip(require_boxes(xyxy, "xyxy"), np.float32(0), limits)


def box_iou(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """Intersection over union of every box of ``a`` with every box of ``b``.

    Args:
        a: ``(n, 4)`` pixels: left, top, right, bottom.
        b: ``(m, 4)`` pixels: left, top, right, bottom.

    Returns:
        ``(n, m)`` float32 in [0, 1]; 0 where both boxes are empty.

    Raises:
        ShapeError: If ``a`` or ``b`` is not ``(n, 4)`` finite numbers.

    Example:
        >>> box_iou([[0, 0, 10, 10]], [[0, 0, 10, 10], [5, 0, 15, 10]]).round(3).tolist()
        [[1.0, 0.3330000042915344]]
    """
    # In float64, because the differences of large coordinates lose digits in float32.
    left = require_boxes(a, "a").astype(np.float64)[:, None]
    right = require_boxes(b, "b").astype(np.float64)[None]
    overlap = np.minimum(left[..., 2:], right[..., 2:]) - np.maximum(left[..., :2], right[..., :2])
    shared = np.prod(np.maximum(overlap, 0), axis=-1)
    areas = [np.prod(np.maximum(box[..., 2:] - box[..., :2], 0), axis=-1) for box in (left, right)]
    union = areas[0] + areas[1] - shared
    # A union that rounds a little low would give 1 + 2e-16, which float32 hides.
    iou: FloatArray = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou.astype(np.float32)


def nms(
    xyxy: ArrayLike,
    scores: ArrayLike | None,
    *,
    iou_threshold: float,
    class_ids: ArrayLike | None = None,
) -> IntArray:
    """Greedy non-maximum suppression: keep a box, drop those that overlap it, repeat.

    Args:
        xyxy: ``(n, 4)`` pixels: left, top, right, bottom.
        scores: ``(n,)``, or None if unknown: then earlier boxes win over later ones.
        iou_threshold: A box that overlaps a kept one by more than this is dropped; in [0, 1].
        class_ids: ``(n,)`` whole numbers. If given, only boxes of one class compete.

    Returns:
        ``(k,)`` indices of the kept boxes, by falling score; equal scores in the order given.

    Raises:
        ShapeError: If the arrays do not fit each other, or a score is NaN.
        OptionError: If ``iou_threshold`` is outside [0, 1].

    Example:
        >>> boxes = [[0, 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30]]
        >>> nms(boxes, [0.5, 0.9, 0.7], iou_threshold=0.5).tolist()
        [1, 2]
    """
    boxes = require_boxes(xyxy, "xyxy")
    if not 0 <= iou_threshold <= 1:
        raise OptionError(f"iou_threshold must be in [0, 1], got {iou_threshold}")
    # 1. Sort by score, and separate the classes.
    order = _falling_order(scores, len(boxes))
    groups = np.zeros(len(boxes), np.intp) if class_ids is None else np.asarray(class_ids)
    if groups.shape != (len(boxes),):
        raise ShapeError(f"class_ids must have shape ({len(boxes)},), got {groups.shape}")
    # 2. Keep the best box, and drop what overlaps it.
    kept: list[int] = []
    while len(order):
        best, order = int(order[0]), order[1:]
        kept.append(best)
        # One row at a time: a full (n, n) table would not fit for very many boxes.
        overlaps = box_iou(boxes[best : best + 1], boxes[order])[0]
        order = order[(overlaps <= iou_threshold) | (groups[order] != groups[best])]
    return np.array(kept, dtype=np.intp)


def _falling_order(scores: ArrayLike | None, count: int) -> IntArray:
    if scores is None:
        return np.arange(count)
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (count,):
        raise ShapeError(f"scores must have shape ({count},), got {values.shape}")
    if np.isnan(values).any():
        raise ShapeError("scores must not be NaN; pass scores=None if they are unknown")
    return np.argsort(-values, kind="stable")
