"""Cache of loaded engines: each checkpoint once per process, however its name is written."""

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pgvision.runtime.checkpoints import CheckpointCard, find_checkpoint, own_files
from pgvision.runtime.engine import Engine

_LOG = logging.getLogger(__name__)

Key = tuple[object, ...]  # library, location, options: what makes two loads the same weights
Stamp = tuple[tuple[str, int, int], ...]

# transformers builds models under process-wide defaults: two loads at a time leave weights without
# values, in this load and in every later one. So one lock around all of it.
LOCK: Final = threading.RLock()
_ENTRIES: Final[dict[Key, tuple[Stamp, dict[str, Engine]]]] = {}  # engines by their kind
ON_HUB: Final[dict[tuple[str, str | None], Any]] = {}  # what the hub was asked for, once


def stamp_of(*locations: str) -> Stamp:
    """Return names, sizes and times of a checkpoint's files; empty for the hub's."""
    folders = [Path(location) for location in locations if Path(location).is_dir()]
    files = [path for folder in folders for path in own_files(folder)]
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)


def logged(build: Callable[[], Engine]) -> Engine:
    """Build an engine, and log what was loaded in how many seconds."""
    started = time.perf_counter()
    engine = build()
    _LOG.info(
        "loaded %s in %.1f s (%s; prompts of kind %s): %s",
        engine.card.name,
        time.perf_counter() - started,
        engine.backend.description,
        engine.card.kind,
        engine.card.about,
    )
    return engine


def cached_engine(
    key: Key, stamp: Stamp, card: CheckpointCard, build: Callable[[], Engine]
) -> Engine:
    """Return the engine of a key, built if there is none or its files have changed since.

    Args:
        key: Library, location, options.
        stamp: See `stamp_of`.
        card: Engines that differ in its kind alone share their weights.
        build: Loads the checkpoint.
    """
    with LOCK:
        if key in _ENTRIES and _ENTRIES[key][0] != stamp:
            # The old weights go before the new ones come.
            del _ENTRIES[key]
            gc.collect()
        if key not in _ENTRIES:
            engine = logged(build)
            _ENTRIES[key] = stamp, {engine.card.kind: engine}
        engines = _ENTRIES[key][1]
        if card.kind not in engines:
            same = next(iter(engines.values()))
            own = replace(same.card, kind=card.kind)
            engines[card.kind] = Engine(same.backend, same.tokenizer, own)
        return engines[card.kind]


def unload(model: str | Path | None = None) -> int:
    """Remove engines from the cache; memory is freed once nothing else refers to them.

    Args:
        model: Which checkpoint's, as it was named when it was loaded; None: all.

    Returns:
        How many were forgotten.

    Example:
        >>> from pgvision.runtime import open_engine
        >>> _ = open_engine("tiny")
        >>> unload("tiny") > 0
        True
    """
    with LOCK:
        location = None if model is None else find_checkpoint(model).location
        gone = [
            key
            for key, (_, engines) in _ENTRIES.items()
            # The location of an adapter on the hub is its folder in the cache.
            if location is None
            or any(location in (one.card.location, one.card.name) for one in engines.values())
        ]
        ON_HUB.clear()
        count = sum(len(_ENTRIES.pop(key)[1]) for key in gone)
    # Modules have reference cycles, so only the collector frees them.
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return count
