"""Writers of results and events: lines, results.jsonl, COCO, images, videos, windows."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import cv2
import numpy as np

from pgvision.arrays import ByteArray
from pgvision.batch import CocoEntries, describe_origin
from pgvision.cli.console import say
from pgvision.coco.writing import image_entry, relative_name, write_coco
from pgvision.errors import DependencyError, OptionError, SourceError
from pgvision.files import append_line, readable_name, replaced_path
from pgvision.images import VideoWriter, video_info
from pgvision.results import DetectionResult, Failure, SegmentationResult, TextResult

Result: TypeAlias = DetectionResult | SegmentationResult | TextResult
Outcome: TypeAlias = Result | Failure
Write: TypeAlias = Callable[[Outcome], None]
Writer: TypeAlias = AbstractContextManager[Write]
Append: TypeAlias = Callable[[ByteArray, float], None]
Tell: TypeAlias = Callable[[dict[str, object]], object]
Show: TypeAlias = Callable[[DetectionResult], bool]
DrawZones: TypeAlias = Callable[[ByteArray], ByteArray]
_TITLE: Final = "pgvision"
_ENDING_KEYS: Final = frozenset({27, ord("q")})
LIVE_FPS = 25.0  # frames per second; assumed for cameras and streams without a known rate
_MAX_SIDE: Final = 65_500  # pixels of a JPEG, in OpenCV
_MAX_STEM: Final = 200  # bytes; a file's name has at most 255


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where results go.

    Attributes:
        out: Folder for annotated images and videos and results.jsonl; DIR2, DIR3, ... where an
            earlier run wrote into it.
        json_lines: Print one JSON object per image on stdout; logs and progress stay on stderr.
        overwrite: Replace an earlier run's files in --out instead of counting up.
    """

    out: Path | None = None
    json_lines: bool = False
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class BoxOutput(Output):
    """Where objects go.

    Attributes:
        track: Number the objects of a video by track (in a checkout: pip install '.[track]').
        coco: Write a COCO file: images, categories, boxes and masks with scores.
    """

    track: bool = False
    coco: Path | None = None


# --- writers -----------------------------------------------------------------------------------


@contextmanager
def printed(*, as_json: bool) -> Iterator[Write]:
    """Print one line per image at once: `to_dict` as JSON with failures, or names with scores."""

    def write(outcome: Outcome) -> None:
        if as_json:
            line = json_text(outcome.to_dict())
        elif isinstance(outcome, Failure):
            return  # reported on stderr
        else:
            line = f"{describe_origin(outcome)}: {describe(outcome)}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    yield write


@contextmanager
def json_lines_file(path: Path) -> Iterator[Write]:
    """Append each outcome at once, so that a stopped run leaves what it answered."""
    path.write_bytes(b"")
    yield lambda outcome: append_line(path, json_text(outcome.to_dict()))
    say(f"wrote {path}")


@contextmanager
def images(names: "OverlayNames") -> Iterator[Write]:
    """Draw each still image: ``<name>.overlay.jpg``."""
    count = 0

    def write(outcome: Outcome) -> None:
        nonlocal count
        if isinstance(outcome, Failure) or outcome.time is not None:
            return
        count += write_jpeg(names.path_for(outcome.source or "image", ".jpg"), draw_result(outcome))

    yield write
    if count:
        say(f"wrote {count} annotated {'image' if count == 1 else 'images'} to {names.folder}/")


def write_jpeg(path: Path, bgr: ByteArray) -> bool:
    """Write an image; False, and a line on stderr, if it is too large for a JPEG."""
    if max(bgr.shape) > _MAX_SIDE:
        say(f"{path}: not written, a JPEG has at most {_MAX_SIDE} pixels a side", style="red")
        return False
    with replaced_path(path) as aside:
        if not cv2.imwrite(str(aside), bgr):
            raise OSError(None, "the image cannot be written as JPEG", str(path))
    return True


