"""What a checkpoint finds on photographs: AP by class and size, and is there any at all.

Prints JSON, a line for each way of asking (whole, tiles; a closed set also class by class) and
class. The pictures are the same in every run of the same ``--count``. For example

    python tests/benchmarks/bench_photographs.py --data hardhat/valid.json --images hardhat/valid \\
        --model small --tiles 192 --out small.jsonl

``presence`` is the score that a class is there at all, over pictures that do and do not show it:
area under the ROC curve, best Matthews correlation and its threshold, and how often it says so at
``--presence-at``; ``boxes`` is the share of pictures with a box at the score of the best F1. With
``--nmm 0.5`` tiled results are also scored after supervision's class-wise ``with_nmm``.
"""

import argparse
import json
import os
import platform
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgvision import Detector
from pgvision.datasets import Dataset, dataset_to_coco, read_dataset
from pgvision.evaluation import STAT_NAMES, DetectionReport, evaluate_detections
from pgvision.results import DetectionResult, Failure
from pgvision.runtime import find_checkpoint
from recipes.held_out import separation

SHOWN = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_100")


@dataclass(frozen=True)
class Found:
    """What one way of asking found; ``results`` and ``rows`` are by image id."""

    results: dict[int, DetectionResult]
    rows: list[dict[str, Any]]
    seconds: float


def chosen(data: Dataset, *, count: int, classes: Sequence[str]) -> Dataset:
    """Take ``count`` pictures (0: all) by a fixed chance, and of their objects these classes."""
    images = sorted(data.images, key=lambda one: one.file_name)
    random.Random(0).shuffle(images)
    categories = tuple(one for one in data.categories if one.name in classes)
    if missing := sorted(set(classes) - {one.name for one in categories}):
        raise SystemExit(f"--classes: {', '.join(missing)}: not among {', '.join(data.classes)}")
    ids = {one.id for one in categories}
    kept = tuple(
        replace(one, objects=tuple(item for item in one.objects if item.category_id in ids))
        for one in images[: count or None]
    )
    return replace(data, images=kept, categories=categories)


def ask(detector: Detector, data: Dataset) -> Found:
    """Ask about every picture; what cannot be read is left out."""
    ids = {one.name: one.id for one in data.categories}
    start = time.perf_counter()
    outcomes = detector.stream([one.path for one in data.images], on_error="record")
    results = {
        image.id: outcome
        for image, outcome in zip(data.images, outcomes, strict=True)
        if not isinstance(outcome, Failure)
    }
    seconds = (time.perf_counter() - start) / len(data.images)
    rows = [
        row
        for number, result in results.items()
        for row in result.to_coco(image_id=number, category_ids=ids)
    ]
    return Found(results, rows, seconds)


def merged(data: Dataset, found: Found, iou: float) -> list[dict[str, Any]]:
    """Return the rows after supervision's class-wise non-maximum merging."""
    ids = {one.name: one.id for one in data.categories}
    rows = []
    for number, result in found.results.items():
        left = result.to_supervision().with_nmm(threshold=iou)
        for (x0, y0, x1, y1), score, name in zip(
            left.xyxy.tolist(), left.confidence, left.data["class_name"], strict=True
        ):
            box = [x0, y0, x1 - x0, y1 - y0]
            rows.append(
                {
                    "image_id": number,
                    "category_id": ids[name],
                    "bbox": box,
                    "score": float(score),
                }
            )
    return rows


def figures(report: DetectionReport) -> dict[str, Any]:
    """What is printed of a report; what is undefined is left out."""
    best = report.best_f1
    stats = dict(zip(STAT_NAMES, report.stats or (), strict=True))
    told = {name: stats[name] for name in SHOWN if stats[name] >= 0}
    told |= {"mean F1": report.mean_f1, "mIoU": report.miou}
    if best is not None:
        told |= {"F1": best.f1, "precision": best.precision, "recall": best.recall}
        told["at score"] = best.threshold
    numbers = {"objects": report.num_annotations, "found": report.num_detections}
    return numbers | {name: round(value, 4) for name, value in told.items() if value is not None}


