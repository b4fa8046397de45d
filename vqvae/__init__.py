"""The mask codec: 64x64 masks to 16 codes and back.

It is independent of text, boxes and images; `pgvision` handles those.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vqvae.codec import MaskCodec

__all__ = ["MaskCodec"]


def __getattr__(name: str) -> object:
    # torch loads with the first codec, not with the package.
    if name == "MaskCodec":
        from vqvae.codec import MaskCodec

        return MaskCodec
    raise AttributeError(f"module 'vqvae' has no attribute {name!r}")
