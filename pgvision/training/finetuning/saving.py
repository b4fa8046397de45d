"""A run's states on disk: what cannot be written is told, and what was there before is whole."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pgvision.errors import CheckpointError, DataError
from pgvision.training.finetuning.binding import is_first
from pgvision.training.finetuning.sharding import put

WEIGHTS_NAME: Final = "trained.safetensors"
_WHOLE: Final = "whole"  # written last into a checkpoint: without it, it is half of one


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn the errors of safetensors, torch and the system into one.

    Args:
        path: What is being written.

    Raises:
        CheckpointError: If it could not be.
    """
    try:
        yield
    # RuntimeError: torch's archives, on a full disk.
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{path}: cannot be written: {str(error).splitlines()[0]}. What was saved before is "
            "whole: make room, and give the same command again"
        ) from error


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights that are trained, by name; of tied ones the first.

    They share the model's memory, and of weights that are split they are the pieces.
    """
    return {
        name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad
    }


def load_trained(model: Any, path: Path) -> None:
    """Put weights of `trained_weights` back, from a file of whole ones.

    Raises:
        DataError: If they are of other names or shapes.
    """
    own, stored = trained_weights(model), load_file(path)
    if {name: one.shape for name, one in own.items()} != {n: o.shape for n, o in stored.items()}:
        raise DataError(f"{path}: holds other weights than those that are trained; start anew")
    set_weights(model, stored)


@torch.no_grad()
def set_weights(model: Any, weights: dict[str, Tensor]) -> None:
    """Put weights of `trained_weights` into a model."""
    own = dict(model.named_parameters())
    for name, weight in weights.items():
        put(own[name], weight)


def mark_whole(folder: Path) -> None:
    """Say that all of a checkpoint is there."""
    (folder / _WHOLE).touch()


def checkpoint_step(folder: Path) -> int:
    """Return the step at which a checkpoint was written."""
    return int(folder.name.rpartition("-")[2])


def last_checkpoint(out: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, and take away what is half of one."""
    found = sorted(out.glob("checkpoint-*"), key=checkpoint_step)
    for path in reversed(found):
        if (path / _WHOLE).exists():
            return path
        if is_first():
            shutil.rmtree(path)
    return None
