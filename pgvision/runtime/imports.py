"""Importing torch and transformers makes a million objects that stay, and no garbage."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collecting() -> Iterator[None]:
    """Import without looking for garbage, which would take a fifth of the time of a cold start.

    What was made meanwhile counts as old afterwards, so that the next look does not go through it.

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
