"""Let an iterator run ahead of its consumer, in one thread."""

import logging
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final, TypeVar

T = TypeVar("T")

_CLOSE_SECONDS = 10.0
_log = logging.getLogger("pgvision.images")


class _End:
    """The producer has no more."""


_END: Final = _End()


def read_ahead(producer: Generator[T, None, None], *, depth: int) -> Iterator[T]:
    """Yield what ``producer`` yields, in order, with up to ``depth`` items waiting.

    The producer runs in a thread of its own, one item at a time; an exception in it reaches the
    consumer in its turn. When the consumer stops early (``break``, ``close()``), the producer is
    closed, in its own thread, and the thread ends before this returns. A producer that hangs for
    more than 10 s is left behind, with a warning.

    Args:
        producer: The generator; it is closed in every case.
        depth: How many items may wait, at least 1.

    Yields:
        The items of ``producer``.

    Example:
        >>> list(read_ahead((n * n for n in range(4)), depth=2))
        [0, 1, 4, 9]
    """
    executor = ThreadPoolExecutor(1, thread_name_prefix="pgvision-reader")
    waiting: deque[Future[T | _End]] = deque()
    try:
        for _ in range(depth):
            waiting.append(executor.submit(_next, producer))
        while True:
            item = waiting.popleft().result()
            if isinstance(item, _End):
                return
            waiting.append(executor.submit(_next, producer))
            yield item
    finally:
        for future in waiting:
            future.cancel()
        closing = executor.submit(producer.close)
        done, _ = wait([closing], timeout=_CLOSE_SECONDS)
        executor.shutdown(wait=bool(done))
        if not done:
            _log.warning("the source did not answer within %g s and was left", _CLOSE_SECONDS)


def _next(producer: Iterator[T]) -> T | _End:
    return next(producer, _END)