def presence(
    name: str, there: dict[int, bool], found: Found, *, threshold: float, score: float | None
) -> dict[str, Any]:
    """How well pictures with the class are told from those without."""
    results = {number: found.results[number] for number in there if number in found.results}
    truth = np.array([there[number] for number in results])
    told: dict[str, Any] = {"pictures with": int(truth.sum()), "without": int((~truth).sum())}
    said = {}
    if all(one.presence is not None and name in one.presence for one in results.values()):
        chances = np.array([one.presence[name] for one in results.values()])
        told |= separation(chances, truth)
        said[f"presence {threshold:g}"] = chances >= threshold
    if score is not None:
        shown = [
            bool((np.array(one.scores)[np.array(one.labels) == name] >= score).any())
            for one in results.values()
        ]
        said[f"boxes {score:.2f}"] = np.array(shown)
    for rule, yes in said.items():
        for word, part in (("hits", truth), ("false alarms", ~truth)):
            if part.any():
                told[f"{word} at {rule}"] = round(float(yes[part].mean()), 4)
    return told


def lines(data: Dataset, found: Found, *, threshold: float) -> Iterator[dict[str, Any]]:
    """The figures over all classes, then those of each alone."""
    yield {"class": "all"} | figures(evaluate_detections(dataset_to_coco(data), found.rows))
    for category in data.categories:
        alone = chosen(data, count=0, classes=[category.name])
        rows = [row for row in found.rows if row["category_id"] == category.id]
        report = evaluate_detections(dataset_to_coco(alone), rows)
        there = {one.id: bool(one.objects) for one in alone.images}
        best = None if report.best_f1 is None else report.best_f1.threshold
        said = presence(category.name, there, found, threshold=threshold, score=best)
        yield {"class": category.name} | figures(report) | {"presence": said}


def main() -> None:
    """Measure every way of asking, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="COCO, or any format")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--model", default="small")
    parser.add_argument("--device")
    parser.add_argument("--count", type=int, default=0, help="0: all")
    parser.add_argument("--classes", nargs="+", help="default: those of the data")
    parser.add_argument("--tiles", type=int, nargs="*", default=[], help="sides, in pixels")
    parser.add_argument("--nmm", type=float, help="IoU of non-maximum merging, with --tiles")
    parser.add_argument("--presence-at", type=float, default=0.5)
    parser.add_argument("--out", type=Path, help="append the lines to a file, too")
    options = parser.parse_args()
    data = read_dataset(options.data, images=options.images)
    data = chosen(data, count=options.count, classes=options.classes or data.classes)
    closed = find_checkpoint(options.model).closed_set is not None
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    for tile in (None, *options.tiles):
        for in_closed_set in (True, False) if closed else (False,):
            detector = Detector(
                data.classes, model=options.model, device=options.device, tile=tile,
                closed_set=None if in_closed_set else False, conf=0,
            )  # fmt: skip
            found = ask(detector, data)
            way = {
                "model": options.model,
                "data": str(options.data),
                "pictures": len(found.results),
                "left out": len(data.images) - len(found.results),
                "tile": tile,
                "closed set": in_closed_set,
                "s/picture": round(found.seconds, 3),
                "machine": machine,
            }
            told = list(lines(data, found, threshold=options.presence_at))
            if options.nmm and tile:
                other = replace(found, rows=merged(data, found, options.nmm))
                for line in lines(data, other, threshold=options.presence_at):
                    told.append({"merging": f"nmm {options.nmm}"} | line)
            for line in told:
                text = json.dumps(way | line) + "\n"
                sys.stdout.write(text)
                sys.stdout.flush()
                if options.out is not None:
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(text)


if __name__ == "__main__":
    main()
