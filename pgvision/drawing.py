"""Overlays on BGR pictures: boxes, labels, masks, contours, a caption below.

It takes arrays and knows nothing of results. Boxes and labels go through supervision's annotators;
masks are drawn crop by crop, which is 15 times faster than full-frame overlays. Colours are chosen
by ``color_ids``: equal numbers share a colour, and -1 (no class, no track yet) is grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pgvision.arrays import BoolArray, ByteArray, FloatArray, IntArray
from pgvision.errors import ShapeError

if TYPE_CHECKING:
    import supervision as sv

Crop = tuple[BoolArray, tuple[int, int]]

# Bright, apart from each other in hue and in lightness; grey, the last, is for id -1.
_COLORS = (
    *("#ffb000", "#00b4d8", "#fb5607", "#70e000", "#b5179e", "#f9f871", "#3a86ff", "#ff6f91"),
    *("#2a9d8f", "#e63946", "#9d4edd", "#c8b6ff", "#a47148", "#90e0ef", "#d4e157", "#9e9e9e"),
)
# Pillow's own font has Latin letters alone. These have more, where the system carries them.
_FONTS = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/noto/NotoSans-Regular.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/System/Library/Fonts/Supplemental/Arial Unicode.ttf",
    "C:/Windows/Fonts/arial.ttf",
)


def fit_thickness(image_hw: tuple[int, int]) -> int:
    """Choose a line width that looks alike on small and large pictures.

    Args:
        image_hw: Height and width in pixels.

    Returns:
        Pixels, at least 1.

    Example:
        >>> fit_thickness((480, 640)), fit_thickness((2160, 3840))
        (2, 8)
    """
    return max(1, round(min(image_hw) / 270))


def draw_boxes(
    bgr: ByteArray, xyxy: FloatArray, *, color_ids: IntArray, thickness: int
) -> ByteArray:
    """Draw boxes onto ``bgr`` itself.

    Args:
        bgr: ``(h, w, 3)`` uint8, writeable.
        xyxy: ``(n, 4)`` pixels: left, top, right, bottom.
        color_ids: ``(n,)`` whole numbers, see the module.
        thickness: Line width in pixels.

    Returns:
        ``bgr``.

    Raises:
        ShapeError: If ``color_ids`` does not number every box.

    Example:
        >>> canvas = np.zeros((60, 80, 3), np.uint8)
        >>> _ = draw_boxes(
        ...     canvas, np.array([[10, 10, 40, 30]]), color_ids=np.array([0]), thickness=1)
        >>> canvas[10, 10].any(), canvas[20, 20].any()
        (np.True_, np.False_)
    """
    import supervision as sv

    lookup = _lookup(color_ids, len(xyxy))
    annotator = sv.BoxAnnotator(color=_palette(), thickness=thickness)
    annotator.annotate(bgr, _detections(bgr, xyxy), custom_color_lookup=lookup)
    return bgr


def draw_labels(
    bgr: ByteArray, xyxy: FloatArray, texts: Sequence[str], *, color_ids: IntArray
) -> ByteArray:
    """Write a text above each box, moved so that it stays in the picture and off other texts.

    Texts beyond ASCII are set with a font of the system, or Pillow's own (Latin letters alone).

    Args:
        bgr: ``(h, w, 3)`` uint8, writeable; it is drawn on.
        xyxy: ``(n, 4)`` pixels: left, top, right, bottom.
        texts: ``n`` texts.
        color_ids: ``(n,)`` whole numbers, see the module.

    Returns:
        ``bgr``.

    Raises:
        ShapeError: If there is not one text and one number for each box.

    Example:
        >>> canvas = np.zeros((60, 80, 3), np.uint8)
        >>> box = np.array([[10, 30, 40, 50]])
        >>> draw_labels(canvas, box, ["cone"], color_ids=np.array([0])).any()
        np.True_
    """
    import supervision as sv

    lookup = _lookup(color_ids, len(xyxy))
    if len(texts) != len(xyxy):
        raise ShapeError(f"texts must name all {len(xyxy)} boxes, got {len(texts)}")
    if not texts:
        return bgr
    detections = _detections(bgr, xyxy)
    height = _text_height(bgr.shape)
    shared: dict[str, Any] = {
        "color": _palette(),
        "text_color": _ink(),
        "text_padding": max(2, round(height / 4)),
        "smart_position": True,
    }
    lines = [" ".join(text.split()) for text in texts]
    annotator: sv.LabelAnnotator | sv.RichLabelAnnotator
    if all(line.isascii() for line in lines):
        # 22 pixels are the height of a capital in OpenCV's font at scale 1.
        weight = max(1, round(height / 11))
        annotator = sv.LabelAnnotator(text_scale=height / 22, text_thickness=weight, **shared)
    else:
        size = round(height * 1.3)
        annotator = sv.RichLabelAnnotator(font_path=_font_path(), font_size=size, **shared)
    annotator.annotate(bgr, detections, labels=lines, custom_color_lookup=lookup)
    return bgr


def draw_masks(
    bgr: ByteArray, crops: Sequence[Crop], *, color_ids: IntArray, opacity: float = 0.45
) -> ByteArray:
    """Tint the pixels of each object, the largest first, so that small ones stay visible.

    Args:
        bgr: ``(h, w, 3)`` uint8, writeable; it is drawn on.
        crops: ``n`` pairs: a bool mask, and the column and row of its left top corner.
        color_ids: ``(n,)`` whole numbers, see the module.
        opacity: Share of the colour, from 0 to 1.

    Returns:
        ``bgr``.

    Raises:
        ShapeError: If a crop reaches beyond the picture, or ``color_ids`` does not number each.

    Example:
        >>> canvas = np.zeros((60, 80, 3), np.uint8)
        >>> crop = (np.ones((5, 4), bool), (10, 20))
        >>> int(draw_masks(canvas, [crop], color_ids=np.array([0])).any(axis=2).sum())
        20
    """
    lookup = _lookup(color_ids, len(crops))
    for row in sorted(range(len(crops)), key=lambda row: -int(crops[row][0].sum())):
        mask, region = crops[row][0], _region(bgr, crops[row])
        tint = np.array(_palette().by_idx(int(lookup[row])).as_bgr(), dtype=np.float32)
        mixed = region[mask] * np.float32(1 - opacity) + tint * np.float32(opacity)
        region[mask] = np.rint(mixed).astype(np.uint8)
    return bgr


def draw_contours(
    bgr: ByteArray, crops: Sequence[Crop], *, color_ids: IntArray, thickness: int
) -> ByteArray:
    """Draw the outlines of masks, those of holes included.

    Args:
        bgr: ``(h, w, 3)`` uint8, writeable; it is drawn on.
        crops: ``n`` pairs: a bool mask, and the column and row of its left top corner.
        color_ids: ``(n,)`` whole numbers, see the module.
        thickness: Line width in pixels.

    Returns:
        ``bgr``.

    Raises:
        ShapeError: If a crop reaches beyond the picture, or ``color_ids`` does not number each.

    Example:
        >>> canvas = np.zeros((60, 80, 3), np.uint8)
        >>> crop = (np.ones((5, 4), bool), (10, 20))
        >>> draw_contours(canvas, [crop], color_ids=np.array([0]), thickness=1)[22, 11].any()
        np.False_
    """
    import cv2

    lookup = _lookup(color_ids, len(crops))
    for row, (mask, origin) in enumerate(crops):
        _region(bgr, crops[row])
        found = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[0]
        color = _palette().by_idx(int(lookup[row])).as_bgr()
        cv2.drawContours(bgr, found, -1, color, thickness, cv2.LINE_8, offset=origin)
    return bgr


def with_caption(bgr: ByteArray, text: str) -> ByteArray:
    """Put a text into a dark bar below the picture, wrapped to its width.

    Args:
        bgr: ``(h, w, 3)`` uint8; it is not changed.
        text: Any text; its line breaks are kept.

    Returns:
        A new picture of the same width, taller by the bar.

    Example:
        >>> with_caption(np.zeros((90, 160, 3), np.uint8), "two workers").shape[1]
        160
    """
    from PIL import Image, ImageDraw

    width = bgr.shape[1]
    size = max(10, round(_text_height(bgr.shape) * 1.6))
    margin = size // 2
    font = _font(size)
    lines = _wrapped(text, font, max(1, width - 2 * margin))
    step = round(size * 1.35)
    bar = Image.new("RGB", (width, step * len(lines) + 2 * margin), (28, 28, 28))
    pen = ImageDraw.Draw(bar)
    for number, line in enumerate(lines):
        pen.text((margin, margin + number * step), line, font=font, fill=(245, 245, 245))
    return np.concatenate([bgr, np.asarray(bar)[..., ::-1]], axis=0)


def _detections(bgr: ByteArray, xyxy: FloatArray) -> sv.Detections:
    import supervision as sv

    # The last column is w - 1: a line along the right border would fall outside the picture.
    height, width = bgr.shape[:2]
    inside = np.minimum(xyxy, np.array([width - 1, height - 1] * 2)).reshape(-1, 4)
    return sv.Detections(xyxy=inside)


def _lookup(color_ids: IntArray, count: int) -> NDArray[np.int_]:
    ids = np.asarray(color_ids)
    if ids.shape != (count,):
        raise ShapeError(f"color_ids must have shape ({count},), got {ids.shape}")
    grey = len(_COLORS) - 1
    return np.where(ids < 0, grey, ids % grey).astype(np.int_)


@lru_cache
def _palette() -> sv.ColorPalette:
    import supervision as sv

    return sv.ColorPalette.from_hex(list(_COLORS))


@lru_cache
def _ink() -> sv.ColorPalette:
    # Black on light colours, white on dark ones, by the usual weights of perceived lightness.
    import supervision as sv

    light = [0.299 * c.r + 0.587 * c.g + 0.114 * c.b > 140 for c in _palette().colors]
    return sv.ColorPalette.from_hex(["#000000" if each else "#ffffff" for each in light])


def _text_height(shape: tuple[int, ...]) -> float:
    return float(np.clip(min(shape[:2]) / 48, 8, 60))


def _font_path() -> str | None:
    return next((path for path in _FONTS if Path(path).is_file()), None)


@lru_cache(maxsize=8)
def _font(size: int) -> Any:  # noqa: ANN401  # Pillow has no common base for its fonts
    from PIL import ImageFont

    path = _font_path()
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


def _wrapped(text: str, font: Any, width: int) -> list[str]:  # noqa: ANN401
    lines = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def _region(bgr: ByteArray, crop: Crop) -> ByteArray:
    mask, (x0, y0) = crop
    height, width = mask.shape
    region = bgr[y0 : y0 + height, x0 : x0 + width]
    if min(x0, y0) < 0 or region.shape[:2] != mask.shape:
        raise ShapeError(
            f"a mask of {mask.shape} at column {x0}, row {y0} reaches beyond {bgr.shape[:2]}"
        )
    return region
