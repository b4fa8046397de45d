"""Image sources -> frames, lazily, in order, read ahead of the model."""

import logging
import operator
import os
import re
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, SupportsIndex, TypeAlias, TypeGuard, cast, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pgvision.errors import (
    ImageError,
    OptionError,
    PgvisionError,
    SourceError,
    require_choice,
    require_count,
)
from pgvision.files import readable_name, user_path
from pgvision.http import hide_secrets
from pgvision.images.containers import LIST_ENDINGS, TAR_ENDING, list_tar, read_list
from pgvision.images.listing import (
    IMAGE_ENDINGS,
    VIDEO_ENDINGS,
    Color,
    Kind,
    OnError,
    is_glob,
    list_folder,
    list_glob,
    sniff,
)
from pgvision.images.pixels import Frame, FrameFailure, to_bgr
from pgvision.images.reading import NotAnImageError, decode_frames, fetch_image, read_bytes

Source: TypeAlias = NDArray[Any] | Image.Image | str | os.PathLike[str] | int | Frame
Outcome: TypeAlias = Frame | FrameFailure

_CLOSE_SECONDS: Final = 2.0  # wait for a source that hangs when the consumer stops
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_VIDEO_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp", "srt"})
_ACCEPTED = (
    "an array, a PIL image, a path, a folder, a glob, a .txt list, a video, a camera from 0, "
    "an address, or an iterable of these; pass an encoded image as "
    "PIL.Image.open(io.BytesIO(data)), a tensor as a numpy array"
)

_log = logging.getLogger("pgvision.images")


@dataclass(frozen=True)
class _Options:
    color: Color
    recursive: bool
    stride: int
    # Real paths of files read so far, if several sources may contain the same ones; else None.
    seen: set[str] | None = field(default=None)

    def is_repeated(self, file: Path) -> bool:
        """Note a file; whether it was read before in this call."""
        if self.seen is None:
            return False
        place = os.path.realpath(file)
        is_repeated = place in self.seen
        self.seen.add(place)
        return is_repeated


def iter_frames(
    frames: Source | Iterable[Source | Iterable[Source]],
    *,
    color: Color = "bgr",
    recursive: bool = False,
    stride: int = 1,
    on_error: OnError = "raise",
    prefetch: int = 4,
) -> Iterator[Frame | FrameFailure]:
    """Yield the images of any source, in order, with constant memory.

    Args:
        frames: One of these, or an iterable of them, mixed; an iterable may contain iterables.

            - An array as in `to_bgr`, or ``(n, h, w, 3)``: n frames. A PIL image.
            - A path (``str`` or ``Path``): an image (all pages of a TIFF, all frames of an
              animation), a video, a folder (its images and videos in natural order), a list
              (``.txt``, ``.jsonl``, ``.csv``: `read_list`), a tar file of images
              (WebDataset). The kind of any other file follows from its first bytes; failing that,
              from its ending; failing that, from a try.
            - A glob: ``"site/**/*.jpg"``.
            - A camera: its number, ``0`` or ``"0"`` (a file of that name is ``"./0"``) or path.
            - An address: ``rtsp://``, ``rtmp://``, ``http(s)://`` and so on: a video, or by http an
              image.
            - A `Frame` or `FrameFailure`: passed on.
        color: Order of the channels of arrays, ``"bgr"`` or ``"rgb"``. All other kinds declare it.
        recursive: Include the subfolders of folders.
        stride: Take every ``stride``-th frame of videos, cameras and addresses.
        on_error: What to do about an image or source that cannot be read: ``"raise"`` its error,
            ``"skip"`` it with a warning in the log, or ``"record"`` a `FrameFailure` in its place.
            A video that breaks off counts as such, after the frames that were read. An exception of
            your own iterable is always raised.
        prefetch: How many frames may wait for you; they are read in one thread, which ends when you
            stop. 0 reads in your own thread, each frame when you ask for it.

    Yields:
        A `Frame` each; with ``on_error="record"`` also `FrameFailure`. Where several sources are
        given, a file of a folder or pattern that was read before is left out, with a warning; a
        file that is itself named twice is read twice.

    Raises:
        OptionError: At once, if an option is out of range or ``frames`` cannot contain images
            (None, a dict, a set, bytes, a negative number).
        SourceError: For a source that does not exist, or a video that breaks off.
        ImageError: For an image file that cannot be read.
        ShapeError: For an array that is not an image.

    Example:
        >>> stack = np.zeros((3, 4, 6, 3), np.uint8)
        >>> [(frame.source, frame.index) for frame in iter_frames(stack)]
        [('array', 0), ('array', 1), ('array', 2)]
    """
    require_choice("on_error", on_error, get_args(OnError))
    require_choice("color", color, get_args(Color))
    require_count("stride", stride, least=1)
    require_count("prefetch", prefetch)
    _require_source(frames)
    # Only of a list are the files noted: memory stays constant for folders and generators.
    seen: set[str] | None = set() if isinstance(frames, list | tuple) and len(frames) > 1 else None
    options = _Options(color, recursive, stride, seen)
    outcomes = _outcomes(frames, options, position=0, depth=0)
    ahead = read_ahead(outcomes, depth=prefetch) if prefetch else outcomes
    return _apply(on_error, cast("Iterator[Outcome]", ahead))  # None only with a patience


