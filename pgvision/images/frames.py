"""One image with its origin, or the reason why it could not be read."""

from dataclasses import dataclass
from typing import ClassVar, Literal

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
        ok: True: the image was read.

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
    ok: ClassVar[Literal[True]] = True

    def __post_init__(self) -> None:
        """Check the image."""
        object.__setattr__(self, "source", readable_name(self.source))
        array = self.bgr
        kind = getattr(array, "dtype", type(array).__name__)
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
            raise ShapeError(f"Frame.bgr must be a uint8 array, got {kind}; use to_bgr()")
        if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
            raise ShapeError(f"Frame.bgr must be (h, w, 3), got {array.shape}; use to_bgr()")

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.bgr.shape[0], self.bgr.shape[1]


@dataclass(frozen=True)
class FrameFailure:
    """An image that could not be read, in its place among the frames.

    Attributes:
        source: As in `Frame`.
        index: As in `Frame`; for a video that breaks off, the first missing frame.
        error: The reason.
        ok: False: there is no image.

    Example:
        >>> FrameFailure("broken.jpg", 0, PgvisionError("broken.jpg: no image")).ok
        False
    """

    source: str
    index: int
    error: PgvisionError
    ok: ClassVar[Literal[False]] = False

    def __post_init__(self) -> None:
        """Make the source writable as UTF-8."""
        object.__setattr__(self, "source", readable_name(self.source))
