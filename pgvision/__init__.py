"""PaliGemma as a vision tool: detection, segmentation, captions, answers and reading.

Public names load on first use, so that ``import pgvision`` stays light and torch-free.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pgvision.version import __version__

if TYPE_CHECKING:
    from pgvision.tasks import Answerer, Captioner, Detector, Reader, Segmenter
    from pgvision.training import train

__all__ = ["Answerer", "Captioner", "Detector", "Reader", "Segmenter", "__version__", "train"]

_HOMES = {name: "pgvision.tasks" for name in __all__ if not name.startswith("_")}
_HOMES["train"] = "pgvision.training"


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pgvision' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
