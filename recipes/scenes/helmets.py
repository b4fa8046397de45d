"""Draws a hard hat, on a head or on the ground."""

import math
from typing import Final

from recipes.scenes.canvas import Canvas, Point, mixed, scaled
from recipes.scenes.frames import Place, local_frame
from recipes.scenes.vocabulary import Colour

_TALL: Final = 1.02
_ARC: Final = [(math.cos(step * math.pi / 14), math.sin(step * math.pi / 14)) for step in range(15)]
_DOME: Final = [(x * 0.96, y * _TALL) for x, y in _ARC]
# fmt: off
_SIDE_BRIM: Final = [
    (-0.98, -0.02), (-0.98, -0.17), (0.6, -0.19), (1.38, -0.24), (1.42, -0.14), (0.9, 0.03),
]
_FRONT_BRIM: Final = [
    (-1.1, -0.04), (-1.06, -0.16), (-0.6, -0.25), (0.6, -0.25),
    (1.06, -0.16), (1.1, -0.04), (0.6, 0.04), (-0.6, 0.04),
]
# fmt: on


def draw_helmet(
    canvas: Canvas,
    colour: Colour,
    at: Point,
    half_width: float,
    *,
    light: float,
    facing: int,
    angle: float,
    ridge: bool,
) -> None:
    """Draw a hard hat.

    Args:
        canvas: Where to draw; the owner must be set.
        colour: BGR.
        at: Middle of the rim, pixels.
        half_width: Half the width of the dome, pixels.
        light: From -1 (light from the left) to 1 (from the right).
        facing: -1 or 1 for a helmet seen from the side, 0 from the front.
        angle: Tilt in degrees, clockwise.
        ridge: Draw a ridge along the top.
    """
    place = local_frame(at, half_width, angle)
    _draw_dome(canvas, colour, place, light)
    if ridge:
        _draw_ridge(canvas, scaled(colour, 0.93), place, half_width, facing)
    _draw_brim(canvas, colour, place, facing)
    canvas.ellipse(
        place(light * 0.42, 0.62),
        (half_width * 0.17, half_width * 0.1),
        mixed(colour, (255, 255, 255), 0.7),
        angle + light * 38,
    )


def _draw_dome(canvas: Canvas, colour: Colour, place: Place, light: float) -> None:
    rim = [place(-0.96, -0.12), place(0.96, -0.12)]
    canvas.convex([place(x, y) for x, y in _DOME] + rim, colour)
    lit = [place(-0.6 * light - 0.2, 0.1), place(-0.6 * light + 0.2, 0.1)]
    canvas.convex([place(x, y) for x, y in _DOME[2:13]] + lit, scaled(colour, 1.07))
    dark = _DOME[8:] if light > 0 else _DOME[:7]
    inner = -0.42 if light > 0 else 0.42
    canvas.polygon(
        [place(x, y) for x, y in dark] + [place(inner * 2.2, -0.1), place(inner * 1.3, 0.4)],
        scaled(colour, 0.82),
    )


def _draw_ridge(
    canvas: Canvas, colour: Colour, place: Place, half_width: float, facing: int
) -> None:
    if facing:
        top = [place(x * 0.8, y * _TALL * 1.06 + 0.02) for x, y in _ARC[2:13]]
        low = [place(x * 0.78, y * _TALL * 0.93) for x, y in reversed(_ARC[2:13])]
        canvas.polygon(top + low, colour)
    else:
        radii = (half_width * 0.13, half_width * 0.1)
        canvas.limb(place(0, 0.2), place(0, _TALL), radii, colour)


def _draw_brim(canvas: Canvas, colour: Colour, place: Place, facing: int) -> None:
    brim, flip = (_SIDE_BRIM if facing else _FRONT_BRIM), facing or 1
    canvas.polygon([place(x * flip, y) for x, y in brim], scaled(colour, 0.88))
    edge = [(x * flip, y) for x, y in (brim[1:4] if facing else brim[1:5])]
    under = [place(x, y + 0.07) for x, y in reversed(edge)]
    canvas.polygon([place(x, y) for x, y in edge] + under, scaled(colour, 0.6))
