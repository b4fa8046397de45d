"""Overlays on BGR pictures: boxes, labels, masks, contours, a caption below.

It takes arrays and knows nothing of results. Masks are drawn crop by crop, which is 15 times faster
than full-frame overlays. Colours are chosen by ``color_ids``: equal numbers share a colour, and -1
(no class, no track yet) is grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgvision.arrays import BoolArray, ByteArray, FloatArray, IntArray
from pgvision.errors import ShapeError

Crop = tuple[BoolArray, tuple[int, int]]
Color = tuple[int, int, int]  # blue, green, red

# Bright, apart from each other in hue and in lightness; grey, the last, is for id -1.
_HEX = (
    *("ffb000", "00b4d8", "fb5607", "70e000", "b5179e", "f9f871", "3a86ff", "ff6f91"),
    *("2a9d8f", "e63946", "9d4edd", "c8b6ff", "a47148", "90e0ef", "d4e157", "9e9e9e"),
)
_COLORS: tuple[Color, ...] = tuple(
    (int(code[4:], 16), int(code[2:4], 16), int(code[:2], 16)) for code in _HEX
)
# How much a place around a box (see `_around`) is disliked for itself.
_RANKS = np.array([0.0, 0.1, 0.15, 0.2, 0.3, 0.3, 0.35, 0.35, 0.5, 0.55])
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
    import cv2

    # The last column is w - 1: a line along the right border would fall outside the picture.
    last = np.array([bgr.shape[1] - 1, bgr.shape[0] - 1] * 2)
    corners = np.minimum(xyxy, last).astype(int).reshape(-1, 4).tolist()
    for color, (left, top, right, bottom) in zip(
        _colors_of(color_ids, len(xyxy)), corners, strict=True
    ):
        cv2.rectangle(bgr, (left, top), (right, bottom), color, thickness)
    return bgr


def draw_labels(
    bgr: ByteArray, xyxy: FloatArray, texts: Sequence[str], *, color_ids: IntArray
) -> ByteArray:
    """Write a text at each box: outside of it where there is room, and always touching it.

    Of the places around a box the one is taken that hides least of the boxes and of other texts.
    Texts beyond Latin letters are set with a font of the system, where it carries one.

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
    colors = _colors_of(color_ids, len(xyxy))
    if len(texts) != len(xyxy):
        raise ShapeError(f"texts must name all {len(xyxy)} boxes, got {len(texts)}")
    tags = [_tag(text, bgr.shape) for text in texts]
    sizes = np.array([tag.shape[::-1] for tag in tags], dtype=float).reshape(-1, 2)
    corners = _places(np.asarray(xyxy, dtype=float).reshape(-1, 4), sizes, bgr.shape[:2])
    for tag, color, (left, top) in zip(tags, colors, corners.tolist(), strict=True):
        # A tag larger than the picture loses its end, not its beginning.
        region = bgr[top : top + tag.shape[0], left : left + tag.shape[1]]
        ink = tag[: region.shape[0], : region.shape[1], None]
        region[:] = np.rint(np.array(color) * (1 - ink) + np.array(_ink_on(color)) * ink)
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
    colors = _colors_of(color_ids, len(crops))
    for row in sorted(range(len(crops)), key=lambda row: -int(crops[row][0].sum())):
        mask, region = crops[row][0], _region(bgr, crops[row])
        tint = np.array(colors[row], dtype=np.float32)
        mixed = region[mask] * np.float32(1 - opacity) + tint * np.float32(opacity)
        region[mask] = np.rint(mixed).astype(np.uint8)
    return bgr


