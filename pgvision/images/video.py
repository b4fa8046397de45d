"""Video reading: files and addresses (PyAV) and cameras (OpenCV) -> frames; declared metadata."""

import logging
import math
import os
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import av
import numpy as np
from PIL import Image

from pgvision.arrays import ByteArray
from pgvision.errors import ImageError, SourceError
from pgvision.files import user_path
from pgvision.http import hide_secrets
from pgvision.images.pixels import Frame, FrameFailure, cv2, quiet, require_moderate, to_bgr

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

_TIMEOUT: Final = 15.0  # seconds, to open an address and to wait for each packet
# Demuxers of files. Playlists (HLS, DASH, concat) are not among them: they name other files and
# addresses, which FFmpeg would open.
_FILE_FORMATS: Final = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,h264,hevc,mjpeg,mjpeg_2000,ivf,dv,mxf,"
    "mxf_opatom,rm,gif,apng,nut,av1,obu,vc1,dhav,xmv,wtv,gxf,yuv4mpegpipe"
)
_STILL_FORMATS: Final = frozenset({"image2", "gif", "apng", "webp_anim", "ico"})

_log = logging.getLogger("pgvision.images")


class StillImageError(SourceError):
    """An address that sends an image, not a video."""


@dataclass(frozen=True)
class VideoInfo:
    """Metadata that a video file declares.

    Attributes:
        fps: Frames per second (the mean, if it varies).
        num_frames: As stored in MP4, MOV and AVI; elsewhere estimated from the duration; None if
            there is neither.
        image_hw: Height and width of the frames as they are read, rotation applied.
    """

    fps: float
    num_frames: int | None
    image_hw: tuple[int, int]


def video_info(path: str | os.PathLike[str]) -> VideoInfo:
    """Read rate, length and size of a video file.

    Raises:
        SourceError: If there is no such file, it is not a video, or it declares no rate or size.

    Example:
        >>> import tempfile
        >>> from pgvision.images import VideoWriter
        >>> path = Path(tempfile.mkdtemp()) / "clip.mp4"
        >>> with VideoWriter(path, fps=25, image_hw=(48, 64)) as writer:
        ...     for shade in range(3):
        ...         writer.write(np.full((48, 64, 3), shade, np.uint8))
        >>> video_info(path)
        VideoInfo(fps=25.0, num_frames=3, image_hw=(48, 64))
    """
    file = user_path(path)
    with _open_file(file, str(file)) as stream, closing(_Video(stream, str(file))) as video:
        fps, hw = video.fps, (video.stream.height, video.stream.width)
        if fps is None or min(hw) <= 0:
            raise SourceError(f"{file}: the video declares no frame rate or size (damaged header?)")
        # The display matrix comes with the first frame.
        first = next(video.decode(), None)
        turned = first is not None and first.rotation % 180 != 0
        return VideoInfo(fps, video.num_frames, hw[::-1] if turned else hw)


def file_frames(path: Path, name: str, *, stride: int) -> Iterator[Frame | FrameFailure]:
    """Yield every ``stride``-th frame of a video file, and a failure if the file breaks off.

    Raises:
        SourceError: If it cannot be opened, or contains no frame.
    """
    with _open_file(path, name) as stream, closing(_Video(stream, name)) as video:
        count = yield from _frames(video, stride)
        failure = _ending(video, count)
    if failure is not None:
        yield failure


def address_frames(address: str, *, stride: int) -> Iterator[Frame | FrameFailure]:
    """Yield frames of a video at an address (rtsp, rtmp, http, ...), over one connection.

    A live address declares no length, so its end is logged and is not an error. If it sends no time
    stamps (MJPEG over http), the time of a frame is its arrival, from the start of the reading.

    Raises:
        SourceError: If it cannot be opened within 15 s, or sends no frame.
        StillImageError: If it sends an image.
    """
    # A live address has no declared length: its end is no failure.
    name = hide_secrets(address)
    with closing(_Video(address, name)) as video:
        kind = video.container.format.name
        if kind in _STILL_FORMATS or kind.endswith("_pipe"):
            raise StillImageError(f"{name}: is an image, not a video")
        count = yield from _frames(video, stride)
        failure = None if video.num_frames is None else _ending(video, count)
    if failure is not None:
        yield failure
    elif video.num_frames is None:
        reason = f": {_reason(video.error)}" if video.error else ""
        _log.warning("%s: ended after %d frames%s", name, count, reason)


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


