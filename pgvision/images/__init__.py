"""Image input and video output: any image or video source to BGR frames, frames to a video file.

Public names are imported on first use, so that importing this package does not load OpenCV.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgvision.images.listing import Color, OnError
    from pgvision.images.live import Live, LiveEvent
    from pgvision.images.pixels import Frame, FrameFailure, to_bgr
    from pgvision.images.reading import decode_image, image_hw_of, read_image
    from pgvision.images.sources import is_live, iter_frames
    from pgvision.images.video import VideoInfo, video_info
    from pgvision.images.video_writer import VideoWriter

_MODULES = {
    "pixels": ("Frame", "FrameFailure", "to_bgr"),
    "listing": ("Color", "OnError"),
    "live": ("Live", "LiveEvent"),
    "reading": ("decode_image", "image_hw_of", "read_image"),
    "sources": ("is_live", "iter_frames"),
    "video": ("VideoInfo", "video_info"),
    "video_writer": ("VideoWriter",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "Color",
    "Frame",
    "FrameFailure",
    "Live",
    "LiveEvent",
    "OnError",
    "VideoInfo",
    "VideoWriter",
    "decode_image",
    "image_hw_of",
    "is_live",
    "iter_frames",
    "read_image",
    "to_bgr",
    "video_info",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
