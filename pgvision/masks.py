"""Masks in boxes: paste, run lengths, polygons, and the crop that the codec encodes.

A mask is 64x64 logits in a box; an object covers its box where they are above 0 after Pillow's
bilinear resize, as in big_vision's evaluator. All functions work on the crop of the box.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import shapely
from numpy.typing import ArrayLike
from PIL import Image
from shapely.geometry import MultiPolygon, Polygon

from pgvision.arrays import BoolArray, FloatArray
from pgvision.errors import ShapeError
from pgvision.rle import crop_to_rle

SIDE: Final = 64
_LARGEST_CROP: Final = 2**28  # pixels, 1 GiB as float32
Crop = tuple[BoolArray, tuple[int, int]]


def paste_mask(logits: ArrayLike, xyxy: ArrayLike, image_hw: tuple[int, int]) -> Crop:
    """Resize one mask to its box.

    The box's edges are cut to whole pixels (towards the left and the top), the numbers resized
    bilinearly with antialiasing, and what is above 0 is inside. The mask is cropped to
    the frame after the resize, so that nothing shifts.

    Args:
        logits: ``(64, 64)``, above 0 inside.
        xyxy: ``(4,)`` pixels: left, top, right, bottom; may reach outside the frame.
        image_hw: Height and width of the frame, in pixels.

    Returns:
        The mask of the box's visible part, ``(h, w)`` bool, and its left and top in the frame;
        ``(0, 0)`` pixels if the box rounds to nothing or is outside.

    Raises:
        ShapeError: If a shape is wrong, or a number is NaN.

    Source:
        google-research/big_vision, evaluators/proj/paligemma/transfers/segmentation.py.

    Example:
        >>> crop, corner = paste_mask(np.ones((64, 64)), [10, 20, 13, 22], (48, 64))
        >>> crop.shape, corner, bool(crop.all())
        ((2, 3), (10, 20), True)
    """
    # 1. Check the mask.
    mask = np.asarray(logits, np.float32)
    if mask.shape != (SIDE, SIDE):
        raise ShapeError(f"mask_logits: expected ({SIDE}, {SIDE}) an object, got {mask.shape}")
    if not np.isfinite(mask).all():
        raise ShapeError("mask_logits: contains NaN or infinity; decode the codes again")
    # 2. The visible part of the box, in whole pixels.
    left, top, right, bottom = map(math.floor, _edges(xyxy))
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(right, image_hw[1]), min(bottom, image_hw[0])
    if x1 <= x0 or y1 <= y0:
        return np.zeros((0, 0), np.bool_), (0, 0)
    # 3. Resize, then cut: nothing shifts at the border.
    width, height = right - left, bottom - top
    picture = Image.fromarray(mask)
    if width * height > 4 * image_hw[0] * image_hw[1]:
        # Mostly outside: resize the visible part alone, not gigabytes that are cut off.
        scale = np.array([SIDE / width, SIDE / height] * 2)
        seen = tuple((scale * [x0 - left, y0 - top, x1 - left, y1 - top]).tolist())
        part = picture.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=seen)
        return np.asarray(part) > 0, (x0, y0)
    whole = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)) > 0
    return whole[y0 - top : y1 - top, x0 - left : x1 - left], (x0, y0)


def masks_to_rle(
    mask_logits: ArrayLike, xyxy: ArrayLike, *, image_hw: tuple[int, int]
) -> list[dict[str, Any]]:
    """Return COCO run lengths, made from the runs of the crops: no full frame is built.

    Byte for byte what `pycocotools.mask.encode` makes of the full-frame masks.

    Args:
        mask_logits: ``(n, 64, 64)``, above 0 inside.
        xyxy: ``(n, 4)`` pixels.
        image_hw: Height and width of the frame, in pixels.

    Raises:
        ShapeError: If a shape is wrong, or a number is NaN.

    Example:
        >>> masks_to_rle(np.ones((1, 64, 64)), [[0, 0, 1, 3]], image_hw=(3, 4))
        [{'size': [3, 4], 'counts': '039'}]
    """
    logits, boxes = np.asarray(mask_logits, np.float32), np.asarray(xyxy, np.float64)
    if len(logits) != len(boxes):
        raise ShapeError(f"mask_logits and xyxy: {len(logits)} masks, {len(boxes)} boxes")
    pairs = zip(logits, boxes, strict=True)
    return [crop_to_rle(*paste_mask(mask, box, image_hw), image_hw) for mask, box in pairs]


def mask_to_polygon(
    mask: BoolArray,
    corner: tuple[int, int] = (0, 0),
    *,
    tolerance: float = 0.0,
) -> MultiPolygon:
    """Return the valid outline of one mask along pixel borders, holes kept.

    Args:
        mask: ``(h, w)`` bool: a whole frame, or a crop.
        corner: Left and top of the crop in the frame, in pixels.
        tolerance: Largest distance of the simplified outline from the mask's, in pixels; 0 keeps
            every corner, and the area is that of the mask exactly.

    Returns:
        The geometry in pixels, x before y; empty if the mask is.

    Raises:
        ShapeError: If ``tolerance`` is negative or not finite.

    Example:
        >>> mask_to_polygon(np.array([[False, True, True]])).bounds
        (1.0, 0.0, 3.0, 1.0)
    """
    if not 0 <= tolerance < math.inf:
        raise ShapeError(f"tolerance: expected 0 or more, got {tolerance}")
    # 1. Unite the runs of each row.
    padded = np.pad(mask.astype(np.int8), ((0, 0), (1, 1)))
    steps = np.diff(padded, axis=1)
    lines, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    left, top = corner
    bars = shapely.box(starts + left, lines + top, ends + left, lines + top + 1)
    # Simplifying by 0 removes the corners of bars within a straight border.
    shape = shapely.union_all(bars).simplify(tolerance)
    if tolerance > 0:
        shape = shapely.make_valid(shape)
    return MultiPolygon([p for p in shapely.get_parts(shape) if isinstance(p, Polygon)])


def polygon_rings(shape: MultiPolygon) -> list[tuple[float, ...]]:
    """List the rings of a geometry, outer borders and holes, as ``(x0, y0, x1, y1, ...)``.

    A point is inside the geometry if it is inside an odd number of the rings.

    Example:
        >>> polygon_rings(mask_to_polygon(np.array([[False, True, True]])))
        [(3.0, 0.0, 3.0, 1.0, 1.0, 1.0, 1.0, 0.0)]
    """
    rings = (ring for part in shape.geoms for ring in (part.exterior, *part.interiors))
    return [tuple(np.asarray(ring.coords)[:-1].ravel().tolist()) for ring in rings]


def join_rings(rings: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Join rings into one, as YOLO's label files need it; nothing is left out.

    Each further ring is reached from the first corner over a bridge of no width and left the same
    way. Even-odd filling does not fill it; ``cv2.fillPoly`` (Ultralytics), which draws outlines
    too, draws it one pixel wide.

    Args:
        rings: ``(x0, y0, x1, y1, ...)`` each, outer borders and holes, not overlapping.

    Example:
        >>> join_rings([(0, 0, 2, 0, 2, 2), (5, 5, 7, 5, 7, 7)])
        (0, 0, 2, 0, 2, 2, 0, 0, 5, 5, 7, 5, 7, 7, 5, 5)
    """
    if not rings:
        return ()
    joined = list(rings[0])
    for ring in rings[1:]:
        joined += [*rings[0][:2], *ring, *ring[:2]]
    return tuple(joined)


