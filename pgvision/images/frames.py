"""One picture with its origin, or the reason why there is none."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pgvision.arrays import ByteArray
from pgvision.errors import PgvisionError, ShapeError


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture, and where it comes from.

    Attributes:
        bgr: ``(h, w, 3)`` uint8, in OpenCV's order: blue, green, red.
        source: A path, ``"camera:0"``, ``"array"``, ``"pil"``, ``"capture"``, or an address (with
            its password struck out).
        index: 0-based position within the source: the frame number of a video or of a stack of
            arrays; the position in its list of an array or PIL image; 0 for a picture file.
        time: Seconds from the start of the video; None for what is not video.

    Raises:
        ShapeError: If ``bgr`` is not ``(h, w, 3)`` uint8.

    Example:
        >>> frame = Frame(np.zeros((4, 6, 3), np.uint8), source="array")
        >>> frame.image_hw, frame.index, frame.time
        ((4, 6), 0, None)
    """

    bgr: ByteArray
    source: str
    index: int = 0
    time: float | None = None

    def __post_init__(self) -> None:
        """Check the picture."""
        array = self.bgr
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
            raise ShapeError(f"Frame.bgr must be a uint8 array, got {_name(array)}; use to_bgr()")
        if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
            raise ShapeError(f"Frame.bgr must be (h, w, 3), got {array.shape}; use to_bgr()")

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.bgr.shape[0], self.bgr.shape[1]

    @property
    def ok(self) -> Literal[True]:
        """True: there is a picture (a `FrameFailure` says False)."""
        return True


@dataclass(frozen=True)
class FrameFailure:
    """A picture that could not be had, in the place where it should have been.

    Attributes:
        source: As in `Frame`.
        index: As in `Frame`; for a video that breaks off, the first frame that is missing.
        error: What went wrong.

    Example:
        >>> FrameFailure("broken.jpg", 0, PgvisionError("broken.jpg: no picture")).ok
        False
    """

    source: str
    index: int
    error: PgvisionError

    @property
    def ok(self) -> Literal[False]:
        """False: there is no picture."""
        return False


def _name(value: object) -> str:
    return str(value.dtype) if isinstance(value, np.ndarray) else type(value).__name__
