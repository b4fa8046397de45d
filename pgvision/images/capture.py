"""Frames of cameras and of captures that the caller opened, through OpenCV; reading in a thread."""

import logging
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator
from queue import Empty, SimpleQueue
from typing import Final

from pgvision.errors import ImageError, SourceError
from pgvision.images.opencv import cv2, quiet
from pgvision.images.pixels import Frame, FrameFailure, require_moderate, to_bgr

_log = logging.getLogger("pgvision.images")
_CLOSE_SECONDS: Final = 2.0  # wait for a source that hangs when the consumer stops
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


def read_ahead(
    producer: Iterator[Frame | FrameFailure], *, depth: int, patience: float | None = None
) -> Iterator[Frame | FrameFailure | None]:
    """Yield the items of an iterator in order, with up to ``depth`` of them read in advance.

    The producer runs in one thread; its exceptions are raised in their turn. When the consumer
    stops early, the producer is closed in that thread. If it hangs, it is abandoned after 2 s.

    Args:
        producer: Frames; closed at the end if it is a generator.
        depth: How many items may wait.
        patience: Seconds; yield None where the next item is not there by then. None: wait.

    Example:
        >>> import numpy as np
        >>> from pgvision.images import iter_frames
        >>> stack = np.zeros((3, 4, 6, 3), np.uint8)
        >>> [frame.index for frame in read_ahead(iter_frames(stack, prefetch=0), depth=2)]
        [0, 1, 2]
    """
    coming: SimpleQueue[Frame | FrameFailure | BaseException | None] = SimpleQueue()
    places, is_over = threading.Semaphore(depth), threading.Event()

    def read() -> None:
        try:
            while places.acquire() and not is_over.is_set():
                item = next(producer, None)
                coming.put(item)
                if item is None:
                    return
        except BaseException as error:  # noqa: BLE001  (raised below, after the items before)
            coming.put(error)
        finally:
            if isinstance(producer, Generator):
                producer.close()

    # A daemon: a source that never answers must not keep the program from ending.
    thread = threading.Thread(target=read, name="pgvision-reader", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = coming.get(timeout=patience)
            except Empty:
                yield None
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            places.release()
            yield item
    finally:
        is_over.set()
        places.release()
        thread.join(_CLOSE_SECONDS)
        if thread.is_alive():
            _log.warning("the source did not answer within %g s and was abandoned", _CLOSE_SECONDS)