class _Video:
    """An open video stream.

    Args:
        source: An open file, or an address.
        name: Its name in errors, without secrets.

    Attributes:
        fps: Frames per second; None if not declared.
        num_frames: Number of frames, stored or estimated; None if not declared.
        error: The last error of reading or decoding; None so far.
        last_seconds: Time of the last decoded frame.
    """

    def __init__(self, source: BinaryIO | str, name: str) -> None:
        self.name, self.opened = name, time.monotonic()
        self.error: Exception | None = None
        self.last_seconds: float | None = None
        # 1. Open; formats are limited so that a file cannot name other files or hosts.
        is_file = not isinstance(source, str)
        options = {"format_whitelist": _FILE_FORMATS} if is_file else {"rtsp_flags": "prefer_tcp"}
        timeout = None if is_file else (_TIMEOUT, _TIMEOUT)
        try:
            self.container: InputContainer = av.open(source, "r", options=options, timeout=timeout)
        except (av.FFmpegError, OSError, ValueError, UnicodeError) as error:
            # Without its cause: a traceback would show the address with its password.
            raise _not_a_video(source, name, _reason(error)) from None
        try:
            stream = self.container.streams.best("video")
            if stream is None:
                raise _not_a_video(source, name, "there is no video stream")
            if stream.codec_context is None:
                raise _not_a_video(source, name, "FFmpeg has no decoder for its codec")
            self.stream: VideoStream = stream  # type: ignore[assignment]
            self._require_moderate()
        except BaseException:
            self.container.close()
            raise
        # 2. Rate and length, which may be unknown.
        rate = self.stream.average_rate
        self.fps = float(rate) if rate else None
        # The duration of Matroska is the time of its end, which may be long after its start.
        start = self.container.start_time if "matroska" in self.container.format.name else 0
        seconds = max(0, (self.container.duration or 0) - (start or 0)) / av.time_base
        estimate = round(seconds * self.fps) if self.fps else 0
        self.num_frames = self.stream.frames or estimate or None
        # FFmpeg makes up 25 stamps a second for MJPEG over http (AVFMT_NOTIMESTAMPS).
        self._is_unstamped = not is_file and bool(self.container.format.flags & 0x80)
        # Frame threads delay the newest frame of a live address.
        self.stream.thread_type = "AUTO" if is_file else "SLICE"

    def _require_moderate(self) -> None:
        try:
            require_moderate(self.stream.width * self.stream.height)
        except ImageError as error:
            raise SourceError(f"{self.name}: its frames are {error}") from error
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None:  # for streams with frames that grow
            self.stream.codec_context.options = {"max_pixels": str(2 * limit)}

    def decode(self) -> Iterator[av.VideoFrame]:
        """Yield decoded frames; packets that cannot be decoded are skipped, as players do."""
        # A demuxing error ends the stream, a decoding error costs a packet.
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError) as error:
                self.error = error
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except (av.FFmpegError, OSError) as error:
                self.error = error
            else:
                yield from frames

    def seconds_at(self, frame: av.VideoFrame, index: int) -> float | None:
        """Return the time of a frame from the start of the file, or of its arrival."""
        if self._is_unstamped:
            return time.monotonic() - self.opened
        if frame.pts is not None and frame.time_base is not None:
            origin = (self.container.start_time or 0) / av.time_base
            return max(0.0, float(frame.pts * frame.time_base) - origin)
        return index / self.fps if self.fps else None

    def close(self) -> None:
        """Close the stream; an open file stays open."""
        self.container.close()


def _open_file(path: Path, name: str) -> BinaryIO:
    """Open a file for FFmpeg, which then takes no part of the name for a protocol or pattern."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise SourceError(f"{name}: no such file (looked from {Path.cwd()})") from error
    except (OSError, ValueError) as error:
        raise SourceError(f"{name}: cannot be opened: {error}") from error
    # FFmpeg's message for an empty file names no reason.
    if path.stat().st_size == 0:
        file.close()
        raise SourceError(f"{name}: expected a video, got an empty file (0 bytes)")
    return file


def _not_a_video(source: BinaryIO | str, name: str, reason: str) -> SourceError:
    advice = "check address and network" if isinstance(source, str) else "is the file whole?"
    return SourceError(f"{name}: cannot be opened as a video: {reason}; {advice}")


def _reason(error: Exception) -> str:
    """Return FFmpeg's reason without the path or address that it repeats."""
    return hide_secrets(getattr(error, "strerror", None) or str(error))


def _frames(video: _Video, stride: int) -> Generator[Frame, None, int]:
    """Yield every ``stride``-th frame; return the number of frames."""
    # Times are read from all frames: the last one decides whether the file is whole.
    index = 0
    for frame in video.decode():
        video.last_seconds = video.seconds_at(frame, index)
        if index % stride == 0:
            yield Frame(_to_bgr(frame, video.name), video.name, index, video.last_seconds)
        index += 1
    if index == 0:
        reason = f": {_reason(video.error)}" if video.error else ""
        raise SourceError(f"{video.name}: expected a video with frames, got no frame{reason}")
    return index


def _to_bgr(frame: av.VideoFrame, name: str) -> ByteArray:
    try:
        bgr = np.asarray(frame.to_ndarray(format="bgr24"), dtype=np.uint8)
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise SourceError(f"{name}: a frame cannot be converted: {_reason(error)}") from error
    turns = frame.rotation // 90 % 4  # counter-clockwise, from the display matrix
    return np.ascontiguousarray(np.rot90(bgr, turns)) if turns else bgr


def _ending(video: _Video, count: int) -> FrameFailure | None:
    """Check whether a video of ``count`` frames ended where it should.

    FFmpeg reads a cut file up to the cut and then reports a regular end. A failure if more than 2
    frames and 1% of the declared ones, and the last part of the time, are missing. A shortfall is
    only logged where the length is an estimate that sound may have extended.
    """
    declared = video.num_frames
    # 1. Few missing frames are normal: counts in headers are estimates.
    if declared is None or declared - count <= max(2, declared // 100):
        return None
    # 2. Many missing frames and missing time.
    is_known = video.stream.frames > 0 or not video.container.streams.audio
    if is_known and video.last_seconds is not None and video.fps is not None:
        duration = declared / video.fps
        if duration - video.last_seconds > max(3 / video.fps, duration / 100):
            text = f"{video.name}: ended after frame {count} of {declared}: cut short or damaged"
            return FrameFailure(video.name, count, SourceError(text))
    _log.warning("%s: %d frames came, about %d were declared", video.name, count, declared)
    return None