def is_live(source: object) -> bool:
    """Whether a source is live: it sends frames at its own pace, and slow readers miss some.

    A camera (its number or device), or an address unless its name ends like a file's; the items of
    an iterable are not looked at.

    Args:
        source: Whatever `iter_frames` takes.

    Example:
        >>> is_live(0), is_live("rtsp://host/1"), is_live("http://host/1"), is_live("1.mp4")
        (True, True, True, False)
    """
    if not isinstance(source, str):
        return _is_whole(source)
    scheme = _SCHEME.match(source)
    if scheme is None:
        is_device = source.startswith("/dev/") and Path(source).is_char_device()
        return is_device or (source.isascii() and source.isdecimal())
    if scheme[1].lower() not in ("http", "https"):
        return scheme[1].lower() in _VIDEO_SCHEMES
    return _ending_at(source) not in VIDEO_ENDINGS | IMAGE_ENDINGS


def _ending_at(address: str) -> str:
    path = re.split(r"[?#]", address.partition("://")[2])[0].partition("/")[2]
    return Path(path).suffix.lower()


def _apply(on_error: OnError, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """Raise, skip or pass on recorded failures."""
    try:
        for outcome in outcomes:
            if isinstance(outcome, Frame) or on_error == "record":
                yield outcome
            elif on_error == "raise":
                raise outcome.error
            else:
                reason = readable_name(str(outcome.error))
                _log.warning("skipped %s (%d): %s", outcome.source, outcome.index, reason)
    finally:
        if isinstance(outcomes, Generator):
            outcomes.close()


def _outcomes(
    item: object, options: _Options, *, position: int, depth: int
) -> Generator[Outcome, None, None]:
    """Yield the frames of one source; its failures are values, in their place."""
    name, index = _name(item), position if isinstance(item, np.ndarray | Image.Image) else 0
    try:
        yield from _open(item, options, position=position, depth=depth)
    except PgvisionError as error:
        yield FrameFailure(name, index, error)


def _open(item: object, options: _Options, *, position: int, depth: int) -> Iterator[Outcome]:
    # 1. Images in memory.
    if isinstance(item, Frame | FrameFailure):
        yield item
    elif isinstance(item, np.ndarray) and item.ndim == 4:
        for index, picture in enumerate(item):
            yield from _outcomes(picture, options, position=index, depth=depth)
    elif isinstance(item, Image.Image) or (isinstance(item, np.ndarray) and item.ndim != 1):
        yield Frame(to_bgr(item, color=options.color), _name(item), position)
    # 2. Paths and addresses, cameras.
    elif isinstance(item, str | os.PathLike):
        yield from _from_text(os.fspath(item), options)
    elif _is_whole(item) and depth < 2:
        yield from _from_camera(operator.index(item), options)
    else:
        _require_source(item)
        yield from _many(item, options, depth)


def _many(items: object, options: _Options, depth: int) -> Iterator[Outcome]:
    if depth == 2 or not isinstance(items, Iterable):
        raise OptionError(
            "expected sources nested at most one level deep, got "
            f"{type(items).__name__} below that; an image given as nested lists? pass "
            "np.asarray(..., dtype=np.uint8)"
        )
    # A generator may yield one buffer again and again (capture.read(buffer)), which would change
    # under the frames that wait.
    reused = not isinstance(items, Sequence)
    for position, item in enumerate(items):
        own = item.copy() if reused and isinstance(item, np.ndarray) else item
        yield from _outcomes(own, options, position=position, depth=depth + 1)


def _from_text(text: str, options: _Options) -> Iterator[Outcome]:
    # A number is a camera; a file of that name is `./0`.
    scheme = _SCHEME.match(text)
    if not text.strip():
        raise OptionError("expected a path, got an empty string")
    if text.isascii() and text.isdecimal():
        yield from _from_camera(int(text), options)
    elif scheme is None:
        yield from _from_path(text, options)
    elif scheme[1].lower() in _VIDEO_SCHEMES:
        yield from _from_address(text, options)
    else:
        raise SourceError(
            f"{hide_secrets(text)}: {scheme[1]}:// is not read here; download it and pass the path"
        )


def _from_camera(device: int | str, options: _Options) -> Iterator[Outcome]:
    from pgvision.images.video import camera_frames  # PyAV is not needed for images

    yield from camera_frames(device, stride=options.stride)


def _from_address(text: str, options: _Options) -> Iterator[Outcome]:
    # An image is read by our own http client: FFmpeg would decode it without its orientation and
    # transparency. A stream is read by FFmpeg, over one connection.
    from pgvision.images.video import StillImageError, address_frames

    name, is_http = hide_secrets(text), text.lower().startswith("http")
    # An image by its ending, unless the server sends something else.
    if is_http and _ending_at(text) in IMAGE_ENDINGS:
        data = fetch_image(text, name)
        if data is not None:
            yield from _decoded(data, name)
            return
    try:
        yield from address_frames(text, stride=options.stride)
    except StillImageError:
        data = fetch_image(text, name) if is_http else None
        if data is None:
            raise
        yield from _decoded(data, name)


def _from_path(text: str, options: _Options, *, lists: bool = True) -> Iterator[Outcome]:
    path = user_path(text)
    if _exists(path):
        if path.is_dir():
            yield from _from_files(list_folder(path, recursive=options.recursive), text, options)
        elif path.is_char_device():
            yield from _from_camera(str(path), options)
        elif path.suffix.lower() in LIST_ENDINGS and lists:
            yield from _from_list(path, options)
        elif path.suffix.lower() == TAR_ENDING:
            yield from _from_tar(path)
        else:
            # Record the file as seen in this call.
            options.is_repeated(path)
            yield from _from_file(path, options)
    elif is_glob(text):
        yield from _from_files(list_glob(text), text, options)
    else:
        raise SourceError(f"{path}: no such file or folder (looked from {Path.cwd()})")


def _from_files(files: Sequence[Path], source: str, options: _Options) -> Iterator[Outcome]:
    """Read the files of a folder or pattern, each once in a call."""
    # Repeated files are counted and reported once.
    num_repeated = 0
    for file in files:
        if file.suffix.lower() == TAR_ENDING:
            inner = _from_tar(file)
        elif options.is_repeated(file):
            num_repeated += 1
            continue
        else:
            inner = _from_file(file, options)
        yield from _contained(inner, str(file))
    if num_repeated:
        _log.warning("%s: left out %d files that were read before", source, num_repeated)


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:  # no permission, a loop of links, a null byte
        if is_glob(str(path)):
            return False
        raise SourceError(f"{path}: cannot be opened: {error}") from error
    return True


def _from_list(file: Path, options: _Options) -> Iterator[Outcome]:
    # A broken entry costs that entry alone.
    for number, entry in read_list(file):
        if isinstance(entry, PgvisionError):
            yield FrameFailure(f"{file}#{number}", 0, entry)
            continue
        # Relative paths start at the list's folder.
        if _SCHEME.match(entry):
            inner = _from_text(entry, options)
        else:
            inner = _from_path(str(file.parent / user_path(entry)), options, lists=False)
        for outcome in _contained(inner, hide_secrets(entry)):
            if isinstance(outcome, FrameFailure):
                error = type(outcome.error)(f"{file}, line {number}: {outcome.error}")
                yield replace(outcome, error=error)
            else:
                yield outcome


def _from_tar(path: Path) -> Iterator[Outcome]:
    for image in list_tar(str(path)):
        yield from _contained(image.frames(), image.name)


def _contained(outcomes: Iterator[Outcome], name: str, index: int = 0) -> Iterator[Outcome]:
    """Keep the failure of one file from ending its folder, pattern or list."""
    try:
        for outcome in outcomes:
            index = outcome.index + 1
            yield outcome
    except PgvisionError as error:
        yield FrameFailure(name, index, error)


def _from_file(path: Path, options: _Options) -> Iterator[Outcome]:
    # Try an image first, unless the ending is a video's.
    kind = _file_kind(path)
    if kind == "video":
        yield from _from_video(path, options)
        return
    decoded = _decoded(read_bytes(path), readable_name(str(path)))
    try:
        first = next(decoded)
    except NotAnImageError as error:
        if kind == "image":
            raise
        try:
            yield from _from_video(path, options)
        except SourceError as second:
            raise ImageError(f"{error}; nor is it a video ({second})") from second
    else:
        yield from chain([first], decoded)


def _from_video(path: Path, options: _Options) -> Iterator[Outcome]:
    from pgvision.images.video import file_frames

    yield from file_frames(path, readable_name(str(path)), stride=options.stride)


def _decoded(data: bytes, name: str) -> Iterator[Outcome]:
    """Yield all pages or frames of an image file; a broken one ends it as a failure."""
    frames = decode_frames(data, name)
    yield next(frames)
    yield from _contained(frames, name, index=1)


def _file_kind(path: Path) -> Kind | None:
    if path.exists() and not path.is_file():  # a pipe would block, and lose what is read here
        raise SourceError(f"{path}: is a pipe or device; save it to a file and name that")
    try:
        with path.open("rb") as file:
            kind = sniff(file.read(16))
    except OSError as error:
        raise SourceError(f"{path}: cannot be opened: {error}") from error
    ending = path.suffix.lower()
    by_name: Kind | None = "image" if ending in IMAGE_ENDINGS else None
    return kind or ("video" if ending in VIDEO_ENDINGS else by_name)


def _name(item: object) -> str:
    if isinstance(item, np.ndarray):
        return "array"
    if isinstance(item, Image.Image):
        return str(getattr(item, "filename", "") or "pil")
    if isinstance(item, str | os.PathLike):
        return hide_secrets(str(os.fspath(item)))
    return f"camera:{item}" if _is_whole(item) else type(item).__name__


def _is_whole(item: object) -> TypeGuard[SupportsIndex]:
    return isinstance(item, int | np.integer) and not isinstance(item, bool)


def _require_source(item: object) -> None:
    """Refuse what cannot contain images, before anything is opened."""
    if _is_whole(item):
        is_source = operator.index(item) >= 0
    else:
        # A set has no order; bytes, a dict and a tensor are iterable, but no list of images.
        wrong = (bytes, bytearray, memoryview, Mapping, Set)
        is_array = hasattr(item, "__array__") and getattr(item, "ndim", 0) != 1
        is_tensor = is_array and not isinstance(item, np.ndarray | Image.Image)
        is_source = isinstance(item, Image.Image | os.PathLike | Frame | FrameFailure) or (
            isinstance(item, Iterable) and not isinstance(item, wrong) and not is_tensor
        )
    if not is_source:
        raise OptionError(f"expected {_ACCEPTED}; got {type(item).__name__}")


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
