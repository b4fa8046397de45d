"""The lines that any form of a report begins with: who, on what, how many, how well."""

from collections.abc import Mapping
from typing import Any


def shown_figure(value: float | None) -> str:
    """Three digits, or a dash for what is undefined.

    Example:
        >>> shown_figure(0.25), shown_figure(-1.0)
        ('0.250', '-')
    """
    return "-" if value is None or value == -1 else f"{value:.3f}"


def kept_above(content: Mapping[str, Any]) -> str:
    """Which predictions count where a threshold is asked for.

    Example:
        >>> kept_above({"threshold": 0.25})
        'score >= 0.250'
    """
    threshold = content["threshold"]
    return "all predictions" if threshold is None else f"score >= {threshold:.3f}"


def headline(content: Mapping[str, Any]) -> tuple[str, str]:
    """Two lines: model, data and counts; AP, mean F1 and the thresholds that they hang on.

    Args:
        content: What ``DetectionReport.to_dict`` gives.
    """
    who = " on ".join(filter(None, (content["model"], content["data"])))
    what = "boxes" if content["iou_type"] == "bbox" else "masks"
    counts = (
        f"{what} of {content['num_images']} images: {content['num_annotations']} annotations "
        f"({content['num_crowds']} crowds), {content['num_detections']} detections"
    )
    if content["conf"] is not None:
        counts += f" of score >= {content['conf']:.3f}"
    parts = []
    if content["stats"] is not None:
        parts += [f"{name} {shown_figure(content['stats'][name])}" for name in ("AP", "AP50")]
    if content["ap_interval"] is not None:
        low, high = content["ap_interval"]["ap"]
        parts.append(f"AP in any order {shown_figure(low)} to {shown_figure(high)}")
    if content["mean_f1"] is not None:
        figure = shown_figure(content["mean_f1"])
        parts.append(f"mean F1 over IoU 0.5:0.95 {figure} ({kept_above(content)})")
    return ": ".join(filter(None, (who, counts))), ", ".join(parts)
