"""Paints what lies behind everything: sky or wall, ground, and a few layers in between."""

import cv2
import numpy as np

from pgvision.arrays import ByteArray
from recipes.scenes.backdrops import INDOOR, OUTDOOR
from recipes.scenes.canvas import Canvas, mixed, scaled
from recipes.scenes.dice import Dice
from recipes.scenes.textures import cloud
from recipes.scenes.vocabulary import WALLS, Colour

_SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((225, 165, 95), (245, 225, 200)),
    ((235, 190, 130), (235, 235, 230)),
    ((200, 200, 196), (228, 228, 226)),
    ((150, 148, 142), (190, 190, 188)),
    ((120, 70, 60), (110, 150, 235)),
    ((90, 50, 40), (120, 110, 190)),
    ((70, 60, 50), (110, 105, 100)),
)
_GROUNDS: tuple[Colour, ...] = (
    (110, 142, 168),
    (92, 118, 140),
    (134, 138, 140),
    (105, 106, 108),
    (74, 84, 94),
    (80, 120, 98),
    (150, 172, 188),
    (60, 78, 100),
)


def paint_background(image: ByteArray, dice: Dice, horizon: float) -> None:
    """Paint a background into a BGR picture, in place.

    Args:
        image: ``(h, w, 3)`` uint8, contiguous.
        dice: Source of choices.
        horizon: Row of the horizon, as a share of the height.
    """
    canvas = Canvas(image, margin=(0.0, 0.0))
    height = image.shape[0]
    line = int(height * horizon)
    indoor = dice.chance(0.28)
    if indoor:
        line = min(height - 4, line + int(height * dice.between(0.05, 0.2)))
        wall = scaled(dice.pick(WALLS), dice.between(0.55, 1.15))
        _gradient(image[:line], scaled(wall, dice.between(0.8, 1.1)), wall)
        _texture(image[:line], dice, dice.between(0.08, 0.4), dice.between(0.4, 2.0))
    else:
        top, bottom = dice.pick(_SKIES)
        _gradient(image[:line], top, bottom)
        _texture(image[:line], dice, dice.between(0.0, 0.28), dice.between(0.3, 0.9), 0.6)
    ground = scaled(dice.pick(_GROUNDS), dice.between(0.65, 1.2))
    _gradient(
        image[line:],
        scaled(ground, dice.between(0.85, 1.15)),
        scaled(ground, dice.between(0.75, 1.1)),
    )
    _texture(image[line:], dice, dice.between(0.12, 0.5), dice.between(0.8, 2.4), 2.5)
    layers = INDOOR if indoor else OUTDOOR
    for _ in range(dice.whole(1, 3)):
        layers[dice.weighted([weight for weight, _ in layers])][1](canvas, dice, line)
    _ground_marks(canvas, dice, line)


def _gradient(region: ByteArray, top: Colour, bottom: Colour) -> None:
    if region.shape[0] == 0:
        return
    column = np.linspace(np.array(top, np.float32), np.array(bottom, np.float32), region.shape[0])
    region[:] = column.astype(np.uint8)[:, None, :]


def _texture(region: ByteArray, dice: Dice, amount: float, zoom: float, flat: float = 1.0) -> None:
    """Add cloud noise; ``flat`` > 1 stretches it sideways, as a ground seen at a slant is."""
    height, width = region.shape[:2]
    if height < 2 or width < 2:
        return
    bank = cloud()
    wide = max(8, min(1024, int(width * zoom / flat)))
    high = max(8, min(1024, int(height * zoom)))
    left, top = dice.whole(0, 1024 - wide), dice.whole(0, 1024 - high)
    patch = cv2.resize(
        bank[top : top + high, left : left + wide], (width, height), interpolation=cv2.INTER_LINEAR
    )
    layer = cv2.merge((patch, patch, patch))
    cv2.addWeighted(region, 1.0, layer, amount, -128.0 * amount, dst=region)


def _ground_marks(canvas: Canvas, dice: Dice, line: int) -> None:
    below = canvas.height - line
    for _ in range(dice.whole(0, 5)):
        depth = dice.between(0.05, 1.0)
        centre = (canvas.width * dice.between(0, 1), line + below * depth)
        radii = (
            canvas.width * dice.between(0.03, 0.14),
            below * depth * dice.between(0.015, 0.06) + 1,
        )
        tone = dice.pick(((70, 80, 92), (160, 170, 178), (96, 110, 122), (120, 150, 176)))
        canvas.ellipse(centre, radii, tone, dice.between(-5, 5))
    if dice.chance(0.2):
        x = canvas.width * dice.between(0.2, 0.8)
        spread = canvas.width * dice.between(0.02, 0.06)
        far, near = (
            x + canvas.width * dice.between(-0.1, 0.1),
            x + canvas.width * dice.between(-0.5, 0.5),
        )
        tone = mixed((130, 132, 134), (40, 190, 230), dice.between(0, 1))
        canvas.convex(
            (
                (far - spread * 0.1, line),
                (far + spread * 0.1, line),
                (near + spread, canvas.height),
                (near - spread, canvas.height),
            ),
            tone,
        )
