"""Draws a worker: legs, torso, vest, arms, head, helmet."""

import math

from recipes.scenes.canvas import Canvas, Point, mixed, scaled
from recipes.scenes.helmets import draw_helmet
from recipes.scenes.outfits import Outfit
from recipes.scenes.vocabulary import HELMET_COLOURS, VEST_COLOURS, Colour

BODY, VEST, HEAD, HELMET = 0, 1, 2, 3
"""Offsets of a worker's parts from its first id."""

_HIP = 0.46


def draw_worker(
    canvas: Canvas,
    outfit: Outfit,
    first_id: int,
    *,
    foot: Point,
    size: float,
    light: float,
    walk: float = 0.0,
) -> None:
    """Draw one worker.

    Args:
        canvas: Where to draw.
        outfit: Looks and pose.
        first_id: Ids ``first_id`` to ``first_id + 3`` become body, vest, bare head, helmet.
        foot: Point between the feet, pixels.
        size: Body height in pixels.
        light: From -1 (light from the left) to 1 (from the right).
        walk: Phase of the step, radians; 0 keeps the pose as it is.
    """
    side = outfit.view == "side"
    lean = outfit.lean * (outfit.facing if side else 1)
    figure = _Figure(foot, size, lean)
    canvas.owner = first_id + BODY
    if side:
        _draw_arm(canvas, outfit, figure, 0, scaled(outfit.jacket, 0.72))
    _draw_legs(canvas, outfit, figure, walk)
    _draw_torso(canvas, outfit, figure)
    if outfit.vest is not None:
        canvas.owner = first_id + VEST
        _draw_vest(canvas, outfit, figure, VEST_COLOURS[outfit.vest])
        canvas.owner = first_id + BODY
    if not side:
        _draw_arm(canvas, outfit, figure, 0, scaled(outfit.jacket, 0.92))
    _draw_arm(canvas, outfit, figure, 1, scaled(outfit.jacket, 1.1 if side else 0.92))
    neck = (size * 0.034, size * 0.03)
    canvas.limb(figure.high(0, 0.76), figure.high(0, 0.82), neck, scaled(outfit.skin, 0.8))
    canvas.owner = first_id + (HEAD if outfit.helmet is None else BODY)
    _draw_head(canvas, outfit, figure)
    canvas.shade(first_id, first_id + HEAD, light)
    if outfit.helmet is not None:
        canvas.owner = first_id + HELMET
        _put_helmet_on(canvas, outfit, figure, light, lean)
    canvas.owner = None


def _put_helmet_on(
    canvas: Canvas, outfit: Outfit, figure: "_Figure", light: float, lean: float
) -> None:
    facing = outfit.facing if outfit.view == "side" else 0
    draw_helmet(
        canvas,
        HELMET_COLOURS[outfit.helmet or "yellow"],
        figure.high(0.006 * facing, 0.905),
        figure.size * 0.088,
        light=light,
        facing=facing,
        angle=lean + outfit.tilt,
        ridge=outfit.ridge,
    )


class _Figure:
    """Maps body coordinates (x right, y up, 1 = body height) to pixels, with a lean at the hip."""

    def __init__(self, foot: Point, size: float, lean: float) -> None:
        self.foot_x, self.foot_y = foot
        self.size = size
        self.sin, self.cos = math.sin(math.radians(lean)), math.cos(math.radians(lean))

    def low(self, x: float, y: float) -> Point:
        return self.foot_x + x * self.size, self.foot_y - y * self.size

    def high(self, x: float, y: float) -> Point:
        above = y - _HIP
        return self.low(x * self.cos + above * self.sin, _HIP + above * self.cos - x * self.sin)


