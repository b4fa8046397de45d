"""Selection of an engine for a checkpoint, and the cache of loaded ones: each once per process."""

import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pgvision.errors import CheckpointError, DependencyError, OptionError, require_choice
from pgvision.runtime.checkpoint_files import read_tokenizer
from pgvision.runtime.checkpoints import (
    CheckpointCard,
    find_checkpoint,
    find_revision,
    is_address,
    own_files,
)
from pgvision.runtime.engine import Engine
from pgvision.runtime.onnx_backend import OnnxBackend, default_threads, why_unsupported
from pgvision.runtime.protocol import Generator, require_count

_LOG = logging.getLogger(__name__)

EngineName = Literal["auto", "onnx", "torch"]
# Any number: a container may have only the fourth card.
_NVIDIA: Final = ("/dev/nvidia[0-9]*", "C:/Windows/System32/nvcuda.dll")


def open_engine(
    model: str | Path | None = None,
    *,
    engine: EngineName | None = None,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    kind: str | None = None,
    quantize: str | None = None,
    threads: int | None = None,
) -> Generator:
    """Load a checkpoint in the library that suits it, or connect to a server.

    Args:
        model: See `pgvision.runtime.find_checkpoint`; ``http://...`` is a server.
        engine: "auto" (the default) takes ONNX Runtime on a CPU for checkpoint folders of up to
            200 million parameters, which need neither torch nor transformers there, and torch for
            all others: GPUs, large checkpoints, adapters, hub ids, quantised weights. "onnx" and
            "torch" choose.
        revision: See `pgvision.runtime.load`, as for the others.
        device: Where to compute.
        dtype: Of the weights. ONNX Runtime computes in float32; by default larger image encoders
            run in bfloat16 where the CPU has it, with "float32" they do not.
        kind: Which prompts the checkpoint knows.
        quantize: What weights are rounded to (torch).
        threads: Of the CPU; None: all that the process may use, at most 8 (ONNX Runtime), or
            PyTorch's number.

    Raises:
        CheckpointError: If the weights cannot be had, or are not PaliGemma's.
        OptionError: If an option is outside its range or does not suit the engine.
        DependencyError: If a package is missing.
    """
    # 1. Check the options, and find the checkpoint.
    threads = require_count("threads", threads)
    require_choice("engine", engine or "auto", get_args(EngineName))
    card = find_revision(model, revision, kind=kind)
    given = {"device": device, "dtype": dtype, "quantize": quantize}
    # 2. A server chooses device, dtype and threads itself.
    if is_address(card.location):
        from pgvision.runtime.remote import Remote

        own = None if engine in (None, "auto") else engine
        for option, value in {**given, "threads": threads, "engine": own}.items():
            if value is not None:
                why = f"the server at {card.name} decides"
                raise OptionError(f"{option}: {why}; leave {option} out")
        return Remote(card.name, kind=kind)
    # 3. Choose ONNX Runtime or PyTorch.
    reason = _why_torch(card, given, engine)
    if engine == "onnx" and reason is not None:
        raise OptionError(f"engine: {card.name} cannot run on ONNX Runtime: {reason}")
    if engine == "torch" or reason is not None:
        from pgvision.runtime.loading import load

        return load(model, revision=revision, kind=kind, threads=threads, **given)
    return _open_onnx(card, threads or default_threads(), dtype)


def _why_torch(
    card: CheckpointCard, given: Mapping[str, str | None], engine: EngineName | None
) -> str | None:
    """Return why ONNX Runtime is not used; None: it is."""
    reasons = {
        "its weights are not in a folder": not card.is_local,
        "it is an adapter; merge it with `pgvision export`": card.base is not None,
        f"device={given['device']!r}": given["device"] not in (None, "cpu"),
        f"dtype={given['dtype']!r}": given["dtype"] not in (None, "float32"),
        f"quantize={given['quantize']!r}": given["quantize"] is not None,
        "this machine has a GPU": engine != "onnx" and given["device"] is None and _has_gpu(),
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    return reason or why_unsupported(Path(card.location))


def _has_gpu() -> bool:
    """Return whether an NVIDIA driver is there and ``CUDA_VISIBLE_DEVICES`` does not hide it."""
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not is_hidden and any(map(glob, _NVIDIA))


def _open_onnx(card: CheckpointCard, threads: int, dtype: str | None) -> Engine:
    def build() -> Engine:
        try:
            backend = OnnxBackend(Path(card.location), threads=threads, dtype=dtype)
        except ImportError as error:
            raise DependencyError(f"{error.name} is missing: pip install {error.name}") from error
        except MemoryError as error:
            raise CheckpointError(f"{card.name}: does not fit into memory") from error
        return Engine(backend, read_tokenizer(card.location, None), card)

    key = ("onnx", card.location, threads, dtype)
    return cached_engine(key, stamp_of(card.location), card, build)


# --- cache of loaded engines --------------------------------------------------------------------

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
