"""HTTP service: images in, COCO-style answers out, many clients in one batch.

Names load on first use: the command line reads `ServeSettings` without FastAPI.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgvision.server.app import create_app, serve
    from pgvision.server.settings import ServeSettings

__all__ = ["ServeSettings", "create_app", "serve"]

_HOMES = {"ServeSettings": "settings", "create_app": "app", "serve": "app"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
