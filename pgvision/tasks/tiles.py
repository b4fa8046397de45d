"""Objects found in parts of an image: tiles, and joining of what their borders cut."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np

from pgvision.arrays import BoolArray, FloatArray
from pgvision.errors import OptionError
from pgvision.tasks.run import Window

OVERLAP: Final = 0.2
_COVERED: Final = 0.5
"""Share of a fragment that must be inside another box to be merged into it."""
_ALIGNED: Final = 0.6
"""IoU of two fragments along the border that cut them; lower bound for joining."""
_AUTO_FROM: Final = 1.5  # times the model's resolution: smaller images are not cut
_AUTO_MOST: Final = 16  # tiles
_MOST: Final = 400  # tiles; more is a mistyped side
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Found:
    """One object of an answer.

    Attributes:
        loc_yxyx: Bins as written: top, left, bottom, right, counted in ``window``.
        codes: The 16 codes of its mask; empty without one.
        text: The model's own words; None if it wrote none.
        class_id: Index into the classes asked for; -1 if the label is none of them.
        label: The name that the user gave, else the model's words.
        xyxy: Left, top, right, bottom in pixels of the frame.
        score: In [0, 1], calibrated; None if unknown.
        edge_std: ``(4,)`` standard deviation of each edge in pixels, in the order of ``xyxy``.
        window: The part of the frame that the prompt was about; None: all of it.
        start, end: Place in the answers of the frame, joined by ``BETWEEN_ANSWERS``.
    """

    loc_yxyx: tuple[int, ...] = ()
    codes: tuple[int, ...] = ()
    text: str | None = None
    class_id: int = -1
    label: str | None = None
    xyxy: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    score: float | None = None
    edge_std: FloatArray | None = None
    window: Window | None = None
    start: int = 0
    end: int = 0


def tiles(
    image_hw: tuple[int, int], side: int, overlap: float = OVERLAP, *, most: int | None = _MOST
) -> list[Window]:
    """Cover an image with overlapping squares; the last ones are moved in from the border.

    Not supervision's ``InferenceSlicer`` (0.31): it calls back with the crops of one picture, so
    that tiles could not share a batch with the whole picture and with other prompts and frames; and
    what it merges are ``Detections``, which refuses unknown scores (``with_nms`` raises) and drops
    whatever differs from tile to tile, here the texts, the rejects and whether one was cut off.

    Args:
        image_hw: Height and width in pixels.
        side: Side of a tile in pixels.
        overlap: Share of a tile that it has in common with its neighbour, in [0, 1).
        most: More tiles are refused; None: any number.

    Returns:
        Left, top, right, bottom of each tile, row by row.

    Raises:
        OptionError: If these are more than ``most``.

    Example:
        >>> tiles((100, 250), 100)
        [(0, 0, 100, 100), (80, 0, 180, 100), (150, 0, 250, 100)]
    """
    height, width = image_hw
    step = max(1, round(side * (1 - overlap)))
    count = _count(image_hw, side, step)
    if most is not None and count > most:
        raise OptionError(
            f"tile: {side} pixels would cut {width}x{height} into {count} tiles, at most {most}; "
            f"use a larger side, or tile='auto'"
        )

    def starts(length: int) -> list[int]:
        last = max(0, length - side)
        return sorted({min(start, last) for start in range(0, last + step, step)})

    # Row by row.
    return [
        (left, top, min(left + side, width), min(top + side, height))
        for top in starts(height)
        for left in starts(width)
    ]


@lru_cache(maxsize=1024)
def auto_tile(image_hw: tuple[int, int], resolution: int) -> int | None:
    """Choose the side of tiles for ``tile="auto"``, and log the price once for each size.

    Args:
        image_hw: Height and width of the image.
        resolution: Side in pixels of the square that the model sees.

    Returns:
        None where the whole image suffices; else a side near the resolution, larger where that
        would be more than 16 tiles.

    Example:
        >>> auto_tile((480, 640), 448), auto_tile((1080, 1920), 448)
        (None, 504)
    """
    if max(image_hw) <= _AUTO_FROM * resolution:
        return None
    side = resolution
    # Enlarge the tiles until their number is acceptable.
    while (count := _count(image_hw, side, round(side * (1 - OVERLAP)))) > _AUTO_MOST:
        side += side // 8
    _LOG.info(
        "tile='auto': images of %dx%d are asked in %d tiles of %d pixels besides the whole, which "
        "takes about %d times as long",
        *(image_hw[1], image_hw[0], count, side, count + 1),
    )
    return side


def _count(image_hw: tuple[int, int], side: int, step: int) -> int:
    """Return the number of tiles of a side, ``step`` pixels apart."""
    rows, columns = (-(-max(length - side, 0) // step) + 1 for length in image_hw)
    return rows * columns


def join_fragments(found: Sequence[Found], image_hw: tuple[int, int]) -> list[Found]:
    """Make one object of the pieces that tile borders cut it into.

    A box that ends at a border which its tile has and the image has not is a fragment. It goes
    where a box of its label covers half of it; two fragments that meet across such a border, and
    agree along it, become one box with the better score. Fragments with masks are not joined: the
    largest stays.

    Args:
        found: Objects of the whole image and of its tiles, in pixels of the image.
        image_hw: Height and width of the image.

    Returns:
        What is left, in the order of ``found``.
    """
    # Repeat until nothing changes: joined fragments may reach a third one.
    left: list[Found | None] = list(found)
    changed = True
    while changed:
        changed = False
        for at, one in enumerate(left):
            if one is None or not _cut_sides(one, image_hw).any():
                continue
            for other_at, other in enumerate(left):
                if other is None or other_at == at or other.label != one.label:
                    continue
                whole = _merged(one, other, image_hw)
                if whole is not None:
                    left[other_at], left[at] = whole, None
                    changed = True
                    break
    return [one for one in left if one is not None]


def _cut_sides(one: Found, image_hw: tuple[int, int]) -> BoolArray:
    """Return which sides of a box (left, top, right, bottom) touch an inner border of its tile."""
    if one.window is None:
        return np.zeros(4, np.bool_)
    borders = np.array(one.window)
    sides = np.tile(borders[2:] - borders[:2], 2)
    # Bins end at 1023 of 1024: half a percent of the tile's side is "at the border".
    is_near = np.abs(np.array(one.xyxy) - borders) <= np.maximum(1.5, 0.005 * sides)
    cut: BoolArray = is_near & (borders != (0, 0, image_hw[1], image_hw[0]))
    return cut


def _merged(one: Found, other: Found, image_hw: tuple[int, int]) -> Found | None:
    """Return what becomes of a fragment and another object, or None if they are two."""
    if one.window == other.window:
        return None
    a, b = np.array(one.xyxy), np.array(other.xyxy)
    shared = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if (shared <= 0).any():
        return None
    mine, theirs = _cut_sides(one, image_hw), _cut_sides(other, image_hw)
    outer = np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])
    # 1. Two fragments continue each other across a border. Masks are not joined: each is encoded
    #    in its own box.
    has_masks = bool(one.codes or other.codes)
    for axis in (0, 1):
        across = 1 - axis
        meets = (mine[axis + 2] and theirs[axis]) or (mine[axis] and theirs[axis + 2])
        along = shared[across] / (outer[across + 2] - outer[across])
        if meets and not has_masks and along >= _ALIGNED:
            best = max((one, other), key=lambda item: item.score or 0.0)
            return _stretched(best, outer, one.window, other.window)
    # 2. A fragment inside a larger object is merged into it.
    areas = [float(np.prod(box[2:] - box[:2])) for box in (a, b)]
    covered = float(np.prod(shared)) / max(areas[0], 1e-9)
    if covered < _COVERED or (areas[1] < areas[0] and theirs.any()):
        return None
    # Where a border cuts the larger one, too, the fragment may go on.
    if has_masks or not (theirs & (outer != b)).any():
        return other
    return _stretched(other, np.where(theirs, outer, b), one.window, other.window)


def _stretched(one: Found, xyxy: FloatArray, first: Window | None, second: Window | None) -> Found:
    """Return an object with another box, found in two windows."""
    window = None
    if first is not None and second is not None:
        low, high = np.minimum(first, second).tolist(), np.maximum(first, second).tolist()
        window = (low[0], low[1], high[2], high[3])
    return replace(one, xyxy=tuple(xyxy.tolist()), window=window, edge_std=None)
