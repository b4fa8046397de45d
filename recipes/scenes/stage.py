"""Draws the things of a site in order, far to near."""

from dataclasses import dataclass

from recipes.scenes.canvas import Canvas, Point
from recipes.scenes.clutter import draw_crate, draw_pole
from recipes.scenes.dice import Dice
from recipes.scenes.helmets import draw_helmet
from recipes.scenes.outfits import Outfit
from recipes.scenes.props import draw_barrel, draw_cone, draw_ladder
from recipes.scenes.signs import draw_sign
from recipes.scenes.site import Site, Thing
from recipes.scenes.trucks import draw_truck
from recipes.scenes.vocabulary import (
    BARREL_COLOURS,
    CONE_COLOURS,
    HELMET_COLOURS,
    LADDER_COLOURS,
    SIGN_COLOURS,
    TRUCK_COLOURS,
)
from recipes.scenes.workers import BODY, HEAD, HELMET, VEST, draw_worker

_SHADOWS = {
    "cone": 0.42,
    "barrel": 0.42,
    "truck": 1.05,
    "crate": 0.6,
    "ladder": 0.2,
    "helmet": 1.1,
}
"""Half the width of a thing's shadow, in units of its height."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Something on the canvas that may be annotated.

    Attributes:
        label: One of ``CLASSES``.
        track_id: Identity; also the first of its ids.
        last: The last of its ids.
        area: Pixels of the whole silhouette, before anything was drawn over it.
        colour: Colour name or None.
        text: Text of a sign.
        worker: For workers and what they wear: the worker's ``track_id``.
    """

    label: str
    track_id: int
    last: int
    area: int
    colour: str | None = None
    text: str | None = None
    worker: int | None = None


def draw_site(canvas: Canvas, site: Site) -> list[Drawn]:
    """Draw every thing, far to near, and return what may be annotated."""
    drawn: list[Drawn] = []
    unit = min(canvas.height, canvas.width)
    for thing in site.things:
        foot = (thing.x * canvas.width, thing.foot * canvas.height)
        if thing.outfit is not None:
            drawn += _draw_person(canvas, thing, thing.outfit, foot, thing.size * unit, site.light)
            continue
        _draw_prop(canvas, thing, foot, thing.size * unit, site.light)
        if thing.kind not in ("crate", "pole"):
            track = thing.track_id
            area = canvas.area(track, track)
            drawn.append(
                Drawn(
                    label=thing.kind,
                    track_id=track,
                    last=track,
                    area=area,
                    colour=thing.colour,
                    text=thing.text,
                )
            )
    return drawn


def _draw_person(
    canvas: Canvas, thing: Thing, outfit: Outfit, foot: Point, size: float, light: float
) -> list[Drawn]:
    first = thing.track_id
    canvas.shadow((foot[0] - light * size * 0.08, foot[1]), (size * 0.2, size * 0.04), 0.45)
    draw_worker(
        canvas,
        outfit,
        first,
        foot=(foot[0], foot[1] - thing.lift * size),
        size=size,
        light=light,
        walk=thing.walk,
    )

    def part(label: str, low: int, high: int, colour: str | None) -> Drawn:
        return Drawn(
            label=label,
            track_id=first + low,
            last=first + high,
            area=canvas.area(first + low, first + high),
            colour=colour,
            worker=first,
        )

    parts = [part("worker", BODY, HELMET, None)]
    if outfit.vest is not None:
        parts.append(part("vest", VEST, VEST, outfit.vest))
    if outfit.helmet is None:
        parts.append(part("head", HEAD, HEAD, None))
    else:
        parts.append(part("helmet", HELMET, HELMET, outfit.helmet))
    return parts


def _draw_prop(canvas: Canvas, thing: Thing, foot: Point, size: float, light: float) -> None:
    if thing.kind in _SHADOWS:
        reach = _SHADOWS[thing.kind] * size
        canvas.shadow((foot[0] - light * reach * 0.2, foot[1]), (reach, reach * 0.2), 0.4)
    canvas.owner = thing.track_id
    dice, name = Dice(thing.seed), thing.colour or ""
    match thing.kind:
        case "cone":
            draw_cone(canvas, dice, CONE_COLOURS[name], foot=foot, size=size, light=light)
        case "barrel":
            draw_barrel(canvas, dice, BARREL_COLOURS[name], foot=foot, size=size, light=light)
        case "ladder":
            draw_ladder(canvas, dice, LADDER_COLOURS[name], foot=foot, size=size)
        case "truck":
            colour, facing = TRUCK_COLOURS[name], thing.facing
            draw_truck(canvas, dice, colour, foot=foot, size=size, facing=facing, light=light)
        case "helmet":
            _draw_loose_helmet(canvas, dice, name, foot, size, light)
        case "sign":
            _draw_board(canvas, dice, thing, foot, size)
        case "pole":
            draw_pole(canvas, dice, foot=foot, size=size)
        case _:
            draw_crate(canvas, dice, foot=foot, size=size)
    canvas.owner = None


def _draw_loose_helmet(
    canvas: Canvas, dice: Dice, name: str, foot: Point, size: float, light: float
) -> None:
    draw_helmet(
        canvas,
        HELMET_COLOURS[name],
        (foot[0], foot[1] - size * 0.22),
        size,
        light=light,
        facing=dice.pick((-1, 0, 1)),
        angle=dice.between(-9, 9),
        ridge=dice.chance(0.6),
    )


def _draw_board(canvas: Canvas, dice: Dice, thing: Thing, foot: Point, size: float) -> None:
    draw_sign(
        canvas,
        dice,
        SIGN_COLOURS[thing.colour or "white"],
        thing.text or "",
        centre=(foot[0], thing.centre * canvas.height),
        text_height=size,
        font=thing.font,
        post_to=foot[1] if thing.post else None,
    )
