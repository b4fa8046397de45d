"""Draws what hides other things but has no name: poles, crates, balls."""

from typing import Final

from recipes.scenes.canvas import Canvas, Point, mixed, scaled
from recipes.scenes.dice import Dice

# fmt: off
_CRATES: Final = (
    (70, 110, 150), (90, 120, 146), (40, 150, 200), (110, 112, 114), (60, 60, 150), (140, 100, 60),
)
# fmt: on


def draw_pole(canvas: Canvas, dice: Dice, *, foot: Point, size: float) -> None:
    """Draw a pole that reaches out of the picture."""
    canvas.owner = 0
    x, y = foot
    tone = dice.pick(((96, 98, 100), (60, 100, 140), (40, 170, 220), (70, 70, 74)))
    wide = size * dice.between(0.05, 0.12)
    canvas.rectangle(x - wide, -10, x + wide, y, tone)
    canvas.rectangle(x + wide * 0.3, -10, x + wide, y, scaled(tone, 0.72))


def draw_crate(canvas: Canvas, dice: Dice, *, foot: Point, size: float) -> None:
    """Draw a crate of planks or, one time in four, a ball: round and bright, yet no helmet."""
    canvas.owner = 0
    x, y = foot
    tone = dice.pick(_CRATES)
    wide, high = size * dice.between(0.35, 0.6), size * dice.between(0.4, 0.9)
    if dice.chance(0.25):
        canvas.ellipse((x, y - high * 0.5), (high * 0.5, high * 0.5), tone)
        shine = (x - high * 0.1, y - high * 0.62)
        canvas.ellipse(shine, (high * 0.2, high * 0.16), mixed(tone, (255, 255, 255), 0.3))
        return
    left, right, top = x - wide, x + wide, y - high
    far, raised = x + wide * 1.2, y - high * 1.15
    canvas.rectangle(left, top, right, y, tone)
    lid = ((left, top), (x - wide * 0.8, raised), (far, raised), (right, top))
    canvas.convex(lid, scaled(tone, 1.2))
    end = ((right, top), (far, raised), (far, y - high * 0.15), (right, y))
    canvas.convex(end, scaled(tone, 0.65))
    planks = dice.whole(2, 5)
    for plank in range(1, planks):
        level = y - high * plank / planks
        canvas.line((left, level), (right, level), max(1.0, size * 0.015), scaled(tone, 0.7))
