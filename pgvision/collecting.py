"""Imports and files of a million entries make objects that stay, and no garbage to look for."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collecting() -> Iterator[None]:
    """Pause Python's garbage collector, which would scan a million new objects repeatedly.

    It would take a fifth of a cold start. Nothing built meanwhile may need it. What was made
    counts as old afterwards, so that the next look does not go through it.

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
