"""From what a user names to what answers: weights in this process, or a server elsewhere."""

from pathlib import Path

from pgvision.errors import OptionError
from pgvision.runtime.checkpoints import find_checkpoint, find_revision, is_address
from pgvision.runtime.imports import without_collecting
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
) -> Generator:
    """Load a checkpoint, or find a server at its address; torch is needed for the first alone.

    Args:
        model: See `pgvision.runtime.find_checkpoint`; ``http://...`` is a server.
        revision: See `pgvision.runtime.load`, as for the others.
        device: Where to compute.
        dtype: Of the weights.
        kind: Which prompts it knows.
        quantize: What weights are rounded to.
        threads: Of the processor.

    Raises:
        OptionError: If an option is given that a server decides for itself.
    """
    name = find_checkpoint(model).name
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
        )
    find_revision(model, revision, kind=kind)
    given = {"device": device, "dtype": dtype, "quantize": quantize, "threads": threads}
    for option, value in given.items():
        if value is not None:
            raise OptionError(f"{option}: the server at {name} decides; leave {option} out")
    return find_remote(name, kind)
