"""Paste and run lengths of many masks on a large frame, against full frames and pycocotools.

Run ``python tests/benchmarks/bench_masks.py``. The two ways take turns, so that a busy machine
slows both; the ratio of the medians is the figure. Each way's peak memory is what its arrays and
objects took on top of what was there, as tracemalloc saw it (NumPy reports to it).
"""

import argparse
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pgvision.arrays import FloatArray
from pgvision.masks import masks_to_rle, paste_mask

Rles = list[dict[str, Any]]


def make_masks(
    num_objects: int, image_hw: tuple[int, int], seed: int
) -> tuple[FloatArray, FloatArray]:
    """Draw smooth blobs ``(n, 64, 64)`` and boxes of 20 to 600 pixels, some across the border."""
    dice = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    height, width = image_hw
    logits, boxes = [], []
    for _ in range(num_objects):
        wave = dice.uniform(0.05, 0.3) * np.sin(dice.integers(2, 7) * np.arctan2(y, x))
        logits.append(dice.uniform(0.7, 1.0) + wave - np.hypot(x, y))
        box_w, box_h = np.exp(dice.uniform(np.log(20), np.log(600), 2))
        left, top = dice.uniform(-20, width - 30), dice.uniform(-20, height - 30)
        boxes.append([left, top, left + box_w, top + box_h])
    return np.array(logits, np.float32), np.array(boxes, np.float32)


def through_full_frames(logits: FloatArray, boxes: FloatArray, image_hw: tuple[int, int]) -> Rles:
    """Take the obvious way: a boolean frame for every object, then pycocotools."""
    frames = np.zeros((len(logits), *image_hw), np.uint8)
    for frame, one, box in zip(frames, logits, boxes, strict=True):
        crop, (left, top) = paste_mask(one, box, image_hw)
        frame[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    packed = [coco_mask.encode(np.asfortranarray(frame)) for frame in frames]
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in packed]


def peak_bytes(way: Callable[[], Rles]) -> int:
    """Run ``way`` once and return the most that was allocated at one time."""
    tracemalloc.start()
    way()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def measure(num_objects: int, image_hw: tuple[int, int], repeats: int) -> int:
    """Print both ways' figures and their ratios; 1 if the run lengths differ."""
    logits, boxes = make_masks(num_objects, image_hw, seed=0)
    ways: dict[str, Callable[[], Rles]] = {
        "full frames": lambda: through_full_frames(logits, boxes, image_hw),
        "crops": lambda: masks_to_rle(logits, boxes, image_hw=image_hw),
    }
    if ways["full frames"]() != ways["crops"]():
        sys.stdout.write("the run lengths differ\n")
        return 1
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    peaks = {name: peak_bytes(way) for name, way in ways.items()}
    for name in ways:
        sys.stdout.write(f"{name:12} {1e3 * medians[name]:9.1f} ms {peaks[name] / 1e6:9.2f} MB\n")
    faster = medians["full frames"] / medians["crops"]
    smaller = peaks["full frames"] / peaks["crops"]
    sys.stdout.write(f"crops: {faster:.1f} x faster, {smaller:.0f} x less memory, same bytes\n")
    return 0


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    return measure(options.objects, (2160, 3840), options.repeats)


if __name__ == "__main__":
    raise SystemExit(main())
