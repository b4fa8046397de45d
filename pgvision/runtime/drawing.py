"""Requests drawn as there is room for them."""

from collections.abc import Iterable, Iterator

from pgvision.runtime.protocol import Request


class Drawn:
    """Requests as they are drawn; an exception among them is kept for its turn.

    Args:
        requests: May be endless.

    Attributes:
        is_empty: Whether no more will come.
        error: What ``requests`` raised, to be raised when all before it is answered.
    """

    def __init__(self, requests: Iterable[Request]) -> None:
        self._numbered = enumerate(requests)
        self.is_empty = False
        self.error: Exception | None = None

    def take(self, count: int) -> Iterator[tuple[int, Request]]:
        """Yield at most ``count`` further requests."""
        for _ in range(count):
            if self.is_empty:
                return
            try:
                yield next(self._numbered)
            except StopIteration:
                self.is_empty = True
            except Exception as error:  # noqa: BLE001  (kept, not swallowed: `generate` raises it)
                self.is_empty, self.error = True, error
