"""How far boxes move when a model runs in bfloat16, beside float32: mean shift in bins."""

import argparse
import os
import platform
import sys
from contextlib import nullcontext
from unittest import mock

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional

from pgvision import Detector
from pgvision.boxes import box_iou
from pgvision.results import DetectionResult
from recipes.scenes import CLASSES, Scene, render_scene

FIRST_SEED = 50_000_000  # training ends at 10,000,000


def narrow_product(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The output layer as `generate` computes it: sums end in bfloat16, and tie."""
    return functional.linear(hidden.bfloat16(), weight.bfloat16()).float()


def predict(model: str, dtype: str, scenes: list[Scene], *, narrow: bool) -> list[DetectionResult]:
    """Ask each scene for each class it holds, one answer each."""
    place = "pgvision.runtime.torch_backend._product"
    with mock.patch(place, narrow_product) if narrow else nullcontext():
        return [
            Detector(name, model=model, dtype=dtype)(scene.image)
            for scene in scenes
            for name in CLASSES
            if any(item.label == name for item in scene.objects)
        ]


def shifts(wide: DetectionResult, other: DetectionResult) -> np.ndarray:
    """``(m, 4)`` bins by which matched boxes moved: top, left, bottom, right; IoU from 0.5 on."""
    overlap = box_iou(wide.xyxy, other.xyxy)
    rows, columns = linear_sum_assignment(-overlap)
    near = overlap[rows, columns] >= 0.5
    return (other.loc_yxyx[columns[near]] - wide.loc_yxyx[rows[near]]).reshape(-1, 4)


def main() -> None:
    """Print one line for each way to compute."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    scenes = [render_scene(FIRST_SEED + number) for number in range(options.count)]
    wide = predict(options.model, "float32", scenes, narrow=False)
    sys.stdout.write(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; "
        f"{options.model}, {len(scenes)} scenes, {len(wide)} answers, {sum(map(len, wide))} boxes\n"
        "bfloat16, output layer in  mean shift: top    left  bottom   right   absolute    matched"
        "  equal answers\n"
    )
    for name, narrow in (("float32", False), ("bfloat16", True)):
        found = predict(options.model, "bfloat16", scenes, narrow=narrow)
        pairs = list(zip(wide, found, strict=True))
        moved = np.concatenate([shifts(*pair) for pair in pairs])
        equal = np.mean([one.raw_text == other.raw_text for one, other in pairs])
        edges = " ".join(f"{mean:7.2f}" for mean in moved.mean(0))
        sys.stdout.write(
            f"{name:>25} {'':>11} {edges} {np.abs(moved).mean():10.2f} {len(moved):10} "
            f"{equal:14.2f}\n"
        )


if __name__ == "__main__":
    main()
