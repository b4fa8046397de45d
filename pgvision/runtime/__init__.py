"""Runs PaliGemma: finds and loads checkpoints, encodes images, decodes answers in batches.

Nothing here loads torch before it is needed: small checkpoints on a CPU run on ONNX Runtime.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgvision.runtime.checkpoints import CheckpointCard, find_checkpoint, find_revision
    from pgvision.runtime.checks import LanguageReport, LeakReport, check_language, check_leaks
    from pgvision.runtime.digests import weights_digest
    from pgvision.runtime.engine import Engine
    from pgvision.runtime.engine_cache import unload
    from pgvision.runtime.loading import engine_of, load, load_apart
    from pgvision.runtime.opening import open_engine
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

_MODULES = {
    "CheckpointCard": "checkpoints",
    "DRAFTS": "protocol",
    "Drafts": "protocol",
    "Engine": "engine",
    "Generation": "protocol",
    "Generator": "protocol",
    "LanguageReport": "checks",
    "LeakReport": "checks",
    "ObjectSpan": "protocol",
    "Picture": "protocol",
    "Remote": "remote",
    "Request": "protocol",
    "check_language": "checks",
    "check_leaks": "checks",
    "engine_of": "loading",
    "find_checkpoint": "checkpoints",
    "find_revision": "checkpoints",
    "load": "loading",
    "load_apart": "loading",
    "open_engine": "opening",
    "unload": "engine_cache",
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
    "engine_of",
    "find_checkpoint",
    "find_revision",
    "load",
    "load_apart",
    "open_engine",
    "unload",
    "weights_digest",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"pgvision.runtime.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'pgvision.runtime' has no attribute {name!r}")