def crop_mask(mask: BoolArray, xyxy: ArrayLike) -> FloatArray:
    """Crop a full-frame mask to a box and resize it to what the codec encodes.

    Args:
        mask: ``(h, w)`` bool.
        xyxy: ``(4,)`` pixels: left, top, right, bottom; rounded to the nearest, as big_vision's
            encoder does (its evaluator, and `paste_mask`, cut instead). What is outside the
            frame counts as not covered.

    Returns:
        ``(64, 64)`` float32 in [0, 1], bilinear and antialiased.

    Raises:
        ShapeError: If the mask is not ``(h, w)`` or the box covers no pixel of it, or 2**28.

    Source:
        google-research/big_vision, pp/proj/paligemma/segmentation.py (antialiased resize).

    Example:
        >>> crop_mask(np.ones((20, 30), np.bool_), [3, 4, 10, 12]).shape
        (64, 64)
    """
    if mask.ndim != 2:
        raise ShapeError(f"mask: expected (h, w), got {mask.shape}")
    edges = _edges(xyxy)
    # A box thinner than a pixel is drawn as the pixel that it starts in.
    low = zip(edges[:2], edges[2:], strict=True)
    left, top = (round(a) if round(a) < b else math.floor(a) for a, b in low)
    right, bottom = max(round(edges[2]), left + 1), max(round(edges[3]), top + 1)
    if (right - left) * (bottom - top) > _LARGEST_CROP:
        raise ShapeError(f"xyxy: {[left, top, right, bottom]} is too large; cut it to the frame")
    x0, y0 = max(left, 0), max(top, 0)
    part = mask[y0 : max(bottom, 0), x0 : max(right, 0)]
    if part.size == 0:
        raise ShapeError(f"xyxy: {[left, top, right, bottom]} covers no pixel of {mask.shape}")
    whole = np.zeros((bottom - top, right - left), np.float32)  # outside the frame is no mask
    whole[y0 - top : y0 - top + part.shape[0], x0 - left : x0 - left + part.shape[1]] = part
    small = Image.fromarray(whole).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(small, np.float32), 0.0, 1.0)


def _edges(xyxy: ArrayLike) -> list[float]:
    box = np.asarray(xyxy, np.float64)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise ShapeError(f"xyxy: expected 4 finite numbers (edges of a box), got {xyxy!r:.80}")
    return list(map(float, box))
