"""Outlines of annotations: polygons and run lengths to masks, and to single rings for YOLO."""

from typing import Any

import shapely
from shapely.geometry import MultiPolygon, Polygon

from pgvision.arrays import BoolArray
from pgvision.datasets.dataset import Rle, Segmentation
from pgvision.errors import DataError
from pgvision.masks import join_rings, mask_to_polygon, polygon_rings
from pgvision.rle import mask_to_rle, outline_area, polygons_to_rle, rle_to_mask


def segmentation_to_mask(segmentation: Segmentation, image_hw: tuple[int, int]) -> BoolArray:
    """Rasterise an annotation's outline exactly as pycocotools does.

    Args:
        segmentation: Polygons (rings are united) or run lengths.
        image_hw: Height and width of the image, in pixels.

    Returns:
        ``(h, w)`` bool.

    Raises:
        DataError: If run lengths are of another size than the image or do not fill it, or a ring
            is far outside the image.

    Source:
        cocodataset/cocoapi, PythonAPI/pycocotools/coco.py, ``annToRLE``; rings of fewer than three
        points are left out here, where pycocotools reads a ring of 4 numbers as a box.

    Example:
        >>> segmentation_to_mask(((1, 0, 3, 0, 3, 2, 1, 2),), (2, 4)).astype(int).tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0]]
    """
    return rle_to_mask(_run_lengths(segmentation, image_hw))


def num_pixels(segmentation: Segmentation, image_hw: tuple[int, int]) -> int:
    """Count the pixels of an outline without rasterising a full mask.

    Raises:
        DataError: As `segmentation_to_mask`.

    Example:
        >>> num_pixels(((1, 0, 3, 0, 3, 2, 1, 2),), (2, 4))
        4
    """
    return int(outline_area(_run_lengths(segmentation, image_hw), image_hw))


def _run_lengths(segmentation: Segmentation, image_hw: tuple[int, int]) -> dict[str, Any]:
    if not isinstance(segmentation, Rle):
        return polygons_to_rle(segmentation, image_hw)
    if segmentation.size != image_hw:
        raise DataError(
            f"run lengths of size {list(segmentation.size)} on an image of {list(image_hw)} "
            "(height, width)"
        )
    return segmentation._asdict()


def one_ring(segmentation: Segmentation, image_hw: tuple[int, int]) -> tuple[float, ...]:
    """Join an outline into a single ring, as YOLO's label files need it.

    Polygons keep their numbers unless they overlap or leave the image.

    Args:
        segmentation: Polygons or run lengths.
        image_hw: Height and width of the image, in pixels.

    Returns:
        ``(x0, y0, x1, y1, ...)`` in pixels; empty if nothing is covered.

    Example:
        >>> one_ring(((0, 0, 2, 0, 2, 2), (5, 5, 7, 5, 7, 7)), (10, 10))
        (0, 0, 2, 0, 2, 2, 0, 0, 5, 5, 7, 5, 7, 7, 5, 5)
    """
    if isinstance(segmentation, Rle):
        return join_rings(
            polygon_rings(mask_to_polygon(segmentation_to_mask(segmentation, image_hw)))
        )
    rings = tuple(ring for ring in segmentation if len(ring) >= 6)
    shapes = [Polygon(list(zip(ring[0::2], ring[1::2], strict=True))) for ring in rings]
    if not all(shape.is_valid for shape in shapes):
        if len(rings) == 1 and _is_inside(rings[0], image_hw):
            return rings[0]
        # A ring that crosses itself: its pixels decide what is inside.
        return join_rings(polygon_rings(mask_to_polygon(segmentation_to_mask(rings, image_hw))))
    frame = shapely.box(0, 0, image_hw[1], image_hw[0])
    if all(_is_inside(ring, image_hw) for ring in rings):
        # Rings that overlap would cancel out under even-odd filling.
        united = shapely.union_all(shapes)
        total = sum(shape.area for shape in shapes)
        if len(rings) < 2 or total - united.area <= 1e-9 * total:
            return join_rings(rings)
    else:
        united = shapely.union_all(shapes).intersection(frame)
    parts = [part for part in shapely.get_parts(united) if isinstance(part, Polygon)]
    return join_rings(polygon_rings(MultiPolygon(parts)))


def _is_inside(ring: tuple[float, ...], image_hw: tuple[int, int]) -> bool:
    height, width = image_hw
    return min(ring) >= 0 and max(ring[0::2]) <= width and max(ring[1::2]) <= height


def mask_to_runs(mask: BoolArray) -> Rle:
    """Turn a ``(h, w)`` bool mask into COCO's compressed run lengths.

    Example:
        >>> import numpy as np
        >>> runs = mask_to_runs(np.array([[True, False], [True, False]]))
        >>> segmentation_to_mask(runs, (2, 2)).tolist()
        [[True, False], [True, False]]
    """
    return Rle((mask.shape[0], mask.shape[1]), mask_to_rle(mask)["counts"])
