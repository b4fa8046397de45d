"""Results as JSON: COCO's words for objects, and everything else that is known of the answer."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from pgvision.boxes import xyxy_to_xywh
from pgvision.coco import annotation_entry, image_entry
from pgvision.results import Answer, DetectionResult, SegmentationResult, TextResult


def answer_body(
    result: Answer,
    *,
    task: str,
    model: str,
    notes: Sequence[str],
    timings: Mapping[str, float],
    masks: str = "rle",
    annotated: bool = False,
) -> dict[str, Any]:
    """Return the JSON of an answer.

    For objects it is a COCO file of one image (``images``, ``categories``, ``annotations`` with
    ``score``) and more; for texts it has ``text`` and ``score``.

    Args:
        result: What a task made of the answers.
        task: Its name.
        model: Who answered.
        notes: What the caller should know.
        timings: Seconds by phase that the result does not know: queue, decoding.
        masks: "rle" or "polygons".
        annotated: Whether to send the annotated picture along.

    Example:
        >>> body = answer_body(TextResult(image_hw=(4, 6), text="2"), task="ask", model="tiny",
        ...                    notes=(), timings={})
        >>> body["text"], body["images"][0]["width"]
        ('2', 6)
    """
    body: dict[str, Any] = {
        "task": task,
        "model": model,
        "images": [image_entry(1, result.source or "image", result.image_hw)],
    }
    if isinstance(result, DetectionResult):
        body |= _objects(result, masks)
    elif isinstance(result, TextResult):
        body |= {"text": result.text, "score": result.score, "language": result.language}
    known = result.to_dict()
    body |= {key: known[key] for key in ("prefix", "raw_text", "rejects", "truncated")}
    body["notes"] = [*notes, *_losses(result)]
    body["timings"] = {**timings, **result.timings}
    if annotated and isinstance(result, DetectionResult | TextResult):
        _, coded = cv2.imencode(".jpg", result.plot())
        body["annotated"] = f"data:image/jpeg;base64,{base64.b64encode(bytes(coded)).decode()}"
    return body


def rings_of(result: SegmentationResult, row: int) -> list[list[float]]:
    """Return the outer rings of one mask as COCO has them: x, y, x, y, ... in pixels."""
    (shape,) = result[row].polygons(tolerance=0.5)
    return [np.asarray(part.exterior.coords)[:-1].ravel().tolist() for part in shape.geoms]


def _objects(result: DetectionResult, masks: str) -> dict[str, Any]:
    boxes = xyxy_to_xywh(result.xyxy).tolist()
    runs = result.rle() if isinstance(result, SegmentationResult) else None
    annotations: list[dict[str, Any]] = []
    for row, class_id in enumerate(result.class_ids.tolist()):
        if class_id < 0:
            continue
        shape: Any = None if runs is None else runs[row]
        area = float(result.area[row]) if isinstance(result, SegmentationResult) else None
        if isinstance(result, SegmentationResult) and masks == "polygons":
            shape = rings_of(result, row)
        entry = annotation_entry(
            len(annotations) + 1, 1, class_id + 1, boxes[row], area=area, segmentation=shape
        )
        entry |= {"label": result.labels[row], "text": result.texts[row]}
        if result.scores is not None:
            entry["score"] = float(result.scores[row])
        if result.edge_std is not None:
            entry["edge_std"] = result.edge_std[row].tolist()
        annotations.append(entry)
    names = [{"id": number, "name": name} for number, name in enumerate(result.classes, 1)]
    presence = None if result.presence is None else dict(result.presence)
    return {"categories": names, "annotations": annotations, "presence": presence}


def _losses(result: Answer) -> list[str]:
    if not isinstance(result, DetectionResult):
        return []
    strange = [str(result.texts[row]) for row in np.flatnonzero(result.class_ids < 0)]
    return [f"left out, none of the classes asked for: {', '.join(strange)}"] if strange else []
