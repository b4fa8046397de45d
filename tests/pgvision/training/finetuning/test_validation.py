"""Figures of a model that is asked for real, against ones from its own answers by numpy alone."""

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from pgvision.datasets import Dataset, read_splits, segmentation_to_mask
from pgvision.images import read_image
from pgvision.runtime import load
from pgvision.tasks import Detector, Segmenter
from pgvision.training.finetuning.settings import FinetuneSettings
from pgvision.training.finetuning.validation import score_objects


def ious_of_boxes(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    low = np.maximum(found[:, None, :2], true[None, :, :2])
    high = np.minimum(found[:, None, 2:], true[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    areas = [(one[:, 2:] - one[:, :2]).prod(-1) for one in (found, true)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def ious_of_masks(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    shared = (found[:, None] & true[None]).sum((2, 3))
    return shared / (found[:, None] | true[None]).sum((2, 3)).clip(1)


def mean_iou(data: Dataset, task: str) -> float:
    """Ask the carried checkpoint, and pair what it finds with the truth, class by class."""
    names = list(data.classes)
    ask = (Detector if task == "detect" else Segmenter)(names, model="tiny")
    total, count = 0.0, 0
    for record in data.images:
        result = ask(read_image(record.path))
        for name in names:
            true = [one for one in record.objects if data.names[one.category_id] == name]
            mine = np.array(result.labels) == name
            count += len(true)
            if not true or not mine.any():
                continue
            if task == "detect":
                iou = ious_of_boxes(result.xyxy[mine], np.array([one.xyxy for one in true]))
            else:
                masks = [segmentation_to_mask(one.segmentation, record.image_hw) for one in true]
                iou = ious_of_masks(result.masks[mine], np.array(masks))
            total += iou[linear_sum_assignment(-iou)].sum()
    return total / count


def test_mean_iou_is_of_masks_where_masks_are_learnt(scenes: Path) -> None:
    data = read_splits(scenes)["valid"]
    for task in ("detect", "segment"):
        told = score_objects(load("tiny"), data, FinetuneSettings(steps=1, task=task))
        assert told.figures["miou"] == pytest.approx(mean_iou(data, task), abs=1e-4)
