"""Figures of the bundled photograph model on held-out images of several sources, in one box
convention.

    python tests/benchmarks/bench_small.py --data ../shared/data --model small --out small.json

Helmet AP50 of the held-out fifth of the new sets, false alarms of each set without helmets, bare
heads and hats called "helmet" with the card's defaults, AUROC of presence, persons (boxes, masks).
Images and truth come from ``recipes/small/sources.py``. ``--threshold`` sets the helmet score; by
default that of the card, else the best F1 on these images.
"""

import argparse
import contextlib
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pgvision import Detector, Segmenter
from pgvision.images import read_image
from pgvision.results import DetectionResult
from pgvision.runtime import find_checkpoint
from recipes.small.sources import Item, read_source

WITH_HELMETS = ("hats", "css", "mix", "riders", "close")
COMPLETE = ("hats", "css")  # images of these without a helmet box show none
# Sets whose held-out images give the card's threshold of a class.
CARD_SETS = {
    "helmet": ("hardhat_valid", "hats", "css", "mix", "riders", "close"),
    "head": ("hardhat_valid", "hats", "css", "portraits"),
    "person": ("person", "people", "hats", "css"),
}
NEGATIVE = ("masked", "portraits", "things", "objects", "people", "classrooms")


def pixel_boxes(item: Item, label: str, hw: tuple[int, int]) -> np.ndarray:
    """Return ``(n, 4)`` xyxy boxes of a class."""
    keep = [k for k, one in enumerate(item.labels) if one == label]
    return item.boxes[keep][:, [1, 0, 3, 2]] * np.array([hw[1], hw[0], hw[1], hw[0]])


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return ``(n, m)`` IoU of xyxy boxes."""
    low, high = (
        np.maximum(a[:, None, :2], b[None, :, :2]),
        np.minimum(a[:, None, 2:], b[None, :, 2:]),
    )
    inter = np.clip(high - low, 0, None).prod(-1)
    area_a, area_b = ((one[:, 2:] - one[:, :2]).prod(-1) for one in (a, b))
    return inter / (area_a[:, None] + area_b[None] - inter)


def coco_ap(truth: list, found: list, kind: str) -> dict[str, float]:
    """Return AP and AP50 by pycocotools.

    Args:
        truth: For each image its height and width, xyxy boxes, and RLEs or None.
        found: For each image xyxy boxes, scores, and RLEs or None.
        kind: "bbox" or "segm".
    """
    images, annotations, rows = [], [], []
    for number, (hw, boxes, rles) in enumerate(truth, 1):
        images.append({"id": number, "height": hw[0], "width": hw[1]})
        for k, (x0, y0, x1, y1) in enumerate(boxes):
            one = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0,
                   "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}  # fmt: skip
            if rles is not None:
                one |= {"segmentation": rles[k], "area": float(coco_mask.area(rles[k]))}
            annotations.append(one)
    for number, (boxes, scores, rles) in enumerate(found, 1):
        for k, (x0, y0, x1, y1) in enumerate(boxes):
            one = {
                "image_id": number,
                "category_id": 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": float(scores[k]),
            }
            rows.append(one | ({} if rles is None else {"segmentation": rles[k]}))
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "x"}],
            "info": {},
        }
        data.createIndex()
        if not rows:
            return {"AP": 0.0, "AP50": 0.0, "objects": len(annotations)}
        judge = COCOeval(data, data.loadRes(rows), kind)
        judge.evaluate(), judge.accumulate(), judge.summarize()
    return {
        "AP": round(float(judge.stats[0]), 3),
        "AP50": round(float(judge.stats[1]), 3),
        "objects": len(annotations),
    }


def best_f1(found: list, truths: list) -> tuple[float, float]:
    """Return the threshold of the best F1 at IoU 0.5, and the F1."""
    scores, hits, total = [], [], 0
    for (boxes, marks, _), (_, truth, _) in zip(found, truths, strict=True):
        total += len(truth)
        used: set[int] = set()
        overlap = (
            iou(boxes, truth) if len(boxes) and len(truth) else np.zeros((len(boxes), len(truth)))
        )
        for k in np.argsort(-marks):
            j = max(
                (j for j in range(len(truth)) if j not in used),
                key=lambda j: overlap[k, j],
                default=None,
            )
            hit = j is not None and overlap[k, j] >= 0.5
            used |= {j} if hit else set()
            scores.append(float(marks[k])), hits.append(hit)
    order = np.argsort(-np.array(scores))
    scores, hits = np.array(scores)[order], np.array(hits)[order]
    true = hits.cumsum()
    f1 = 2 * true / (np.arange(len(hits)) + 1 + total)
    return float(scores[f1.argmax()]), float(f1.max())


def auroc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the area under the ROC curve, ties counted half."""
    above, below = scores[truth][:, None], scores[~truth][None]
    return float(((above > below) + 0.5 * (above == below)).mean())


