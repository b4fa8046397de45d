"""What a run is bound to."""

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def data_digest(shards: Sequence[Path]) -> str:
    """Return a short digest of shard files: their names and everything in them.

    It reads the check sums that zip files hold, not the pictures.

    Args:
        shards: Files that ``save_shard`` wrote, of all processes.
    """
    digest = hashlib.sha256()
    for path in shards:
        with zipfile.ZipFile(path) as stored:
            parts = [(one.filename, one.CRC, one.file_size) for one in stored.infolist()]
        digest.update(repr((path.name, sorted(parts))).encode())
    return digest.hexdigest()[:16]


def differences(
    held: Mapping[str, Any], identity: Mapping[str, Any], *, free: Sequence[str] = ()
) -> str:
    """Say in words what of a run's identity has changed; "" for nothing.

    Args:
        held: What it was bound to.
        identity: What it is to be bound to now.
        free: Names that may have changed.

    Example:
        >>> differences({"seed": 1, "steps": 9}, {"seed": 2, "steps": 9})
        'seed was 1 and is 2'
    """
    return "; ".join(
        f"{name} was {held.get(name)!r} and is {identity.get(name)!r}"
        for name in sorted({*held, *identity} - set(free))
        if held.get(name) != identity.get(name)
    )