def _draw_legs(canvas: Canvas, outfit: Outfit, figure: _Figure, walk: float) -> None:
    size, girth = figure.size, outfit.girth
    side = outfit.view == "side"
    swing = outfit.stride * math.cos(walk)
    for leg in (-1, 1):
        gain = 0.78 if leg < 0 and side else 0.96
        colour = scaled(outfit.trousers, gain)
        if side:
            angle = math.radians(swing * leg)
            hip, spread = 0.0, math.sin(angle)
            knee = (spread * 0.22 + 0.012 * outfit.facing, 0.25)
            foot = (spread * 0.45, 0.045)
        else:
            hip = 0.052 * leg * girth
            lean_out = abs(outfit.stride) * 0.0022 * leg
            knee, foot = (hip * 1.12 + lean_out, 0.25), (hip * 1.2 + lean_out * 2, 0.045)
        shoe_x = 0.035 * outfit.facing if side else 0.012 * leg
        canvas.limb(
            figure.low(foot[0], 0.03),
            figure.low(foot[0] + shoe_x, 0.018),
            (size * 0.03, size * 0.02),
            scaled(outfit.boots, gain),
        )
        canvas.limb(figure.low(*knee), figure.low(*foot), (size * 0.042, size * 0.032), colour)
        canvas.limb(
            figure.low(hip, _HIP), figure.low(*knee), (size * 0.058 * girth, size * 0.043), colour
        )


def _draw_torso(canvas: Canvas, outfit: Outfit, figure: _Figure) -> None:
    wide = (0.082 if outfit.view == "side" else 0.122) * outfit.girth
    hip = (0.07 if outfit.view == "side" else 0.098) * outfit.girth
    left = ((-hip, 0.43), (-hip, 0.52), (-wide, 0.70), (-wide * 0.86, 0.765), (-wide * 0.4, 0.795))
    points = left + tuple((-x, y) for x, y in reversed(left))
    canvas.polygon([figure.high(x, y) for x, y in points], outfit.jacket)
    belt = ((-hip, 0.43), (-hip, 0.455), (hip, 0.455), (hip, 0.43))
    canvas.polygon([figure.high(x, y) for x, y in belt], scaled(outfit.trousers, 0.5))
    if outfit.vest is None and outfit.view == "front":
        canvas.line(
            figure.high(0, 0.46),
            figure.high(0, 0.77),
            figure.size * 0.006,
            scaled(outfit.jacket, 0.7),
        )


def _draw_vest(canvas: Canvas, outfit: Outfit, figure: _Figure, colour: Colour) -> None:
    side, size = outfit.view == "side", figure.size
    wide = (0.086 if side else 0.118) * outfit.girth
    hip = (0.078 if side else 0.106) * outfit.girth
    left = [(-hip, 0.465), (-hip, 0.53)]
    if side:
        left += [(-wide, 0.70), (-wide * 0.7, 0.775), (0.0, 0.795)]
    else:
        neckline = 0.68 if outfit.view == "front" else 0.77
        left += [(-wide, 0.69), (-wide * 0.74, 0.785), (-wide * 0.3, 0.795), (0.0, neckline)]
    points = left + [(-x, y) for x, y in reversed(left)]
    canvas.polygon([figure.high(x, y) for x, y in points], colour)
    band = (208, 214, 212)
    for y in (0.52, 0.60):
        reach = (hip if y < 0.55 else (hip + wide) / 2) * 0.99
        edge = [
            figure.high(x, v)
            for x, v in ((-reach, y), (reach, y), (reach, y + 0.028), (-reach, y + 0.028))
        ]
        canvas.convex(edge, band)
    if not side:
        for x in (-wide * 0.58, wide * 0.58):
            canvas.line(figure.high(x, 0.628), figure.high(x * 0.96, 0.775), size * 0.026, band)
        if outfit.view == "front":
            canvas.line(
                figure.high(0, 0.47), figure.high(0, 0.68), size * 0.008, scaled(colour, 0.6)
            )