def boxes_and_scores(result: DetectionResult) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(n, 4)`` xyxy and ``(n,)`` scores."""
    return np.asarray(result.xyxy, float).reshape(-1, 4), np.asarray(result.scores, float)


def helmets(o: argparse.Namespace, sizes: dict, report: dict) -> None:
    """Fill in AP, false alarms, presence, and what else is called helmet."""
    items = [
        one
        for name in (*WITH_HELMETS, *NEGATIVE)
        for one in read_source(o.data, name, held_out=True)
    ]
    sizes |= {one.path: read_image(one.path).shape[:2] for one in items}
    tile = int(o.tile) if o.tile and o.tile.isdigit() else o.tile
    started = time.perf_counter()
    detector = Detector("helmet", model=o.model, conf=0.0, tile=tile)
    results = detector.predict([one.path for one in items])
    report["images"] = len(items)
    report["s an image"] = round((time.perf_counter() - started) / len(items), 3)
    found = [(*boxes_and_scores(one), None) for one in results]
    truth = [(sizes[one.path], pixel_boxes(one, "helmet", sizes[one.path]), None) for one in items]
    # 1. AP of the sets that show helmets, and the threshold.
    wanted = [k for k, one in enumerate(items) if one.source in WITH_HELMETS]
    threshold, f1 = best_f1([found[k] for k in wanted], [truth[k] for k in wanted])
    report["best F1"] = {"score": round(threshold, 3), "F1": round(f1, 3)}
    card = find_checkpoint(o.model)
    threshold = o.threshold or card.thresholds.get("helmet", threshold)
    report["threshold"] = round(threshold, 3)
    report["least presence"] = card.least_presence.get("helmet", 0.0)
    for name in ("new sets", *WITH_HELMETS):
        part = [k for k in wanted if name in ("new sets", items[k].source)]
        report[f"helmet, {name}"] = coco_ap(
            [truth[k] for k in part], [found[k] for k in part], "bbox"
        )
    # 2. Images without a helmet, set by set.
    best = np.array([scores.max() if len(scores) else 0.0 for _, scores, _ in found])
    presence = np.array([(one.presence or {}).get("helmet", 0.0) for one in results])
    is_shown = (best >= threshold) & (presence >= report["least presence"])
    has = np.array(["helmet" in one.labels for one in items])
    without = np.array(
        [
            "helmet" not in one.labels and ("helmet" in one.absent or one.source in COMPLETE)
            for one in items
        ]
    )
    for name in (*COMPLETE, *NEGATIVE):
        part = np.array([one.source == name for one in items]) & without
        if part.any():
            report[f"false alarms, {name}"] = {
                "share": round(float(is_shown[part].mean()), 3),
                "above 0.5": round(float((best[part] > 0.5).mean()), 3),
                "images": int(part.sum()),
            }
    # 3. Is there a helmet at all?
    known = has | without
    report["presence"] = {
        "AUROC of the best score": round(auroc(best[known], has[known]), 4),
        "AUROC of presence": round(auroc(presence[known], has[known]), 4),
        "with": int(has.sum()),
        "without": int(without.sum()),
    }
    # 4. Bare heads and hats under a helmet box that matches no helmet.
    for label in ("head", "hat"):
        called = total = 0
        for k, item in enumerate(items):
            boxes = pixel_boxes(item, label, truth[k][0])
            sure = found[k][0][(found[k][1] >= threshold) & is_shown[k]]
            if len(truth[k][1]) and len(sure):
                sure = sure[iou(sure, truth[k][1]).max(1) < 0.5]
            total += len(boxes)
            if len(boxes) and len(sure):
                tall = boxes + np.array([0, 0, 0, 0.4]) * (boxes[:, 3:] - boxes[:, 1:2])
                called += int((np.maximum(iou(boxes, sure), iou(tall, sure)).max(1) >= 0.4).sum())
        report[f"{label} called helmet"] = {"share": round(called / max(1, total), 3), "of": total}


def persons(o: argparse.Namespace, report: dict) -> None:
    """Fill in AP of persons, and of their masks."""
    items = [
        one
        for name in ("person", "people")
        for one in read_source(o.data, name, held_out=True)
        if "person" in one.complete
    ]
    sizes = {one.path: read_image(one.path).shape[:2] for one in items}
    task = Segmenter if o.masks else Detector
    results = task("person", model=o.model, conf=0.0).predict([one.path for one in items])
    for name in ("person", "people"):
        pairs = [pair for pair in zip(items, results, strict=True) if pair[0].source == name]
        truth = [(sizes[i.path], pixel_boxes(i, "person", sizes[i.path]), None) for i, _ in pairs]
        found = [(*boxes_and_scores(one), None) for _, one in pairs]
        report[f"persons, {name}"] = coco_ap(truth, found, "bbox")
        if o.masks and name == "person":
            report["person masks"] = coco_ap(
                [
                    (t[0], t[1], rles(i.segmentations, t[0]))
                    for t, (i, _) in zip(truth, pairs, strict=True)
                ],
                [(f[0], f[1], r.rle()) for f, (_, r) in zip(found, pairs, strict=True)],
                "segm",
            )


def thresholds(o: argparse.Namespace, report: dict) -> None:
    """Fill in the score of the best F1 of each photographed class, for the model's card."""
    for label, names in CARD_SETS.items():
        items = [
            one
            for name in names
            for one in read_source(o.data, name, held_out=True)[: o.per_set]
            if label in one.complete or label in one.labels
        ]
        detector = Detector(label, model=o.model, conf=0.0)
        found, truth = [], []
        for item, result in zip(items, detector.predict([i.path for i in items]), strict=True):
            found.append((*boxes_and_scores(result), None))
            truth.append((result.image_hw, pixel_boxes(item, label, result.image_hw), None))
        score, f1 = best_f1(found, truth)
        report[f"threshold, {label}"] = {
            "score": round(score, 3),
            "F1": round(f1, 3),
            **coco_ap(truth, found, "bbox"),
        }


def rles(segmentations: Sequence[Any], hw: tuple[int, int]) -> list[Any]:
    """Return one RLE for each COCO segmentation."""
    return [
        coco_mask.merge(coco_mask.frPyObjects(one, *hw)) if isinstance(one, list) else one
        for one in segmentations
    ]


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="small")
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--masks", action="store_true", help="segment persons too")
    parser.add_argument("--tile", help="auto or a side in pixels")
    parser.add_argument("--thresholds", action="store_true", help="for the card, class by class")
    parser.add_argument("--per-set", type=int, default=200, help="images of a set for these")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report: dict = {"model": options.model}
    if options.thresholds:
        thresholds(options, report)
    else:
        helmets(options, {}, report)
        persons(options, report)
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
