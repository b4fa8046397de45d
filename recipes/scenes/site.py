"""Decides what stands on a site and where, before anything is drawn."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from recipes.scenes.dice import Dice
from recipes.scenes.outfits import Outfit, random_outfit
from recipes.scenes.signs import board_width
from recipes.scenes.vocabulary import (
    BARREL_COLOURS,
    CONE_COLOURS,
    HELMET_COLOURS,
    LADDER_COLOURS,
    SIGN_COLOURS,
    SIGN_WORDS,
    TRUCK_COLOURS,
)

Box = tuple[float, float, float, float]

TRACKS_PER_THING: Final = 4
"""Ids that a thing takes: a worker needs one for the body, the vest, the head and the helmet."""

_HALF_WIDTHS: Final = {
    "worker": 0.17,
    "cone": 0.38,
    "barrel": 0.34,
    "ladder": 0.25,
    "truck": 1.02,
    "helmet": 1.0,
    "crate": 0.6,
    "pole": 0.08,
}
"""Half a thing's width, in units of its height."""

_COLOURS: Final[Mapping[str, Mapping[str, object]]] = {
    "cone": CONE_COLOURS,
    "barrel": BARREL_COLOURS,
    "ladder": LADDER_COLOURS,
    "truck": TRUCK_COLOURS,
    "helmet": HELMET_COLOURS,
}


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One thing to draw, in units that do not depend on the picture's size.

    Attributes:
        kind: A class name, or "crate" or "pole" for what is drawn but not annotated.
        seed: Source of the small details.
        x: Middle, as a share of the width.
        foot: Where it stands, as a share of the height.
        size: Its height (of a sign: of its letters), as a share of the picture's shorter side.
        depth: How near it is; nearer things are drawn later.
        colour: Colour name.
        facing: -1 or 1.
        outfit: Looks of a worker.
        text: Text of a sign.
        font: 0 or 1.
        centre: Middle row of a sign's board, as a share of the height.
        post: Whether a sign stands on a post.
        track_id: Identity.
        walk: Phase of a worker's step, radians.
        lift: How far a worker is off the ground in mid-step, as a share of its height.
    """

    kind: str
    seed: int
    x: float = 0.5
    foot: float = 0.9
    size: float = 0.3
    depth: float = 0.5
    colour: str | None = None
    facing: int = 1
    outfit: Outfit | None = None
    text: str | None = None
    font: int = 0
    centre: float = 0.3
    post: bool = False
    track_id: int = 0
    walk: float = 0.0
    lift: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Site:
    """A whole site: the horizon, the light and the things, far to near."""

    horizon: float
    light: float
    things: tuple[Thing, ...]

    @property
    def next_track_id(self) -> int:
        """The first track id that no thing uses; a worker takes four."""
        return TRACKS_PER_THING * len(self.things) + 1


@dataclass(frozen=True, kw_only=True)
class _View:
    """Where the horizon and the camera are, and how wide the picture is.

    ``unit_x`` and ``unit_y`` are the shorter side as a share of the width and of the height.
    """

    horizon: float
    eye: float
    unit_x: float
    unit_y: float

    def foot_at(self, depth: float) -> float:
        """Return the row on which a person as high as ``depth`` stands."""
        return self.horizon + self.eye * depth * self.unit_y


def random_site(dice: Dice, image_hw: tuple[int, int]) -> Site:
    """Draw what stands where.

    Args:
        dice: Source of choices.
        image_hw: Height and width; only their ratio matters.

    Returns:
        The site; its things far to near, with track ids 1, 5, 9, ...
    """
    horizon, eye, light = dice.between(0.18, 0.45), dice.between(0.62, 1.2), dice.between(-1, 1)
    shorter = min(image_hw)
    view = _View(
        horizon=horizon, eye=eye, unit_x=shorter / image_hw[1], unit_y=shorter / image_hw[0]
    )
    placed: list[Thing] = []
    for kind in _wanted(dice):
        thing, crowding = _placed(_sized(kind, dice, view), placed, dice, view)
        if not placed or crowding <= (0.15 if kind == "sign" else 0.75):
            placed.append(thing)
    ordered = sorted(placed, key=lambda thing: thing.depth)
    numbered = (
        replace(thing, track_id=TRACKS_PER_THING * n + 1) for n, thing in enumerate(ordered)
    )
    return Site(horizon=horizon, light=light, things=tuple(numbered))


def _wanted(dice: Dice) -> list[str]:
    workers = dice.weighted((0.03, 0.24, 0.29, 0.22, 0.12, 0.06, 0.04))
    crowd = 0.8 if workers > 3 else 1.0
    wanted = ["sign"] * dice.weighted((0.5, 0.42, 0.08))
    wanted += ["truck"] * dice.weighted((1 - 0.34 * crowd, 0.31 * crowd, 0.03 * crowd))
    wanted += ["worker"] * workers
    wanted += ["ladder"] * dice.weighted((1 - 0.3 * crowd, 0.26 * crowd, 0.04 * crowd))
    wanted += ["cone"] * dice.weighted((1 - 0.46 * crowd, 0.2 * crowd, 0.13, 0.08, 0.05 * crowd))
    wanted += ["barrel"] * dice.weighted((1 - 0.36 * crowd, 0.22 * crowd, 0.1, 0.04 * crowd))
    wanted += ["helmet"] * dice.weighted((0.87, 0.13))
    wanted += ["crate"] * dice.weighted((0.6, 0.27, 0.13))
    wanted += ["pole"] * dice.weighted((0.88, 0.12))
    return wanted


def _sized(kind: str, dice: Dice, view: _View) -> Thing:
    """Draw how near and how large a thing is, and its looks; where it stands comes later."""
    depth = dice.between(0.27, 0.85) if kind != "worker" else _worker_depth(dice)
    thing = Thing(kind=kind, seed=dice.seed(), facing=dice.sign(), depth=depth)
    match kind:
        case "worker":
            thing = replace(thing, size=depth, outfit=random_outfit(dice))
        case "sign":
            return _sized_sign(thing, dice, view)
        case "crate" | "pole":
            thing = replace(thing, size=depth * dice.between(0.25, 0.5))
        case _:
            thing = _sized_prop(thing, dice)
    limit = 1.1 if kind in ("worker", "ladder") else 1.02
    return replace(thing, foot=min(view.foot_at(thing.depth), limit))


def _worker_depth(dice: Dice) -> float:
    return dice.between(0.42, 0.85) if dice.chance(0.78) else dice.between(0.27, 0.45)


def _sized_prop(thing: Thing, dice: Dice) -> Thing:
    depth = thing.depth
    match thing.kind:
        case "cone":
            size = max(0.11, depth * dice.between(0.34, 0.5))
        case "barrel":
            size = max(0.13, depth * dice.between(0.42, 0.52))
        case "ladder":
            size = min(0.95, depth * dice.between(1.0, 1.6))
        case "truck":
            depth = dice.between(0.26, 0.5)
            size = depth * dice.between(0.95, 1.2)
        case _:
            size = max(0.05, depth * 0.1)
    colour = dice.pick(tuple(_COLOURS[thing.kind]))
    if thing.kind == "cone" and dice.chance(0.6):
        colour = "orange"
    return replace(thing, depth=depth, size=size, colour=colour)


def _sized_sign(thing: Thing, dice: Dice, view: _View) -> Thing:
    text, font = dice.pick(SIGN_WORDS), dice.whole(0, 1)
    letters = dice.between(0.055, 0.1) if len(text) <= 6 else dice.between(0.05, 0.075)
    letters = min(letters, 0.62 / view.unit_x / board_width(text, font, 1.0))
    post = dice.chance(0.6)
    foot = min(1.02, view.foot_at(thing.depth))
    centre = dice.between(0.1, 0.55) if post else dice.between(0.08, 0.35)
    return replace(
        thing,
        size=letters,
        text=text,
        font=font,
        post=post,
        foot=foot,
        colour=dice.pick(tuple(SIGN_COLOURS)),
        centre=min(centre, foot - 0.15),
    )


def _placed(thing: Thing, others: list[Thing], dice: Dice, view: _View) -> tuple[Thing, float]:
    """Try a few places and return the least crowded one, with its crowding."""
    best, best_crowding = thing, float("inf")
    slack = min(0.45, max(0.02, _half_width(thing) * view.unit_x * 0.9))
    for _ in range(7):
        trial = replace(thing, x=dice.between(slack, 1 - slack))
        crowding = _crowding(trial, others, view)
        if crowding < best_crowding:
            best, best_crowding = trial, crowding
        if crowding < 0.12:
            break
    return best, best_crowding


def _half_width(thing: Thing) -> float:
    if thing.kind == "sign":
        return board_width(thing.text or "", thing.font, thing.size) / 2
    return _HALF_WIDTHS[thing.kind] * thing.size


def _box(thing: Thing, view: _View) -> Box:
    half, high = _half_width(thing) * view.unit_x, thing.size * view.unit_y
    if thing.kind == "sign":
        reach = thing.size * 1.1 * view.unit_y
        return thing.x - half, thing.centre - reach, thing.x + half, thing.centre + reach
    return thing.x - half, thing.foot - high, thing.x + half, thing.foot


def _crowding(thing: Thing, others: list[Thing], view: _View) -> float:
    """Return the largest share of the smaller box that it shares; signs count threefold."""
    worst = 0.0
    box = _box(thing, view)
    area = (box[2] - box[0]) * (box[3] - box[1])
    for neighbour in others:
        other = _box(neighbour, view)
        wide = min(box[2], other[2]) - max(box[0], other[0])
        high = min(box[3], other[3]) - max(box[1], other[1])
        if wide > 0 and high > 0:
            smaller = min(area, (other[2] - other[0]) * (other[3] - other[1]))
            share = wide * high / max(smaller, 1e-9)
            worst = max(worst, share * (3.0 if neighbour.kind == "sign" else 1.0))
    return worst
