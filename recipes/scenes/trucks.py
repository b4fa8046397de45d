"""Draws trucks from the side."""

from typing import Final

from recipes.scenes.canvas import Canvas, Point, mixed, scaled
from recipes.scenes.dice import Dice
from recipes.scenes.frames import Place, local_frame
from recipes.scenes.vocabulary import Colour

_LOADS: Final = ((118, 120, 122), (78, 92, 100), (150, 160, 165))
# fmt: off
_CAB: Final[tuple[tuple[tuple[Point, ...], Colour | None, float], ...]] = (
    (((0.36, 0.26), (0.36, 0.96), (0.42, 1.0), (0.74, 1.0), (0.9, 0.66), (0.98, 0.6),
      (0.98, 0.24)), None, 1.0),
    (((0.36, 0.26), (0.36, 0.36), (0.98, 0.36), (0.98, 0.24)), None, 0.72),
    (((0.5, 0.64), (0.5, 0.92), (0.72, 0.92), (0.84, 0.64)), (92, 76, 60), 1.0),
    (((0.56, 0.64), (0.64, 0.92), (0.7, 0.92), (0.62, 0.64)), (168, 150, 128), 1.0),
    (((0.48, 0.36), (0.48, 0.62), (0.495, 0.62), (0.495, 0.36)), None, 0.65),
    (((0.92, 0.44), (0.92, 0.53), (0.985, 0.53), (0.985, 0.44)), (190, 235, 248), 1.0),
    (((0.86, 0.2), (0.86, 0.28), (1.01, 0.28), (1.01, 0.2)), (60, 60, 62), 1.0),
)
# fmt: on
"""Cab, sill, window, its glint, door, lamp, bumper: outline, own colour or the truck's, gain."""


def draw_truck(
    canvas: Canvas,
    dice: Dice,
    colour: Colour,
    *,
    foot: Point,
    size: float,
    facing: int,
    light: float,
) -> None:
    """Draw a truck from the side, ``size`` pixels high and about 1.9 times as long."""
    place = local_frame(foot, size, 0.0, facing)
    kind = dice.weighted((0.5, 0.25, 0.25))
    load = colour if dice.chance(0.45) else dice.pick(_LOADS)
    _part(canvas, place, ((-0.95, 0.2), (-0.95, 0.32), (0.93, 0.32), (0.93, 0.2)), (46, 46, 50))
    if kind == 0:
        _draw_tipper(canvas, dice, place, load)
    elif kind == 1:
        _draw_box(canvas, place, load, mixed(load, colour, 0.8))
    else:
        _draw_flatbed(canvas, place, load)
    for points, fill, gain in _CAB:
        _part(canvas, place, points, fill or scaled(colour, gain))
    canvas.shade_owner(light * 0.6)
    for x in (-0.72, -0.32, 0.64) if dice.chance(0.5) else (-0.55, 0.64):
        for radius, fill in ((0.175, (34, 33, 34)), (0.1, (120, 120, 122)), (0.045, (60, 60, 62))):
            canvas.ellipse(place(x, 0.17), (size * radius, size * radius), fill)


def _part(canvas: Canvas, place: Place, points: tuple[Point, ...], fill: Colour) -> None:
    canvas.polygon([place(x, y) for x, y in points], fill)


def _draw_tipper(canvas: Canvas, dice: Dice, place: Place, load: Colour) -> None:
    tub = ((-0.98, 0.34), (-1.02, 0.86), (0.28, 0.9), (0.36, 0.78), (0.3, 0.34))
    _part(canvas, place, tub, load)
    rim = ((-1.02, 0.8), (-1.02, 0.87), (0.29, 0.91), (0.34, 0.83))
    _part(canvas, place, rim, scaled(load, 1.15))
    for x in (-0.72, -0.38, -0.04):
        rib = ((x, 0.36), (x, 0.82), (x + 0.05, 0.82), (x + 0.05, 0.36))
        _part(canvas, place, rib, scaled(load, 0.78))
    if dice.chance(0.6):
        heap = ((-0.9, 0.87), (-0.6, 1.0), (-0.25, 0.97), (0.05, 1.02), (0.25, 0.89))
        _part(canvas, place, heap, dice.pick(((70, 98, 128), (120, 124, 128), (56, 72, 92))))


def _draw_box(canvas: Canvas, place: Place, load: Colour, stripe: Colour) -> None:
    for low, high, inset, fill in (
        (0.34, 1.05, 0.0, load),
        (1.0, 1.05, 0.0, scaled(load, 0.8)),
        (0.55, 0.66, 0.1, stripe),
    ):
        left, right = -1.0 + inset, 0.32 - inset
        _part(canvas, place, ((left, low), (left, high), (right, high), (right, low)), fill)


def _draw_flatbed(canvas: Canvas, place: Place, load: Colour) -> None:
    for low, high, gain in ((0.34, 0.56, 0.9), (0.38, 0.4, 0.65), (0.47, 0.49, 0.65)):
        side = ((-1.0, low), (-1.0, high), (0.32, high), (0.32, low))
        _part(canvas, place, side, scaled(load, gain))
