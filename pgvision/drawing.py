"""Overlays on BGR images: boxes, labels, masks, contours, a caption below.

Functions take arrays. Masks are drawn crop by crop, which is 15 times faster than full-frame
overlays. ``color_ids`` choose colours: equal numbers share a colour, and -1 (no class, no track
yet) is grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgvision.arrays import BoolArray, ByteArray, FloatArray, IntArray
from pgvision.errors import ShapeError
from pgvision.fonts import Letters, fit_font_size

Crop = tuple[BoolArray, tuple[int, int]]
Color = tuple[int, int, int]  # blue, green, red

# Bright, and far apart in hue and lightness; grey, the last, is for id -1.
_HEX = (
    *("ffb000", "00b4d8", "fb5607", "70e000", "b5179e", "f9f871", "3a86ff", "ff6f91"),
    *("2a9d8f", "e63946", "9d4edd", "c8b6ff", "a47148", "90e0ef", "d4e157", "9e9e9e"),
)
_COLORS: tuple[Color, ...] = tuple(
    (int(code[4:], 16), int(code[2:4], 16), int(code[:2], 16)) for code in _HEX
)
# Cost of each place around a box (see `_around`), in parts of a hidden label.
_RANKS = np.array([0.0, 0.1, 0.15, 0.2, 0.3, 0.3, 0.35, 0.35, 0.5, 0.55])


def fit_thickness(image_hw: tuple[int, int]) -> int:
    """Choose a line width that fits the size of the image.

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

    # The last column is w - 1: a line at x = w would fall outside the image.
    last = np.array([bgr.shape[1] - 1, bgr.shape[0] - 1] * 2)
    corners = np.minimum(xyxy, last).astype(int).reshape(-1, 4).tolist()
    for color, (left, top, right, bottom) in zip(
        _colors_of(color_ids, len(xyxy)), corners, strict=True
    ):
        cv2.rectangle(bgr, (left, top), (right, bottom), color, thickness)
    return bgr


def draw_labels(
    bgr: ByteArray,
    xyxy: FloatArray,
    texts: Sequence[str],
    *,
    color_ids: IntArray,
    suffixes: Sequence[str] | None = None,
    font: str | Path | None = None,
    font_size: int | None = None,
) -> ByteArray:
    """Write a text at each box: outside of it if it fits there, and always touching it.

    Of the places around a box the one is chosen that hides least of the boxes and of other texts.

    Args:
        bgr: ``(h, w, 3)`` uint8, writeable; it is drawn on.
        xyxy: ``(n, 4)`` pixels: left, top, right, bottom.
        texts: ``n`` texts. One that is wider than the image is shortened.
        color_ids: ``(n,)`` whole numbers, see the module.
        suffixes: ``n`` endings that are never shortened (scores).
        font: A font file (.ttf, .otf, .ttc) that is preferred; by default see `pgvision.fonts`.
        font_size: Height of the letters in pixels; by default it fits the image, at least 11.

    Returns:
        ``bgr``.

    Raises:
        ShapeError: If there is not one text, number and suffix for each box.

    Example:
        >>> canvas = np.zeros((60, 80, 3), np.uint8)
        >>> box = np.array([[10, 30, 40, 50]])
        >>> draw_labels(canvas, box, ["cone"], color_ids=np.array([0])).any()
        np.True_
    """
    # 1. One text, colour and suffix for each box.
    colors = _colors_of(color_ids, len(xyxy))
    endings = [""] * len(texts) if suffixes is None else list(suffixes)
    if len(texts) != len(xyxy) or len(endings) != len(xyxy):
        raise ShapeError(f"texts must name all {len(xyxy)} boxes, got {len(texts)}")
    # 2. Set the texts, place the tags, and blend them in.
    letters = Letters(font_size or fit_font_size(bgr.shape), font)
    tags = [
        letters.tag(text, ending, bgr.shape[1]) for text, ending in zip(texts, endings, strict=True)
    ]
    sizes = np.array([tag.shape[::-1] for tag in tags], dtype=float).reshape(-1, 2)
    corners = _places(np.asarray(xyxy, dtype=float).reshape(-1, 4), sizes, bgr.shape[:2])
    for tag, color, (left, top) in zip(tags, colors, corners.tolist(), strict=True):
        # A tag larger than the image loses its end, not its beginning.
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
        ShapeError: If a crop reaches beyond the image, or ``color_ids`` does not number each.

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
    """Draw the outlines of masks, those of holes included, visible on their own colour.

    An outline has a black rim (amber on a yellow helmet), or, one pixel wide, is a darker colour.

    Args:
        bgr: ``(h, w, 3)`` uint8, writeable; it is drawn on.
        crops: ``n`` pairs: a bool mask, and the column and row of its left top corner.
        color_ids: ``(n,)`` whole numbers, see the module.
        thickness: Line width in pixels; from 2 on with a rim of a pixel or more on either side.

    Returns:
        ``bgr``.

    Raises:
        ShapeError: If a crop reaches beyond the image, or ``color_ids`` does not number each.

    Example:
        >>> canvas = np.zeros((60, 80, 3), np.uint8)
        >>> crop = (np.ones((5, 4), bool), (10, 20))
        >>> draw_contours(canvas, [crop], color_ids=np.array([0]), thickness=1)[22, 11].any()
        np.False_
    """
    import cv2

    colors = _colors_of(color_ids, len(crops))
    # 1. Find the outlines, within the crops.
    outlines = []
    for crop in crops:
        _region(bgr, crop)
        mask = crop[0].astype(np.uint8)
        outlines.append(cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[0])
    # 2. Draw them.
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