def draw_contours(
    bgr: ByteArray, crops: Sequence[Crop], *, color_ids: IntArray, thickness: int
) -> ByteArray:
    """Draw the outlines of masks, those of holes included, so that they show on their own colour.

    An amber outline on a yellow helmet has a black rim, or, one pixel wide, is a darker amber.

    Args:
        bgr: ``(h, w, 3)`` uint8, writeable; it is drawn on.
        crops: ``n`` pairs: a bool mask, and the column and row of its left top corner.
        color_ids: ``(n,)`` whole numbers, see the module.
        thickness: Line width in pixels; from 2 on with a rim of a pixel or more on either side.

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

    colors = _colors_of(color_ids, len(crops))
    outlines = []
    for crop in crops:
        _region(bgr, crop)
        mask = crop[0].astype(np.uint8)
        outlines.append(cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[0])
    if thickness == 1:
        dark: list[Color] = [(blue // 2, green // 2, red // 2) for blue, green, red in colors]
        passes = [(dark, 1)]
    else:  # all rims first: none may cross the line of a neighbour
        rims: list[Color] = [(0, 0, 0)] * len(crops)
        passes = [(rims, thickness + 2 * max(1, thickness // 4)), (colors, thickness)]
    for inks, width in passes:
        for found, (_, origin), ink in zip(outlines, crops, inks, strict=True):
            cv2.drawContours(bgr, found, -1, ink, width, cv2.LINE_8, offset=origin)
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
    font = _font(size, latin=text.isascii())
    lines = _wrapped(text, font, max(1, width - 2 * margin))
    step = round(size * 1.35)
    bar = Image.new("RGB", (width, step * len(lines) + 2 * margin), (28, 28, 28))
    pen = ImageDraw.Draw(bar)
    for number, line in enumerate(lines):
        pen.text((margin, margin + number * step), line, font=font, fill=(245, 245, 245))
    return np.concatenate([bgr, np.asarray(bar)[..., ::-1]], axis=0)


def _colors_of(color_ids: IntArray, count: int) -> list[Color]:
    ids = np.asarray(color_ids)
    if ids.shape != (count,):
        raise ShapeError(f"color_ids must have shape ({count},), got {ids.shape}")
    grey = len(_COLORS) - 1
    return [_COLORS[grey if number < 0 else number % grey] for number in ids.tolist()]


def _ink_on(color: Color) -> Color:
    # Black on light colours, white on dark ones, by the usual weights of perceived lightness.
    blue, green, red = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def _tag(text: str, shape: tuple[int, ...]) -> FloatArray:
    """Set a text: how much ink is at each pixel, from 0 to 1, with its margin."""
    from PIL import Image, ImageDraw

    line = " ".join(text.split())
    size = max(8, round(_text_height(shape) * 1.3))
    font = _font(size, latin=line.isascii())
    ascent, descent = font.getmetrics()
    margin = max(1, size // 6)
    width = max(1, round(font.getlength(line))) + 2 * margin
    tag = Image.new("L", (width, ascent + descent + 2 * (margin // 2)))
    ImageDraw.Draw(tag).text((margin, margin // 2), line, font=font, fill=255)
    return np.asarray(tag, dtype=np.float32) / 255


def _places(boxes: NDArray[Any], sizes: NDArray[Any], image_hw: tuple[int, int]) -> NDArray[Any]:
    """Choose the left top corner of each tag; small boxes, which have least room, come first."""
    room = np.maximum(np.array(image_hw[::-1]) - sizes, 0)
    gap = fit_thickness(image_hw) // 2
    areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1.0)
    taken = np.zeros((0, 4))
    corners = np.zeros((len(boxes), 2), dtype=int)
    for row in np.argsort(areas, kind="stable"):
        around = np.clip(np.rint(_around(boxes[row], sizes[row], gap)), 0, room[row])
        tags = np.concatenate([around, around + sizes[row]], axis=1)
        hidden = np.minimum(_shared(tags, boxes) / areas, 1.0).sum(axis=1)
        crossed = _shared(tags, taken).sum(axis=1) / sizes[row].prod()
        best = int(np.argmin(4.0 * crossed + 2.0 * hidden + _RANKS))
        corners[row] = around[best]
        taken = np.concatenate([taken, tags[best : best + 1]])
    return corners


def _around(box: NDArray[Any], size: NDArray[Any], gap: int) -> NDArray[Any]:
    """List the left top corners of a tag around a box, the best liked first."""
    left, top, right, bottom = box
    width, height = size
    above, below = top - gap - height, bottom + gap + 1
    before, after = left - gap - width, right + gap + 1
    return np.array(
        [
            *((left - gap, above), (right + gap - width, above)),
            *((left - gap, below), (right + gap - width, below)),
            *((after, top), (before, top), (after, bottom - height), (before, bottom - height)),
            *((left, top), (left, bottom - height)),
        ]
    )


def _shared(some: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """Areas that rectangles have in common, ``(len(some), len(others))``."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    shared: NDArray[Any] = np.maximum(high - low, 0).prod(axis=2)
    return shared


def _text_height(shape: tuple[int, ...]) -> float:
    return float(np.clip(min(shape[:2]) / 48, 6, 60))


def _font_path() -> str | None:
    return next((path for path in _FONTS if Path(path).is_file()), None)


@lru_cache(maxsize=8)
def _font(size: int, *, latin: bool) -> Any:  # noqa: ANN401  # Pillow has no common base for its fonts
    from PIL import ImageFont

    path = None if latin else _font_path()
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
