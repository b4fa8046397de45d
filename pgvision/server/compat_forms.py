"""Answers in the forms of Roboflow's inference and Hugging Face's pipelines."""

import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from pgvision.boxes import xyxy_to_cxcywh
from pgvision.results import DetectionResult, SegmentationResult


def is_asked(result: DetectionResult) -> list[int]:
    """Return the rows with a label that was asked for.

    Example:
        >>> is_asked(DetectionResult(image_hw=(9, 9), xyxy=[[1, 2, 3, 4]], labels=["cat"],
        ...                          class_ids=[-1], classes=["helmet"]))
        []
    """
    rows: list[int] = np.flatnonzero(result.class_ids >= 0).tolist()
    return rows


def roboflow_form(result: DetectionResult, timings: Mapping[str, float]) -> dict[str, Any]:
    """Return the JSON of Roboflow's inference (`supervision.Detections.from_inference`).

    ``points`` are the mask's outer ring with the largest area; ``other_parts`` counts those that
    the form has no place for. An unknown score is 1: the form has no other value for it.

    Example:
        >>> result = DetectionResult(image_hw=(40, 60), xyxy=[[10, 20, 30, 40]], labels=["helmet"],
        ...                          class_ids=[0], classes=["helmet"])
        >>> roboflow_form(result, {})["predictions"][0]["x"]
        20.0
    """
    predictions: list[dict[str, Any]] = []
    boxes = xyxy_to_cxcywh(result.xyxy).tolist()
    for row in is_asked(result):
        entry: dict[str, Any] = dict(zip(("x", "y", "width", "height"), boxes[row], strict=True))
        entry["confidence"] = 1.0 if result.scores is None else float(result.scores[row])
        entry |= {"class": result.labels[row] or "", "class_id": int(result.class_ids[row])}
        entry["detection_id"] = str(uuid.uuid4())
        if isinstance(result, SegmentationResult):
            (outline,) = result[row].polygons(tolerance=0.5)
            # Roboflow has one polygon for an object: the largest part.
            parts = sorted(outline.geoms, key=lambda part: -float(part.area))
            ring = np.asarray(parts[0].exterior.coords)[:-1].tolist() if parts else []
            entry["points"] = [{"x": x, "y": y} for x, y in ring]
            if len(parts) > 1:
                entry["other_parts"] = len(parts) - 1
        predictions.append(entry)
    height, width = result.image_hw
    return {
        "time": timings.get("total"),
        "image": {"width": width, "height": height},
        "predictions": predictions,
    }


def hugging_face_form(result: DetectionResult) -> list[dict[str, Any]]:
    """Return the JSON of a zero-shot-object-detection pipeline, the best object first.

    Example:
        >>> result = DetectionResult(image_hw=(40, 60), xyxy=[[10, 20, 30, 40]], labels=["helmet"],
        ...                          class_ids=[0], classes=["helmet"], scores=[0.5])
        >>> hugging_face_form(result)
        [{'score': 0.5, 'label': 'helmet', 'box': {'xmin': 10, 'ymin': 20, 'xmax': 30, 'ymax': 40}}]
    """
    corners = ("xmin", "ymin", "xmax", "ymax")
    boxes = result.xyxy.tolist()
    found = [
        {
            "score": None if result.scores is None else float(result.scores[row]),
            "label": result.labels[row],
            "box": dict(zip(corners, map(round, boxes[row]), strict=True)),
        }
        for row in is_asked(result)
    ]
    return sorted(found, key=lambda entry: -(entry["score"] or 0.0))
