"""Local coordinates: x to the right, y up, in units of the object's own size."""

import math
from collections.abc import Callable

from recipes.scenes.canvas import Point

Place = Callable[[float, float], Point]


def local_frame(origin: Point, size: float, angle: float = 0.0, flip: int = 1) -> Place:
    """Return a function from local coordinates to pixels.

    Args:
        origin: Where (0, 0) lies, pixels.
        size: Pixels per unit.
        angle: Tilt in degrees, clockwise.
        flip: -1 mirrors left and right.

    Returns:
        A function of x (right) and y (up) that gives a pixel position.

    Example:
        >>> local_frame((100.0, 50.0), 10.0)(1, 2)
        (110.0, 30.0)
    """
    sin, cos = math.sin(math.radians(angle)), math.cos(math.radians(angle))

    def place(x: float, y: float) -> Point:
        x *= flip
        return origin[0] + (x * cos + y * sin) * size, origin[1] + (x * sin - y * cos) * size

    return place
