"""Errors of transformers, torch and the hub as errors of this package, with the fix."""

from typing import Final

import torch

from pgvision.errors import CheckpointError, DependencyError, GatedCheckpointError, OptionError
from pgvision.runtime.checkpoints import CheckpointCard

_OFFLINE: Final = 'or run offline with model="tiny"'


def explain(error: BaseException, card: CheckpointCard) -> Exception:
    """Return the error to raise for a checkpoint that did not load.

    Args:
        error: What was raised; one of ours is returned as it is.
        card: The checkpoint.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # 1. Our own errors have a message.
    if isinstance(error, CheckpointError | DependencyError | OptionError):
        return error
    # 2. Search the chain of causes for known errors.
    chain = _chain(error)

    def is_any(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in chain)

    page = f"https://huggingface.co/{card.location}"
    if any(_is_memory(one) for one in chain):
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return CheckpointError(
            f"{card.name}: does not fit into memory ({reason}): try "
            f'dtype="bfloat16", quantize="int8" or "int4", a smaller checkpoint, or '
            f'device="auto" to spread it over several GPUs; loading again will not help'
        )
    if is_any(GatedRepoError):
        return GatedCheckpointError(
            f"{card.name}: gated: accept the licence at {page}, run `hf auth login`, {_OFFLINE}"
        )
    if is_any(RevisionNotFoundError):
        # The repository exists, the branch or tag does not.
        return CheckpointError(f"{card.name}: no such revision; see {page}/refs")
    if is_any(RepositoryNotFoundError):
        return CheckpointError(
            f"{card.name}: not on the hub, or private: check the name at {page}, "
            f"run `hf auth login` if it is yours, {_OFFLINE}"
        )
    is_offline = any("onnect" in str(one) for one in chain)
    if not card.is_local and (is_offline or is_any(LocalEntryNotFoundError, ConnectionError)):
        return CheckpointError(
            f"{card.name}: the hub cannot be reached and the files are not in the cache: "
            f"connect, or download {page} to a folder and give its path, {_OFFLINE}"
        )
    return CheckpointError(
        f"{card.name}: cannot be loaded from {card.location} ({type(error).__name__}: {error}); "
        f"a file may be missing or half downloaded: fetch it again, {_OFFLINE}"
    )


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def _is_memory(error: BaseException) -> bool:
    # The CPU allocator has no error class, only these words.
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError | OSError) and any(one in str(error) for one in words)
    )
