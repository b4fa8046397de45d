"""The layers of a background: buildings, scaffolds, fences, cranes, walls, pipes."""

from collections.abc import Callable

from recipes.scenes.canvas import Canvas, scaled
from recipes.scenes.dice import Dice
from recipes.scenes.vocabulary import WALLS

Layer = Callable[[Canvas, Dice, int], None]


def _buildings(canvas: Canvas, dice: Dice, line: int) -> None:
    left = canvas.width * dice.between(-0.2, 0.3)
    for _ in range(dice.whole(1, 4)):
        wide = canvas.width * dice.between(0.12, 0.4)
        high = min(line * 1.0, canvas.height * dice.between(0.1, 0.5))
        colour = scaled(dice.pick(WALLS), dice.between(0.5, 1.05))
        top = line - high
        canvas.rectangle(left, top, left + wide, line + 1, colour)
        canvas.rectangle(left + wide * 0.8, top, left + wide, line + 1, scaled(colour, 0.82))
        columns, rows = dice.whole(2, 5), dice.whole(2, 5)
        glass = dice.pick(((90, 80, 70), (150, 140, 120), (50, 46, 44), (140, 200, 225)))
        step_x, step_y = wide * 0.78 / columns, high / rows
        for row in range(rows):
            for column in range(columns):
                x, y = left + (column + 0.22) * step_x, top + (row + 0.25) * step_y
                canvas.block(x, y, x + step_x * 0.56, y + step_y * 0.5, glass)
        left += wide * dice.between(0.9, 1.4)


def _scaffold(canvas: Canvas, dice: Dice, line: int) -> None:
    left, wide = canvas.width * dice.between(-0.1, 0.6), canvas.width * dice.between(0.25, 0.6)
    high = canvas.height * dice.between(0.2, 0.55)
    columns, rows = dice.whole(3, 6), dice.whole(2, 5)
    pipe = dice.pick(((120, 120, 118), (70, 90, 110), (60, 130, 170), (150, 150, 148)))
    thick = canvas.height * dice.between(0.006, 0.012)
    for column in range(columns + 1):
        x = left + wide * column / columns
        canvas.line((x, line), (x, line - high), thick, pipe)
    for row in range(1, rows + 1):
        y = line - high * row / rows
        canvas.line((left, y), (left + wide, y), thick * 1.9, scaled(pipe, 0.8))
        if dice.chance(0.6):
            cell = dice.whole(0, columns - 1)
            x = left + wide * cell / columns
            canvas.line((x, y), (x + wide / columns, y + high / rows), thick * 0.7, pipe)


def _fence(canvas: Canvas, dice: Dice, line: int) -> None:
    high = canvas.height * dice.between(0.08, 0.2)
    low = line + canvas.height * dice.between(0.0, 0.05)
    if dice.chance(0.5):
        colour = scaled(dice.pick(WALLS + ((150, 90, 40), (60, 120, 70))), dice.between(0.6, 1.1))
        canvas.rectangle(-5, low - high, canvas.width + 5, low, colour)
        step = canvas.width * dice.between(0.08, 0.2)
        x = dice.between(0, step)
        while x < canvas.width:
            canvas.line((x, low - high), (x, low), canvas.height * 0.006, scaled(colour, 0.7))
            x += step
        return
    wire = dice.pick(((150, 150, 150), (90, 92, 94), (60, 110, 200)))
    step = canvas.width * dice.between(0.025, 0.05)
    x = dice.between(0, step)
    while x < canvas.width:
        canvas.line((x, low - high), (x, low), canvas.height * 0.004, wire)
        x += step
    for share in (0.05, 0.5, 0.95):
        y = low - high * share
        canvas.line((0, y), (canvas.width, y), canvas.height * 0.006, scaled(wire, 0.85))


def _crane(canvas: Canvas, dice: Dice, line: int) -> None:
    x, top = canvas.width * dice.between(0.1, 0.9), line * dice.between(0.05, 0.4)
    colour = dice.pick(((40, 170, 220), (60, 60, 180), (90, 90, 92)))
    thick = canvas.height * dice.between(0.008, 0.016)
    canvas.line((x, line), (x, top), thick, colour)
    reach = canvas.width * dice.between(0.25, 0.5) * dice.sign()
    canvas.line((x - reach * 0.3, top), (x + reach, top), thick * 0.8, colour)
    canvas.line((x, top - canvas.height * 0.06), (x + reach * 0.9, top), thick * 0.3, colour)
    hook = x + reach * dice.between(0.3, 0.9)
    canvas.line((hook, top), (hook, top + line * dice.between(0.1, 0.5)), thick * 0.3, (60, 60, 62))


