"""Annotated videos: each frame at its own time, with the source's sound."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from pgvision.arrays import ByteArray
from pgvision.cli.console import say
from pgvision.cli.outputs import Draw, Outcome, OverlayNames, Write
from pgvision.errors import PgvisionError
from pgvision.images import VideoWriter, copy_audio, video_info
from pgvision.results import Failure

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
