"""Digest of a checkpoint: a resumed run must use the same weights."""

import hashlib
from pathlib import Path
from typing import Final

from pgvision.runtime.checkpoints import CheckpointCard, find_checkpoint, is_address

_BLOCK: Final = 1 << 20
_NUM_BLOCKS: Final = 256
"""Blocks read of a larger file, evenly spread: training changes all of it."""


def weights_digest(card: CheckpointCard, revision: str | None) -> str:
    """Compute a digest of a checkpoint's weights, which training changes.

    Args:
        card: The checkpoint; one of the hub has been loaded before, so that it is in the cache.
        revision: As it was loaded.

    Returns:
        A digest of all its files, or the hub's own: the commit. An adapter's base comes after it.
    """
    if is_address(card.location):
        return card.name  # a server's weights cannot be read
    if not card.is_local:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(card.location, "config.json", revision=revision)
        commit = Path(cached).parent.name if isinstance(cached, str) else revision or "main"
        return f"{card.location}@{commit}"
    digest = hashlib.sha256()
    folder = Path(card.location)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if not any(part.startswith(".") for part in file.relative_to(folder).parts):
            digest.update(
                f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode()
            )
            _update(digest, file)
    own = digest.hexdigest()
    base = None if card.base is None else weights_digest(find_checkpoint(card.base), revision)
    return own if base is None else f"{own} on {base}"


def _update(digest: "hashlib._Hash", file: Path) -> None:
    size = file.stat().st_size
    count = min(_NUM_BLOCKS, -(-size // _BLOCK))
    with file.open("rb") as stream:
        for number in range(count):
            stream.seek((size - _BLOCK) * number // (count - 1) if size > _BLOCK else 0)
            digest.update(stream.read(_BLOCK))
