"""Measures a checkpoint on rendered scenes that training never saw.

``python -m recipes.held_out --model tiny --count 500 --out DIR`` prints and writes every
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
from scipy.stats import mannwhitneyu

from pgvision.coco.writing import image_entry
from pgvision.evaluation import evaluate_detections
from pgvision.files import write_text
from pgvision.images import Frame
from pgvision.masks import crop_mask, masks_to_rle
from pgvision.results import DetectionResult
from pgvision.rle import rle_to_mask
from pgvision.runtime import Picture, Request, load
from pgvision.tasks import Answered, Detector, Segmenter
from pgvision.tokens.bins import decode_boxes, encode_boxes
from recipes.scenes import CLASSES, Scene, caption_counts, render_scene
from recipes.scenes.export import scene_annotations
from vqvae import MaskCodec

_LOG = logging.getLogger(__name__)
FIRST_SEED: Final = 20_000_000
_CHUNK: Final = 12  # scenes at a time; the engine holds 16 encoded pictures
IouType = Literal["bbox", "segm"]
Coco = dict[str, list[dict[str, Any]]]
ObjectPredictor = Detector | Segmenter


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
            image_id, first_id = len(images), len(annotations) + 1
            images.append(image_entry(image_id, f"{scene.seed}.png", scene.image_hw))
            annotations += scene_annotations(scene, image_id=image_id, first_id=first_id)
    if not masks:  # which the engine would read in vain
        for annotation in annotations:
            del annotation["segmentation"]
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def ask_all(detector: ObjectPredictor, count: int) -> list[tuple[Frame, list[Answered]]]:
    """Ask for every class in every scene, absent ones too; keep the answers, with scores open."""
    kept: list[tuple[Frame, list[Answered]]] = []
    for group in scenes(count):
        frames = [
            Frame(scene.image, source=f"scene:{scene.seed}", index=position)
            for position, scene in enumerate(group)
        ]
        planned = [detector.plan(frame) for frame in frames]
        requests = [
            Request(picture=picture, prefix=ask.prefix, form=ask.form, constrained=ask.constrained)
            for picture, asks in zip(map(_picture, frames), planned, strict=True)
            for ask in asks
        ]
        answers = dict(detector.generator.generate(requests))
        each = iter(answers[number] for number in range(len(requests)))
        for frame, asks in zip(frames, planned, strict=True):
            blank = Frame(np.zeros_like(frame.bgr), source=frame.source)
            kept.append((blank, [(ask, next(each)) for ask in asks]))
    return kept


def _picture(frame: Frame) -> Picture:
    return Picture(frame.bgr)


def _average_precision(
    gt: Coco, found: Sequence[DetectionResult], iou_type: IouType
) -> dict[str, float]:
    rows = [row for index, one in enumerate(found) for row in one.to_coco(image_id=index)]
    return _figures(gt, rows, iou_type)


def _figures(gt: Coco, rows: list[dict[str, Any]], iou_type: IouType) -> dict[str, float]:
    report = evaluate_detections(gt, rows, iou_type=iou_type)
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "", "", "ar")
    return {
        name: round(float(value), 4)
        for name, value in zip(names, report.stats or (), strict=False)
        if name
    }


def _constant(result: DetectionResult) -> DetectionResult:
    return replace(result, scores=np.ones(len(result), np.float32))


def detection_figures(model: str, count: int) -> dict[str, Any]:
    """Return AP, the same with constant scores, and what the answers cost."""
    gt = ground_truth(count, masks=False)
    answered = ask_all(Detector(CLASSES, model=model, conf=0.0), count)
    reader = Detector(CLASSES, model=model, conf=0.0)
    found = [reader.read(frame, asked) for frame, asked in answered]
    figures: dict[str, Any] = {
        "score": _average_precision(gt, found, "bbox"),
        "constant": _average_precision(gt, [_constant(one) for one in found], "bbox"),
    }
    figures["objects"] = len(gt["annotations"])
    figures["found"] = sum(len(one) for one in found)
    figures["answers cut off"] = sum(one.truncated for one in found)
    figures["passes an object"] = round(
        sum(answer.passes for _, asked in answered for _, answer in asked)
        / max(1, figures["found"]),
        2,
    )
    figures["presence"] = presence_figures(count, answered)
    return figures


def decoding_figures(model: str, count: int) -> dict[str, Any]:
    """Return AP without the grammar."""
    detector = Detector(CLASSES, model=model, conf=0.0, constrained=False)
    found = [detector.read(frame, asked) for frame, asked in ask_all(detector, count)]
    return {"unconstrained": _average_precision(ground_truth(count, masks=False), found, "bbox")}


def presence_figures(
    count: int, answered: Sequence[tuple[Frame, list[Answered]]]
) -> dict[str, Any]:
    """Say how well two scores tell whether a class is in the picture at all."""
    there = iter(
        {item.label for item in scene.objects} for group in scenes(count) for scene in group
    )
    truth: list[bool] = []
    scores: dict[str, list[float]] = {"mass on locations": [], "1 - P(end first)": []}
    for (_, asked), labels in zip(answered, there, strict=True):
        for ask, answer in asked:
            if answer.presence is None or answer.eos_logprobs is None:
                continue
            truth.append(ask.classes[0] in labels)
            scores["mass on locations"].append(answer.presence)
            scores["1 - P(end first)"].append(1.0 - float(np.exp(answer.eos_logprobs[0])))
    figures: dict[str, Any] = {"asked": len(truth), "there": sum(truth)}
    for name, values in scores.items():
        figures[name] = separation(np.array(values), np.array(truth))
    return figures


def separation(
    scores: "np.ndarray[Any, np.dtype[np.float64]]", truth: "np.ndarray[Any, np.dtype[np.bool_]]"
) -> dict[str, float]:
    """Return the area under the ROC curve, and the best Matthews correlation with its threshold.

    Args:
        scores: ``(n,)``, larger for what should be true.
        truth: ``(n,)``.

    Example:
        >>> separation(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
        {'auroc': 0.75, 'mcc': 0.5774, 'at': 0.8}
    """
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return {}
    area = float(mannwhitneyu(scores[truth], scores[~truth]).statistic) / (positive * negative)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order]).astype(float)
    false = np.cumsum(~truth[order]).astype(float)
    product = (hits + false) * positive * negative * (positive + negative - hits - false)
    mcc = (hits * (negative - false) - false * (positive - hits)) / np.sqrt(np.maximum(product, 1))
    last = np.append(np.diff(scores[order]) != 0, True)  # equal scores fall together
    best = int(np.argmax(np.where(last, mcc, -1.0)))
    return {
        "auroc": round(area, 4),
        "mcc": round(float(mcc[best]), 4),
        "at": round(float(scores[order][best]), 4),
    }


def segmentation_figures(model: str, count: int) -> dict[str, Any]:
    """Return mask AP, and the ceiling that the codec allows."""
    gt = ground_truth(count, masks=True)
    segmenter = Segmenter(CLASSES, model=model, conf=0.0)
    answered = ask_all(segmenter, count)
    found = [segmenter.read(frame, asked) for frame, asked in answered]
    return {
        "ceiling of the codec": codec_ceiling(gt, segmenter.codec),
        "arg-max": _average_precision(gt, found, "segm"),
        "boxes of segment prompts": _average_precision(gt, found, "bbox"),
    }


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
        requests = [
            Request(picture=picture, prefix=prefix)
            for picture, scene in ((Picture(scene.image), scene) for scene in group)
            for prefix in _prefixes(scene)
        ]
        written = dict(engine.generate(requests))
        said = iter(written[number].text.strip() for number in range(len(requests)))
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
        "decoding": decoding_figures,
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
