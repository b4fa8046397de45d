"""Imports and files of a million entries make objects that stay, and no garbage to look for."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collecting() -> Iterator[None]:
    """Hold Python's cycle collector, which looks at all of a million new objects time and again.

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
            if not gc.get_freeze_count():  # by someone who means them to stay frozen
                gc.freeze()
                gc.unfreeze()
            gc.enable()
