"""Average recall on small objects of large pictures, with and without ``tile=``."""

import argparse
import contextlib
import io
import math
import os
import platform
import sys
import time

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pgvision import Detector
from pgvision.results import DetectionResult
from pgvision.scenes import Scene, render_scene

FIRST_SEED = 50_000_000  # training ends at 10,000,000


def truth(scenes: list[Scene], classes: list[str]) -> COCO:
    """Write the scenes' boxes as COCO ground truth; an area is the box's."""
    annotations = []
    for number, scene in enumerate(scenes):
        for item in scene.objects:
            if item.label not in classes:
                continue
            left, top, right, bottom = (float(edge) for edge in item.xyxy)
            box = [left, top, right - left, bottom - top]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": classes.index(item.label),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [
            {"id": n, "height": s.image.shape[0], "width": s.image.shape[1]}
            for n, s in enumerate(scenes)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(classes)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def figures(coco: COCO, results: list[DetectionResult], edges: tuple[float, float]) -> list[float]:
    """AR and AP (IoU 0.5:0.95, 100 objects) for areas below, between and above the two edges."""
    rows = [
        {
            "image_id": number,
            "category_id": int(class_id),
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "score": float(score),
        }
        for number, result in enumerate(results)
        for (x1, y1, x2, y2), class_id, score in zip(
            result.xyxy, result.class_ids, result.scores, strict=True
        )
        if class_id >= 0
    ]
    low, high = (edge**2 for edge in edges)
    if not rows:  # which pycocotools cannot load
        areas = np.array([annotation["area"] for annotation in coco.dataset["annotations"]])
        there = (
            areas.size,
            (areas <= low).sum(),
            ((areas >= low) & (areas <= high)).sum(),
            (areas >= high).sum(),
            areas.size,
        )
        return [0.0 if count else math.nan for count in there]
    run = COCOeval(coco, coco.loadRes(rows), "bbox")
    run.params.areaRng = [[0, 1e10], [0, low], [low, high], [high, 1e10]]
    run.evaluate()
    run.accumulate()
    run.summarize()
    # AR of all, small, medium, large; AP of all.
    # pycocotools writes -1 where there was nothing to find.
    stats = [float(run.stats[index]) for index in (8, 9, 10, 11, 0)]
    return [stat if stat >= 0 else math.nan for stat in stats]


def measure(
    coco: COCO,
    scenes: list[Scene],
    classes: list[str],
    tile: int | None,
    edges: tuple[float, float],
) -> str:
    """Predict and score; one line of the table."""
    detector = Detector(classes, tile=tile)
    start = time.perf_counter()
    results = [detector(scene.image) for scene in scenes]
    seconds = (time.perf_counter() - start) / len(scenes)
    with contextlib.redirect_stdout(io.StringIO()):
        numbers = figures(coco, results, edges)
    cells = " ".join(f"{number:8.3f}" for number in numbers)
    return f"{tile or 'whole':>6} {cells} {seconds:8.2f}"


def main() -> None:
    """Print one line for the whole picture and one for each tile size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--image-hw", type=int, nargs=2, default=(1440, 1920))
    parser.add_argument("--tiles", type=int, nargs="*", default=(960, 640))
    parser.add_argument("--classes", nargs="+", default=["helmet"])
    parser.add_argument("--edges", type=float, nargs=2, default=(120.0, 160.0), help="px, square")
    options = parser.parse_args()
    hw, edges = tuple(options.image_hw), tuple(options.edges)
    scenes = [render_scene(FIRST_SEED + n, image_hw=hw) for n in range(options.count)]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = truth(scenes, options.classes)
    sides = [annotation["area"] ** 0.5 for annotation in coco.dataset["annotations"]]
    small = sum(side < edges[0] for side in sides)
    sys.stdout.write(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; "
        f"{len(scenes)} scenes of {hw[0]}x{hw[1]}, {len(sides)} objects, {small} below "
        f"{edges[0]:g}x{edges[0]:g} px (small), above {edges[1]:g}x{edges[1]:g}: large\n"
        f"  tile   AR all AR small   AR mid AR large   AP all  s/image\n"
    )
    for tile in (None, *options.tiles):
        sys.stdout.write(measure(coco, scenes, options.classes, tile, edges) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