@contextmanager
def coco_file(path: Path) -> Iterator[Write]:
    """Write all objects as one COCO file at the end; images are named relative to it."""
    entries = CocoEntries()
    image_entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []

    def write(outcome: Outcome) -> None:
        # 1. Collect the objects of each image.
        if not isinstance(outcome, DetectionResult):
            return
        annotations.extend(entries.of(outcome))
        name, source = describe_origin(outcome), outcome.source or ""
        # Names of files are relative to the COCO file, as tools expect.
        if "://" not in source and Path(source).is_file():
            name = relative_name(source, path) + name.removeprefix(readable_name(source))
            name = readable_name(name)
        image_entries.append(image_entry(entries.num_images, name, outcome.image_hw))

    yield write
    # 2. Write once, at the end: after an error there is no file.
    write_coco(path, images=image_entries, annotations=annotations, categories=entries.categories())
    say(f"wrote {path} ({entries.num_objects} objects, {entries.num_images} images)")


class OverlayNames:
    """Names for annotated copies: near the source's own, and never twice.

    Args:
        folder: Where the copies go.

    Example:
        >>> names = OverlayNames(Path("out"))
        >>> [names.path_for(source, ".jpg").as_posix() for source in ("a/1.png", "b/1.png")]
        ['out/1.overlay.jpg', 'out/1-2.overlay.jpg']
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._taken: set[str] = set()

    def path_for(self, source: str, ending: str) -> Path:
        """Return ``folder/<stem>.overlay<ending>``, with a number if the stem came before."""
        stem = short_stem(source).replace(":", "-") or "image"
        name, number = stem, 1
        while name + ending in self._taken:
            number += 1
            name = f"{stem}-{number}"
        self._taken.add(name + ending)
        return self.folder / f"{name}.overlay{ending}"


def short_stem(source: str) -> str:
    """Return the stem of a file's name, short enough for a name with more around it."""
    stem = Path(readable_name(source).rstrip("/")).stem
    return stem.encode()[:_MAX_STEM].decode(errors="ignore")


# --- text and drawing --------------------------------------------------------------------------


def json_text(data: dict[str, Any]) -> str:
    """Return one line of JSON in UTF-8, whatever bytes a file name has."""
    return readable_name(json.dumps(data, ensure_ascii=False, allow_nan=False))


def draw_result(result: Result) -> ByteArray:
    """Draw a result on its own image, in the colours of tracks where there are any.

    Returns:
        ``(h, w, 3)`` uint8 BGR; higher for a text, which is written below.
    """
    if isinstance(result, TextResult):
        return result.plot()
    return result.plot(color_by="class" if result.tracker_ids is None else "track")


def describe(result: Result) -> str:
    """Describe a result in one line: names with scores, or the text."""
    if isinstance(result, TextResult):
        if result.rejects and not result.text:
            return f"not answered: {result.rejects[0].reason}"
        score = "" if result.score is None else f"  ({result.score:.2f})"
        return f"{result.text or '(nothing)'}{score}"
    # Objects with a requested name first, then what was left out.
    asked = result[result.class_ids >= 0]
    notes = [_count_names(asked) if len(asked) else "nothing found"]
    if others := _count_names(result[result.class_ids < 0]):
        notes.append(f"not asked for: {others}")
    # A refused class has a reason and no text.
    notes += [reject.reason for reject in result.rejects if not reject.text]
    if unread := sum(bool(reject.text) for reject in result.rejects):
        notes.append(f"{unread} fragments unread")
    if result.truncated:
        notes.append("answer cut off")
    return "; ".join(notes)


def _count_names(result: DetectionResult) -> str:
    scores = result.scores
    found: dict[str, list[str]] = {}
    for row, label in enumerate(result.labels):
        score = "" if scores is None else f"{scores[row]:.2f}"
        found.setdefault(label or "unnamed", []).append(score)
    return ", ".join(
        f"{len(values)} {label}" + (f" ({' '.join(values)})" if scores is not None else "")
        for label, values in found.items()
    )


# --- videos and windows ------------------------------------------------------------------------


@contextmanager
def videos(names: OverlayNames, *, stride: int) -> Iterator[Write]:
    """Draw each video: ``<name>.overlay.mp4``.

    Frames keep their times, so that the copy is as long as the source, whatever the stride and
    however the source's rate varies. After an error the last video is removed.

    Args:
        names: Names of the copies.
        stride: Of the source, each ``stride``-th frame comes.

    Yields:
        A function that takes each outcome; images and failures are ignored.
    """
    with ExitStack() as stack:
        current: str | None = None
        append: Append | None = None

        def write(outcome: Outcome) -> None:
            nonlocal current, append
            if isinstance(outcome, Failure) or outcome.time is None:
                return
            # A frame of another source, or a first frame, begins the next video.
            if append is None or outcome.source != current or outcome.frame_index == 0:
                stack.close()
                current = outcome.source
                source = current or "video"
                fps = LIVE_FPS  # of addresses, and of animations that FFmpeg does not read
                with suppress(SourceError):
                    fps = video_info(source).fps
                path = names.path_for(source, ".mp4")
                append = stack.enter_context(_annotated(path, fps / stride))
            append(draw_result(outcome), outcome.time)

        yield write


