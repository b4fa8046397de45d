"""Runs PaliGemma: checkpoints are found, checked, loaded once and asked in batches.

Everything that needs torch loads on first use; the protocol itself needs numpy alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgvision.runtime.checkpoints import CheckpointCard, find_checkpoint
    from pgvision.runtime.engine import Engine
    from pgvision.runtime.leaks import LanguageReport, LeakReport, check_language, check_leaks
    from pgvision.runtime.loading import load, unload
    from pgvision.runtime.protocol import GenerateOptions, Generation, Generator, Request
    from pgvision.runtime.threads import threads_for

_HOMES = {
    "CheckpointCard": "checkpoints",
    "Engine": "engine",
    "GenerateOptions": "protocol",
    "Generation": "protocol",
    "Generator": "protocol",
    "LanguageReport": "leaks",
    "LeakReport": "leaks",
    "Request": "protocol",
    "check_language": "leaks",
    "check_leaks": "leaks",
    "find_checkpoint": "checkpoints",
    "load": "loading",
    "threads_for": "threads",
    "unload": "loading",
}
__all__ = [
    "CheckpointCard",
    "Engine",
    "GenerateOptions",
    "Generation",
    "Generator",
    "LanguageReport",
    "LeakReport",
    "Request",
    "check_language",
    "check_leaks",
    "find_checkpoint",
    "load",
    "threads_for",
    "unload",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"pgvision.runtime.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pgvision.runtime' has no attribute {name!r}")
