"""OpenCV, imported with a message about missing system libraries."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pgvision.errors import DependencyError

try:
    import cv2
except ImportError as error:
    raise DependencyError(
        f"OpenCV could not be loaded ({error}). "
        "Run: apt-get install -y libgl1 libglib2.0-0 libxcb1 "
        "(or: pip uninstall -y opencv-python && pip install opencv-python-headless)"
    ) from error

__all__ = ["cv2", "quiet"]

_lock = threading.Lock()
_silent = 0  # how many blocks of `quiet` are open, in all threads
_level = 0  # what the level was before the first of them


@contextmanager
def quiet() -> Iterator[None]:
    """Silence OpenCV's own log while something that may fail is opened.

    Our error describes the problem; OpenCV's own lines name its C++ files. The log level is
    global to the process, so it is changed as briefly as possible; blocks may overlap, in
    several threads too, and the last one to end gives the level back. Lines that FFmpeg writes
    itself (``moov atom not found``) are not under this level.

    Example:
        >>> with quiet():
        ...     cv2.VideoCapture("missing.mp4").isOpened()
        False
    """
    # The first block of all threads notes the level, the last one restores it.
    global _silent, _level
    log = getattr(cv2.utils, "logging", cv2)  # cv2 itself up to OpenCV 4
    with _lock:
        if _silent == 0:
            _level = log.getLogLevel()
            log.setLogLevel(0)  # silent
        _silent += 1
    try:
        yield
    finally:
        with _lock:
            _silent -= 1
            if _silent == 0:
                log.setLogLevel(_level)
