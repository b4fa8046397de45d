"""Random views of an image: a crop, mirrored or not, in another light."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from pgvision.arrays import BoolArray, ByteArray, FloatArray

VISIBLE: Final = 0.4
"""Visible share; objects below it are left out of the answer."""
GONE: Final = 0.02
"""Visible share; objects below it count as absent."""
_CROPPED: Final = 0.5  # share of the views that are a crop
_LEAST_SIDE: Final = 0.5  # least side of a crop, as a share of the image's
_LIGHT: Final = 0.25  # greatest relative change of brightness


@dataclass(frozen=True)
class View:
    """A crop of an image and its change of colours.

    Attributes:
        window: Left, top, right, bottom in whole pixels.
        mirrored: Whether left and right change places.
        gains: Factors of blue, green and red.
        offset: Added to all of them.
    """

    window: tuple[int, int, int, int]
    mirrored: bool = False
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: float = 0.0

    def image(self, bgr: ByteArray, *, max_side: int | None = None) -> ByteArray:
        """Return ``(h, w, 3)`` of the view.

        Args:
            bgr: The whole image.
            max_side: Sides that are longer than this are reduced to it, each by itself, since the
                model's input is a square; boxes as shares of the image stay valid.
        """
        left, top, right, bottom = self.window
        part = bgr[top:bottom, left:right]
        size = tuple(min(side, max_side or side) for side in part.shape[1::-1])
        if size != part.shape[1::-1]:
            part = cv2.resize(part, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        part = part[:, ::-1] if self.mirrored else part
        if self.gains != (1.0, 1.0, 1.0) or self.offset:
            table = np.arange(256)[:, None] * np.array(self.gains) + self.offset
            light = table.clip(0, 255).astype(np.uint8)[None]
            part = cv2.LUT(np.ascontiguousarray(part), light).astype(np.uint8)
        return np.ascontiguousarray(part)

    def mask(self, mask: BoolArray) -> BoolArray:
        """Return a mask ``(h, w)`` of the view."""
        left, top, right, bottom = self.window
        part = mask[top:bottom, left:right]
        return part[:, ::-1] if self.mirrored else part

    def boxes(self, xyxy: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return boxes ``(n, 4)`` inside the view, and the share of each that is left, ``(n,)``."""
        left, top, right, bottom = self.window
        width, height = right - left, bottom - top
        moved = xyxy - np.array([left, top, left, top])
        if self.mirrored:
            moved = moved[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [width, 0, width, 0]
        inside = np.clip(moved, 0, [width, height, width, height])
        areas = np.maximum((xyxy[:, 2:] - xyxy[:, :2]).prod(1), 1e-9)
        return inside, (inside[:, 2:] - inside[:, :2]).prod(1) / areas


def whole(image_hw: tuple[int, int]) -> View:
    """Return the view of the whole image, unchanged."""
    return View((0, 0, image_hw[1], image_hw[0]))


def draw_view(image_hw: tuple[int, int], rng: np.random.Generator, *, geometric: bool) -> View:
    """Draw a view.

    Args:
        image_hw: Height and width of the image.
        rng: Source of randomness.
        geometric: Whether to mirror and crop; the light changes in any case.
    """
    height, width = image_hw
    window, mirrored = (0, 0, width, height), False
    if geometric:
        mirrored = bool(rng.random() < 0.5)
        if rng.random() < _CROPPED:
            sides = np.maximum(1, rng.uniform(_LEAST_SIDE, 1.0, 2) * (width, height)).astype(int)
            left, top = (int(rng.integers(0, most + 1)) for most in (width, height) - sides)
            window = (left, top, left + int(sides[0]), top + int(sides[1]))
    shared = 1.0 + rng.uniform(-_LIGHT, _LIGHT)
    blue, green, red = (float(shared * (1 + rng.normal(0, 0.04))) for _ in range(3))
    return View(window, mirrored, (blue, green, red), float(rng.uniform(-20, 20)))
