"""The pictures that went worst: truth on the left, what was found on the right."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from pgvision import drawing
from pgvision.arrays import BoolArray, ByteArray
from pgvision.datasets import Dataset, dataset_to_coco, truth_result
from pgvision.errors import PgvisionError
from pgvision.evaluation import Mistakes, find_mistakes
from pgvision.images import read_image
from pgvision.results import DetectionResult

_GAP = 8
_IOU = 0.5
_RED, _GREEN = 9, 3  # in the colours of `pgvision.drawing`


def save_worst(
    dataset: Dataset,
    results: dict[int, DetectionResult],
    folder: Path,
    *,
    count: int,
    threshold: float,
    iou_type: Literal["bbox", "segm"] = "bbox",
) -> list[Path]:
    """Draw the ``count`` images with most mistakes, by the matching of AP.

    On the left is what is there, on the right what was found; right is green, a mistake red.

    Args:
        dataset: The truth.
        results: By image id.
        folder: Where the pictures go, in place of those of an earlier run.
        count: How many.
        threshold: Objects below this score are left out.
        iou_type: What is matched, as for AP: boxes or masks.

    Returns:
        The files, the worst first. Images without a mistake are not drawn.
    """
    for old in folder.glob("[0-9][0-9]-*.jpg"):
        old.unlink()
    images = [image for image in dataset.images if image.id in results]
    if not images:
        return []
    kept = {
        number: result if result.scores is None else result[result.scores >= threshold]
        for number, result in results.items()
    }
    truth = dataset_to_coco(replace(dataset, images=tuple(images)))
    pairs = [(image.id, kept[image.id]) for image in images]
    mistakes = find_mistakes(truth, pairs, iou_type, iou=_IOU)
    ranked = []
    for image in images:
        found = kept[image.id]
        wrong = np.ones(len(found), np.bool_)  # so are objects of no class that was asked for
        wrong[found.class_ids >= 0] = mistakes[image.id].wrong
        counted = Mistakes(mistakes[image.id].missed, wrong)
        if counted.count:
            ranked.append((counted, image, found))
    ranked.sort(key=lambda entry: -entry[0].count)
    paths = []
    for place, (counted, image, found) in enumerate(ranked[:count], start=1):
        path = folder / f"{place:02d}-{counted.count}-{Path(image.file_name).stem}.jpg"
        limit = "" if found.scores is None else f" among finds of score {threshold:.2f} and up"
        caption = (
            f"{image.file_name}: {counted.missed.sum()} missed (left), {counted.wrong.sum()} "
            f"wrong (right){limit}, at IoU {_IOU}"
        )
        if _draw_pair(image.path, (truth_result(image, dataset), found), counted, caption, path):
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
