"""Annotated videos and windows: each frame at its own time, with the source's sound."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import cv2
import numpy as np

from pgvision.arrays import ByteArray
from pgvision.cli.console import say
from pgvision.cli.outputs import Draw, Outcome, OverlayNames, Write, draw_result, json_text
from pgvision.errors import DependencyError, OptionError, PgvisionError
from pgvision.files import append_line
from pgvision.images import VideoWriter, copy_audio, video_info
from pgvision.results import DetectionResult, Failure

LIVE_FPS = 25.0  # frames per second; assumed for cameras and streams without a known rate


@contextmanager
def videos(names: OverlayNames, draw: Draw, *, stride: int) -> Iterator[Write]:
    """Draw each video: ``<name>.overlay.mp4``.

    Frames keep their times, so that the copy is as long as the source and its sound fits, whatever
    the stride and however the source's rate varies. After an error the last video is removed.

    Args:
        names: Names of the copies.
        draw: Makes the annotated copy of a frame.
        stride: Of the source, each ``stride``-th frame comes.

    Yields:
        A function that takes each outcome; images and failures are ignored.
    """
    with ExitStack() as stack:
        writer: VideoWriter | None = None
        current: str | None = None

        def finish() -> None:
            nonlocal writer
            stack.close()
            if writer is not None and current is not None:
                sound = _copy_sound(current, writer.path)
                say(f"wrote {writer.path} ({writer.num_frames} frames, sound: {sound})")
            writer = None

        def write(outcome: Outcome) -> None:
            nonlocal writer, current
            if isinstance(outcome, Failure) or outcome.time is None:
                return
            frame = draw(outcome)
            if writer is None or outcome.source != current or outcome.frame_index == 0:
                finish()
                current = outcome.source or "video"
                fps = video_info(current).fps if Path(current).is_file() else LIVE_FPS
                path = names.path_for(current, ".mp4")
                writer = stack.enter_context(VideoWriter(path, fps / stride, frame.shape[:2]))
            writer.write(fitted(frame, writer.image_hw), outcome.time)

        yield write
        finish()


def _copy_sound(source: str, path: Path) -> str:
    if not Path(source).is_file():
        return "none (a live source)"
    try:
        return copy_audio(source, path)
    except PgvisionError as error:
        return f"not copied: {error}"


def fitted(frame: ByteArray, image_hw: tuple[int, int]) -> ByteArray:
    """Cut or fill below and to the right: the bar with a text may be higher in the next frame."""
    height, width = image_hw
    if frame.shape[:2] == (height, width):
        return frame
    canvas = np.zeros((height, width, 3), np.uint8)
    rows, columns = min(height, frame.shape[0]), min(width, frame.shape[1])
    canvas[:rows, :columns] = frame[:rows, :columns]
    return canvas


Tell: TypeAlias = Callable[[dict[str, object]], object]
Show: TypeAlias = Callable[[DetectionResult], bool]
DrawZones: TypeAlias = Callable[[ByteArray], ByteArray]
_TITLE: Final = "pgvision"
_ENDING_KEYS: Final = frozenset({27, ord("q")})


def printed(*, as_json: bool) -> Tell:
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
    writer: VideoWriter | None = None
    start = 0.0
    with ExitStack() as stack:

        def show(result: DetectionResult) -> bool:
            nonlocal writer, start
            picture, time = draw(draw_result(result)), result.time or 0.0
            if writer is None:  # the first frame has the size
                writer = stack.enter_context(VideoWriter(path, LIVE_FPS, picture.shape[:2]))
                start = time
            writer.write(fitted(picture, writer.image_hw), time - start)
            return True

        yield show
    if writer is not None:
        say(f"wrote {path} ({writer.num_frames} frames)")


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
    # Where there is none, OpenCV's window library ends the whole process.
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

    def show(result: DetectionResult) -> bool:
        cv2.imshow(_TITLE, draw(draw_result(result)))
        if cv2.waitKey(1) & 0xFF in _ENDING_KEYS:
            return False
        return cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) >= 1

    try:
        yield show
    finally:
        cv2.destroyAllWindows()
