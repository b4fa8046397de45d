"""The closed vocabulary of the rendered world: classes, colours and the words on signs."""

from typing import Final

Colour = tuple[int, int, int]

CLASSES: Final = (
    "helmet",
    "head",
    "worker",
    "vest",
    "cone",
    "barrel",
    "ladder",
    "truck",
    "sign",
)
"""Every class the renderer annotates; ``head`` is a bare head, without a helmet."""

SIGN_WORDS: Final = (
    "STOP",
    "DANGER",
    "EXIT",
    "SLOW",
    "GATE",
    "WORK",
    "NO ENTRY",
    "CAUTION",
    "FIRE",
    "OPEN",
    "CLOSED",
    "KEEP OUT",
    "HOT",
    "WET",
    "LIFT",
    "DIG",
    "LOAD",
    "CRANE",
    "WATER",
    "POWER",
    "SAFETY",
    "NOTICE",
    "DETOUR",
    "ONE WAY",
)
"""Every text that a sign can carry."""

HELMET_COLOURS: Final[dict[str, Colour]] = {
    "yellow": (30, 205, 250),
    "white": (238, 240, 240),
    "red": (35, 35, 215),
    "blue": (205, 95, 25),
    "orange": (20, 120, 250),
    "green": (60, 150, 40),
}
VEST_COLOURS: Final[dict[str, Colour]] = {"orange": (15, 105, 255), "yellow": (40, 245, 215)}
TRUCK_COLOURS: Final[dict[str, Colour]] = {
    "yellow": (35, 185, 235),
    "white": (225, 226, 226),
    "red": (40, 40, 190),
    "blue": (170, 85, 30),
    "orange": (25, 115, 235),
    "green": (70, 125, 50),
}
BARREL_COLOURS: Final[dict[str, Colour]] = {
    "orange": (25, 110, 240),
    "blue": (165, 85, 30),
    "green": (75, 120, 45),
    "red": (40, 40, 180),
    "yellow": (40, 190, 230),
}
CONE_COLOURS: Final[dict[str, Colour]] = {"orange": (20, 95, 245), "red": (35, 40, 220)}
LADDER_COLOURS: Final[dict[str, Colour]] = {
    "gray": (178, 176, 172),
    "yellow": (40, 190, 230),
    "brown": (60, 100, 150),
}
SIGN_COLOURS: Final[dict[str, tuple[Colour, Colour]]] = {
    "yellow": ((40, 205, 245), (20, 20, 20)),
    "white": ((240, 240, 240), (25, 25, 25)),
    "red": ((35, 35, 200), (245, 245, 245)),
    "orange": ((25, 130, 250), (15, 15, 15)),
    "green": ((70, 130, 30), (245, 245, 245)),
    "blue": ((170, 80, 20), (245, 245, 245)),
}
"""Colour name of a board -> (board, letters)."""

SKIN: Final[tuple[Colour, ...]] = (
    (190, 212, 240),
    (160, 190, 228),
    (125, 162, 208),
    (92, 128, 178),
    (62, 92, 140),
    (42, 62, 98),
)
HAIR: Final[tuple[Colour, ...]] = (
    (22, 22, 26),
    (30, 42, 66),
    (42, 66, 104),
    (96, 150, 196),
    (150, 152, 155),
    (28, 44, 110),
)
CLOTH: Final[tuple[Colour, ...]] = (
    (95, 62, 36),
    (120, 88, 52),
    (62, 62, 64),
    (96, 110, 122),
    (60, 82, 62),
    (70, 96, 138),
    (52, 44, 92),
    (150, 152, 152),
    (42, 36, 32),
    (58, 70, 110),
)

WALLS: Final[tuple[Colour, ...]] = (
    (170, 176, 180),
    (140, 160, 178),
    (120, 128, 130),
    (182, 196, 204),
    (96, 108, 140),
    (150, 150, 136),
    (88, 92, 98),
    (148, 178, 160),
)
