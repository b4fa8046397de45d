"""Video writing through PyAV."""

import logging
import math
import os
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from pgvision.arrays import ByteArray
from pgvision.errors import OptionError, ShapeError, SourceError
from pgvision.files import replaced_path, user_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import OutputContainer
    from av.video.stream import VideoStream

_ENDINGS = (".mp4", ".m4v", ".mov", ".mkv", ".avi")
_MAX_SIDE = 16384  # libx264
# No B frames: with them a file's end is reckoned too early where times are uneven.
_H264 = {"preset": "veryfast", "crf": "20", "bf": "0"}

_log = logging.getLogger("pgvision.images")


class VideoWriter:
    """Writer of BGR frames to a video file; the file appears when it is complete.

    ``.mp4``, ``.mov`` and ``.mkv`` get H.264, which browsers play, ``.avi`` Motion JPEG, without
    sound. If the ``with`` block ends by an exception, no file is left, and an older file of that
    name is unchanged. H.264 needs even sides: otherwise the last row or column is not written,
    which is logged once.

    Args:
        path: The file; its folder is created.
        fps: Frames per second, for frames without a time.
        image_hw: Height and width of every frame.

    Raises:
        OptionError: If the ending, ``fps`` or ``image_hw`` cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "clip.mp4"
        >>> with VideoWriter(path, fps=30, image_hw=(48, 64)) as writer:
        ...     writer.write(np.zeros((48, 64, 3), np.uint8))
        >>> path.exists()
        True
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, image_hw: tuple[int, int]) -> None:
        """Check the options; nothing is opened before the ``with`` block."""
        self.path = user_path(path)
        self.fps = _require_fps(fps)
        self.image_hw = _require_size(image_hw, self.path)
        self._is_avi = self.path.suffix.lower() == ".avi"
        self.num_frames = 0
        self._tick = _tick(self.fps, fine=not self._is_avi)
        self._next = 0  # ticks; the earliest time of the next frame
        self._stack = ExitStack()
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None

    def __enter__(self) -> "VideoWriter":
        """Open a temporary file."""
        height, width = self.image_hw
        if (height % 2 or width % 2) and not self._is_avi:
            message = "%s: odd size %dx%d: the last row or column is not written"
            _log.warning(message, self.path, height, width)
        # An error while opening removes the temporary file.
        with ExitStack() as stack:
            aside = stack.enter_context(replaced_path(self.path))
            container = _new_container(aside)
            stack.callback(_give_up, container)
            self._stream = self._add_stream(container)
            self._stack = stack.pop_all()
        self._container, self.num_frames, self._next = container, 0, 0
        return self

    def write(self, bgr: ByteArray, time: float | None = None) -> None:
        """Append one frame.

        Args:
            bgr: ``(h, w, 3)`` uint8, blue, green, red, of the size given at the start.
            time: Seconds from the start of the video at which it is shown; None: ``1 / fps`` after
                the previous frame. A time that is not after the previous frame is increased.

        Raises:
            ShapeError: If it has another shape or dtype.
            OptionError: If the writer is not open, or ``time`` is NaN or infinite.
            SourceError: If it cannot be written (full disk).
        """
        # 1. Check the frame: FFmpeg would reinterpret other bytes.
        if self._container is None or self._stream is None:
            raise OptionError(f"{self.path}: not open; write inside 'with VideoWriter(...)'")
        if time is not None and not math.isfinite(time):
            raise OptionError(f"{self.path}: time must be seconds or None, got {time}")
        if not isinstance(bgr, np.ndarray) or bgr.dtype != np.uint8:
            got = bgr.dtype if isinstance(bgr, np.ndarray) else type(bgr).__name__
            raise ShapeError(f"{self.path}: expected a uint8 frame, got {got}")
        if bgr.shape != (*self.image_hw, 3):
            raise ShapeError(
                f"{self.path}: expected a frame of shape {(*self.image_hw, 3)}, got {bgr.shape}; "
                "resize it, or open one writer per size"
            )
        with self._full_disk_explained():
            self._container.mux(self._stream.encode(self._frame(bgr, self._stream, time)))
        self.num_frames += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Rename the finished file, or remove it after an error.

        Raises:
            OptionError: If no frame was written.
            SourceError: If the rest cannot be written (a full disk).
        """
        container, stream = self._container, self._stream
        self._container = self._stream = None
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:  # its exit renames the file, or removes it after an error
            if container is not None and stream is not None:
                if self.num_frames == 0:
                    raise OptionError(f"{self.path}: no frame was written, so there is no video")
                with self._full_disk_explained():
                    container.mux(stream.encode(None))
                    container.close()

    def _add_stream(self, container: "OutputContainer") -> "VideoStream":
        height, width = self.image_hw
        if self._is_avi:
            stream = container.add_stream("mjpeg", rate=_rate(self.fps), options={"q": "3"})
            stream.pix_fmt, stream.height, stream.width = "yuvj420p", height, width
        else:
            stream = container.add_stream("libx264", rate=_rate(self.fps), options=_H264)
            stream.pix_fmt = "yuv420p"
            stream.height, stream.width = height - height % 2, width - width % 2
            # Without these tags players guess the matrix by the size of the frames.
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = Colorspace.ITU709
            context.color_range = ColorRange.MPEG
        stream.codec_context.time_base = self._tick
        return stream

    def _frame(self, bgr: ByteArray, stream: "VideoStream", time: float | None) -> av.VideoFrame:
        # 1. Convert the colours by the tags of the stream.
        cut = np.ascontiguousarray(bgr[: stream.height, : stream.width])
        full = self._is_avi
        frame = av.VideoFrame.from_ndarray(cut, format="bgr24").reformat(
            format=stream.pix_fmt,
            dst_colorspace=Colorspace.ITU601 if full else Colorspace.ITU709,
            dst_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        )
        # 2. Show it at its time, after the frame before.
        place = self._next if time is None else round(Fraction(time) / self._tick)
        frame.pts, frame.time_base = max(place, self._next), self._tick
        # Matroska counts in milliseconds: two frames closer than that would be one.
        apart = 1 / _rate(self.fps) if time is None else Fraction(1, 1000)
        self._next = frame.pts + math.ceil(apart / self._tick)
        return frame

    @contextmanager
    def _full_disk_explained(self) -> "Iterator[None]":
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise SourceError(
                f"{self.path}: the video could not be written (disk full?): {error}"
            ) from error


