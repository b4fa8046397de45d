"""Drafts over video: model passes a frame, time, AP and trembling, for off and exact."""

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from pgvision import Detector
from pgvision.boxes import box_iou
from pgvision.coco.writing import image_entry
from pgvision.evaluation import evaluate_detections
from pgvision.images import Frame
from pgvision.results import DetectionResult
from pgvision.runtime import Picture, Request, load
from recipes.scenes import CLASSES, Scene, render_scene, render_video
from recipes.scenes.export import scene_annotations

FIRST_SEED = 60_000_000
LABEL = "helmet"
CATEGORY = CLASSES.index(LABEL) + 1
MODES = ("off", "exact")


def still(seed: int, count: int, noise: float) -> Iterator[Scene]:
    """One scene under a sensor's noise: nothing moves, no two frames are equal."""
    scene, rng = render_scene(seed), np.random.default_rng(seed)
    for _ in range(count):
        noisy = scene.image + rng.normal(0.0, noise, scene.image.shape)
        yield replace(scene, image=noisy.clip(0, 255).astype(np.uint8))


def moving(seed: int, count: int, noise: float) -> Iterator[Scene]:
    """A camera that pans over a site where people walk."""
    del noise
    return render_video(seed, num_frames=count, fps=12.0, camera="moving")


def follow(
    detector: Detector, scenes: list[Scene], drafts: str
) -> tuple[list[DetectionResult], int]:
    """Ask frame by frame, the last answer as the draft, as `stream` does; count the passes."""
    results, passes, draft = [], 0, ()
    for number, scene in enumerate(scenes):
        frame = Frame(scene.image, source="film", index=number, time=number / 12)
        (ask,) = detector.plan(frame)
        request = Request(
            picture=Picture(frame.bgr),
            prefix=ask.prefix,
            form=ask.form,
            draft=draft,
            drafts=drafts,
        )
        ((_, answer),) = detector.generator.generate([request])
        draft, passes = answer.token_ids, passes + answer.passes
        results.append(detector.read(frame, [(ask, answer)]))
    return results, passes


def trembling(scenes: list[Scene], results: list[DetectionResult]) -> list[float]:
    """Pixels by which an edge moves against its true edge from frame to frame, per edge."""
    moved: list[float] = []
    last: dict[int, np.ndarray] = {}
    for scene, result in zip(scenes, results, strict=True):
        truth = [one for one in scene.objects if one.label == LABEL]
        offsets: dict[int, np.ndarray] = {}
        if truth and len(result):
            boxes = np.array([one.xyxy for one in truth], np.float32)
            ious = box_iou(boxes, result.xyxy)
            for row, column in zip(*linear_sum_assignment(-ious), strict=True):
                if ious[row, column] >= 0.5:
                    offsets[truth[row].track_id] = result.xyxy[column] - boxes[row]
        for track, offset in offsets.items():
            if track in last:
                moved += np.abs(offset - last[track]).tolist()
        last = offsets
    return moved


def average_precision(films: list[tuple[list[Scene], list[DetectionResult]]]) -> tuple[float, ...]:
    """AP and AP50 over all frames."""
    images, annotations, rows = [], [], []
    for scenes, results in films:
        for scene, result in zip(scenes, results, strict=True):
            image_id, first_id = len(images), len(annotations) + 1
            images.append(image_entry(image_id, f"{image_id}.png", scene.image_hw))
            named = replace(
                scene, objects=tuple(one for one in scene.objects if one.label == LABEL)
            )
            annotations += scene_annotations(named, image_id=image_id, first_id=first_id)
            rows += result.to_coco(image_id=image_id, category_ids={LABEL: CATEGORY})
    truth = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": CATEGORY, "name": LABEL}],
    }
    stats = evaluate_detections(truth, rows).stats or (0.0, 0.0)
    return float(stats[0]), float(stats[1])


def main() -> None:
    """Print one line for each camera and kind of draft."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=8)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--noise", type=float, default=4.0, help="sensor noise, gray levels")
    parser.add_argument("--model", default="tiny")
    options = parser.parse_args()
    load(options.model)
    sys.stdout.write(
        f"{platform.machine()}, {os.cpu_count()} cores; {options.films} films of {options.frames} "
        f"frames, noise {options.noise:g}\n"
        "camera drafts  passes/frame  share of off  ms/frame     AP   AP50  trembling px\n"
    )
    for name, film in (("still", still), ("moving", moving)):
        films = [
            list(film(FIRST_SEED + k, options.frames, options.noise)) for k in range(options.films)
        ]
        base = 0.0
        for mode in MODES:
            detector = Detector(LABEL, model=options.model)
            start = time.perf_counter()
            found = [follow(detector, scenes, mode) for scenes in films]
            spent = time.perf_counter() - start
            frames = options.films * options.frames
            passes = sum(count for _, count in found) / frames
            base = base or passes
            pairs = [(scenes, results) for scenes, (results, _) in zip(films, found, strict=True)]
            moved = [step for scenes, results in pairs for step in trembling(scenes, results)]
            precision = average_precision(pairs)
            sys.stdout.write(
                f"{name:6} {mode:7} {passes:12.2f} {passes / base:13.2f} "
                f"{1e3 * spent / frames:9.1f} {precision[0]:6.3f} {precision[1]:6.3f} "
                f"{np.mean(moved) if moved else float('nan'):13.2f}\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
