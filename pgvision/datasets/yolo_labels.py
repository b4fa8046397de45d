"""YOLO label files, written: with every digit that a number needs to come back the same."""

from typing import Literal

from pgvision.datasets.records import Annotation, Dataset, Finding, ImageRecord, Rle
from pgvision.datasets.segmentations import one_ring


def label_text(
    image: ImageRecord, dataset: Dataset, task: Literal["detect", "segment"] = "detect"
) -> str:
    r"""Return the label file of one image: a line an object, crowds left out.

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
        if item.iscrowd:
            continue
        values = _box(item, image) if task == "detect" else _polygon(item, image)
        lines.append(" ".join([str(numbers[item.category_id]), *map(repr, values)]) + "\n")
    return "".join(lines)


def _box(item: Annotation, image: ImageRecord) -> list[float]:
    x, y, w, h = item.xywh
    height, width = image.image_hw
    return [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]


def _polygon(item: Annotation, image: ImageRecord) -> list[float]:
    height, width = image.image_hw
    ring = () if item.segmentation is None else one_ring(item.segmentation, image.image_hw)
    if not ring:
        left, top, right, bottom = item.xyxy
        ring = (left, top, right, top, right, bottom, left, bottom)
    return [value / (height if index % 2 else width) for index, value in enumerate(ring)]


def lost_in_yolo(
    dataset: Dataset, task: Literal["detect", "segment"], split: str = ""
) -> list[Finding]:
    """List what a YOLO label file cannot hold of a data set."""
    objects = [item for image in dataset.images for item in image.objects]
    crowds = sum(item.iscrowd for item in objects)
    masks = sum(item.segmentation is not None for item in objects)
    runs = sum(isinstance(item.segmentation, Rle) for item in objects if not item.iscrowd)
    bare = sum(item.segmentation is None for item in objects)
    notes = []
    if crowds:
        notes.append(f"{crowds} crowd regions were left out: YOLO has no word for them")
    if task == "detect" and masks:
        notes.append(f"{masks} masks were left out: boxes were asked for (task='detect')")
    if task == "segment" and runs:
        notes.append(f"{runs} run-length masks became polygons along the edges of their pixels")
    if task == "segment" and bare:
        notes.append(f"{bare} objects have no mask: the corners of their boxes were written")
    return [Finding("lost", "warning", note, split=split) for note in notes]