def _draw_arm(canvas: Canvas, outfit: Outfit, figure: _Figure, which: int, colour: Colour) -> None:
    size = figure.size
    upper, lower = outfit.arms[which]
    side = outfit.view == "side"
    out = outfit.facing if side else (-1 if which == 0 else 1)
    shoulder = (0.0 if side else out * 0.108 * outfit.girth, 0.735)
    if side and which == 0:
        shoulder = (0.02 * outfit.facing, 0.735)
    first, second = math.radians(upper), math.radians(lower)
    elbow = (shoulder[0] + out * 0.165 * math.sin(first), shoulder[1] - 0.165 * math.cos(first))
    hand = (elbow[0] + out * 0.15 * math.sin(second), elbow[1] - 0.15 * math.cos(second))
    canvas.ellipse(figure.high(*hand), (size * 0.027, size * 0.027), outfit.skin)
    wrist = (elbow[0] * 0.12 + hand[0] * 0.88, elbow[1] * 0.12 + hand[1] * 0.88)
    canvas.limb(figure.high(*elbow), figure.high(*wrist), (size * 0.033, size * 0.026), colour)
    canvas.limb(figure.high(*shoulder), figure.high(*elbow), (size * 0.042, size * 0.034), colour)
    if outfit.tool and which == 1:
        tip = (hand[0] + out * 0.05, hand[1] + 0.1)
        end = (hand[0] - out * 0.03, hand[1] - 0.07)
        canvas.line(figure.high(*end), figure.high(*tip), size * 0.018, (60, 92, 130))
        canvas.limb(
            figure.high(tip[0] - 0.03, tip[1]),
            figure.high(tip[0] + 0.03, tip[1]),
            (size * 0.015, size * 0.015),
            (98, 96, 94),
        )


def _draw_head(canvas: Canvas, outfit: Outfit, figure: _Figure) -> None:
    size, skin = figure.size, outfit.skin
    side, back = outfit.view == "side", outfit.view == "back"
    angle = math.degrees(math.atan2(figure.sin, figure.cos))
    radii = (size * (0.062 if side else 0.057), size * 0.077)
    if not outfit.bald:
        shift = -0.012 * outfit.facing if side else 0.0
        grown = (radii[0] * 1.06, radii[1] * 1.0)
        canvas.ellipse(figure.high(shift, 0.905), grown, outfit.hair, angle)
    if back and not outfit.bald:
        canvas.ellipse(figure.high(0, 0.86), (radii[0] * 0.95, radii[1] * 0.8), outfit.hair, angle)
        return
    face_x = 0.01 * outfit.facing if side else 0.0
    drop = 0.885 if outfit.bald else 0.872
    face = (radii[0] * (0.9 if side else 0.96), radii[1] * (0.98 if outfit.bald else 0.86))
    canvas.ellipse(figure.high(face_x, drop), face, skin, angle)
    if back:
        return
    if outfit.beard:
        beard = (radii[0] * 0.72, radii[1] * 0.38)
        canvas.ellipse(figure.high(face_x * 1.6, 0.828), beard, outfit.hair, angle)
    _draw_face(canvas, figure, skin, outfit.facing if side else 0)


def _draw_face(canvas: Canvas, figure: _Figure, skin: Colour, facing: int) -> None:
    """Draw nose and ear of a head seen from the side, eyes and mouth of any."""
    size = figure.size
    if facing:
        canvas.ellipse(figure.high(0.062 * facing, 0.868), (size * 0.012, size * 0.014), skin)
        ear = (size * 0.011, size * 0.017)
        canvas.ellipse(figure.high(-0.012 * facing, 0.872), ear, scaled(skin, 0.82))
    for x in (0.04 * facing,) if facing else (-0.022, 0.022):
        canvas.ellipse(figure.high(x, 0.882), (size * 0.0075, size * 0.0085), (30, 28, 30))
    mouth, lips = 0.036 * facing, mixed(skin, (40, 30, 90), 0.6)
    left, right = figure.high(mouth - 0.014, 0.838), figure.high(mouth + 0.014, 0.838)
    canvas.line(left, right, size * 0.007, lips)
