"""A guess at an answer, kept in step with the answer that is really written.

A draft is a list of objects. What is written goes through `Place.after`: inside an object the same
offset of the drafted one comes next, whatever bins differ; at the start of an object the drafted
one whose top edge is nearest is taken up. So one object more or less does not spoil the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from pgvision.runtime.protocol import ObjectSpan

_NEAR: Final = 32
"""Bins by which the top edge of a drafted object may differ and still be meant."""


@dataclass(frozen=True, slots=True)
class Place:
    """What of a draft comes next; immutable, so that guesses can run ahead of what is certain.

    Attributes:
        objects: The drafted objects, each with what follows it up to the next.
        index: The object that is being written or, while nothing fits, the first one left.
        offset: The token of it that comes next; None: nothing fits until the next object.

    Example:
        >>> place = draft_place([7, 8, 9], (), first_loc=100)
        >>> place.token, place.after(7, starts_object=False, first_loc=100).token
        (7, 8)
    """

    objects: tuple[tuple[int, ...], ...]
    index: int = 0
    offset: int | None = 0

    @property
    def token(self) -> int | None:
        """The id that the draft proposes here, or None."""
        if self.offset is None or self.index >= len(self.objects):
            return None
        drafted = self.objects[self.index]
        return drafted[self.offset] if self.offset < len(drafted) else None

    def after(self, token: int, *, starts_object: bool, first_loc: int) -> "Place":
        """Return the place after ``token`` was written.

        Args:
            token: The id that was written.
            starts_object: Whether it is the first location of an object.
            first_loc: Id of ``<loc0000>``.
        """
        if starts_object:
            return self._at_start_of(token)
        expected = self.token
        if expected is None or self.offset is None:
            return self
        both_locs = min(token, expected) >= first_loc and max(token, expected) < first_loc + 1024
        if token != expected and not both_locs:
            return replace(self, index=self.index + 1, offset=None)
        if self.offset + 1 < len(self.objects[self.index]):
            return replace(self, offset=self.offset + 1)
        return replace(self, index=self.index + 1, offset=0)

    def _at_start_of(self, token: int) -> "Place":
        first = self.index if self.offset in (None, 0) else self.index + 1
        ahead = [
            (abs(drafted[0] - token), index)
            for index, drafted in enumerate(self.objects[first:], first)
        ]
        distance, index = min(ahead, default=(_NEAR + 1, 0))
        if distance > _NEAR:
            return replace(self, index=first, offset=None)
        return replace(self, index=index, offset=1)


def draft_place(ids: Sequence[int], spans: Sequence[ObjectSpan], *, first_loc: int) -> Place:
    """Cut a guess into objects and stand at its beginning.

    Args:
        ids: Token ids of the guess, without ``<eos>``.
        spans: Its objects, from `TokenGrammar.walk`; empty for text.
        first_loc: Id of ``<loc0000>``.
    """
    starts = [span.start for span in spans if ids[span.start] >= first_loc] or [0]
    stops = [*starts[1:], len(ids)]
    cut = tuple(tuple(ids[a:b]) for a, b in zip(starts, stops, strict=True))
    return Place(tuple(part for part in cut if part))
