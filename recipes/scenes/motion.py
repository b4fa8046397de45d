"""Moves the things of a site and the camera through time."""

import math
from dataclasses import dataclass, replace
from typing import Final

from recipes.scenes.dice import Dice
from recipes.scenes.outfits import Outfit
from recipes.scenes.site import Site, Thing

_UPRIGHT: Final = 15.0
"""A worker that leans further than this (degrees) is at work and does not walk."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How one thing moves: at ``speed`` widths a second, turning round at ``low`` and ``high``."""

    speed: float = 0.0
    low: float = 0.0
    high: float = 1.0
    steps: float = 0.0


def random_motions(site: Site, dice: Dice) -> dict[int, Motion]:
    """Draw how the things of a site move.

    Args:
        site: The site at its first moment.
        dice: Source of choices.

    Returns:
        Motions by ``track_id``, of those things that do not stand still. If the site has workers
        or trucks, at least one of them moves.
    """
    motions: dict[int, Motion] = {}
    movable = [thing for thing in site.things if thing.kind in ("worker", "truck")]
    for place, thing in enumerate(movable):
        last_hope = place == len(movable) - 1 and not motions
        if dice.chance(0.7) or last_hope:
            motion = _motion_of(thing, dice)
            if motion.speed or last_hope:
                motions[thing.track_id] = motion
    return motions


def _motion_of(thing: Thing, dice: Dice) -> Motion:
    if thing.outfit is None:
        reach = thing.size * 0.6
        low, high = min(thing.x, -reach * 0.5), max(thing.x, 1.0 + reach * 0.5)
        return Motion(speed=dice.between(0.05, 0.16) * thing.facing, low=low, high=high)
    low, high = min(thing.x, 0.06), max(thing.x, 0.94)
    if thing.outfit.view != "side":
        sway = dice.between(0.015, 0.03) * dice.sign()
        low, high = thing.x - dice.between(0.02, 0.06), thing.x + dice.between(0.02, 0.06)
        return Motion(speed=sway, low=low, high=high, steps=dice.between(0.8, 1.2))
    if abs(thing.outfit.lean) > _UPRIGHT:
        return Motion()
    speed = thing.size * dice.between(0.12, 0.22) * thing.outfit.facing
    return Motion(speed=speed, low=low, high=high, steps=dice.between(0.8, 1.2))


def site_at(site: Site, motions: dict[int, Motion], seconds: float) -> Site:
    """Return the site as it is after some seconds; at 0 it is the site itself."""
    moved = (_thing_at(thing, motions.get(thing.track_id), seconds) for thing in site.things)
    return replace(site, things=tuple(moved))


def _thing_at(thing: Thing, motion: Motion | None, seconds: float) -> Thing:
    if motion is None or seconds == 0.0:
        return thing
    x, turned = bounced(thing.x, motion.speed * seconds, motion.low, motion.high)
    if thing.outfit is None:
        return replace(thing, x=x, facing=-thing.facing if turned else thing.facing)
    phase = 2.0 * math.pi * motion.steps * seconds
    outfit: Outfit = thing.outfit
    if outfit.view == "side" and turned:
        outfit = replace(outfit, facing=-outfit.facing)
    return replace(thing, x=x, outfit=outfit, walk=phase, lift=0.008 * abs(math.sin(phase)))


def bounced(start: float, travel: float, low: float, high: float) -> tuple[float, bool]:
    """Move between two walls.

    Args:
        start: Where it starts, from ``low`` to ``high``.
        travel: How far it goes; negative goes down first.
        low: The lower wall.
        high: The upper wall.

    Returns:
        Where it is, and whether it now goes against its first direction.

    Example:
        >>> bounced(0.5, 0.75, 0.0, 1.0)
        (0.75, True)
        >>> bounced(0.5, -0.25, 0.0, 1.0)
        (0.25, False)
    """
    span = high - low
    if span <= 0.0:
        return start, False
    way = (start - low if travel >= 0 else high - start) + abs(travel)
    around = way % (2.0 * span)
    turned = around > span
    from_first = 2.0 * span - around if turned else around
    return (low + from_first if travel >= 0 else high - from_first), turned


def beside(site: Site, other: Site) -> Site:
    """Return a site two pictures wide: ``other`` begins where ``site`` ends.

    Args:
        site: The left half, x from 0 to 1.
        other: The right half; its x are moved to 1 to 2, its ground to the first site's horizon.

    Returns:
        Both, far to near; the light and the horizon are the first one's.
    """
    drop = site.horizon - other.horizon
    first = site.next_track_id - 1
    moved = (
        replace(thing, x=thing.x + 1.0, foot=thing.foot + drop, track_id=thing.track_id + first)
        for thing in other.things
    )
    things = sorted((*site.things, *moved), key=lambda thing: thing.depth)
    return replace(site, things=tuple(things))
