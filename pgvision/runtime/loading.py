"""Loads a checkpoint once per process, whoever asks and however it is spelt."""

import gc
import logging
import re
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from safetensors import SafetensorError

from pgvision.errors import CheckpointError, OptionError
from pgvision.hub import fetch_file, hub_if_it_answers
from pgvision.runtime.checkpoints import (
    CARD_NAME,
    CheckpointCard,
    adapter_base,
    find_checkpoint,
    find_revision,
    read_card,
)
from pgvision.runtime.engine import Engine
from pgvision.runtime.failures import explain
from pgvision.runtime.onnx_files import is_exported
from pgvision.runtime.weights import (
    merge_adapter,
    read_config,
    read_model,
    read_processor,
    require_quantization,
)
from pgvision.tokens import segment_prefix

if TYPE_CHECKING:
    from transformers import PaliGemmaConfig

_LOG = logging.getLogger(__name__)
_DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Users keep pictures and answers beside a checkpoint; those do not make it another one.
_OWN_FILES: Final = re.compile(
    r".*\.safetensors(\.index\.json)?|.*config\.json|tokenizer.*|pgvision\.json"
)


@dataclass(frozen=True)
class _How:
    """The options of a load, checked; dtype None: the natural one."""

    device: str
    dtype: str | None
    quantize: str | None
    threads: int | None
    compiled: bool


@dataclass(frozen=True)
class _Source:
    """What lies where, once the hub was asked."""

    card: CheckpointCard
    base: str
    revision: str | None
    config: "PaliGemmaConfig"


@dataclass(frozen=True)
class _Weights:
    """What makes two loads the same weights."""

    location: str
    revision: str | None
    device: str
    dtype: str
    quantize: str | None


@dataclass(frozen=True)
class _Loaded:
    stamp: tuple[tuple[str, int, int], ...]
    engine: Engine


# transformers builds models under process-wide defaults: two loads at a time leave weights without
# values, in this load and in every later one. So one lock around all of it.
_LOCK: Final = threading.RLock()
_ENGINES: Final[dict[tuple[_Weights, str, int | None, bool], _Loaded]] = {}
_ON_HUB: Final[dict[tuple[str, str | None], _Source]] = {}  # asked once


def load(
    model: str | Path | None = None,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    kind: str | None = None,
    quantize: str | None = None,
    threads: int | None = None,
    compiled: bool = False,
) -> Engine:
    """Load a checkpoint, or return the engine that this process already has for it.

    A folder whose files have changed since is loaded anew. Any number of threads may call this.

    Args:
        model: See `find_checkpoint`.
        revision: Branch, tag or commit on the hub.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" to spread a large checkpoint over several
            GPUs; None takes the best that is there.
        dtype: "float32", "bfloat16" or "float16"; None: float32 for small models on the CPU,
            bfloat16 for large ones.
        kind: Which prompts it knows, where its name does not say; see `find_checkpoint`.
        quantize: "int8" or "int4" rounds the language model's weights to save memory, not time:
            on a processor "int8" takes about twice as long a token and moves hidden states by 1%,
            "int4" by 14%, so measure your boxes. Needs ``pgvision[quant]``.
        threads: What the processor computes with; None: one thread for small models, PyTorch's
            number for others (see `threads_for`).
        compiled: Compile the passes that write answers (`torch.compile`): for GPUs, where starting
            kernels costs more than they do. The first answers take minutes. On a processor it needs
            a C++ compiler and gains little, and scores may differ in their last bits from batch to
            batch.

    Returns:
        The engine, shared by all who name the same checkpoint and options; weights are shared even
        where ``kind``, ``threads`` or ``compiled`` differ.

    Raises:
        CheckpointError: If the weights cannot be had or are not PaliGemma's; the message says why.
        GatedCheckpointError: If Google's licence must be accepted first.
        DependencyError: If a package is missing that an adapter or an option needs.
        OptionError: If an option is not one of those named, or a folder is given a revision.

    Example:
        >>> load("tiny") is load("tiny", dtype="float32", device="cpu")
        True
    """
    card = find_revision(model, revision, kind=kind)
    if card.is_local and is_exported(Path(card.location)):
        raise CheckpointError(
            f"{card.name}: is an export, which tasks, eval and doctor take; what compares, trains "
            "or exports needs the checkpoint that it was made of"
        )
    place, number = _require_device(device), _require_dtype(dtype, quantize)
    require_quantization(quantize, card)
    if threads is not None and threads < 1:
        raise OptionError(f"threads: expected at least 1, got {threads}; leave it out")
    with _LOCK:
        how = _How(place, number, quantize, threads, compiled)
        return _load(card, revision, kind, how)


def load_apart(
    model: str | Path | None = None, *, device: str | None = None, dtype: str | None = None
) -> Engine:
    """Load a checkpoint that nobody else holds, so that its weights may be changed.

    Args:
        model: See `find_checkpoint`.
        device: See `load`.
        dtype: See `load`.

    Raises:
        CheckpointError: See `load`.
        OptionError: See `load`.

    Example:
        >>> load_apart("tiny").model is load("tiny").model
        False
    """
    how = _How(_require_device(device), _require_dtype(dtype, None), None, None, compiled=False)
    with _LOCK:
        return _load(find_revision(model, None), None, None, how, apart=True)


