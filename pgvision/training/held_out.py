"""Measures a checkpoint on rendered scenes that training never saw.

``python -m pgvision.training.held_out --model tiny --count 500 --out DIR`` prints and writes every
figure of the model card. Seeds start at 20,000,000; training uses those under 10,000,000.
"""

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch

from pgvision.evaluation import evaluate_detections
from pgvision.files import write_text
from pgvision.images import Frame
from pgvision.masks import mask_to_rle
from pgvision.results import DetectionResult
from pgvision.runtime import Generation, Request, load
from pgvision.scenes import CLASSES, Scene, caption_counts, render_scene
from pgvision.tasks.adapter import Ask
from pgvision.tasks.detector import Detector
from pgvision.tasks.segmenter import Segmenter
from pgvision.tokens.scoring import SCORE_RULES

_LOG = logging.getLogger(__name__)
FIRST_SEED: Final = 20_000_000
_CHUNK: Final = 4  # scenes at a time
IouType = Literal["bbox", "segm"]
Coco = dict[str, list[dict[str, Any]]]
Asked = Sequence[tuple[Ask, Generation]]


def scenes(count: int, first_seed: int = FIRST_SEED) -> Iterator[list[Scene]]:
    """Yield held-out scenes in small groups."""
    for start in range(0, count, _CHUNK):
        yield [render_scene(first_seed + k) for k in range(start, min(start + _CHUNK, count))]


def ground_truth(count: int, *, masks: bool) -> Coco:
    """Return the boxes (and masks) of the scenes in COCO's form; image ids are positions."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for group in scenes(count):
        for scene in group:
            height, width = scene.image_hw
            image_id = len(images)
            images.append({"id": image_id, "width": width, "height": height})
            for item in scene.objects:
                left, top, right, bottom = (float(edge) for edge in item.xyxy)
                annotation: dict[str, Any] = {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CLASSES.index(item.label) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": item.area,
                    "iscrowd": 0,
                }
                if masks:
                    annotation["segmentation"] = mask_to_rle(item.mask)
                annotations.append(annotation)
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def ask_all(detector: Detector, count: int) -> list[tuple[Frame, Asked]]:
    """Ask for every class in every scene, absent ones too; keep the answers, with scores open."""
    kept: list[tuple[Frame, Asked]] = []
    for group in scenes(count):
        for position, scene in enumerate(group):
            frame = Frame(scene.image, source=f"scene:{scene.seed}", index=position)
            asks = detector._asks(frame)
            answers = detector.generator.generate([Request(scene.image, a.prefix) for a in asks])
            blank = Frame(np.zeros_like(scene.image), source=frame.source)
            kept.append((blank, list(zip(asks, answers, strict=True))))
    return kept


def _average_precision(
    gt: Coco, found: Sequence[DetectionResult], iou_type: IouType
) -> dict[str, float]:
    rows = [row for index, one in enumerate(found) for row in one.to_coco(image_id=index)]
    report = evaluate_detections(gt, rows, iou_type=iou_type)
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    return {
        name: round(float(value), 4) for name, value in zip(names, report.stats or (), strict=False)
    }


def _constant(result: DetectionResult) -> DetectionResult:
    return replace(result, scores=np.ones(len(result), np.float32))


def detection_figures(model: str, count: int) -> dict[str, Any]:
    """Return AP for every score rule, with constant scores, and with soft edges."""
    gt = ground_truth(count, masks=False)
    answered = ask_all(Detector(CLASSES, model=model), count)
    figures: dict[str, Any] = {}
    for rule in SCORE_RULES:
        reader = Detector(CLASSES, model=model, score=rule)
        found = [reader._result(frame, asked) for frame, asked in answered]
        figures[rule] = _average_precision(gt, found, "bbox")
        if rule == SCORE_RULES[0]:
            figures["constant"] = _average_precision(gt, [_constant(f) for f in found], "bbox")
    reader = Detector(CLASSES, model=model, soft=True)
    soft = [reader._result(frame, asked) for frame, asked in answered]
    figures["soft edges, default rule"] = _average_precision(gt, soft, "bbox")
    figures["objects"] = len(gt["annotations"])
    figures["found"] = sum(len(one) for one in soft)
    figures["answers cut off"] = sum(one.truncated for one in soft)
    return figures


def segmentation_figures(model: str, count: int) -> dict[str, Any]:
    """Return mask AP with arg-max and soft codes, and the ceiling that the codec allows."""
    gt = ground_truth(count, masks=True)
    segmenter = Segmenter(CLASSES, model=model)
    answered = ask_all(segmenter, count)
    figures = {}
    for name, soft in (("arg-max", False), ("soft", True)):
        reader = Segmenter(CLASSES, model=model, soft=soft)
        found = [reader._result(frame, asked) for frame, asked in answered]
        figures[name] = _average_precision(gt, found, "segm")
        if not soft:
            figures["boxes of segment prompts"] = _average_precision(gt, found, "bbox")
    return figures


def text_figures(model: str, count: int) -> dict[str, Any]:
    """Return exact answers, exact readings, and the share of objects that captions name right."""
    engine = load(model)
    answers: list[bool] = []
    readings: list[bool] = []
    named = total = claimed = 0
    for group in scenes(count):
        for scene in group:
            asked = [f"answer en {one.question}" for one in scene.questions]
            prefixes = ["caption en", "ocr", *asked]
            texts = [
                one.text.strip()
                for one in engine.generate([Request(scene.image, p) for p in prefixes])
            ]
            answers += [
                said == one.answer for said, one in zip(texts[2:], scene.questions, strict=True)
            ]
            if scene.reading:
                readings.append(texts[1] == scene.reading)
            truth, said = caption_counts(scene.caption), caption_counts(texts[0])
            named += sum(min(number, said.get(name, 0)) for name, number in truth.items())
            total, claimed = total + sum(truth.values()), claimed + sum(said.values())
    return {
        "answers exact": round(float(np.mean(answers)), 4),
        "questions": len(answers),
        "readings exact": round(float(np.mean(readings)), 4),
        "scenes with a sign": len(readings),
        "caption recall of objects": round(named / total, 4),
        "caption precision of objects": round(named / max(claimed, 1), 4),
    }


def main() -> None:
    """Measure a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=["detect", "segment", "text"])
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(2)
    measures = {
        "detect": detection_figures,
        "segment": segmentation_figures,
        "text": text_figures,
    }
    for task in options.tasks:
        figures = measures[task](options.model, options.count)
        figures = {"scenes": options.count, "model": options.model, **figures}
        _LOG.info("%s %s", task, json.dumps(figures, indent=1))
        write_text(options.out / f"{task}.json", json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
