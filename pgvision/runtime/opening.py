"""Selection of an engine for a checkpoint: ONNX Runtime, torch, or a remote server."""

import os
from collections.abc import Mapping
from glob import glob
from pathlib import Path
from typing import Final, Literal, get_args

from pgvision.errors import (
    CheckpointError,
    DependencyError,
    OptionError,
    require_choice,
    require_count,
)
from pgvision.runtime.checkpoint_files import read_tokenizer
from pgvision.runtime.checkpoints import CheckpointCard, find_checkpoint, is_address
from pgvision.runtime.engine import Engine
from pgvision.runtime.engine_cache import cached_engine, stamp_of
from pgvision.runtime.onnx_backend import OnnxBackend, default_threads, why_unsupported
from pgvision.runtime.protocol import Generator

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
    threads: int | None = None,
) -> Generator:
    """Load a checkpoint in the library that suits it, or connect to a server.

    Args:
        model: See `pgvision.runtime.find_checkpoint`; ``http://...`` is a server.
        engine: "auto" (the default) takes ONNX Runtime on a CPU for checkpoint folders of up to
            200 million parameters, which need neither torch nor transformers there, and torch for
            all others: GPUs, large checkpoints, adapters, hub ids. "onnx" and "torch" choose.
        revision: See `pgvision.runtime.load`, as for the others.
        device: Where to compute.
        dtype: Of the weights. ONNX Runtime computes in float32; by default larger image encoders
            run in bfloat16 where the CPU has it, with "float32" they do not.
        kind: Which prompts the checkpoint knows.
        threads: Of the CPU; None: all that the process may use, at most 8 (ONNX Runtime), or
            PyTorch's number.

    Raises:
        CheckpointError: If the weights cannot be had, or are not PaliGemma's.
        OptionError: If an option is outside its range or does not suit the engine.
        DependencyError: If a package is missing.
    """
    # 1. Check the options, and find the checkpoint.
    threads = None if threads is None else require_count("threads", threads, least=1)
    require_choice("engine", engine or "auto", get_args(EngineName))
    card = find_checkpoint(model, revision=revision, kind=kind)
    given = {"device": device, "dtype": dtype}
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
