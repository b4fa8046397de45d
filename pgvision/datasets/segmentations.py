"""Outlines of annotations: polygons and run lengths to full masks, and masks to outlines."""

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon

from pgvision.arrays import BoolArray
from pgvision.coco import outline_area
from pgvision.datasets.records import Polygons, Rle, Segmentation
from pgvision.errors import DataError
from pgvision.rle import mask_to_rle, polygons_to_rle, rle_area, rle_to_mask


def segmentation_to_mask(segmentation: Segmentation, image_hw: tuple[int, int]) -> BoolArray:
    """Rasterise an annotation's outline exactly as pycocotools does.

    Args:
        segmentation: Polygons (rings are united) or run lengths.
        image_hw: Height and width of the image, in pixels.

    Returns:
        ``(h, w)`` bool.

    Raises:
        DataError: If run lengths are of another size than the image or do not fill it.

    Source:
        cocodataset/cocoapi, PythonAPI/pycocotools/coco.py, ``annToRLE``; rings of fewer than three
        points are left out here, because there a ring of 4 numbers would be read as a box.

    Example:
        >>> segmentation_to_mask(((1, 0, 3, 0, 3, 2, 1, 2),), (2, 4)).astype(int).tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0]]
    """
    return rle_to_mask(_run_lengths(segmentation, image_hw))


def num_pixels(segmentation: Segmentation, image_hw: tuple[int, int]) -> int:
    """Count the pixels of an outline without painting them.

    Raises:
        DataError: As `segmentation_to_mask`.

    Example:
        >>> num_pixels(((1, 0, 3, 0, 3, 2, 1, 2),), (2, 4))
        4
    """
    runs = _run_lengths(segmentation, image_hw)
    # Runs that pycocotools made of polygons need no second look.
    return int(outline_area(runs, image_hw) if isinstance(segmentation, Rle) else rle_area(runs))


def _run_lengths(segmentation: Segmentation, image_hw: tuple[int, int]) -> dict[str, Any]:
    if not isinstance(segmentation, Rle):
        return polygons_to_rle(segmentation, image_hw)
    if segmentation.size != image_hw:
        raise DataError(
            f"run lengths of size {list(segmentation.size)} on an image of {list(image_hw)} "
            "(height, width)"
        )
    return segmentation._asdict()


def trace_mask(mask: BoolArray) -> Polygons:
    """Outline a mask along the edges of its pixels; nothing is lost.

    Args:
        mask: ``(h, w)`` bool.

    Returns:
        Closed rings with integer corners, outer borders and holes alike: a point belongs to the
        mask if it is inside an odd number of rings. Empty for an empty mask.

    Example:
        >>> trace_mask(np.array([[False, True, True]]))
        ((1.0, 0.0, 3.0, 0.0, 3.0, 1.0, 1.0, 1.0),)
    """
    following = _border_steps(mask)
    rings = []
    for start in sorted(following):
        while following.get(start):
            rings.append(_walk(following, start))
    return tuple(rings)


Corner = tuple[int, int]


def _border_steps(mask: BoolArray) -> dict[Corner, list[Corner]]:
    """List, for each corner ``(y, x)``, the corners one pixel on with the mask on the right."""
    padded = np.pad(np.asarray(mask, dtype=np.int8), 1)
    across = np.diff(padded, axis=0)[:, 1:-1]  # (h + 1, w): borders above each pixel
    down = np.diff(padded, axis=1)[1:-1, :]  # (h, w + 1): borders left of each pixel
    steps: dict[Corner, list[Corner]] = {}

    def add(where: NDArray[np.bool_], begin: Corner, end: Corner) -> None:
        for y, x in np.argwhere(where).tolist():
            steps.setdefault((y + begin[0], x + begin[1]), []).append((y + end[0], x + end[1]))

    add(across == 1, (0, 0), (0, 1))
    add(across == -1, (0, 1), (0, 0))
    add(down == 1, (1, 0), (0, 0))
    add(down == -1, (0, 0), (1, 0))
    return steps


