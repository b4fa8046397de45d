"""Outputs of a live run: lines, a log, a video file, a window."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Final

import cv2

from pgvision.arrays import ByteArray
from pgvision.cli.console import say
from pgvision.cli.outputs import draw_result
from pgvision.cli.videos import LIVE_FPS, fitted
from pgvision.errors import DependencyError, OptionError
from pgvision.images import VideoWriter
from pgvision.results import DetectionResult

_TITLE: Final = "pgvision"
_ENDING_KEYS: Final = frozenset({27, ord("q")})


def printed(*, as_json: bool) -> Callable[[dict[str, object]], None]:
    """Return a taker of events that prints one line each, at once."""

    def tell(event: dict[str, object]) -> None:
        sys.stdout.write(
            (json.dumps(event, ensure_ascii=False) if as_json else _words(event)) + "\n"
        )
        sys.stdout.flush()

    return tell


def appended(file: IO[str]) -> Callable[[dict[str, object]], None]:
    """Return a taker of events that appends them to a log, each handed to the system at once."""

    def tell(event: dict[str, object]) -> None:
        file.write(json.dumps(event, ensure_ascii=False) + "\n")
        file.flush()

    return tell


def _words(event: dict[str, object]) -> str:
    if "track" not in event:
        return f"{event['time']}  {event['event']}"
    line = f"{event['time']}  {event['zone']}: {event['label']} {event['track']} {event['event']}"
    if isinstance(dwell := event["dwell"], float):
        return f"{line} after {dwell:.1f} s"
    return line if event["score"] is None else f"{line} ({event['score']:.2f})"


class Film:
    """An annotated video of a live run, each frame at its own time.

    Args:
        path: The file; it appears at the end.
        draw: Draws zones and their counts.
    """

    def __init__(self, path: Path, draw: Callable[[ByteArray], ByteArray]) -> None:
        VideoWriter(path, LIVE_FPS, (2, 2))  # which refuses a wrong ending before a model is loaded
        self._path, self._draw = path, draw
        self._stack = ExitStack()
        self._writer: VideoWriter | None = None
        self._start = 0.0

    def __enter__(self) -> "Film":
        """Return self; the file is opened at the first frame, which has the size."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the file in its place, or, after an error, take it back."""
        self._stack.__exit__(kind, error, trace)
        if error is None and self._writer is not None:
            say(f"wrote {self._path} ({self._writer.num_frames} frames)")

    def show(self, result: DetectionResult) -> bool:
        """Append a frame."""
        picture = self._draw(draw_result(result))
        time = result.time or 0.0
        if self._writer is None:
            writer = VideoWriter(self._path, LIVE_FPS, picture.shape[:2])
            self._writer = self._stack.enter_context(writer)
            self._start = time
        self._writer.write(fitted(picture, self._writer.image_hw), time - self._start)
        return True


class Window:
    """A window that shows each frame; q or Esc closes it.

    Args:
        draw: Draws zones and their counts.

    Raises:
        OptionError: If there is no screen.
    """

    def __init__(self, draw: Callable[[ByteArray], ByteArray]) -> None:
        # Where there is none, OpenCV's window library ends the whole process.
        screens = ("DISPLAY", "WAYLAND_DISPLAY")
        if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in screens):
            raise OptionError("--show: there is no screen here (DISPLAY is not set); use --save")
        self._draw = draw

    def __enter__(self) -> "Window":
        """Open the window.

        Raises:
            DependencyError: If this OpenCV has no windows.
        """
        try:
            cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error as error:
            raise DependencyError(
                "--show: this OpenCV opens no windows; pip uninstall opencv-python-headless, then "
                "pip install opencv-python"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        cv2.destroyAllWindows()

    def show(self, result: DetectionResult) -> bool:
        """Show a frame; False when the user has closed the window."""
        cv2.imshow(_TITLE, self._draw(draw_result(result)))
        if cv2.waitKey(1) & 0xFF in _ENDING_KEYS:
            return False
        return cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) >= 1
