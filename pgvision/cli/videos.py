"""Annotated videos: each frame at its own time, with the source's sound."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from pgvision.arrays import ByteArray
from pgvision.cli.console import say
from pgvision.cli.outputs import Draw, Outcome, OverlayNames
from pgvision.errors import PgvisionError
from pgvision.images import VideoWriter, copy_audio, video_info
from pgvision.results import Failure

# A camera or an address does not say how fast it will come.
LIVE_FPS = 25.0


class Videos:
    """An annotated copy of each video: ``<name>.overlay.mp4``.

    Frames keep their times, so that the copy lasts as long as the source and its sound fits,
    whatever the stride and however the source's rate varies.

    Args:
        folder: Where they go.
        draw: Makes the annotated copy of a frame.
        stride: Of the source, each ``stride``-th frame comes here.
    """

    def __init__(self, folder: Path, draw: Draw, *, stride: int) -> None:
        """Keep the choices."""
        self._draw = draw
        self._stride = stride
        self._names = OverlayNames(folder)
        self._stack = ExitStack()
        self._writer: VideoWriter | None = None
        self._source: str | None = None

    def __enter__(self) -> "Videos":
        """Nothing to open before the first frame."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the last video, or, after an error, take it back."""
        if error is None:
            self._end()
        else:
            self._stack.__exit__(kind, error, trace)

    def write(self, outcome: Outcome) -> None:
        """Draw one frame; pictures and failures are not this one's business."""
        if isinstance(outcome, Failure) or outcome.time is None:
            return
        frame = self._draw(outcome)
        if outcome.source != self._source or outcome.frame_index == 0 or self._writer is None:
            self._end()
            self._writer = self._begin(outcome.source or "video", frame.shape[:2])
        self._writer.write(fitted(frame, self._writer.image_hw), outcome.time)

    def _begin(self, source: str, image_hw: tuple[int, int]) -> VideoWriter:
        fps = video_info(source).fps if Path(source).is_file() else LIVE_FPS
        path = self._names.path_for(source, ".mp4")
        with ExitStack() as stack:
            writer = stack.enter_context(VideoWriter(path, fps / self._stride, image_hw))
            self._stack = stack.pop_all()
        self._source = source
        return writer

    def _end(self) -> None:
        writer, source = self._writer, self._source
        self._writer = self._source = None
        self._stack.close()
        if writer is None or source is None:
            return
        sound = "none (a live source)"
        if Path(source).is_file():
            try:
                sound = copy_audio(source, writer.path)
            except PgvisionError as error:
                sound = f"not copied: {error}"
        say(f"wrote {writer.path} ({writer.num_frames} frames, sound: {sound})")


def fitted(frame: ByteArray, image_hw: tuple[int, int]) -> ByteArray:
    """Cut or fill below and to the right: the bar with a text may be taller in the next frame."""
    height, width = image_hw
    if frame.shape[:2] == (height, width):
        return frame
    canvas = np.zeros((height, width, 3), np.uint8)
    rows, columns = min(height, frame.shape[0]), min(width, frame.shape[1])
    canvas[:rows, :columns] = frame[:rows, :columns]
    return canvas
