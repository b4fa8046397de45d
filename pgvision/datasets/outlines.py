"""Annotations as boxes in the image, masks, single rings for YOLO, and results to be drawn."""

from typing import Any

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon

from pgvision.arrays import BoolArray, ByteArray
from pgvision.datasets.dataset import Annotation, Dataset, ImageRecord, Rle, Segmentation
from pgvision.errors import DataError
from pgvision.images import read_image
from pgvision.masks import SIDE, crop_mask, join_rings, mask_to_polygon, polygon_rings
from pgvision.results import DetectionResult, SegmentationResult
from pgvision.rle import mask_to_rle, outline_area, polygons_fault, polygons_to_rle, rle_to_mask


def clipped_xyxy(item: Annotation, image_hw: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the box inside the image: left, top, right, bottom in pixels."""
    left, top, right, bottom = item.xyxy
    height, width = image_hw
    x1, x2 = (min(max(x, 0.0), float(width)) for x in (left, right))
    y1, y2 = (min(max(y, 0.0), float(height)) for y in (top, bottom))
    return x1, y1, x2, y2


def is_outside(item: Annotation, image_hw: tuple[int, int]) -> bool:
    """Whether a box shares nothing with its image, not even an edge without extent.

    Example:
        >>> is_outside(Annotation(1, 1, (9.0, 0.0, 5.0, 5.0)), (8, 8))
        True
    """
    left, top, width, height = item.xywh
    sides = ((left, width, image_hw[1]), (top, height, image_hw[0]))
    return any(
        start + length < 0
        or start > side
        or (length > 0 and (start + length <= 0 or start >= side))
        for start, length, side in sides
    )


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


def outline_fault(segmentation: Segmentation | None, image_hw: tuple[int, int]) -> str | None:
    """Return why an outline cannot be in an image of this size, None if it can.

    Example:
        >>> outline_fault(Rle((2, 2), "04"), (2, 4))
        'run lengths of size [2, 2] on an image of [2, 4] (height, width)'
    """
    if not isinstance(segmentation, Rle):
        return polygons_fault(segmentation or (), image_hw)
    if segmentation.size == image_hw:
        return None
    size = list(segmentation.size)
    return f"run lengths of size {size} on an image of {list(image_hw)} (height, width)"


def _run_lengths(segmentation: Segmentation, image_hw: tuple[int, int]) -> dict[str, Any]:
    if not isinstance(segmentation, Rle):
        return polygons_to_rle(segmentation, image_hw)
    if fault := outline_fault(segmentation, image_hw):
        raise DataError(fault)
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
    # 1. Rings that cross themselves: their pixels decide what is inside.
    rings = tuple(ring for ring in segmentation if len(ring) >= 6)
    shapes = [Polygon(list(zip(ring[0::2], ring[1::2], strict=True))) for ring in rings]
    if not all(shape.is_valid for shape in shapes):
        if len(rings) == 1 and _is_inside(rings[0], image_hw):
            return rings[0]
        return join_rings(polygon_rings(mask_to_polygon(segmentation_to_mask(rings, image_hw))))
    # 2. Rings inside the image keep their numbers.
    frame = shapely.box(0, 0, image_hw[1], image_hw[0])
    if all(_is_inside(ring, image_hw) for ring in rings):
        # Rings that overlap would cancel out under even-odd filling.
        united = shapely.union_all(shapes)
        total = sum(shape.area for shape in shapes)
        if len(rings) < 2 or total - united.area <= 1e-9 * total:
            return join_rings(rings)
    else:
        united = shapely.union_all(shapes).intersection(frame)
    # 3. All others become the outline of their union.
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


def truth_result(image: ImageRecord, dataset: Dataset) -> DetectionResult:
    """Return an image's annotations as a result.

    Args:
        image: An image of the data set.
        dataset: The data set, for its classes.

    Returns:
        All annotations but crowds, in order, boxes clipped to the image; with masks (of 64 x 64
        numbers in the box, as a model's) if all of them have masks.

    Example:
        >>> from pathlib import Path
        >>> from pgvision.datasets import Annotation, Category
        >>> box = Annotation(1, 3, (10.0, 20.0, 30.0, 40.0))
        >>> shot = ImageRecord(7, "a.jpg", Path("a.jpg"), (480, 640), (box,))
        >>> truth_result(shot, Dataset((shot,), (Category(3, "helmet"),))).labels
        ('helmet',)
    """
    # 1. Boxes and labels; crowds are no objects.
    numbers = {category.id: row for row, category in enumerate(dataset.categories)}
    kept = [item for item in image.objects if not item.iscrowd]
    ids = np.array([numbers[item.category_id] for item in kept], np.int64)
    boxes = [clipped_xyxy(item, image.image_hw) for item in kept]
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    labels = tuple(dataset.classes[row] for row in ids.tolist())
    outlines = [item.segmentation for item in kept if item.segmentation is not None]
    fields: dict[str, Any] = {
        "image_hw": image.image_hw,
        "xyxy": xyxy,
        "labels": labels,
        "class_ids": ids,
        "classes": dataset.classes,
    }
    # 2. Masks as a model has them: 64 x 64 numbers in the box.
    if not kept or len(outlines) < len(kept):
        return DetectionResult(**fields)
    logits = np.full((len(kept), SIDE, SIDE), -1, np.float32)
    for row, (outline, box) in enumerate(zip(outlines, boxes, strict=True)):
        if box[2] > box[0] and box[3] > box[1]:  # not outside the image
            logits[row] = crop_mask(segmentation_to_mask(outline, image.image_hw), box) * 2 - 1
    return SegmentationResult(**fields, mask_logits=logits)


def plot_truth(image: ImageRecord, dataset: Dataset) -> ByteArray:
    """Draw an image's annotations.

    Args:
        image: An image of the data set.
        dataset: The data set.

    Returns:
        ``(h, w, 3)`` uint8 BGR.

    Raises:
        ImageError: If the image cannot be read.
        ShapeError: If it has another size than its annotations state.
    """
    return truth_result(image, dataset).plot(read_image(image.path))
