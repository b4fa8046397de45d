"""A result as a picture, and a result as a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pgvision import drawing
from pgvision.arrays import BoolArray, ByteArray, IntArray
from pgvision.errors import OptionError
from pgvision.files import replaced_path, write_text
from pgvision.results.answer import Answer
from pgvision.results.checks import require_count
from pgvision.results.objects import Objects

_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True, kw_only=True)
class Style:
    """What `plot` draws; see there.

    Example:
        >>> Style(scores=False).labels
        True
    """

    boxes: bool = True
    labels: bool = True
    scores: bool = True
    masks: bool = True
    contours: bool = True
    color_by: Literal["class", "track", "index"] = "class"
    thickness: int | None = None

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            OptionError: If ``color_by`` or ``thickness`` is outside what it may be.
        """
        if self.color_by not in ("class", "track", "index"):
            raise OptionError(f"color_by must be class, track or index, got {self.color_by!r}")
        if self.thickness is not None and require_count(self.thickness, "thickness") == 0:
            raise OptionError("thickness must be at least 1; use boxes=False to draw no boxes")


def plot_objects(
    picture: ByteArray,
    result: Objects,
    style: Style,
    mask_crops: list[tuple[BoolArray, tuple[int, int]]] | None = None,
) -> ByteArray:
    """See `DetectionResult.plot`."""
    canvas = picture.copy()
    color_ids = _color_ids(result, style.color_by)
    thickness = style.thickness or drawing.fit_thickness(result.image_hw)
    if mask_crops is not None and style.masks:
        drawing.draw_masks(canvas, mask_crops, color_ids=color_ids)
    if mask_crops is not None and style.contours:
        drawing.draw_contours(canvas, mask_crops, color_ids=color_ids, thickness=thickness)
    if style.boxes:
        drawing.draw_boxes(canvas, result.xyxy, color_ids=color_ids, thickness=thickness)
    if style.labels:
        drawing.draw_labels(canvas, result.xyxy, _captions(result, style), color_ids=color_ids)
    return canvas


def jpeg_bytes(bgr: ByteArray) -> bytes:
    """Encode a picture as JPEG, in memory.

    A notebook keeps what it shows: the PNG of a photograph is four times larger.

    Returns:
        The bytes of the file.

    Example:
        >>> jpeg_bytes(np.zeros((2, 2, 3), np.uint8))[:2].hex()
        'ffd8'
    """
    import cv2

    _, encoded = cv2.imencode(".jpg", bgr)
    return bytes(encoded)


def save_result(
    result: Answer, path: Path, plot: Callable[[], ByteArray], *, endings: tuple[str, ...] = ()
) -> Path:
    """Write a result as a picture or as JSON, as the ending says.

    Args:
        result: The result.
        path: Where to.
        plot: Draws the picture, if one is wanted.
        endings: Further endings that the caller takes, for the error.

    Returns:
        ``path``.

    Raises:
        OptionError: If the ending is unknown.
    """
    import cv2

    ending = path.suffix.lower()
    if ending == ".json":
        write_text(path, result.to_json(indent=2) + "\n")
        return path
    if ending not in _PICTURES:
        known = ", ".join((*_PICTURES, ".json", *endings))
        raise OptionError(f"cannot save to {str(path)!r}: its ending must be one of {known}")
    _, encoded = cv2.imencode(ending, plot())
    with replaced_path(path) as aside:
        aside.write_bytes(bytes(encoded))
    return path


def _color_ids(result: Objects, color_by: str) -> IntArray:
    if color_by == "class":
        return result.class_ids
    if color_by == "index":
        return np.arange(len(result))
    if result.tracker_ids is None:
        raise OptionError("color_by='track' needs tracker_ids; see result.with_trackers(ids)")
    return result.tracker_ids


def _captions(result: Objects, style: Style) -> list[str]:
    captions = []
    for row, label in enumerate(result.labels):
        parts = [label or "unnamed"]
        if result.tracker_ids is not None and result.tracker_ids[row] >= 0:
            parts.append(f"#{result.tracker_ids[row]}")
        if style.scores and result.scores is not None:
            parts.append(f"{result.scores[row]:.2f}")
        captions.append(" ".join(parts))
    return captions
