"""Draws signs: a board, its letters and its post."""

from functools import cache

import cv2
import numpy as np

from pgvision.arrays import ByteArray
from recipes.scenes.canvas import Canvas, Point, scaled
from recipes.scenes.dice import Dice
from recipes.scenes.frames import local_frame
from recipes.scenes.vocabulary import Colour


def board_width(text: str, font: int, text_height: float) -> float:
    """Return the width of a board that holds the text at this height, pixels."""
    page = _lettering(text, font)
    aspect = float(page.shape[1]) / float(page.shape[0])
    return max(1.9, aspect + 1.0) * text_height


def draw_sign(
    canvas: Canvas,
    dice: Dice,
    colours: tuple[Colour, Colour],
    text: str,
    *,
    centre: Point,
    text_height: float,
    font: int,
    post_to: float | None,
) -> None:
    """Draw a board with a text.

    Args:
        canvas: Where to draw; the board gets its owner, the post belongs to nobody.
        dice: Source of the shape and the tilt.
        colours: Board and letters.
        text: What it says.
        centre: Middle of the board, pixels.
        text_height: Height of the capital letters, pixels.
        font: 0 or 1.
        post_to: Pixel row that the post reaches down to, or None for a hanging board.
    """
    board, ink = colours
    wide = board_width(text, font, text_height) / 2
    high = text_height * dice.between(0.88, 1.15)
    angle = dice.between(-5, 5)
    place = local_frame(centre, 1.0, angle)
    owner = canvas.owner
    if post_to is not None:
        canvas.owner = 0
        _draw_post(canvas, place(0, -high), post_to, text_height)
    canvas.owner = owner
    cut = high * dice.pick((0.0, 0.18, 0.42))
    border = ink if dice.chance(0.6) else scaled(board, 0.7)
    for shrink, fill in ((0.0, border), (text_height * 0.12, board)):
        corners = _outline(wide - shrink, high - shrink, max(0.0, cut - shrink * 0.4))
        canvas.convex([place(x, y) for x, y in corners], fill)
    canvas.owner = None
    _stamp(canvas, text, font, centre, text_height, angle, ink)


def _draw_post(canvas: Canvas, top: Point, bottom: float, text_height: float) -> None:
    canvas.line(top, (top[0], bottom), text_height * 0.28, (120, 122, 124))
    right = top[0] + text_height * 0.08
    canvas.line((right, top[1]), (right, bottom), text_height * 0.08, (74, 76, 78))


def _outline(x: float, y: float, cut: float) -> list[Point]:
    """Return a rectangle of these half sides with its corners cut off."""
    right = [(x - cut, y), (x, y - cut), (x, -y + cut), (x - cut, -y)]
    return [(-x + cut, y), *right, (-x + cut, -y), (-x, -y + cut), (-x, y - cut)]


def _stamp(
    canvas: Canvas, text: str, font: int, centre: Point, height: float, angle: float, ink: Colour
) -> None:
    """Lay the letters over the picture; they change no id."""
    page = _lettering(text, font)
    gain = height / page.shape[0]
    if gain < 0.5:
        # warpAffine samples without averaging: halve the rest only, or thin strokes drop out.
        shrunk = cv2.resize(page, None, fx=gain * 2, fy=gain * 2, interpolation=cv2.INTER_AREA)
        page, gain = shrunk.astype(np.uint8), 0.5
    reach_x, reach_y = page.shape[1] * gain / 2 + 4, height / 2 + 4 + page.shape[1] * gain * 0.06
    left, top = max(0, int(centre[0] - reach_x)), max(0, int(centre[1] - reach_y))
    right, bottom = int(centre[0] + reach_x) + 1, int(centre[1] + reach_y) + 1
    crop = canvas.image[top : max(top, bottom), left : max(left, right)]
    if crop.size == 0:
        return
    move = cv2.getRotationMatrix2D((page.shape[1] / 2, page.shape[0] / 2), -angle, gain)
    move[0, 2] += centre[0] - left - page.shape[1] / 2
    move[1, 2] += centre[1] - top - page.shape[0] / 2
    cover = cv2.warpAffine(page, move, (crop.shape[1], crop.shape[0]), flags=cv2.INTER_LINEAR)
    share = cover.astype(np.float32)[:, :, None] * (1.0 / 255.0)
    crop[:] = (crop + (np.array(ink, np.float32) - crop) * share).astype(np.uint8)


@cache
def _lettering(text: str, font: int) -> ByteArray:
    """Return a text as a tight gray picture, 64 pixels high, white on black."""
    face = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX)[font]
    thick = (9, 7)[font]
    (width, height), below = cv2.getTextSize(text, face, 2.4, thick)
    page = np.zeros((height + below + 40, width + 60), np.uint8)
    cv2.putText(page, text, (30, height + 20), face, 2.4, 255, thick, cv2.LINE_AA)
    left, top, wide, high = cv2.boundingRect(page)
    return np.ascontiguousarray(page[top : top + high, left : left + wide])
