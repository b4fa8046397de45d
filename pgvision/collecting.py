"""Pause of Python's garbage collector during imports and the reading of large files."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collecting() -> Iterator[None]:
    """Pause Python's garbage collector, which would scan a million new objects repeatedly.

    It would take a fifth of a cold start. The block must not create
    reference cycles that it drops. New objects are moved to the oldest generation afterwards.

    Example:
        >>> with without_collecting():
        ...     import json
        >>> gc.isenabled()
        True
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if not gc.get_freeze_count():  # objects that the program froze must stay frozen
                gc.freeze()
                gc.unfreeze()
            gc.enable()
