"""One image with its origin, or the reason why it could not be read."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pgvision.arrays import ByteArray
from pgvision.errors import PgvisionError, ShapeError
from pgvision.files import readable_name


@dataclass(frozen=True, eq=False)
class Frame:
    """One image, and where it comes from.

    Attributes:
        bgr: ``(h, w, 3)`` uint8, in OpenCV's order: blue, green, red.
        source: A path, ``"camera:0"``, ``"array"``, ``"pil"``, ``"capture"``, or an address
            (without its secrets). Bytes of a path that are not UTF-8 are written as in
            `pgvision.files.readable_name`.
        index: 0-based position within the source: the frame number of a video or of a stack of
            arrays; the page of a TIFF; the position in its list of an array or PIL image; 0 for a
            single image.
        time: Seconds from the start of a video or animation; None for all else.

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
        """Check the image."""
        object.__setattr__(self, "source", readable_name(self.source))
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
        """True: the image was read (`FrameFailure` returns False)."""
        return True


@dataclass(frozen=True)
class FrameFailure:
    """An image that could not be read, in its place among the frames.

    Attributes:
        source: As in `Frame`.
        index: As in `Frame`; for a video that breaks off, the first missing frame.
        error: The reason.

    Example:
        >>> FrameFailure("broken.jpg", 0, PgvisionError("broken.jpg: no image")).ok
        False
    """

    source: str
    index: int
    error: PgvisionError

    def __post_init__(self) -> None:
        """Make the source writable as UTF-8."""
        object.__setattr__(self, "source", readable_name(self.source))

    @property
    def ok(self) -> Literal[False]:
        """False: there is no image."""
        return False


def _name(value: object) -> str:
    return str(value.dtype) if isinstance(value, np.ndarray) else type(value).__name__
