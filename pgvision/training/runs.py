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
    if other := differences(held, identity, free=free):
        raise OptionError(
            f"{path}: made with something else ({other}); give it the same again, or another folder"
        )
    return state


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
