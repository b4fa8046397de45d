"""Random choices that depend on the seed alone."""

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """A small seeded source of choices.

    Only ``random.Random.random`` is used, whose stream Python promises to keep, and it is several
    times quicker than numpy's generator for single numbers.

    Args:
        seed: Any integer; equal seeds give equal choices.

    Example:
        >>> Dice(3).between(0, 1) == Dice(3).between(0, 1)
        True
    """

    def __init__(self, seed: int) -> None:
        self._next = random.Random(int(seed)).random

    def between(self, low: float, high: float) -> float:
        """Return a number in ``[low, high)``."""
        return low + (high - low) * self._next()

    def whole(self, low: int, high: int) -> int:
        """Return an integer from ``low`` to ``high``, both included."""
        return low + int(self._next() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self._next() < probability

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[int(self._next() * len(options))]

    def pick_item(self, options: Mapping[str, T]) -> tuple[str, T]:
        """Return one (name, value) of a mapping."""
        name = self.pick(tuple(options))
        return name, options[name]

    def weighted(self, weights: Sequence[float]) -> int:
        """Return an index, drawn in proportion to the weights."""
        point = self._next() * sum(weights)
        for index, weight in enumerate(weights):
            point -= weight
            if point < 0:
                return index
        return len(weights) - 1

    def seed(self) -> int:
        """Return a seed for another ``Dice``."""
        return int(self._next() * 2**48)

    def sign(self) -> int:
        """Return -1 or 1."""
        return 1 if self._next() < 0.5 else -1
