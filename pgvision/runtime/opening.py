"""From what a user names to what answers: weights in this process, or a server elsewhere."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from pgvision.collecting import without_collecting
from pgvision.errors import OptionError
from pgvision.runtime.checkpoints import (
    CheckpointCard,
    find_checkpoint,
    find_revision,
    is_address,
)
from pgvision.runtime.onnx_engine import OnnxEngine
from pgvision.runtime.onnx_files import is_exported
from pgvision.runtime.protocol import Generator
from pgvision.runtime.remote import find_remote


def open_generator(
    model: str | Path | None = None,
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    kind: str | None = None,
    quantize: str | None = None,
    threads: int | None = None,
    compiled: bool = False,
) -> Generator:
    """Load a checkpoint or its export, or find a server; torch is needed for the first alone.

    Args:
        model: See `pgvision.runtime.find_checkpoint`; ``http://...`` is a server.
        revision: See `pgvision.runtime.load`, as for the others.
        device: Where to compute.
        dtype: Of the weights.
        kind: Which prompts it knows.
        quantize: What weights are rounded to.
        threads: Of the processor.
        compiled: Whether the passes that write answers are compiled.

    Raises:
        OptionError: If an option is given that a server decides for itself.
    """
    card = find_checkpoint(model, kind=kind)
    name = card.name
    given = {"device": device, "dtype": dtype, "quantize": quantize, "compiled": compiled or None}
    if card.is_local and is_exported(Path(card.location)):
        find_revision(model, revision)
        _refuse(given, f"{name} is exported for processors in float32")
        return _exported(card, threads)
    if not is_address(name):
        with without_collecting():
            from pgvision.runtime.loading import load

        return load(
            model,
            revision=revision,
            device=device,
            dtype=dtype,
            kind=kind,
            quantize=quantize,
            threads=threads,
            compiled=compiled,
        )
    find_revision(model, revision, kind=kind)
    _refuse({**given, "threads": threads}, f"the server at {name} decides")
    return find_remote(name, kind)


def _refuse(given: Mapping[str, object], why: str) -> None:
    for option, value in given.items():
        if value is not None:
            raise OptionError(f"{option}: {why}; leave {option} out")


@lru_cache(maxsize=4)
def _exported(card: CheckpointCard, threads: int | None) -> OnnxEngine:
    return OnnxEngine(card, threads=threads)
