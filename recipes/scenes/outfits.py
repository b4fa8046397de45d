"""What a worker looks like and how it stands."""

from dataclasses import dataclass

from recipes.scenes.canvas import scaled
from recipes.scenes.dice import Dice
from recipes.scenes.vocabulary import CLOTH, HAIR, HELMET_COLOURS, SKIN, VEST_COLOURS, Colour


@dataclass(frozen=True, kw_only=True)
class Outfit:
    """What a worker looks like; drawn once, so that it stays the same through a video."""

    view: str
    facing: int
    lean: float
    helmet: str | None
    vest: str | None
    skin: Colour
    hair: Colour
    jacket: Colour
    trousers: Colour
    boots: Colour
    arms: tuple[tuple[float, float], tuple[float, float]]
    stride: float
    girth: float
    bald: bool
    beard: bool
    tool: bool
    ridge: bool
    tilt: float


def random_outfit(dice: Dice) -> Outfit:
    """Draw the looks and the pose of one worker."""
    view = ("front", "side", "back")[dice.weighted((0.48, 0.38, 0.14))]
    lean = dice.between(-4, 4)
    if view == "side":
        lean = dice.between(18, 52) if dice.chance(0.3) else dice.between(-3, 12)
    helmet = dice.pick_item(HELMET_COLOURS)[0]
    if dice.chance(0.16):
        helmet = "yellow"
    vest = dice.pick_item(VEST_COLOURS)[0]
    return Outfit(
        view=view,
        facing=dice.sign(),
        lean=lean,
        helmet=helmet if dice.chance(0.66) else None,
        vest=vest if dice.chance(0.5) else None,
        skin=dice.pick(SKIN),
        hair=dice.pick(HAIR),
        jacket=scaled(dice.pick(CLOTH), dice.between(0.8, 1.35)),
        trousers=scaled(dice.pick(CLOTH), dice.between(0.7, 1.2)),
        boots=dice.pick(((30, 34, 44), (40, 58, 88), (24, 24, 26), (60, 96, 140))),
        arms=(_arm(dice), _arm(dice)),
        stride=dice.between(4, 24) * dice.sign(),
        girth=dice.between(0.88, 1.18),
        bald=dice.chance(0.12),
        beard=dice.chance(0.2),
        tool=dice.chance(0.22),
        ridge=dice.chance(0.6),
        tilt=dice.between(-6, 6),
    )


def _arm(dice: Dice) -> tuple[float, float]:
    """Angles of the upper and the lower arm, degrees from hanging straight down, outwards."""
    kind = dice.weighted((0.45, 0.2, 0.15, 0.2))
    if kind == 0:
        return dice.between(4, 18), dice.between(0, 22)
    if kind == 1:
        return dice.between(25, 50), dice.between(-60, -30)
    if kind == 2:
        return dice.between(95, 140), dice.between(120, 170)
    return dice.between(20, 55), dice.between(60, 110)
