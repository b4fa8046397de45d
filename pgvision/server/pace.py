"""How fast requests are answered, and when one that was refused should come again."""

import math
from collections import deque
from typing import Final

LONGEST: Final = 30
"""Seconds; who is told to wait longer goes away."""
_ENDS: Final = 64


class Pace:
    """Gives each refused request a place in time, one behind the other as fast as work is done.

    Times are seconds of one clock that never goes back.

    Example:
        >>> pace = Pace()
        >>> pace.begin(0.0)
        >>> for second in range(1, 11):  # one a second
        ...     pace.end(float(second))
        >>> [pace.seconds_to_wait(4, 10.0) for _ in range(3)]
        [4, 5, 6]
    """

    def __init__(self) -> None:
        self._ends: deque[float] = deque([0.0], _ENDS)
        self._promised = 0.0

    def begin(self, now: float) -> None:
        """Note that there is work again after there was none: pauses say nothing of the pace."""
        self._ends.clear()
        self._ends.append(now)

    def end(self, now: float) -> None:
        """Note that a request was answered."""
        self._ends.append(now)

    def seconds_to_wait(self, inside: int, now: float) -> int:
        """Promise a place: when those inside are answered, and behind the last one promised.

        Args:
            inside: Requests that wait for their answers.
            now: The time.

        Returns:
            Whole seconds, 1 to 30.
        """
        # Before the first answer: as if it came now, so that a slow model is found out.
        each = (now - self._ends[0]) / max(len(self._ends) - 1, 1)
        place = max(now + inside * each, self._promised + each)
        self._promised = min(place, now + LONGEST)
        return min(max(1, math.ceil(self._promised - now)), LONGEST)  # which rounding may pass
