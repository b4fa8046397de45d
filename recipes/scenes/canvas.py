"""The picture under the brush, and beside it a buffer that says whose pixel each pixel is."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from pgvision.arrays import ByteArray
from recipes.scenes.vocabulary import Colour

Point = tuple[float, float]

_SHIFT = 4
_ONE = 1 << _SHIFT


def scaled(colour: Colour, gain: float) -> Colour:
    """Return a colour made lighter (gain > 1) or darker (gain < 1)."""
    blue, green, red = colour
    return (
        min(255, int(blue * gain)),
        min(255, int(green * gain)),
        min(255, int(red * gain)),
    )


def mixed(first: Colour, second: Colour, share: float) -> Colour:
    """Return ``first`` with this share of ``second``."""
    keep = 1.0 - share
    return (
        int(first[0] * keep + second[0] * share),
        int(first[1] * keep + second[1] * share),
        int(first[2] * keep + second[2] * share),
    )


class Canvas:
    """A BGR picture plus an id buffer; every shape is drawn into both.

    The id buffer reaches beyond the picture on each side, so that the area of an object that is
    cut off by the border is still known.

    Args:
        image: ``(h, w, 3)`` uint8 BGR, contiguous; drawn into in place.
        margin: How far the id buffer reaches beyond the picture, as shares of height and width.

    Attributes:
        image: ``(h, w, 3)`` uint8 BGR.
        margin_x: Margin of the id buffer left and right, pixels.
        margin_y: Margin above and below, pixels.
        ids: ``(h + 2 * margin, w + 2 * margin)`` uint8; 0 belongs to nobody.
        owner: The id that shapes are drawn with; None leaves the id buffer alone.
    """

    def __init__(self, image: ByteArray, *, margin: tuple[float, float] = (0.25, 0.25)) -> None:
        height, width = image.shape[:2]
        self.image = image
        self.margin_x = int(width * margin[1])
        self.margin_y = int(height * margin[0])
        self.ids: ByteArray = np.zeros(
            (height + 2 * self.margin_y, width + 2 * self.margin_x), np.uint8
        )
        self._offset = np.array([self.margin_x * _ONE, self.margin_y * _ONE], np.int32)
        self.owner: int | None = None

    @property
    def height(self) -> int:
        """Height of the picture in pixels."""
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        """Width of the picture in pixels."""
        return int(self.image.shape[1])

    @property
    def visible_ids(self) -> ByteArray:
        """The part of the id buffer that lies inside the picture."""
        return self.ids[
            self.margin_y : self.margin_y + self.height, self.margin_x : self.margin_x + self.width
        ]

    def convex(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill a convex polygon."""
        fixed = np.array([(x * _ONE, y * _ONE) for x, y in points], np.float32).astype(np.int32)
        cv2.fillConvexPoly(self.image, fixed, colour, cv2.LINE_AA, _SHIFT)
        if self.owner is not None:
            cv2.fillConvexPoly(self.ids, fixed + self._offset, self.owner, cv2.LINE_8, _SHIFT)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill any polygon."""
        fixed = np.array([(x * _ONE, y * _ONE) for x, y in points], np.float32).astype(np.int32)
        cv2.fillPoly(self.image, [fixed], colour, cv2.LINE_AA, _SHIFT)
        if self.owner is not None:
            cv2.fillPoly(self.ids, [fixed + self._offset], self.owner, cv2.LINE_8, _SHIFT)

    def claim(self, points: Sequence[Point]) -> None:
        """Give a convex polygon to the owner without painting it."""
        if self.owner is not None:
            fixed = np.array([(x * _ONE, y * _ONE) for x, y in points], np.float32)
            cv2.fillConvexPoly(
                self.ids, fixed.astype(np.int32) + self._offset, self.owner, cv2.LINE_8, _SHIFT
            )

    def ellipse(
        self, centre: Point, radii: tuple[float, float], colour: Colour, angle: float = 0.0
    ) -> None:
        """Fill an ellipse; the angle is in degrees, clockwise."""
        x, y = int(centre[0] * _ONE), int(centre[1] * _ONE)
        axes = (max(1, int(radii[0] * _ONE)), max(1, int(radii[1] * _ONE)))
        cv2.ellipse(self.image, (x, y), axes, angle, 0, 360, colour, -1, cv2.LINE_AA, _SHIFT)
        if self.owner is not None:
            there = (x + int(self._offset[0]), y + int(self._offset[1]))
            cv2.ellipse(self.ids, there, axes, angle, 0, 360, self.owner, -1, cv2.LINE_8, _SHIFT)

    def limb(self, start: Point, end: Point, radii: tuple[float, float], colour: Colour) -> None:
        """Fill a tapered capsule from ``start`` to ``end``."""
        across_x, across_y = end[1] - start[1], start[0] - end[0]
        length = math.hypot(across_x, across_y) or 1.0
        across_x, across_y = across_x / length, across_y / length
        first, second = radii
        self.convex(
            (
                (start[0] + across_x * first, start[1] + across_y * first),
                (end[0] + across_x * second, end[1] + across_y * second),
                (end[0] - across_x * second, end[1] - across_y * second),
                (start[0] - across_x * first, start[1] - across_y * first),
            ),
            colour,
        )
        self.ellipse(start, (first, first), colour)
        self.ellipse(end, (second, second), colour)

    def rectangle(
        self, left: float, top: float, right: float, bottom: float, colour: Colour
    ) -> None:
        """Fill an upright rectangle."""
        self.convex(((left, top), (right, top), (right, bottom), (left, bottom)), colour)

    def block(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fill an upright rectangle with whole pixels, for backgrounds; quicker, not smoothed."""
        cv2.rectangle(self.image, (int(left), int(top)), (int(right), int(bottom)), colour, -1)

    def line(self, start: Point, end: Point, thickness: float, colour: Colour) -> None:
        """Draw a straight bar."""
        across_x, across_y = end[1] - start[1], start[0] - end[0]
        length = math.hypot(across_x, across_y) or 1.0
        dx, dy = across_x / length * thickness / 2, across_y / length * thickness / 2
        self.convex(
            (
                (start[0] + dx, start[1] + dy),
                (end[0] + dx, end[1] + dy),
                (end[0] - dx, end[1] - dy),
                (start[0] - dx, start[1] - dy),
            ),
            colour,
        )

    def shadow(self, centre: Point, radii: tuple[float, float], strength: float) -> None:
        """Darken an ellipse on the ground; belongs to nobody and hides nobody."""
        left, top = max(0, int(centre[0] - radii[0]) - 2), max(0, int(centre[1] - radii[1]) - 2)
        right, bottom = int(centre[0] + radii[0]) + 3, int(centre[1] + radii[1]) + 3
        crop = self.image[top : max(top, bottom), left : max(left, right)]
        if crop.size == 0:
            return
        dark = crop.copy()
        inside = (int((centre[0] - left) * _ONE), int((centre[1] - top) * _ONE))
        axes = (max(1, int(radii[0] * _ONE)), max(1, int(radii[1] * _ONE)))
        cv2.ellipse(dark, inside, axes, 0, 0, 360, (18, 16, 16), -1, cv2.LINE_AA, _SHIFT)
        cv2.addWeighted(dark, strength, crop, 1.0 - strength, 0.0, dst=crop)

    def shade(self, first: int, last: int, light: float) -> None:
        """Round off everything owned by ids ``first..last``: bright on one side, dark on the other.

        Args:
            first: Lowest id.
            last: Highest id.
            light: From -1 (light from the left) to 1 (from the right).
        """
        visible = cv2.inRange(self.visible_ids, first, last)
        left, top, width, height = cv2.boundingRect(visible)
        if width < 3 or height < 3:
            return
        across = np.linspace(-1.0, 1.0, width, dtype=np.float32)
        gain = 1.06 - 0.20 * (across - light * 0.55) ** 2
        crop = self.image[top : top + height, left : left + width]
        row = np.repeat(gain[:, None], 3, axis=1)[None]
        lit = cv2.multiply(crop, np.broadcast_to(row, crop.shape).copy(), dtype=cv2.CV_8U)
        cv2.copyTo(lit, visible[top : top + height, left : left + width], crop)

    def shade_owner(self, light: float) -> None:
        """Round off everything that the present owner has drawn; see ``shade``."""
        if self.owner is not None:
            self.shade(self.owner, self.owner, light)

    def area(self, first: int, last: int) -> int:
        """Count the pixels owned by ids ``first..last``, the margin included."""
        return int(cv2.countNonZero(cv2.inRange(self.ids, first, last)))
