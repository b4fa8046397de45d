"""Frames out of OpenCV captures: video files, cameras, addresses."""

import logging
import math
import re
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from pgvision.errors import ImageError, SourceError
from pgvision.images.containers import counts_frames, cut_short
from pgvision.images.frames import Frame, FrameFailure
from pgvision.images.opencv import cv2, quiet
from pgvision.images.pixels import require_moderate, to_bgr

_TIMEOUT_MS = 15_000
# What FFmpeg's AV_NOPTS_VALUE becomes as a float; OpenCV below 4.11 cannot be asked for it.
_NO_STAMP = -(2.0**63)
_STAMP: int | None = getattr(cv2, "CAP_PROP_PTS", None)
_PASSWORD = re.compile(r"(?<=://)[^/@]*@")

_log = logging.getLogger("pgvision.images")

Clock = Callable[[int], float | None]


@dataclass(frozen=True)
class Clip:
    """An open capture, and what it says of itself.

    Attributes:
        capture: The open ``cv2.VideoCapture``.
        name: What its frames are called.
        fps: Frames per second; None if it does not say.
        num_frames: How many frames it declares; None if it does not say.
        start: Number of the frame that will be read next.
        opened: `time.monotonic` when it was asked.
    """

    capture: cv2.VideoCapture
    name: str
    fps: float | None
    num_frames: int | None
    start: int
    opened: float

    @classmethod
    def of(cls, capture: cv2.VideoCapture, name: str) -> "Clip":
        """Ask an open capture; nonsense (0, -1, infinity, which OpenCV gives) becomes None."""
        fps = capture.get(cv2.CAP_PROP_FPS)
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        start = capture.get(cv2.CAP_PROP_POS_FRAMES)
        return cls(
            capture,
            name,
            fps=fps if 0 < fps < math.inf else None,
            num_frames=int(count) if 0 < count < 2**53 else None,
            start=int(start) if 0 < start < 2**53 else 0,
            opened=time.monotonic(),
        )

    def stream_time(self, index: int) -> float | None:
        """Seconds at the frame just read: the container's time stamp, else by the rate."""
        milliseconds = self.capture.get(cv2.CAP_PROP_POS_MSEC)
        if 0 < milliseconds < math.inf or (milliseconds == 0 and index == 0):
            return milliseconds / 1000
        return index / self.fps if self.fps else None

    def live_time(self, index: int) -> float | None:
        """Seconds at the frame just read of what may be live: as `stream_time`, or its arrival.

        Pictures sent one after the other (MJPEG over http, as many cameras do) have neither time
        stamps nor a rate: FFmpeg makes up 25 a second, whatever the pace.
        """
        stamp = None if _STAMP is None else self.capture.get(_STAMP)
        if self.num_frames is None and stamp == _NO_STAMP:
            return time.monotonic() - self.opened
        return self.stream_time(index)


def open_file(path: Path, name: str) -> cv2.VideoCapture:
    """Open a video file through FFmpeg.

    Args:
        path: The file.
        name: What the error calls it.

    Returns:
        An open capture, which the caller releases.

    Raises:
        SourceError: If there is no such file, or it is not a video that FFmpeg can open.
    """
    if not path.is_file():
        raise SourceError(f"{name}: no such file (looked from {Path.cwd()})")
    if path.stat().st_size == 0:
        raise SourceError(f"{name}: expected a video, got an empty file (0 bytes)")
    # An absolute path is never taken for a protocol ("a:b.mp4"); naming the backend keeps OpenCV
    # from taking "%02d" for a numbered series.
    with quiet():
        capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    if capture.isOpened():
        return capture
    capture.release()
    cut = cut_short(path)
    reason = f"the file is cut short: {cut}" if cut else "no video that FFmpeg knows"
    raise SourceError(f"{name}: cannot be opened as a video: {reason}")


def file_frames(path: Path, name: str, *, stride: int) -> Iterator[Frame | FrameFailure]:
    """Yield every ``stride``-th frame of a video file, and a failure if the file breaks off.

    Raises:
        SourceError: If it cannot be opened, or holds no frame.
    """
    capture = open_file(path, name)
    try:
        clip = Clip.of(capture, name)
        count = yield from _frames(clip, stride, clip.stream_time)
        failure = _ending(clip, count, path)
    finally:
        capture.release()
    if failure is not None:
        yield failure


