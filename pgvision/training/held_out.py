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
from pgvision.masks import crop_mask, masks_to_rle
from pgvision.results import DetectionResult
from pgvision.rle import mask_to_rle, rle_to_mask
from pgvision.runtime import Generation, Request, load
from pgvision.scenes import CLASSES, Scene, caption_counts, render_scene
from pgvision.tasks.adapter import Ask
from pgvision.tasks.detector import Detector
from pgvision.tasks.segmenter import Segmenter
from pgvision.tokens.bins import decode_boxes, encode_boxes
from pgvision.tokens.scoring import SCORE_RULES
from vqvae import MaskCodec

_LOG = logging.getLogger(__name__)
FIRST_SEED: Final = 20_000_000
_CHUNK: Final = 12  # scenes at a time; the engine holds 16 encoded pictures
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
        frames = [
            Frame(scene.image, source=f"scene:{scene.seed}", index=position)
            for position, scene in enumerate(group)
        ]
        asks = [detector._asks(frame) for frame in frames]
        requests = [
            Request(frame.bgr, ask.prefix)
            for frame, some in zip(frames, asks, strict=True)
            for ask in some
        ]
        answers = iter(detector.generator.generate(requests))
        for frame, some in zip(frames, asks, strict=True):
            blank = Frame(np.zeros_like(frame.bgr), source=frame.source)
            kept.append((blank, [(ask, next(answers)) for ask in some]))
    return kept


def _average_precision(
    gt: Coco, found: Sequence[DetectionResult], iou_type: IouType
) -> dict[str, float]:
    rows = [row for index, one in enumerate(found) for row in one.to_coco(image_id=index)]
    return _figures(gt, rows, iou_type)


def _figures(gt: Coco, rows: list[dict[str, Any]], iou_type: IouType) -> dict[str, float]:
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
    figures = {"ceiling of the codec": codec_ceiling(gt, segmenter.codec)}
    for name, soft in (("arg-max", False), ("soft", True)):
        reader = Segmenter(CLASSES, model=model, soft=soft)
        found = [reader._result(frame, asked) for frame, asked in answered]
        figures[name] = _average_precision(gt, found, "segm")
        if not soft:
            figures["boxes of segment prompts"] = _average_precision(gt, found, "bbox")
    return figures


def codec_ceiling(gt: Coco, codec: MaskCodec) -> dict[str, float]:
    """Return the mask AP of the truth itself, written as tokens and read back."""
    sizes = {one["id"]: (one["height"], one["width"]) for one in gt["images"]}
    rows = []
    for one in gt["annotations"]:
        left, top, width, height = one["bbox"]
        box, image_hw = (left, top, left + width, top + height), sizes[one["image_id"]]
        codes = codec.encode(crop_mask(rle_to_mask(one["segmentation"]), box)[None])
        written = decode_boxes(encode_boxes([box], image_hw=image_hw), image_hw=image_hw)
        (rle,) = masks_to_rle(codec.decode(codes), written, image_hw=image_hw)
        kept = ("image_id", "category_id", "bbox")
        rows.append({**{name: one[name] for name in kept}, "segmentation": rle, "score": 1.0})
    return _figures(gt, rows, "segm")


def text_figures(model: str, count: int) -> dict[str, Any]:
    """Return exact answers, exact readings, and the share of objects that captions name right."""
    engine = load(model)
    answers: list[bool] = []
    readings: list[bool] = []
    named = total = claimed = 0
    for group in scenes(count):
        requests = [Request(scene.image, prefix) for scene in group for prefix in _prefixes(scene)]
        said = iter(one.text.strip() for one in engine.generate(requests))
        for scene in group:
            caption, reading = next(said), next(said)
            answers += [next(said) == one.answer for one in scene.questions]
            if scene.reading:
                readings.append(reading == scene.reading)
            truth, counted = caption_counts(scene.caption), caption_counts(caption)
            named += sum(min(number, counted.get(name, 0)) for name, number in truth.items())
            total, claimed = total + sum(truth.values()), claimed + sum(counted.values())
    return {
        "answers exact": round(float(np.mean(answers)), 4),
        "questions": len(answers),
        "readings exact": round(float(np.mean(readings)), 4),
        "scenes with a sign": len(readings),
        "caption recall of objects": round(named / total, 4),
        "caption precision of objects": round(named / max(claimed, 1), 4),
    }


def _prefixes(scene: Scene) -> list[str]:
    return ["caption en", "ocr", *(f"answer en {one.question}" for one in scene.questions)]


def main() -> None:
    """Measure a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tasks", nargs="+", default=["detect", "segment", "text"])
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
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