def with_caption(
    bgr: ByteArray, text: str, *, font: str | Path | None = None, font_size: int | None = None
) -> ByteArray:
    """Add a dark bar with a text below the image, wrapped to its width.

    Args:
        bgr: ``(h, w, 3)`` uint8; it is not changed.
        text: Any text; its line breaks are kept.
        font: As in `draw_labels`.
        font_size: As in `draw_labels`.

    Returns:
        A new image of the same width, taller by the bar.

    Example:
        >>> with_caption(np.zeros((90, 160, 3), np.uint8), "two workers").shape[1]
        160
    """
    from PIL import Image, ImageDraw

    # 1. Break the text into lines of the image's width.
    width = bgr.shape[1]
    letters = Letters(font_size or round(1.2 * fit_font_size(bgr.shape)), font)
    margin = letters.size // 2
    lines = letters.wrap(text, max(1, width - 2 * margin))
    # 2. Draw the bar, and join it to the image.
    step = round(letters.size * 1.35)
    bar = Image.new("RGB", (width, step * len(lines) + 2 * margin), (28, 28, 28))
    pen = ImageDraw.Draw(bar)
    for number, line in enumerate(lines):
        letters.draw(pen, line, (margin, margin + number * step), (245, 245, 245))
    return np.concatenate([bgr, np.asarray(bar)[..., ::-1]], axis=0)


def _colors_of(color_ids: IntArray, count: int) -> list[Color]:
    ids = np.asarray(color_ids)
    if ids.shape != (count,):
        raise ShapeError(f"color_ids must have shape ({count},), got {ids.shape}")
    grey = len(_COLORS) - 1
    return [_COLORS[grey if number < 0 else number % grey] for number in ids.tolist()]


def _ink_on(color: Color) -> Color:
    # Black on light colours, white on dark ones, by the luma weights of Rec. 601.
    blue, green, red = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def _places(boxes: NDArray[Any], sizes: NDArray[Any], image_hw: tuple[int, int]) -> NDArray[Any]:
    """Choose the left top corner of each tag; small boxes have the least space and come first."""
    room = np.maximum(np.array(image_hw[::-1]) - sizes, 0)
    gap = fit_thickness(image_hw) // 2
    areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1.0)
    taken = np.zeros((0, 4))
    corners = np.zeros((len(boxes), 2), dtype=int)
    for row in np.argsort(areas, kind="stable"):
        # Candidates around the box, moved into the image.
        around = np.clip(np.rint(_around(boxes[row], sizes[row], gap)), 0, room[row])
        tags = np.concatenate([around, around + sizes[row]], axis=1)
        # Cost: overlap with other tags, share of boxes covered, and a fixed preference.
        hidden = np.minimum(_shared(tags, boxes) / areas, 1.0).sum(axis=1)
        crossed = _shared(tags, taken).sum(axis=1) / sizes[row].prod()
        best = int(np.argmin(4.0 * crossed + 2.0 * hidden + _RANKS))
        corners[row] = around[best]
        taken = np.concatenate([taken, tags[best : best + 1]])
    return corners


def _around(box: NDArray[Any], size: NDArray[Any], gap: int) -> NDArray[Any]:
    """List the left top corners of a tag around a box, the preferred first."""
    # Above, below, beside, then inside: the order of `_RANKS`.
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
    """Return the shared areas of rectangles, ``(len(some), len(others))``."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    shared: NDArray[Any] = np.maximum(high - low, 0).prod(axis=2)
    return shared


def _region(bgr: ByteArray, crop: Crop) -> ByteArray:
    mask, (x0, y0) = crop
    height, width = mask.shape
    region = bgr[y0 : y0 + height, x0 : x0 + width]
    if min(x0, y0) < 0 or region.shape[:2] != mask.shape:
        raise ShapeError(
            f"a mask of {mask.shape} at column {x0}, row {y0} reaches beyond {bgr.shape[:2]}"
        )
    return region