def _require_fps(fps: float) -> float:
    if isinstance(fps, bool) or not isinstance(fps, int | float | np.number | Fraction):
        raise OptionError(f"fps must be a number, got {type(fps).__name__}")
    rate = float(fps)
    if not (math.isfinite(rate) and 0 < rate <= 1000):
        raise OptionError(f"fps must be above 0 and at most 1000, got {fps!r}")
    return rate


def _new_container(path: Path) -> "OutputContainer":
    # The index comes first, so that a browser can play while it loads.
    index_first = {} if path.suffix.lower() in (".avi", ".mkv") else {"movflags": "+faststart"}
    return av.open(str(path), "w", options=index_first)


def _give_up(container: "OutputContainer") -> None:
    """Close without errors; a full disk has been reported by then."""
    with suppress(av.FFmpegError, OSError):
        container.close()


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)  # 30000/1001 stays exact


def _tick(fps: float, *, fine: bool) -> Fraction:
    """Choose the unit of time: a frame at ``fps`` is a whole number of units.

    With ``fine`` the unit is a tenth of a millisecond or less, for frames with their own times.
    """
    step = 1 / _rate(fps)
    return step / max(1, math.ceil(step * 10_000)) if fine else step


def _require_size(image_hw: tuple[int, int], path: Path) -> tuple[int, int]:
    # Limits of libx264 and of the AVI header.
    ending = path.suffix.lower()
    if ending not in _ENDINGS:
        raise OptionError(f"{path}: a video must end in {', '.join(_ENDINGS)}, got {ending!r}")
    height, width = (int(side) for side in image_hw)
    least, most = (1, 65535) if ending == ".avi" else (2, _MAX_SIDE)
    if min(height, width) < least or max(height, width) > most:
        raise OptionError(
            f"{path}: sides must be {least}..{most} pixels for {ending}, got {height}x{width}"
        )
    return height, width
