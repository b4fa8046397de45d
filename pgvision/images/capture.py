"""Frames of cameras, through OpenCV; reading in a thread."""

import logging
import math
import threading
import time
from collections.abc import Generator, Iterator
from queue import Empty, SimpleQueue
from typing import Final

from pgvision.errors import ImageError, SourceError
from pgvision.images.pixels import Frame, FrameFailure, cv2, quiet, require_moderate, to_bgr

_log = logging.getLogger("pgvision.images")
_CLOSE_SECONDS: Final = 2.0  # wait for a source that hangs when the consumer stops


def camera_frames(device: int | str, *, stride: int) -> Iterator[Frame | FrameFailure]:
    """Yield frames of camera number ``device`` (or of a device path) until it is unplugged.

    Raises:
        SourceError: If there is no such camera.
    """
    # 1. Open the camera; OpenCV's own log would name its C++ files.
    name = f"camera:{device}" if isinstance(device, int) else device
    with quiet():
        capture = cv2.VideoCapture(device)
    index = 0
    try:
        if not capture.isOpened():
            raise SourceError(f"{name}: no such camera, or another program uses it")
        # 2. Refuse frames that would exhaust the memory.
        sides = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
        try:
            require_moderate(int(math.prod(max(capture.get(side), 0.0) for side in sides)))
        except ImageError as error:
            raise SourceError(f"{name}: its frames are {error}") from error
        # 3. grab() decodes, which later frames need; retrieve() converts: skipped ones need it not.
        began = time.monotonic()
        while capture.grab():
            if index % stride == 0:
                is_read, bgr = capture.retrieve()
                if not is_read:
                    break
                yield Frame(to_bgr(bgr), name, index, time.monotonic() - began)
            index += 1
    except cv2.error as error:
        raise SourceError(f"{name}: frame {index} cannot be decoded: {error}") from error
    finally:
        capture.release()
    # 4. A camera has no regular end.
    ended = SourceError(f"{name}: stopped delivering after {index} frames")
    yield FrameFailure(name, index, ended)


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
