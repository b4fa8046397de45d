"""YOLO label files, written: with every digit that a number needs to come back the same."""

from typing import Literal

from pgvision.datasets.examples import clipped_xyxy
from pgvision.datasets.losses import is_outside
from pgvision.datasets.records import Annotation, Dataset, ImageRecord
from pgvision.datasets.segmentations import one_ring


def label_text(
    image: ImageRecord, dataset: Dataset, task: Literal["detect", "segment"] = "detect"
) -> str:
    r"""Return the label file of one image: a line an object, cut at the border.

    Crowds and what lies outside the image are left out; `lost_in_yolo` counts them.

    Args:
        image: The image.
        dataset: Its data set, for the numbers of the classes.
        task: ``"detect"`` writes boxes; ``"segment"`` polygons, and corners where there is a box
            only.

    Example:
        >>> from pathlib import Path
        >>> from pgvision.datasets import Category
        >>> box = Annotation(id=1, category_id=3, xywh=(320.0, 120.0, 160.0, 240.0))
        >>> shot = ImageRecord(7, "a.jpg", Path("a.jpg"), (480, 640), (box,))
        >>> label_text(shot, Dataset((shot,), (Category(3, "helmet"),)))
        '0 0.625 0.5 0.25 0.5\n'
    """
    numbers = {category.id: index for index, category in enumerate(dataset.categories)}
    lines = []
    for item in image.objects:
        if item.iscrowd or is_outside(item, image):
            continue
        values = _box(item, image) if task == "detect" else _polygon(item, image)
        lines.append(" ".join([str(numbers[item.category_id]), *map(repr, values)]) + "\n")
    return "".join(lines)


def _box(item: Annotation, image: ImageRecord) -> list[float]:
    x, y, w, h = item.xywh
    height, width = image.image_hw
    if min(x, y, width - (x + w), height - (y + h)) < 0:
        # Trainers throw a picture away for one number outside [0, 1].
        left, top, right, bottom = clipped_xyxy(item, image.image_hw)
        x, y, w, h = left, top, right - left, bottom - top
    return [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]


def _polygon(item: Annotation, image: ImageRecord) -> list[float]:
    height, width = image.image_hw
    ring = () if item.segmentation is None else one_ring(item.segmentation, image.image_hw)
    if not ring:
        left, top, right, bottom = clipped_xyxy(item, image.image_hw)
        ring = (left, top, right, top, right, bottom, left, bottom)
    return [value / (height if index % 2 else width) for index, value in enumerate(ring)]
