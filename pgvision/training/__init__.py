"""Fine-tuning on transformers' Trainer: a data set in, a checkpoint with figures out.

Needs the extra ``train`` (accelerate, and peft for LoRA). Names load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgvision.training.config import DataSource, TrainConfig
    from pgvision.training.report import TrainReport
    from pgvision.training.run import train
    from pgvision.training.views import cut_tiles

_HOMES = {
    "DataSource": "config",
    "TrainConfig": "config",
    "TrainReport": "report",
    "cut_tiles": "views",
    "train": "run",
}
__all__ = ["DataSource", "TrainConfig", "TrainReport", "cut_tiles", "train"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"pgvision.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pgvision.training' has no attribute {name!r}")
