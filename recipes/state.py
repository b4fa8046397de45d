"""A recipe's folder: what it is bound to, its complete checkpoints and its curve."""

import hashlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pgvision import __version__
from pgvision.errors import DataError, OptionError
from pgvision.files import write_text

WEIGHTS_NAME: Final = "trained.safetensors"
_RUN_NAME: Final = "run.json"
_CURVE_NAME: Final = "curve.jsonl"
_COMPLETE: Final = "complete"  # written last into a checkpoint
_PATIENCE: Final = 900.0  # seconds to wait for the first process


def num_processes() -> int:
    """Return how many processes train together, as torchrun sets it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_number() -> int:
    """Return this process's number among those that train together."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Return whether this process is the one that writes."""
    return process_number() == 0


def data_digest(shards: Sequence[Path]) -> str:
    """Return a short digest of shard files: their names and the check sums of their contents.

    Args:
        shards: Files that ``save_shard`` wrote, of all processes.
    """
    digest = hashlib.sha256()
    for path in shards:
        with zipfile.ZipFile(path) as stored:
            parts = [(one.filename, one.CRC, one.file_size) for one in stored.infolist()]
        digest.update(repr((path.name, sorted(parts))).encode())
    return digest.hexdigest()[:16]


def bind(folder: Path, identity: Mapping[str, Any], *, free: Sequence[str] = ()) -> None:
    """Hold a folder to one run.

    Args:
        folder: Of the run.
        identity: What the run is, as plain data; the number of processes and the version join it.
        free: Names that may have changed since the run began.

    Raises:
        OptionError: If the folder contains another run, or other files.
    """
    identity = {**identity, "processes": num_processes(), "version": __version__}
    path = folder / _RUN_NAME
    deadline = time.monotonic() + _PATIENCE
    while not is_first() and not path.exists():
        if time.monotonic() > deadline:
            raise OptionError(f"out: the first process has not written {path}; see its error")
        time.sleep(0.1)
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise OptionError(f"out: {folder} is not empty and contains no run; give a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"identity": identity}, indent=1) + "\n")
        return
    known = json.loads(path.read_text(encoding="utf-8"))["identity"]
    other = "; ".join(
        f"{name} was {known.get(name)!r} and is {identity.get(name)!r}"
        for name in sorted({*known, *identity} - set(free))
        if known.get(name) != identity.get(name)
    )
    if other:
        raise OptionError(f"out: {folder} contains a run with other settings: {other}")
    if is_first() and known != identity:
        write_text(path, json.dumps({"identity": identity}, indent=1) + "\n")


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's curve, each with its step."""
    path = folder / _CURVE_NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # the last line of a killed run
            break
    return found


def write_curve(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write a curve anew: a resumed run drops what came after its checkpoint."""
    write_text(folder / _CURVE_NAME, "".join(json.dumps(line) + "\n" for line in lines))


def append_to_curve(folder: Path, line: Mapping[str, Any]) -> None:
    """Append a line to a curve."""
    with (folder / _CURVE_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the trainable weights by name; of tied ones the first."""
    return {name: one.detach() for name, one in model.named_parameters() if one.requires_grad}


def save_trained(model: nn.Module, folder: Path) -> None:
    """Write the trainable weights into a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in trained_weights(model).items()}, folder / WEIGHTS_NAME)


def load_trained(model: nn.Module, path: Path) -> None:
    """Read weights of `save_trained` back.

    Raises:
        DataError: If they have other names or shapes.
    """
    own, stored = trained_weights(model), load_file(path)
    if {name: one.shape for name, one in own.items()} != {n: o.shape for n, o in stored.items()}:
        raise DataError(f"{path}: contains other weights than those that are trained; start anew")
    for name, weight in stored.items():
        own[name].copy_(weight)


def mark_complete(folder: Path) -> None:
    """Mark a checkpoint as complete."""
    (folder / _COMPLETE).touch()


def checkpoint_step(folder: Path) -> int:
    """Return the step at which a checkpoint was written."""
    return int(folder.name.rpartition("-")[2])


def last_checkpoint(out: Path) -> Path | None:
    """Return the newest complete checkpoint of a run, and remove newer ones."""
    for path in sorted(out.glob("checkpoint-*"), key=checkpoint_step, reverse=True):
        if (path / _COMPLETE).exists():
            return path
        if is_first():
            shutil.rmtree(path)
    return None
