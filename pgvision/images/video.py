"""Video files: what they say of themselves, writing them, and their sound."""

import heapq
import logging
import math
import os
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from pgvision.arrays import ByteArray
from pgvision.errors import OptionError, ShapeError, SourceError
from pgvision.files import replaced_path
from pgvision.images.capture import Clip, open_file
from pgvision.images.opencv import cv2, quiet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.stream import Stream

# The codecs that the wheels of OpenCV can write everywhere; H.264 needs an encoder of the system.
_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
_MAX_SIDE = 8191  # MPEG-4 part 2

AudioOutcome: TypeAlias = Literal["copied", "absent in source", "not copied: PyAV is not installed"]

_log = logging.getLogger("pgvision.images")


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself.

    Attributes:
        fps: Frames per second (the mean, if it varies).
        num_frames: Stored in MP4, MOV and AVI; elsewhere OpenCV's estimate from the duration;
            None if there is neither.
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
        >>> path = Path(tempfile.mkdtemp()) / "clip.mp4"
        >>> with VideoWriter(path, fps=25, image_hw=(48, 64)) as writer:
        ...     for shade in range(3):
        ...         writer.write(np.full((48, 64, 3), shade, np.uint8))
        >>> video_info(path)
        VideoInfo(fps=25.0, num_frames=3, image_hw=(48, 64))
    """
    file = Path(path).expanduser()
    capture = open_file(file, str(file))
    try:
        clip = Clip.of(capture, str(file))
        height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
    finally:
        capture.release()
    if clip.fps is None or height <= 0 or width <= 0:
        raise SourceError(f"{file}: the video declares no frame rate or size (damaged header?)")
    return VideoInfo(clip.fps, clip.num_frames, (height, width))


class VideoWriter:
    """Write BGR frames to a video file: aside first, and in its place when all is well.

    ``.mp4``, ``.mov`` and ``.mkv`` get MPEG-4 part 2 (``mp4v``), ``.avi`` Motion JPEG. OpenCV
    writes no sound: see `copy_audio`. Leaving the ``with`` block by an exception leaves no file
    behind, and an older file of that name as it was. An MPEG-4 frame has even sides: of an odd
    side the last row or column is not written, which is logged once.

    Args:
        path: The file; its folder is made.
        fps: Frames per second.
        image_hw: Height and width that every frame must have.

    Raises:
        OptionError: If the ending, ``fps`` or ``image_hw`` is not one that can be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "clip.mp4"
        >>> with VideoWriter(path, fps=30, image_hw=(48, 64)) as writer:
        ...     writer.write(np.zeros((48, 64, 3), np.uint8))
        >>> path.exists()
        True
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, image_hw: tuple[int, int]) -> None:
        """Check what is asked; nothing is opened before the ``with`` block."""
        self.path = Path(path).expanduser()
        self.fps = _require_fps(fps)
        self.image_hw = _require_size(image_hw, self.path)
        self.num_frames = 0
        self._stack = ExitStack()
        self._aside: Path | None = None
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> "VideoWriter":
        """Open the file aside."""
        height, width = self.image_hw
        if (height % 2 or width % 2) and self.path.suffix.lower() != ".avi":
            _log.warning(
                "%s: odd size %dx%d: the last row or column is not written",
                self.path,
                height,
                width,
            )
        code = cv2.VideoWriter.fourcc(*_CODECS[self.path.suffix.lower()])
        with ExitStack() as stack:
            aside = stack.enter_context(replaced_path(self.path))
            with quiet():
                writer = cv2.VideoWriter(
                    str(aside.absolute()), cv2.CAP_FFMPEG, code, self.fps, (width, height)
                )
            if not writer.isOpened():
                raise OptionError(f"{self.path}: OpenCV cannot write this video ({width}x{height})")
            stack.callback(writer.release)
            self._stack = stack.pop_all()
        self._writer, self._aside, self.num_frames = writer, aside, 0
        return self

    def write(self, bgr: ByteArray) -> None:
        """Append one frame.

        Args:
            bgr: ``(h, w, 3)`` uint8, blue, green, red, of the size given at the start.

        Raises:
            ShapeError: If it has another shape or dtype. (OpenCV would drop it and say nothing.)
            OptionError: If the writer is not open.
        """
        if self._writer is None:
            raise OptionError(f"{self.path}: not open; write inside 'with VideoWriter(...)'")
        if not isinstance(bgr, np.ndarray) or bgr.dtype != np.uint8:
            got = bgr.dtype if isinstance(bgr, np.ndarray) else type(bgr).__name__
            raise ShapeError(f"{self.path}: expected a uint8 frame, got {got}")
        if bgr.shape != (*self.image_hw, 3):
            raise ShapeError(
                f"{self.path}: expected a frame of shape {(*self.image_hw, 3)}, got {bgr.shape}; "
                "resize it, or open one writer per size"
            )
        self._writer.write(np.ascontiguousarray(bgr))
        self.num_frames += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the file in its place, or take everything back.

        Raises:
            OptionError: If no frame was written.
            SourceError: If the file does not hold the frames written (a full disk).
        """
        writer, aside = self._writer, self._aside
        self._writer = self._aside = None
        if writer is not None:
            writer.release()
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:  # whose own end renames the file, or removes it if this raises
            if aside is not None:
                self._require_written(aside)

    def _require_written(self, aside: Path) -> None:
        """OpenCV reports no failed write, so look at what arrived."""
        if self.num_frames == 0:
            raise OptionError(f"{self.path}: no frame was written, so there is no video")
        try:
            found = video_info(aside).num_frames
        except SourceError as error:
            raise SourceError(
                f"{self.path}: the video could not be written (disk full?)"
            ) from error
        # Matroska only lets OpenCV estimate.
        slack = 0 if self.path.suffix.lower() != ".mkv" else 2
        if found is None or found < self.num_frames - slack:
            raise SourceError(
                f"{self.path}: {self.num_frames} frames were written and {found} arrived "
                "(disk full?)"
            )


def copy_audio(source: str | os.PathLike[str], video: str | os.PathLike[str]) -> AudioOutcome:
    """Give ``video`` the sound of ``source``, packet by packet, without coding it anew.

    Needs PyAV (``pip install av``), which `trackers` brings along; without it nothing happens and
    the answer says so. Of several sound tracks all are copied. Sound that outlasts the pictures is
    kept.

    Args:
        source: The video whose sound is wanted.
        video: The file that `VideoWriter` wrote, of the same length in time; it is replaced.

    Returns:
        ``"copied"``, ``"absent in source"``, or ``"not copied: PyAV is not installed"``.

    Raises:
        SourceError: If one of the files cannot be read, or the container of ``video`` cannot hold
            the sound's codec; ``video`` is then left as it was.
    """
    try:
        import av  # noqa: PLC0415  (optional)
    except ImportError:
        return "not copied: PyAV is not installed"
    sound_file, video_file = Path(source).expanduser(), Path(video).expanduser()
    for file in (sound_file, video_file):
        if not file.is_file():
            raise SourceError(f"{file}: no such file (looked from {Path.cwd()})")
    try:
        with av.open(str(sound_file)) as sound, av.open(str(video_file)) as pictures:
            if not sound.streams.audio:
                return "absent in source"
            with replaced_path(video_file) as aside, av.open(str(aside), "w") as target:
                _remux(pictures, sound, target)
    except (av.FFmpegError, ValueError) as error:
        raise SourceError(
            f"{video_file}: the sound of {sound_file} does not fit: {error}"
        ) from error
    return "copied"


def _remux(pictures: "InputContainer", sound: "InputContainer", target: "OutputContainer") -> None:
    """Interleave both inputs by time, so that players need not seek."""
    inputs = ((pictures, pictures.streams.video), (sound, sound.streams.audio))
    packets = []
    for container, streams in inputs:
        twins = {stream.index: target.add_stream_from_template(stream) for stream in streams}
        packets.append(_retargeted(container, list(streams), twins))
    for _, packet in heapq.merge(*packets, key=itemgetter(0)):
        target.mux_one(packet)


def _retargeted(
    container: "InputContainer", streams: list["Stream"], twins: "Mapping[int, Stream]"
) -> "Iterator[tuple[float, Packet[Stream]]]":
    """Yield (seconds, packet), each packet readdressed to the stream that is its twin."""
    for packet in container.demux(streams):
        if packet.dts is None:  # the empty packet that marks the end
            continue
        seconds = float(packet.dts * packet.time_base)
        packet.stream = twins[packet.stream.index]
        yield seconds, packet


def _require_fps(fps: float) -> float:
    if isinstance(fps, bool) or not isinstance(fps, int | float | np.number | Fraction):
        raise OptionError(f"fps must be a number, got {type(fps).__name__}")
    rate = float(fps)
    if not (math.isfinite(rate) and 0 < rate <= 1000):
        raise OptionError(f"fps must be above 0 and at most 1000, got {fps!r}")
    return rate


def _require_size(image_hw: tuple[int, int], path: Path) -> tuple[int, int]:
    ending = path.suffix.lower()
    if ending not in _CODECS:
        raise OptionError(f"{path}: a video must end in {', '.join(_CODECS)}, got {ending!r}")
    height, width = (int(side) for side in image_hw)
    least, most = (1, 65535) if ending == ".avi" else (2, _MAX_SIDE)
    if min(height, width) < least or max(height, width) > most:
        raise OptionError(
            f"{path}: sides must be {least}..{most} pixels for {ending}, got {height}x{width}"
        )
    return height, width
