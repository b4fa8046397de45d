"""Cache of loaded engines: each checkpoint once per process, however its name is written."""

import gc
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from pgvision.runtime.checkpoints import CheckpointCard, find_checkpoint
from pgvision.runtime.engine import Engine

Stamp = tuple[tuple[str, int, int], ...]
# Users keep images and results in a checkpoint's folder; those do not make it another one.
_OWN_FILES: Final = re.compile(
    r".*\.safetensors(\.index\.json)?|.*config\.json|tokenizer.*|pgvision\.json"
)


@dataclass(frozen=True)
class EngineKey:
    """What makes two loads the same weights in the same library.

    Attributes:
        library: "onnx" or "torch".
        location: Folder or hub id.
        revision: Of the hub.
        options: Device, number type and the like.
    """

    library: str
    location: str
    revision: str | None = None
    options: tuple[object, ...] = ()


@dataclass
class _Entry:
    stamp: Stamp
    engines: dict[str, Engine] = field(default_factory=dict)  # by kind


# transformers builds models under process-wide defaults: two loads at a time leave weights without
# values, in this load and in every later one. So one lock around all of it.
LOCK: Final = threading.RLock()
_ENTRIES: Final[dict[EngineKey, _Entry]] = {}


def stamp_of(*locations: str) -> Stamp:
    """Return names, sizes and times of a checkpoint's files; empty for the hub's."""
    files = [
        path
        for location in locations
        if Path(location).is_dir()
        for path in sorted(Path(location).iterdir())
        if _OWN_FILES.fullmatch(path.name)
    ]
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)


def cached_engine(
    key: EngineKey, stamp: Stamp, card: CheckpointCard, build: Callable[[], Engine]
) -> Engine:
    """Return the engine of a key, built if there is none or its files have changed since.

    Args:
        key: See `EngineKey`.
        stamp: See `stamp_of`.
        card: Engines that differ in its kind alone share their weights.
        build: Loads the checkpoint.
    """
    with LOCK:
        entry = _ENTRIES.get(key)
        if entry is not None and entry.stamp != stamp:
            # The old weights go before the new ones come.
            del _ENTRIES[key], entry
            gc.collect()
            entry = None
        if entry is None:
            engine = build()
            entry = _ENTRIES[key] = _Entry(stamp, {engine.card.kind: engine})
        if card.kind not in entry.engines:
            same = next(iter(entry.engines.values()))
            own = replace(same.card, kind=card.kind)
            entry.engines[card.kind] = Engine(same.backend, same.tokenizer, own)
        return entry.engines[card.kind]


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
            for key, entry in _ENTRIES.items()
            if location is None
            or location == key.location
            or any(location == engine.card.location for engine in entry.engines.values())
        ]
        count = sum(len(_ENTRIES.pop(key).engines) for key in gone)
    # Modules have reference cycles, so only the collector frees them.
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return count
