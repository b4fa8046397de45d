"""Pixels in and out: any picture or video source to BGR frames, and frames to a video file.

Public names load on first use, so that importing this package does not load OpenCV.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgvision.images.choices import Color, OnError
    from pgvision.images.frames import Frame, FrameFailure
    from pgvision.images.live import Live
    from pgvision.images.pixels import to_bgr
    from pgvision.images.reading import decode_image, image_hw_of, read_image
    from pgvision.images.sources import is_live, iter_frames
    from pgvision.images.video import VideoInfo, VideoWriter, copy_audio, video_info

__all__ = [
    "Color",
    "Frame",
    "FrameFailure",
    "Live",
    "OnError",
    "VideoInfo",
    "VideoWriter",
    "copy_audio",
    "decode_image",
    "image_hw_of",
    "is_live",
    "iter_frames",
    "read_image",
    "to_bgr",
    "video_info",
]

_HOMES = {
    "Frame": "frames",
    "FrameFailure": "frames",
    "Color": "choices",
    "decode_image": "reading",
    "Live": "live",
    "to_bgr": "pixels",
    "image_hw_of": "reading",
    "read_image": "reading",
    "OnError": "choices",
    "is_live": "sources",
    "iter_frames": "sources",
    "VideoInfo": "video",
    "VideoWriter": "video",
    "copy_audio": "video",
    "video_info": "video",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
