"""The pictures that went worst: truth on the left, what was found on the right."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pgvision import drawing
from pgvision.arrays import BoolArray, ByteArray
from pgvision.boxes import box_iou
from pgvision.datasets import Dataset, ImageRecord
from pgvision.errors import PgvisionError
from pgvision.images import read_image
from pgvision.results import DetectionResult

_GAP = 8
_IOU = 0.5
_RED, _GREEN = 9, 3  # in the colours of `pgvision.drawing`


@dataclass(frozen=True)
class Mistakes:
    """What went wrong in one image, at IoU 0.5.

    Attributes:
        missed: ``(n,)`` bool over what is there: not found.
        wrong: ``(m,)`` bool over what was found: not there, or found twice.
    """

    missed: BoolArray
    wrong: BoolArray

    @property
    def count(self) -> int:
        """Misses plus false alarms."""
        return int(self.missed.sum() + self.wrong.sum())


def mistakes_of(truth: DetectionResult, found: DetectionResult) -> Mistakes:
    """Match what was found to what is there, class by class, the best overlap first.

    Args:
        truth: What is there.
        found: What the model says.

    Returns:
        What was missed, and what is wrong.

    Example:
        >>> one = DetectionResult(image_hw=(9, 9), xyxy=[[0, 0, 4, 4]], labels=["a"],
        ...                       class_ids=[0], classes=["a"])
        >>> mistakes_of(one, one).count, mistakes_of(one, one[:0]).missed.tolist()
        (0, [True])
    """
    overlap = box_iou(truth.xyxy, found.xyxy)
    overlap[truth.class_ids[:, None] != found.class_ids[None, :]] = 0.0
    missed, wrong = np.ones(len(truth), bool), np.ones(len(found), bool)
    while overlap.size and overlap.max() >= _IOU:
        row, column = np.unravel_index(int(overlap.argmax()), overlap.shape)
        missed[row] = wrong[column] = False
        overlap[row], overlap[:, column] = 0.0, 0.0
    return Mistakes(missed, wrong)


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
    """Draw the ``count`` images with most mistakes, and say what they are.

    On the left is what is there, on the right what was found; right is green, a mistake red.

    Args:
        dataset: The truth.
        results: By image id.
        folder: Where the pictures go, in place of those of an earlier run.
        count: How many.
        threshold: Objects below this score are left out.

    Returns:
        The files, the worst first. Images without a mistake are not drawn.
    """
    for old in folder.glob("[0-9][0-9]-*.jpg"):
        old.unlink()
    ranked = []
    for image in dataset.images:
        if image.id not in results:
            continue
        found = results[image.id]
        if found.scores is not None:
            found = found[found.scores >= threshold]
        truth = truth_result(image, dataset)
        mistakes = mistakes_of(truth, found)
        if mistakes.count:
            ranked.append((mistakes, image, truth, found))
    ranked.sort(key=lambda entry: -entry[0].count)
    paths = []
    for place, (mistakes, image, truth, found) in enumerate(ranked[:count], start=1):
        path = folder / f"{place:02d}-{mistakes.count}-{Path(image.file_name).stem}.jpg"
        limit = "" if found.scores is None else f" among finds of score {threshold:.2f} and up"
        caption = (
            f"{image.file_name}: {mistakes.missed.sum()} missed (left), {mistakes.wrong.sum()} "
            f"wrong (right){limit}, at IoU {_IOU}"
        )
        if _draw_pair(image.path, (truth, found), mistakes, caption, path):
            paths.append(path)
    return paths


def _draw_pair(
    picture: Path,
    sides: tuple[DetectionResult, DetectionResult],
    mistakes: Mistakes,
    caption: str,
    path: Path,
) -> bool:
    try:
        bgr = read_image(picture)
    except PgvisionError:
        return False
    left = _marked(bgr, sides[0], mistakes.missed, "missed")
    right = _marked(bgr, sides[1], mistakes.wrong, "wrong")
    gap = np.full((bgr.shape[0], _GAP, 3), 255, np.uint8)
    pair = drawing.with_caption(np.hstack([left, gap, right]), caption)
    path.parent.mkdir(parents=True, exist_ok=True)
    return bool(cv2.imwrite(str(path), pair))


def _marked(bgr: ByteArray, result: DetectionResult, bad: BoolArray, word: str) -> ByteArray:
    canvas, ids = bgr.copy(), np.where(bad, _RED, _GREEN)
    texts = []
    for row, label in enumerate(result.labels):
        score = "" if result.scores is None else f" {result.scores[row]:.2f}"
        texts.append(f"{word} {label}{score}" if bad[row] else f"{label}{score}")
    thickness = drawing.fit_thickness(result.image_hw)
    drawing.draw_boxes(canvas, result.xyxy, color_ids=ids, thickness=thickness)
    return drawing.draw_labels(canvas, result.xyxy, texts, color_ids=ids)
