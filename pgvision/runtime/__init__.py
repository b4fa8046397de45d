"""Runs PaliGemma: finds and loads checkpoints, encodes images, decodes answers in batches.

Small checkpoints on a CPU run on ONNX Runtime: what needs torch is loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pgvision.runtime.checkpoints import (
    CheckpointCard,
    find_checkpoint,
    weights_digest,
)
from pgvision.runtime.engine import Engine
from pgvision.runtime.engine_cache import unload
from pgvision.runtime.opening import open_engine
from pgvision.runtime.protocol import (
    Drafts,
    Generation,
    Generator,
    ObjectSpan,
    Picture,
    Request,
)

if TYPE_CHECKING:
    from pgvision.runtime.checks import check_language, check_leaks
    from pgvision.runtime.loading import engine_of, load, load_apart
    from pgvision.runtime.remote import Remote

__all__ = [
    "CheckpointCard",
    "Drafts",
    "Engine",
    "Generation",
    "Generator",
    "ObjectSpan",
    "Picture",
    "Remote",
    "Request",
    "check_language",
    "check_leaks",
    "engine_of",
    "find_checkpoint",
    "load",
    "load_apart",
    "open_engine",
    "unload",
    "weights_digest",
]

_LAZY = {
    "checks": ("check_language", "check_leaks"),
    "loading": ("engine_of", "load", "load_apart"),
    "remote": ("Remote",),
}


def __getattr__(name: str) -> object:
    for module, names in _LAZY.items():
        if name in names:
            return getattr(import_module(f"pgvision.runtime.{module}"), name)
    raise AttributeError(f"module 'pgvision.runtime' has no attribute {name!r}")