def camera_frames(device: int | str, *, stride: int) -> Iterator[Frame | FrameFailure]:
    """Yield frames of camera number ``device`` (or of a device path) until it goes away.

    Raises:
        SourceError: If there is no such camera.
    """
    name = f"camera:{device}" if isinstance(device, int) else device
    with quiet():
        capture = cv2.VideoCapture(device)
    try:
        if not capture.isOpened():
            raise SourceError(f"{name}: no such camera, or another program holds it")
        began = time.monotonic()
        clip = Clip.of(capture, name)
        count = yield from _frames(clip, stride, lambda _: time.monotonic() - began)
    finally:
        capture.release()
    error = SourceError(f"{name}: stopped delivering after {count} frames")
    yield FrameFailure(name, count, error)


def address_frames(address: str, *, stride: int) -> Iterator[Frame | FrameFailure]:
    """Yield frames of a video at an address (rtsp, rtmp, http, ...) through FFmpeg.

    A live address has no declared end, so that its end is logged and not an error. Where it sends
    no time stamps (MJPEG over http), a frame's time is that of its arrival.

    Raises:
        SourceError: If it cannot be reached within 15 s, or sends no frame.
    """
    name = without_password(address)
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS]
    timeouts += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
    with quiet():
        capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, timeouts)
    try:
        if not capture.isOpened():
            raise SourceError(f"{name}: cannot be opened as a video: check address and network")
        clip = Clip.of(capture, name)
        count = yield from _frames(clip, stride, clip.live_time)
        failure = _ending(clip, count, None)
    finally:
        capture.release()
    if failure is not None:
        yield failure
    elif clip.num_frames is None:
        _log.warning("%s: ended after %d frames", name, count)


def capture_frames(capture: cv2.VideoCapture, *, stride: int) -> Iterator[Frame | FrameFailure]:
    """Yield the frames left in the caller's own capture; it stays open.

    Raises:
        SourceError: If it is not open, or has no frame left.
    """
    if not capture.isOpened():
        raise SourceError("capture: expected an open cv2.VideoCapture; isOpened() is False")
    clip = Clip.of(capture, "capture")
    count = yield from _frames(clip, stride, clip.live_time)
    failure = _ending(clip, count, None)
    if failure is not None:
        yield failure


def without_password(address: str) -> str:
    """Strike out user name and password, so that they reach no log and no result.

    Example:
        >>> without_password("rtsp://me:secret@10.0.0.7/live")
        'rtsp://***@10.0.0.7/live'
    """
    return _PASSWORD.sub("***@", address)


def _frames(clip: Clip, stride: int, clock: Clock) -> Generator[Frame, None, int]:
    """Yield every ``stride``-th frame; return the number of the frame that did not come."""
    sides = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
    try:
        require_moderate(int(math.prod(max(clip.capture.get(side), 0.0) for side in sides)))
    except ImageError as error:
        raise SourceError(f"{clip.name}: its frames are {error}") from error
    index = clip.start
    try:
        # grab() decodes, which later frames need; retrieve() converts and copies, which they don't.
        while clip.capture.grab():
            if (index - clip.start) % stride == 0:
                there, picture = clip.capture.retrieve()
                if not there:
                    break
                yield Frame(to_bgr(picture), clip.name, index, clock(index))
            index += 1
    except cv2.error as error:
        raise SourceError(f"{clip.name}: frame {index} cannot be decoded: {error}") from error
    if index == clip.start:
        left = "no frame" if index == 0 else f"no frame after frame {index}"
        raise SourceError(f"{clip.name}: expected a video with frames, got {left}")
    return index


def _ending(clip: Clip, count: int, path: Path | None) -> FrameFailure | None:
    """Judge whether a video that gave ``count`` frames ended where it should.

    A failure if the file is shorter than it declares; or if its container stores the number of
    frames and more than 2 frames and 1% of them, and the last stretch of its time, are missing.
    Other containers only estimate the number: a shortfall is logged.
    """
    declared = clip.num_frames
    total = f" of {declared}" if declared else ""
    start = _first_bytes(path)
    cut = cut_short(path) if path is not None else None
    if cut is not None:
        error = SourceError(f"{clip.name}: ended after frame {count}{total}: cut short, {cut}")
        return FrameFailure(clip.name, count, error)
    if declared is None or declared - count <= max(2, declared // 100):
        return None
    last = clip.stream_time(count - 1)
    if counts_frames(start) and last is not None and clip.fps is not None:
        duration = declared / clip.fps
        if duration - last > max(3 / clip.fps, duration / 100):
            error = SourceError(f"{clip.name}: ended after frame {count}{total}: damaged data")
            return FrameFailure(clip.name, count, error)
    _log.warning("%s: %d frames came, about %d were announced", clip.name, count, declared)
    return None


def _first_bytes(path: Path | None) -> bytes:
    if path is None:
        return b""
    with path.open("rb") as file:
        return file.read(16)
