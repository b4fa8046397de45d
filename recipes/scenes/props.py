"""Draws what stands around on a site: cones, barrels, ladders, and clutter without a name."""

import math
from typing import Final

from recipes.scenes.canvas import Canvas, Point, mixed, scaled
from recipes.scenes.dice import Dice
from recipes.scenes.frames import Place, local_frame
from recipes.scenes.vocabulary import Colour

_WHITE: Final = (238, 238, 238)
# fmt: off
_SLAB: Final = (
    (-0.38, 0.0), (-0.34, 0.09), (0.34, 0.09), (0.38, 0.0), (0.3, -0.05), (-0.3, -0.05),
)
# fmt: on


def draw_cone(
    canvas: Canvas, dice: Dice, colour: Colour, *, foot: Point, size: float, light: float
) -> None:
    """Draw a striped cone of this height in pixels; one in twelve lies on its side."""
    fallen = dice.chance(0.08)
    angle = dice.between(78, 96) * dice.sign() if fallen else dice.between(-4, 4)
    if fallen:
        foot = (foot[0], foot[1] - size * 0.25)
    place = local_frame(foot, size, angle)
    base = (40, 40, 44) if dice.chance(0.4) else scaled(colour, 0.75)
    canvas.polygon([place(x, y) for x, y in _SLAB], base)
    _draw_ring(canvas, place, (0.07, 0.99), colour, light)
    bands = ((0.34, 0.62),) if dice.chance(0.5) else ((0.26, 0.42), (0.58, 0.74))
    for band in bands:
        _draw_ring(canvas, place, band, _WHITE, light)
    canvas.ellipse(place(0, 0.99), (size * 0.045, size * 0.02), scaled(colour, 0.7), angle)


def _draw_ring(
    canvas: Canvas, place: Place, rows: tuple[float, float], fill: Colour, light: float
) -> None:
    """Draw the part of a cone between two heights, with a lighter stripe towards the light."""
    low, high = rows
    wide, narrow = 0.255 * (1.0 - low) + 0.045, 0.255 * (1.0 - high) + 0.045
    left = [(-wide, low), (-narrow, high)]
    right = [(narrow, high), (wide, low), (0.0, low - 0.045 * (1.0 - low))]
    canvas.polygon([place(x, y) for x, y in left + right], fill)
    lit = [(wide * light * k, low) for k in (0.15, 0.6)]
    lit += [(narrow * light * k, high) for k in (0.6, 0.15)]
    canvas.convex([place(x, y) for x, y in lit], mixed(fill, (255, 255, 255), 0.22))


def draw_barrel(
    canvas: Canvas,
    dice: Dice,
    colour: Colour,
    *,
    foot: Point,
    size: float,
    light: float,
) -> None:
    """Draw a drum of this height in pixels, plain with ribs or with white bands."""
    place = local_frame(foot, size)
    half, lift = 0.33, 0.085
    arc = [
        (math.cos(step * math.pi / 10) * half, -math.sin(step * math.pi / 10) * lift)
        for step in range(11)
    ]

    def ring(low: float, high: float, fill: Colour, grow: float = 1.0) -> None:
        bottom = [(x * grow, y + low) for x, y in arc]
        top = [(x * grow, y + high) for x, y in reversed(arc)]
        canvas.polygon([place(x, y) for x, y in bottom + top], fill)

    ring(lift, 0.93, colour)
    if dice.chance(0.45):
        for low in (0.3, 0.62):
            ring(low, low + 0.16, _WHITE)
    else:
        for low in (0.33, 0.63):
            ring(low, low + 0.035, scaled(colour, 0.72), 1.03)
            ring(low + 0.02, low + 0.04, scaled(colour, 1.2), 1.03)
    canvas.shade_owner(light)
    canvas.ellipse(place(0, 0.93), (half * size, lift * size), scaled(colour, 1.12))
    canvas.ellipse(place(0, 0.925), (half * size * 0.86, lift * size * 0.8), scaled(colour, 0.78))
    canvas.ellipse(place(0.12, 0.93), (size * 0.045, size * 0.016), (40, 40, 42))


def draw_ladder(canvas: Canvas, dice: Dice, colour: Colour, *, foot: Point, size: float) -> None:
    """Draw a leaning ladder; the whole outline is its mask, gaps between rungs included."""
    lean = dice.between(-0.3, 0.3)
    wide, taper = dice.between(0.11, 0.15), dice.between(0.78, 1.0)
    place = local_frame(foot, size)
    bottom_left, bottom_right = place(-wide, 0), place(wide, 0.01)
    top_left, top_right = place(lean - wide * taper, 1.0), place(lean + wide * taper, 0.99)
    canvas.claim((bottom_left, bottom_right, top_right, top_left))
    thick = size * 0.03
    rungs = dice.whole(7, 10)
    for rung in range(rungs):
        share = (rung + 0.6) / rungs
        left, right = _along(bottom_left, top_left, share), _along(bottom_right, top_right, share)
        canvas.line(left, right, thick * 0.75, scaled(colour, 0.85))
        under_left, under_right = (
            (left[0], left[1] + thick * 0.35),
            (right[0], right[1] + thick * 0.35),
        )
        canvas.line(under_left, under_right, thick * 0.25, scaled(colour, 0.5))
    for low, high in ((bottom_left, top_left), (bottom_right, top_right)):
        canvas.line(low, high, thick * 1.2, colour)
        canvas.line(
            (low[0] + thick * 0.35, low[1]),
            (high[0] + thick * 0.35, high[1]),
            thick * 0.4,
            scaled(colour, 0.62),
        )


def _along(start: Point, end: Point, share: float) -> Point:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share
