"""Annotations of an image as a result, to be drawn and exported like a model's."""

from typing import Any

import numpy as np

from pgvision.arrays import ByteArray
from pgvision.datasets.dataset import Dataset, ImageRecord
from pgvision.datasets.examples import clipped_xyxy
from pgvision.datasets.outlines import segmentation_to_mask
from pgvision.images import read_image
from pgvision.masks import SIDE, crop_mask
from pgvision.results import DetectionResult, SegmentationResult


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