def _walk(following: dict[Corner, list[Corner]], start: Corner) -> tuple[float, ...]:
    """Follow one ring from ``start`` and take its steps out; keep the corners where it turns."""
    path, here = [start], start
    while True:
        here = following[here].pop()
        if here == start:
            break
        path.append(here)
    corners: list[float] = []
    for index, (y, x) in enumerate(path):
        before, after = path[index - 1], path[(index + 1) % len(path)]
        if not (before[0] == y == after[0] or before[1] == x == after[1]):
            corners += [float(x), float(y)]
    return tuple(corners)


def one_ring(segmentation: Segmentation, image_hw: tuple[int, int]) -> tuple[float, ...]:
    """Bring an outline into a single ring, as YOLO wants it.

    Parts and holes are joined by bridges of no width, which even-odd filling does not see.

    Args:
        segmentation: Polygons or run lengths.
        image_hw: Height and width of the image, in pixels.

    Returns:
        ``(x0, y0, x1, y1, ...)`` in pixels; empty if nothing is covered.

    Example:
        >>> one_ring(((0, 0, 2, 0, 2, 2), (5, 5, 7, 5, 7, 7)), (10, 10))
        (0, 0, 2, 0, 2, 2, 0, 0, 5, 5, 7, 5, 7, 7, 5, 5)
    """
    rings = _rings_apart(segmentation, image_hw)
    if not rings:
        return ()
    joined = list(rings[0])
    for ring in rings[1:]:
        # Back to the first corner, over the bridge, around the ring to where the bridge ended.
        joined += [*rings[0][:2], *ring, *ring[:2]]
    return tuple(joined)


def _rings_apart(segmentation: Segmentation, image_hw: tuple[int, int]) -> Polygons:
    """Return rings inside the image that even-odd filling draws right.

    Polygons stay as they are unless they overlap; what leaves the image is cut at its border.
    """
    if not isinstance(segmentation, Rle):
        rings = tuple(ring for ring in segmentation if len(ring) >= 6)
        rings = tuple(part for ring in rings for part in _parts_inside(ring, image_hw))
        if len(rings) < 2:
            return rings
        layers = [segmentation_to_mask((ring,), image_hw) for ring in rings]
        if not (np.sum(layers, axis=0) > 1).any():
            return rings
    return trace_mask(segmentation_to_mask(segmentation, image_hw))


def _parts_inside(ring: tuple[float, ...], image_hw: tuple[int, int]) -> Polygons:
    height, width = image_hw
    if min(ring) >= 0 and max(ring[0::2]) <= width and max(ring[1::2]) <= height:
        return (ring,)
    shape = Polygon(list(zip(ring[0::2], ring[1::2], strict=True)))
    if not shape.is_valid:  # it crosses itself: the pixels say what is inside
        return trace_mask(segmentation_to_mask((ring,), image_hw))
    parts = shapely.get_parts(shape.intersection(shapely.box(0, 0, width, height)))
    return tuple(
        tuple(np.asarray(part.exterior.coords)[:-1].ravel().tolist())
        for part in parts
        if isinstance(part, Polygon)
    )


def polygons_xywh(polygons: Polygons) -> tuple[float, float, float, float]:
    """Return left, top, width and height of all rings together, in pixels.

    Example:
        >>> polygons_xywh(((1.0, 2.0, 5.0, 2.0, 5.0, 8.0),))
        (1.0, 2.0, 4.0, 6.0)
    """
    xs = [x for ring in polygons for x in ring[0::2]]
    ys = [y for ring in polygons for y in ring[1::2]]
    return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))


def mask_to_runs(mask: BoolArray) -> Rle:
    """Turn a ``(h, w)`` bool mask into COCO's compressed run lengths.

    Example:
        >>> runs = mask_to_runs(np.array([[True, False], [True, False]]))
        >>> segmentation_to_mask(runs, (2, 2)).tolist()
        [[True, False], [True, False]]
    """
    runs = mask_to_rle(mask)
    return Rle((mask.shape[0], mask.shape[1]), runs["counts"])


def mask_xywh(mask: BoolArray) -> tuple[float, float, float, float]:
    """Return left, top, width and height of the pixels of a mask that is not empty.

    Example:
        >>> mask_xywh(np.array([[False, True, True]]))
        (1.0, 0.0, 2.0, 1.0)
    """
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = float(xs[0]), float(ys[0])
    return (left, top, float(xs[-1]) + 1 - left, float(ys[-1]) + 1 - top)