def unload(model: str | Path | None = None) -> int:
    """Forget engines, so that their memory is free once nobody else holds them.

    Args:
        model: Which checkpoint's, as it was named to `load`; None: all.

    Returns:
        How many were forgotten.

    Example:
        >>> _ = load("tiny")
        >>> unload("tiny") > 0
        True
    """
    with _LOCK:
        location = None if model is None else find_checkpoint(model).location
        gone = [
            key
            for key, loaded in _ENGINES.items()
            if location is None or location in {key[0].location, loaded.engine.card.name}
        ]
        for key in gone:
            del _ENGINES[key]
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return len(gone)


def _load(
    card: CheckpointCard,
    revision: str | None,
    kind: str | None,
    how: _How,
    *,
    apart: bool = False,
) -> Engine:
    on_hub = not (card if card.base is None else find_checkpoint(card.base)).is_local
    try:
        with hub_if_it_answers() if on_hub else nullcontext():
            source = _ON_HUB.get((card.location, revision)) or _resolve(card, revision)
            if on_hub:
                _ON_HUB[card.location, revision] = source
            if kind is not None:
                source = replace(source, card=replace(source.card, kind=kind))
            return _engine(source, how, apart=apart)
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        ImportError,
        MemoryError,
        SafetensorError,
    ) as error:
        raise explain(error, card) from error


def _engine(source: _Source, how: _How, *, apart: bool) -> Engine:
    card = source.card
    dtype = how.dtype or _natural_dtype(source.config, how.device)
    weights = _Weights(card.location, source.revision, how.device, dtype, how.quantize)
    if apart:
        return _read(source, weights, how)
    stamp = _stamp(card.location) + _stamp(source.base)
    for old in [one for one, it in _ENGINES.items() if one[0] == weights and it.stamp != stamp]:
        del _ENGINES[old]  # the files have changed since
    key = (weights, card.kind, how.threads, how.compiled)
    found = _ENGINES.get(key)
    if found is not None:
        return found.engine
    same = next((it.engine for one, it in _ENGINES.items() if one[0] == weights), None)
    if same is not None:
        engine = Engine(
            same.model, same.processor, card, threads=how.threads, compiled=how.compiled
        )
    else:
        engine = _read(source, weights, how)
    _ENGINES[key] = _Loaded(stamp, engine)
    return engine


def _read(source: _Source, weights: _Weights, how: _How) -> Engine:
    started = time.perf_counter()
    card = source.card
    model = read_model(
        source.base,
        source.revision,
        source.config,
        dtype=_DTYPES[weights.dtype],
        device=weights.device,
        quantize=weights.quantize,
    )
    if card.base is not None:
        model = merge_adapter(model, card)
    processor = read_processor(source.base, source.revision)
    engine = Engine(model, processor, card, threads=how.threads, compiled=how.compiled)
    _LOG.info(
        "loaded %s in %.1f s (%s, %s%s; prompts of kind %s, as %r): %s",
        card.name,
        time.perf_counter() - started,
        weights.device,
        weights.dtype,
        f", weights rounded to {weights.quantize}" if weights.quantize else "",
        card.kind,
        segment_prefix("cat", kind=card.kind),
        card.about,
    )
    return engine


def _resolve(card: CheckpointCard, revision: str | None) -> _Source:
    """Find out what only the files say: a card on the hub, an adapter, the configuration."""
    if not card.is_local:
        own = fetch_file(card.location, CARD_NAME, revision)
        card = read_card(own, card) if own else card
        # Adapters have no config.json. Where it cannot be had for other reasons, the error comes
        # when the base is read, and says so.
        if fetch_file(card.location, "config.json", revision) is None:
            settings = fetch_file(card.location, "adapter_config.json", revision)
            if settings is not None:
                fetch_file(card.location, "adapter_model.safetensors", revision)
                card = replace(find_checkpoint(settings.parent), name=card.name)
                revision = None
    base = card.location
    if card.base is not None:
        base = find_checkpoint(card.base).location
        revision = revision or adapter_base(Path(card.location))[1]
    return _Source(card, base, revision, read_config(base, revision, card.name))


def _stamp(location: str) -> tuple[tuple[str, int, int], ...]:
    folder = Path(location)
    if not folder.is_dir():
        return ()
    files = sorted(path for path in folder.iterdir() if _OWN_FILES.fullmatch(path.name))
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)


def _natural_dtype(config: "PaliGemmaConfig", device: str) -> str:
    large = int(config.text_config.hidden_size) >= 1024
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return "bfloat16" if large or on_gpu else "float32"


def _require_dtype(dtype: str | None, quantize: str | None) -> str | None:
    if dtype is not None and dtype not in _DTYPES:
        raise OptionError(f"dtype: expected one of {', '.join(_DTYPES)}, got {dtype!r}")
    if quantize == "int4" and dtype not in {None, "bfloat16"}:
        raise OptionError(f"dtype: int4 weights compute in bfloat16, got {dtype!r}; leave it out")
    return "bfloat16" if quantize == "int4" else dtype


def _require_device(device: str | None) -> str:
    if device is None:
        if torch.cuda.is_available():
            device = "cuda"
        else:
            return "mps" if torch.backends.mps.is_available() else "cpu"
    if device == "auto":
        return device
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise OptionError(f"device: expected cpu, cuda, mps or auto, got {device!r}") from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(parsed.type, False):
        raise OptionError(f"device: {device!r} is not on this machine; use device='cpu'")
    if parsed.type == "cuda":  # one name for one card
        return f"cuda:{torch.cuda.current_device() if parsed.index is None else parsed.index}"
    return parsed.type