def _blobs(canvas: Canvas, dice: Dice, line: int) -> None:
    base = dice.pick(((60, 100, 70), (50, 80, 60), (96, 120, 140), (70, 90, 120), (120, 124, 126)))
    for _ in range(dice.whole(3, 9)):
        centre = (
            canvas.width * dice.between(0, 1),
            line + canvas.height * dice.between(-0.04, 0.03),
        )
        radii = (canvas.width * dice.between(0.04, 0.16), canvas.height * dice.between(0.03, 0.12))
        canvas.ellipse(centre, radii, scaled(base, dice.between(0.6, 1.2)), dice.between(-12, 12))


def _bricks(canvas: Canvas, dice: Dice, line: int) -> None:
    colour = dice.pick(((80, 100, 150), (120, 130, 140), (150, 160, 170)))
    left, right = canvas.width * dice.between(-0.1, 0.4), canvas.width * dice.between(0.5, 1.1)
    top, step = line * dice.between(0.1, 0.6), canvas.height * dice.between(0.03, 0.05)
    canvas.rectangle(left, top, right, line, colour)
    mortar = scaled(colour, 1.3) if dice.chance(0.5) else scaled(colour, 0.7)
    y, row = top, 0
    while y < line:
        canvas.line((left, y), (right, y), 1.4, mortar)
        x = left + (step if row % 2 else 0)
        while x < right:
            canvas.line((x, y), (x, min(line, y + step)), 1.2, mortar)
            x += step * 2.4
        y, row = y + step, row + 1


def _windows(canvas: Canvas, dice: Dice, line: int) -> None:
    count, wide = dice.whole(1, 4), canvas.width * dice.between(0.1, 0.22)
    top, bottom = line * dice.between(0.05, 0.25), line * dice.between(0.45, 0.8)
    glow = dice.pick(((240, 230, 210), (225, 190, 140), (120, 110, 100), (235, 238, 240)))
    for index in range(count):
        x = canvas.width * (index + dice.between(0.2, 0.5)) / count
        canvas.rectangle(x - 3, top - 3, x + wide + 3, bottom + 3, (92, 96, 100))
        canvas.rectangle(x, top, x + wide, bottom, glow)
        canvas.line((x + wide / 2, top), (x + wide / 2, bottom), 3, (92, 96, 100))
        canvas.line((x, (top + bottom) / 2), (x + wide, (top + bottom) / 2), 3, (92, 96, 100))


def _pillars(canvas: Canvas, dice: Dice, line: int) -> None:
    colour = scaled(dice.pick(WALLS), dice.between(0.6, 1.1))
    wide, count = canvas.width * dice.between(0.03, 0.07), dice.whole(2, 4)
    for index in range(count):
        x = canvas.width * (index + dice.between(0.2, 0.8)) / count
        canvas.rectangle(x, 0, x + wide, line + canvas.height * 0.03, colour)
        canvas.rectangle(
            x + wide * 0.68, 0, x + wide, line + canvas.height * 0.03, scaled(colour, 0.75)
        )


def _pipes(canvas: Canvas, dice: Dice, line: int) -> None:
    for _ in range(dice.whole(1, 4)):
        y, thick = line * dice.between(0.02, 0.5), canvas.height * dice.between(0.01, 0.03)
        colour = dice.pick(((120, 122, 124), (60, 60, 150), (150, 110, 60), (60, 170, 200)))
        canvas.line((0, y), (canvas.width, y + dice.between(-4, 4)), thick, colour)
        canvas.line(
            (0, y - thick * 0.2), (canvas.width, y - thick * 0.2), thick * 0.2, scaled(colour, 1.3)
        )


OUTDOOR: tuple[tuple[float, Layer], ...] = (
    (0.28, _buildings),
    (0.24, _scaffold),
    (0.18, _fence),
    (0.1, _crane),
    (0.12, _blobs),
    (0.08, _bricks),
)

INDOOR: tuple[tuple[float, Layer], ...] = (
    (0.25, _windows),
    (0.25, _pillars),
    (0.2, _pipes),
    (0.15, _bricks),
    (0.15, _scaffold),
)
