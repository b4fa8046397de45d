"""Single values of a COCO file or of results: what is accepted, and what is said of the others."""

import math
from collections.abc import Sequence

import numpy as np

MISSING = object()
"""Stands for a key that is not there; null counts as missing too."""
_PLAIN = {int, float}
_FLOATS = {float}
MOST = 2**53
"""Evaluators hold the ids of images and categories as floats, which are exact up to here."""
_MOST_INT = 10**300
MOST_PIXELS = 1 << 30


def whole_number(value: object, most: int = MOST) -> int | None:
    """Return ``value`` as an int if it is whole and below ``most``, else None.

    ``1.0`` counts, as tools that go through data frames write it; ``true`` and ``"1"`` do not.

    Example:
        >>> [whole_number(value) for value in (7, 1.0, 1.5, True, "1", None)]
        [7, 1, None, None, None, None]
    """
    if type(value) is int:  # nearly always, and isinstance of a union is slow
        return value if -most < value < most else None
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    if isinstance(value, float | np.floating) and not float(value).is_integer():
        return None
    number = int(value)
    return number if -most < number < most else None


def whole_fault(value: object, most: int = MOST) -> str:
    """Say why `whole_number` gives None for ``value``."""
    if value is MISSING or value is None:
        return "is missing, expected an integer"
    if isinstance(value, int | float) and not -most < value < most:
        return f"is {value!s:.40}, expected an integer below 2**{most.bit_length() - 1}"
    return f"is {value!r:.40}, expected an integer (a whole number)"


def number_fault(value: object) -> str | None:
    """Return what is wrong with ``value`` as a finite number, or None."""
    if value is MISSING or value is None:
        return "is missing, expected a finite number"
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return f"is {value!r:.40}, expected a finite number"
    # An integer of 400 digits is JSON, but no coordinate.
    if isinstance(value, int) and abs(value) > _MOST_INT or not math.isfinite(value):
        return f"is {value!s:.40}, expected a finite number"
    return None


def is_plain(values: Sequence[object]) -> bool:
    """Whether all are finite ints and floats: the quick look before `number_fault` says why not."""
    try:
        # A sum is finite only if all are, and adding up is what Python does fastest.
        return set(map(type, values)) <= _PLAIN and math.isfinite(sum(values))  # type: ignore[arg-type]
    except OverflowError:
        return False


def box_fault(value: object) -> str | None:
    """Return what is wrong with a COCO box, or None: left, top, width, height in pixels."""
    if value is MISSING:
        return "is missing, expected [left, top, width, height]"
    if (
        not isinstance(value, list | tuple | np.ndarray)
        or getattr(value, "ndim", 1) != 1
        or len(value) != 4
    ):
        return f"is {value!r:.60}, expected 4 numbers [left, top, width, height]"
    for number in value:
        if fault := number_fault(number):
            return f"is {list(value)!r:.80}: a coordinate {fault}"
    if value[2] < 0 or value[3] < 0:
        return (
            f"is {list(value)!r:.80}: negative width or height; COCO boxes are "
            "[left, top, width, height], not corners"
        )
    return None


def is_float_ring(ring: object) -> bool:
    """Whether this is a whole ring of finite floats, as nearly all are: the others take longer."""
    if type(ring) is not list or len(ring) < 6 or len(ring) % 2:
        return False
    return set(map(type, ring)) == _FLOATS and math.isfinite(sum(ring))


def ring_fault(ring: object) -> str | None:
    """Return what is wrong with one ring ``[x0, y0, x1, y1, ...]``, or None; short ones pass."""
    if not isinstance(ring, list | tuple) or len(ring) % 2:
        return f"holds {ring!r:.60}, expected rings of x, y pairs"
    if is_plain(ring):
        return None
    faults = (fault for number in ring if (fault := number_fault(number)))
    fault = next(faults, None)
    return f"holds a coordinate that {fault}" if fault else None


def stated_size(height: object, width: object) -> tuple[int, int] | None:
    """Return height and width as a file states them; None where either is missing or 0.

    Raises:
        ValueError: If they are something else than whole numbers, or an image cannot have them.

    Example:
        >>> stated_size(480.0, 640), stated_size(0, 640), stated_size(None, None)
        ((480, 640), None, None)
    """
    rows, columns = (0 if side is None else whole_number(side) for side in (height, width))
    if rows is None or columns is None or min(rows, columns) < 0 or rows * columns > MOST_PIXELS:
        raise ValueError(
            f"height and width are {height!r:.20} and {width!r:.20}, expected positive integers "
            f"of at most {MOST_PIXELS} pixels together"
        )
    return (rows, columns) if rows and columns else None


def kind_of(value: object) -> str:
    """Name a JSON value's type in JSON's words.

    Example:
        >>> kind_of([1]), kind_of(None), kind_of("a")
        ('a list', 'null', 'text')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true/false"
    names = {list: "a list", dict: "an object", str: "text", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def unwritable(value: object, path: str = "") -> str | None:
    """Return the place of the first NaN or infinity in a JSON value, "" for itself, or None.

    Example:
        >>> unwritable({"a": [1, float("nan")]}), unwritable({"a": 1})
        ('.a[1]', None)
    """
    if isinstance(value, float):
        return None if math.isfinite(value) else path
    inner: list[tuple[str, object]] = []
    if isinstance(value, dict):
        inner = [(f"{path}.{key}", part) for key, part in value.items()]
    elif isinstance(value, list | tuple):
        inner = [(f"{path}[{index}]", part) for index, part in enumerate(value)]
    return next((at for where, part in inner if (at := unwritable(part, where)) is not None), None)