@contextmanager
def _annotated(path: Path, fps: float) -> Iterator[Append]:
    """Write a video, if frames come; the first one has the size."""
    writer: VideoWriter | None = None
    with ExitStack() as stack:

        def append(frame: ByteArray, time: float) -> None:
            nonlocal writer
            if writer is None:
                writer = stack.enter_context(VideoWriter(path, fps, frame.shape[:2]))
            writer.write(fitted(frame, writer.image_hw), time)

        yield append
    if writer is not None:
        say(f"wrote {path} ({writer.num_frames} frames)")


def fitted(frame: ByteArray, image_hw: tuple[int, int]) -> ByteArray:
    """Cut or fill below and to the right: the bar with a text may be higher in the next frame."""
    height, width = image_hw
    if frame.shape[:2] == (height, width):
        return frame
    canvas = np.zeros((height, width, 3), np.uint8)
    rows, columns = min(height, frame.shape[0]), min(width, frame.shape[1])
    canvas[:rows, :columns] = frame[:rows, :columns]
    return canvas


# --- events ------------------------------------------------------------------------------------


def printed_events(*, as_json: bool) -> Tell:
    """Return a taker of events that prints one line each, at once."""

    def tell(event: dict[str, object]) -> None:
        line = json.dumps(event, ensure_ascii=False) if as_json else _words(event)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    return tell


@contextmanager
def appended(path: Path) -> Iterator[Tell]:
    """Append events to a log, each at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.open("ab").close()  # refused before a model is loaded
    yield lambda event: append_line(path, json_text(event))


def _words(event: dict[str, object]) -> str:
    if "track" not in event:
        return f"{event['time']}  {event['event']}"
    line = f"{event['time']}  {event['zone']}: {event['label']} {event['track']} {event['event']}"
    if isinstance(dwell := event["dwell"], float):
        return f"{line} after {dwell:.1f} s"
    return line if event["score"] is None else f"{line} ({event['score']:.2f})"


@contextmanager
def film(path: Path, draw: DrawZones) -> Iterator[Show]:
    """Write an annotated video, each frame at its own time; it appears at the end.

    Args:
        path: The file.
        draw: Draws zones and their counts.

    Yields:
        A function that appends a frame.
    """
    VideoWriter(path, LIVE_FPS, (2, 2))  # which refuses a wrong ending before a model is loaded
    start: float | None = None
    with _annotated(path, LIVE_FPS) as append:

        def show(result: DetectionResult) -> bool:
            nonlocal start
            time = result.time or 0.0
            start = time if start is None else start
            append(draw(draw_result(result)), time - start)
            return True

        yield show


@contextmanager
def window(draw: DrawZones) -> Iterator[Show]:
    """Open a window that shows each frame; q or Esc closes it.

    Args:
        draw: Draws zones and their counts.

    Yields:
        A function that shows a frame; it returns False when the user has closed the window.

    Raises:
        OptionError: If there is no screen.
        DependencyError: If this OpenCV has no windows.
    """
    # 1. Look for a screen: without one OpenCV's window library ends the whole process.
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in screens):
        raise OptionError("--show: there is no screen here (DISPLAY is not set); use --save")
    try:
        cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
    except cv2.error as error:
        raise DependencyError(
            "--show: this OpenCV opens no windows; pip uninstall opencv-python-headless, then "
            "pip install opencv-python"
        ) from error

    # 2. Show frames until a key or the window's button ends it.
    def show(result: DetectionResult) -> bool:
        cv2.imshow(_TITLE, draw(draw_result(result)))
        if cv2.waitKey(1) & 0xFF in _ENDING_KEYS:
            return False
        return cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) >= 1

    try:
        yield show
    finally:
        cv2.destroyAllWindows()
