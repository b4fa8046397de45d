"""Words of a detection report that its tables and its figure share."""

from collections.abc import Mapping
from typing import Any


def shown_number(value: float | None) -> str:
    """Format a number with three digits, or a dash where it is undefined.

    Example:
        >>> shown_number(0.25), shown_number(-1.0)
        ('0.250', '-')
    """
    return "-" if value is None or value == -1 else f"{value:.3f}"


def shown_threshold(content: Mapping[str, Any]) -> str:
    """Return which predictions count where a threshold is needed.

    Example:
        >>> shown_threshold({"threshold": 0.25})
        'score >= 0.250'
    """
    threshold = content["threshold"]
    return "all predictions" if threshold is None else f"score >= {threshold:.3f}"


def summary(content: Mapping[str, Any]) -> tuple[str, str]:
    """Return two lines: model, data and counts; AP, mean F1 and their thresholds.

    Args:
        content: By ``DetectionReport.to_dict``.
    """
    subject = " on ".join(filter(None, (content["model"], content["data"])))
    kind = "boxes" if content["iou_type"] == "bbox" else "masks"
    counts = (
        f"{kind} of {content['num_images']} images: {content['num_annotations']} annotations "
        f"({content['num_crowds']} crowds), {content['num_detections']} detections"
    )
    if content["conf"] is not None:
        counts += f" of score >= {content['conf']:.3f}"
    parts = []
    if content["stats"] is not None:
        parts += [f"{name} {shown_number(content['stats'][name])}" for name in ("AP", "AP50")]
    if content["mean_f1"] is not None:
        value = shown_number(content["mean_f1"])
        parts.append(f"mean F1 over IoU 0.5:0.95 {value} ({shown_threshold(content)})")
    return ": ".join(filter(None, (subject, counts))), ", ".join(parts)
