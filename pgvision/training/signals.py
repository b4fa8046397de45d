"""Signals that end a run with a checkpoint."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pgvision.training.trainer import RunClock

_LOG = logging.getLogger(__name__)


@contextmanager
def stop_on_signals(clock: RunClock) -> Iterator[None]:
    """Let SIGTERM and the first ^C end the run with a checkpoint; a second ^C aborts."""
    # Python allows signal handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        if clock.is_stopped and number == signal.SIGINT:
            raise KeyboardInterrupt
        clock.is_stopped = True
        _LOG.warning("stopping after this step; ^C again aborts without saving")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
