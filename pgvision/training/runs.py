"""The state of a run on disk, bound to what it was made with."""

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from pgvision.errors import OptionError
from pgvision.files import replaced_path

STATE_NAME: Final = "state.pt"


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


def save_state(folder: Path, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write the state of a run and what it is bound to."""
    with replaced_path(folder / STATE_NAME) as aside:
        torch.save({"identity": dict(identity), **state}, aside)


def load_state(
    folder: Path, identity: Mapping[str, Any], *, free: Sequence[str] = ()
) -> dict[str, Any] | None:
    """Read the state of a run; None if there is none.

    Args:
        folder: Where the run lies.
        identity: What the run is to be bound to now.
        free: Names that may have changed.

    Raises:
        OptionError: If the run was made with something else; the message names what.
    """
    path = folder / STATE_NAME
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    held = state.get("identity", {})
    names = sorted({*held, *identity} - set(free))
    other = [
        f"{name} was {held.get(name)!r} and is {identity.get(name)!r}"
        for name in names
        if held.get(name) != identity.get(name)
    ]
    if other:
        raise OptionError(
            f"{path}: made with something else ({'; '.join(other)}); give it the same again, "
            f"or another folder"
        )
    return state
