"""Runs PaliGemma: checkpoints are found, checked, loaded once and asked in batches.

Everything that needs torch loads on first use; the protocol itself needs numpy alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pgvision.collecting import without_collecting

if TYPE_CHECKING:
    from pgvision.runtime.checkpoints import CheckpointCard, find_checkpoint, find_revision
    from pgvision.runtime.digests import weights_digest
    from pgvision.runtime.engine import Engine
    from pgvision.runtime.leaks import LanguageReport, LeakReport, check_language, check_leaks
    from pgvision.runtime.loading import load, load_apart, unload
    from pgvision.runtime.opening import open_generator
    from pgvision.runtime.protocol import (
        DRAFTS,
        Drafts,
        Generation,
        Generator,
        ObjectSpan,
        Picture,
        Request,
    )
    from pgvision.runtime.remote import Remote
    from pgvision.runtime.threads import threads_for

_HOMES = {
    "CheckpointCard": "checkpoints",
    "DRAFTS": "protocol",
    "Drafts": "protocol",
    "Engine": "engine",
    "Generation": "protocol",
    "Generator": "protocol",
    "LanguageReport": "leaks",
    "LeakReport": "leaks",
    "ObjectSpan": "protocol",
    "Picture": "protocol",
    "Remote": "remote",
    "Request": "protocol",
    "check_language": "leaks",
    "check_leaks": "leaks",
    "find_checkpoint": "checkpoints",
    "find_revision": "checkpoints",
    "load": "loading",
    "load_apart": "loading",
    "open_generator": "opening",
    "threads_for": "threads",
    "unload": "loading",
    "weights_digest": "digests",
}
__all__ = [
    "DRAFTS",
    "CheckpointCard",
    "Drafts",
    "Engine",
    "Generation",
    "Generator",
    "LanguageReport",
    "LeakReport",
    "ObjectSpan",
    "Picture",
    "Remote",
    "Request",
    "check_language",
    "check_leaks",
    "find_checkpoint",
    "find_revision",
    "load",
    "load_apart",
    "open_generator",
    "threads_for",
    "unload",
    "weights_digest",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        with without_collecting():
            return getattr(import_module(f"pgvision.runtime.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pgvision.runtime' has no attribute {name!r}")
