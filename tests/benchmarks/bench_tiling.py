"""AP and AR on objects of large pictures: whole, with ``tile=``, and without its joins."""

import argparse
import contextlib
import io
import math
import os
import platform
import sys
import time
from unittest import mock

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pgvision import Detector
from recipes.scenes import CLASSES, Scene, render_scene
from recipes.scenes.export import scene_annotations

FIRST_SEED = 50_000_000  # training ends at 10,000,000
FIGURES = {"AP": (0, 3, 4, 5), "AR": (8, 9, 10, 11)}  # of pycocotools: all, small, mid, large


def truth(scenes: list[Scene], classes: list[str]) -> COCO:
    """Write the scenes' objects of these classes as COCO ground truth; an area is the box's."""
    ids = {CLASSES.index(name) + 1 for name in classes}
    annotations = [
        one | {"area": one["bbox"][2] * one["bbox"][3], "id": number}
        for number, one in enumerate(
            (
                one
                for image_id, scene in enumerate(scenes)
                for one in scene_annotations(scene, image_id=image_id)
                if one["category_id"] in ids
            ),
            start=1,
        )
    ]
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": number} for number in range(len(scenes))],
        "categories": [{"id": number} for number in sorted(ids)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def figures(coco: COCO, rows: list[dict[str, object]], edges: tuple[float, float]) -> list[float]:
    """AP and AR (IoU 0.5:0.95, 100 objects): all, areas below, between and above the two edges."""
    low, high = (edge**2 for edge in edges)
    # pycocotools cannot load an empty list: one box that is nowhere.
    nothing = {"image_id": 0, "category_id": 1, "bbox": [-9.0, -9.0, 1.0, 1.0], "score": 0.0}
    run = COCOeval(coco, coco.loadRes(rows or [nothing]), "bbox")
    run.params.areaRng = [[0, 1e10], [0, low], [low, high], [high, 1e10]]
    run.evaluate()
    run.accumulate()
    run.summarize()
    stats = [float(run.stats[index]) for places in FIGURES.values() for index in places]
    return [stat if stat >= 0 else math.nan for stat in stats]  # -1 is nothing to find


def measure(coco: COCO, scenes: list[Scene], detector: Detector, edges: tuple[float, float]) -> str:
    """Predict and score: the cells of one line."""
    ids = {name: CLASSES.index(name) + 1 for name in CLASSES}
    start = time.perf_counter()
    rows = [
        row
        for image_id, scene in enumerate(scenes)
        for row in detector(scene.image).to_coco(image_id=image_id, category_ids=ids)
    ]
    seconds = (time.perf_counter() - start) / len(scenes)
    with contextlib.redirect_stdout(io.StringIO()):
        numbers = figures(coco, rows, edges)
    cells = " ".join(f"{number:6.3f}" for number in numbers)
    return f"{cells} {len(rows):6} {seconds:8.2f}"


def main() -> None:
    """Print a line for the whole picture, and two for each tile size: with and without joins."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
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
    names = " ".join(f"{name:>6}" for kind in FIGURES for name in (kind, "small", "mid", "large"))
    sys.stdout.write(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"{options.model}; "
        f"{len(scenes)} scenes of {hw[0]}x{hw[1]}, {len(sides)} of {', '.join(options.classes)}, "
        f"{sum(side < edges[0] for side in sides)} below {edges[0]:g}x{edges[0]:g} px (small), "
        f"{sum(side > edges[1] for side in sides)} above {edges[1]:g}x{edges[1]:g} (large)\n"
        f"{'tile':>14} {names}  found  s/image\n"
    )
    for tile in (None, *options.tiles):
        detector = Detector(options.classes, model=options.model, tile=tile, conf=0)
        line = measure(coco, scenes, detector, edges)
        sys.stdout.write(f"{tile or 'whole':>14} {line}\n")
        if tile is not None:
            with mock.patch("pgvision.tasks.reading.join_fragments", lambda found, _: list(found)):
                line = measure(coco, scenes, detector, edges)
            sys.stdout.write(f"{f'{tile}, unjoined':>14} {line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
