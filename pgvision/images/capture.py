"""Frames of cameras by number, and of captures that the caller opened, through OpenCV."""

import math
import time
from collections.abc import Callable, Generator, Iterator

from pgvision.errors import ImageError, SourceError
from pgvision.images.opencv import cv2, quiet
from pgvision.images.pixels import Frame, FrameFailure, require_moderate, to_bgr

# FFmpeg's AV_NOPTS_VALUE as a float; OpenCV below 4.11 has no such property.
_NO_STAMP = -(2.0**63)
_STAMP: int | None = getattr(cv2, "CAP_PROP_PTS", None)

Clock = Callable[[int], float | None]


def camera_frames(device: int | str, *, stride: int) -> Iterator[Frame | FrameFailure]:
    """Yield frames of camera number ``device`` (or of a device path) until it is unplugged.

    Raises:
        SourceError: If there is no such camera.
    """
    # 1. Open the camera; OpenCV's own log would name its C++ files.
    name = f"camera:{device}" if isinstance(device, int) else device
    with quiet():
        capture = cv2.VideoCapture(device)
    try:
        if not capture.isOpened():
            raise SourceError(f"{name}: no such camera, or another program uses it")
        began = time.monotonic()
        count = yield from _frames(capture, name, stride, lambda _: time.monotonic() - began)
    finally:
        capture.release()
    # 2. A camera has no regular end.
    error = SourceError(f"{name}: stopped delivering after {count} frames")
    yield FrameFailure(name, count, error)


def capture_frames(capture: cv2.VideoCapture, *, stride: int) -> Iterator[Frame | FrameFailure]:
    """Yield the remaining frames of the caller's own capture; it stays open.

    Raises:
        SourceError: If it is not open, or has no frame left.
    """
    if not capture.isOpened():
        raise SourceError("capture: expected an open cv2.VideoCapture; isOpened() is False")
    # 1. Times: of the container, of the frame rate, or of the arrival.
    count, fps = declared_frames(capture), capture.get(cv2.CAP_PROP_FPS)
    opened = time.monotonic()

    def clock(index: int) -> float | None:
        stamp = None if _STAMP is None else capture.get(_STAMP)
        # MJPEG over http has no time stamps: FFmpeg reports 25 a second, whatever the pace.
        if count is None and stamp == _NO_STAMP:
            return time.monotonic() - opened
        milliseconds = capture.get(cv2.CAP_PROP_POS_MSEC)
        if 0 < milliseconds < math.inf or (milliseconds == 0 and index == 0):
            return milliseconds / 1000
        return index / fps if 0 < fps < math.inf else None

    # 2. Read on from where the caller stopped.
    num_read = yield from _frames(capture, "capture", stride, clock)
    if count is not None and count - num_read > max(2, count // 100):
        text = f"capture: ended after frame {num_read} of {count}: cut short or damaged data"
        yield FrameFailure("capture", num_read, SourceError(text))


def declared_frames(capture: cv2.VideoCapture) -> int | None:
    """Return the number of frames that an open capture declares; None if it declares none."""
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if 0 < count < 2**53 else None


def _frames(
    capture: cv2.VideoCapture, name: str, stride: int, clock: Clock
) -> Generator[Frame, None, int]:
    """Yield every ``stride``-th frame; return the number of the frame that did not come."""
    # 1. Refuse frames that would exhaust the memory.
    sides = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
    try:
        require_moderate(int(math.prod(max(capture.get(side), 0.0) for side in sides)))
    except ImageError as error:
        raise SourceError(f"{name}: its frames are {error}") from error
    # 2. A capture may have been read before: continue its count.
    position = capture.get(cv2.CAP_PROP_POS_FRAMES)
    index = start = int(position) if 0 < position < 2**53 else 0
    try:
        # grab() decodes, which later frames need; retrieve() converts, which skipped ones do not.
        while capture.grab():
            if (index - start) % stride == 0:
                is_read, bgr = capture.retrieve()
                if not is_read:
                    break
                yield Frame(to_bgr(bgr), name, index, clock(index))
            index += 1
    except cv2.error as error:
        raise SourceError(f"{name}: frame {index} cannot be decoded: {error}") from error
    if index == start:
        left = "no frame" if index == 0 else f"no frame after frame {index}"
        raise SourceError(f"{name}: expected a video with frames, got {left}")
    return index
