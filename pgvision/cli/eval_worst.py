"""The pictures that went worst: truth on the left, what was found on the right."""

from pathlib import Path

import cv2
import numpy as np

from pgvision.boxes import box_iou
from pgvision.datasets import Dataset, ImageRecord
from pgvision.errors import PgvisionError
from pgvision.images import read_image
from pgvision.results import DetectionResult

_GAP = 8


def count_mistakes(truth: DetectionResult, found: DetectionResult) -> int:
    """Count objects missed and objects found that are not there, at IoU 0.5.

    Args:
        truth: What is there.
        found: What the model says.

    Returns:
        Misses plus false alarms.

    Example:
        >>> one = DetectionResult(image_hw=(9, 9), xyxy=[[0, 0, 4, 4]], labels=["a"],
        ...                       class_ids=[0], classes=["a"])
        >>> count_mistakes(one, one), count_mistakes(one, one[:0])
        (0, 1)
    """
    hits = 0
    for class_id in {*truth.class_ids.tolist(), *found.class_ids.tolist()}:
        there = truth.xyxy[truth.class_ids == class_id]
        claimed = found.xyxy[found.class_ids == class_id]
        overlap = box_iou(there, claimed)
        while overlap.size and overlap.max() >= 0.5:
            row, column = np.unravel_index(int(overlap.argmax()), overlap.shape)
            overlap = np.delete(np.delete(overlap, row, axis=0), column, axis=1)
            hits += 1
    return len(truth) + len(found) - 2 * hits


def truth_result(image: ImageRecord, dataset: Dataset) -> DetectionResult:
    """Put an image's annotations into a result, so that they can be drawn like one.

    Returns:
        The annotated boxes without crowds, clipped to the image.
    """
    height, width = image.image_hw
    numbers = {category.id: row for row, category in enumerate(dataset.categories)}
    kept = [item for item in image.objects if not item.iscrowd]
    boxes = np.asarray([item.xyxy for item in kept], dtype=np.float32).reshape(-1, 4)
    boxes = boxes.clip(0, np.asarray([width, height, width, height], dtype=np.float32))
    ids = [numbers[item.category_id] for item in kept]
    return DetectionResult(
        image_hw=image.image_hw,
        xyxy=boxes,
        labels=tuple(dataset.classes[row] for row in ids),
        class_ids=np.asarray(ids, dtype=np.int64),
        classes=dataset.classes,
    )


def save_worst(
    dataset: Dataset,
    results: dict[int, DetectionResult],
    folder: Path,
    *,
    count: int,
    threshold: float,
) -> list[Path]:
    """Draw the ``count`` images with most mistakes.

    Args:
        dataset: The truth.
        results: By image id.
        folder: Where the pictures go.
        count: How many.
        threshold: Objects below this score are left out.

    Returns:
        The files, the worst first. Images without a mistake are not drawn.
    """
    ranked = []
    for image in dataset.images:
        if image.id not in results:
            continue
        found = results[image.id]
        if found.scores is not None:
            found = found[found.scores >= threshold]
        truth = truth_result(image, dataset)
        mistakes = count_mistakes(truth, found)
        if mistakes:
            ranked.append((mistakes, image, truth, found))
    ranked.sort(key=lambda entry: -entry[0])
    paths = []
    for place, (mistakes, image, truth, found) in enumerate(ranked[:count], start=1):
        path = folder / f"{place:02d}-{mistakes}-{Path(image.file_name).stem}.jpg"
        if _draw_pair(image.path, truth, found, path):
            paths.append(path)
    return paths


def _draw_pair(picture: Path, truth: DetectionResult, found: DetectionResult, path: Path) -> bool:
    try:
        bgr = read_image(picture)
    except PgvisionError:
        return False
    gap = np.full((bgr.shape[0], _GAP, 3), 255, np.uint8)
    pair = np.hstack([truth.plot(bgr), gap, found.plot(bgr)])
    path.parent.mkdir(parents=True, exist_ok=True)
    return bool(cv2.imwrite(str(path), pair))
