"""OpenCV; frames; arrays and PIL images -> ``(h, w, 3)`` uint8, blue, green, red."""

import logging
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pgvision.arrays import ByteArray
from pgvision.errors import DependencyError, ImageError, PgvisionError, ShapeError, require_choice
from pgvision.files import readable_name
from pgvision.images.listing import Color

try:
    import cv2 as cv2  # a public name here: other modules take it from this one
except ImportError as error:
    raise DependencyError(
        f"OpenCV could not be loaded ({error}). "
        "Run: apt-get install -y libgl1 libglib2.0-0 libxcb1 "
        "(or: pip uninstall -y opencv-python && pip install opencv-python-headless)"
    ) from error

# Errors of Pillow on broken files, by format; UserWarning is among them where warnings are errors
# (its TIFF reader warns about what it then fails on).
PIL_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError,
    RuntimeError, struct.error, Image.DecompressionBombError, UserWarning, RuntimeWarning,
)  # fmt: skip
_ORIENTATION_TAG = 0x0112
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_STRIP = 64  # rows that are blended at a time
_DARK = 64  # of 255; a 16-bit image up to here probably has 14 bits or fewer

_lock = threading.Lock()
_silent = 0  # how many blocks of `quiet` are open, in all threads
_level = 0  # what the level was before the first of them

_log = logging.getLogger("pgvision.images")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence OpenCV's own log while something that may fail is opened.

    Our error describes the problem; OpenCV's own lines name its C++ files. The log level is
    global to the process, so it is changed as briefly as possible; blocks may overlap, in
    several threads too, and the last one to end gives the level back. Lines that FFmpeg writes
    itself (``moov atom not found``) are not under this level.

    Example:
        >>> with quiet():
        ...     cv2.VideoCapture("missing.mp4").isOpened()
        False
    """
    # The first block of all threads notes the level, the last one restores it.
    global _silent, _level
    log = getattr(cv2.utils, "logging", cv2)  # cv2 itself up to OpenCV 4
    with _lock:
        if _silent == 0:
            _level = log.getLogLevel()
            log.setLogLevel(0)  # silent
        _silent += 1
    try:
        yield
    finally:
        with _lock:
            _silent -= 1
            if _silent == 0:
                log.setLogLevel(_level)


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


def to_bgr(picture: NDArray[Any] | Image.Image, *, color: Color = "bgr") -> ByteArray:
    """Convert one image to ``(h, w, 3)`` uint8 in OpenCV's order: blue, green, red.

    Args:
        picture: An array ``(h, w)`` or ``(h, w, 1)`` (gray), ``(h, w, 3)`` or ``(h, w, 4)`` (the
            fourth is alpha) of uint8; of uint16 (full range: divided by 257); or of floats in
            [0, 1]. Or a PIL image of any mode: its EXIF orientation is applied, and the current
            frame of an animation is taken, which is the first one of a file just opened.
        color: Order of the array's channels, ``"bgr"`` or ``"rgb"``. PIL images declare theirs.

    Returns:
        ``(h, w, 3)`` uint8 BGR, contiguous; the array itself, not a copy, if it already has this
        form. Transparent pixels are laid over white, as on a page. Colour profiles are not applied.
        A 16-bit image that uses a small part of its range (12 bits of a microscope) becomes nearly
        black, which is logged.

    Raises:
        ShapeError: If the array has another shape, dtype or value range, NaN included. Booleans
            are masks and other integers have no known white: both are refused.
        ImageError: If Pillow cannot decode its image, or its mode has no known white (I).
        OptionError: If ``color`` is neither ``"bgr"`` nor ``"rgb"``.

    Example:
        >>> to_bgr(np.array([[[255, 0, 0]]], np.uint8), color="rgb").tolist()
        [[[0, 0, 255]]]
        >>> to_bgr(Image.new("L", (2, 1), 7)).tolist()
        [[[7, 7, 7], [7, 7, 7]]]
    """
    require_choice("color", color, get_args(Color))
    if isinstance(picture, Image.Image):
        # 1. PIL images.
        is_wide = picture.mode.startswith("I") or ";16" in str(getattr(picture, "tile", ""))
        try:
            return _reported(_pil_to_bgr(picture), is_wide, _origin(picture))
        except PIL_ERRORS as error:
            if isinstance(error, (ImageError, ShapeError)):
                raise
            raise ImageError(f"expected a readable PIL image, got {error}") from error
    # 2. Arrays.
    if not isinstance(picture, np.ndarray):
        raise ShapeError(
            f"expected a numpy array or a PIL image, got {type(picture).__name__}; pass "
            "np.asarray(...) of it (of a tensor .permute(1, 2, 0).cpu(), with color='rgb'), or a "
            "path to iter_frames"
        )
    has_channels = picture.ndim == 3 and picture.shape[2] in (1, 3, 4)
    if picture.size == 0 or not (picture.ndim == 2 or has_channels):
        raise ShapeError(
            "expected an image of shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) with at least "
            f"one pixel, got {picture.shape}; channels come last: array.transpose(1, 2, 0); pass a "
            "stack of images to iter_frames"
        )
    bgr = _bytes_to_bgr(_to_bytes(picture), color)
    return _reported(bgr, picture.dtype == np.uint16, "an array")


def _reported(bgr: ByteArray, is_wide: bool, origin: str) -> ByteArray:
    """Log a 16-bit image that becomes nearly black."""
    if is_wide and bgr.max() <= _DARK:
        _log.warning(
            "%s: 16-bit image with values up to about %d of 65535, so it is nearly black; if it "
            "has 10 to 14 bits, pass the array scaled to its range: array / 2**bits",
            origin,
            257 * int(bgr.max()),
        )
    return bgr


def _to_bytes(array: NDArray[Any]) -> ByteArray:
    """Scale any accepted dtype to uint8."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        # 65535 / 257 is 255: black and white stay what they are.
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind == "f":
        return _floats_to_bytes(array)
    # Booleans and other integers have no known white.
    raise ShapeError(
        f"expected uint8, uint16 or floats in [0, 1], got {array.dtype}; of values 0..255 pass "
        "array.astype(np.uint8), of a mask mask.astype(np.uint8) * 255"
    )


def _floats_to_bytes(array: NDArray[Any]) -> ByteArray:
    low, high = float(array.min()), float(array.max())
    if not (low >= 0.0 and high <= 1.0):  # NaN too
        raise ShapeError(
            f"expected floats in [0, 1], got {low:g}..{high:g}; divide by 255, or use "
            "np.clip(array, 0, 1) or np.nan_to_num"
        )
    return _checked(np.rint(array.astype(np.float32, copy=False) * 255.0).astype(np.uint8))


def _bytes_to_bgr(array: ByteArray, color: Color) -> ByteArray:
    array = np.ascontiguousarray(array)
    if array.ndim == 2 or array.shape[2] == 1:
        return _checked(cv2.cvtColor(array, cv2.COLOR_GRAY2BGR))
    if array.shape[2] == 4:
        array = _over_white(array)
    return array if color == "bgr" else _checked(cv2.cvtColor(array, cv2.COLOR_RGB2BGR))


def _over_white(array: ByteArray) -> ByteArray:
    if array[..., 3].min() == 255:
        return np.ascontiguousarray(array[..., :3])
    blended = np.empty((*array.shape[:2], 3), np.uint8)
    for top in range(0, len(array), _STRIP):  # wide integers need a multiple of the memory
        strip = array[top : top + _STRIP].astype(np.uint16)
        alpha = strip[..., 3:]
        # At most 255 * 255 + 127, which fits into uint16.
        blended[top : top + _STRIP] = (strip[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return blended


def _checked(array: object) -> ByteArray:
    """Return the array with its type; nothing is copied."""
    return np.asarray(array, dtype=np.uint8)


def _pil_to_bgr(image: Image.Image) -> ByteArray:
    if 0 in image.size:
        raise ShapeError(f"expected at least one pixel, got a PIL image of size {image.size}")
    image = upright(image)
    if image.mode == "I":
        raise ImageError(
            "expected a PIL mode with a known white, got 'I' (32-bit); pass image.convert('L') if "
            "its values are 0..255, or the array as uint16"
        )
    if image.mode == "F" or image.mode.startswith("I;"):
        return _bytes_to_bgr(_to_bytes(np.asarray(image)), "bgr")
    if image.mode == "La":  # premultiplied; Pillow takes it to RGBA only by way of LA
        image = image.convert("LA")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        return _bytes_to_bgr(np.asarray(image.convert("RGBA")), "rgb")
    return _bytes_to_bgr(np.asarray(image.convert("RGB")), "rgb")


def upright(image: Image.Image) -> Image.Image:
    """Apply a PIL image's EXIF orientation; an unreadable EXIF block changes nothing.

    Example:
        >>> image = Image.new("RGB", (4, 2))
        >>> image.getexif()[0x0112] = 6
        >>> upright(image).size
        (2, 4)
    """
    return image if orientation_of(image) == 1 else ImageOps.exif_transpose(image)


def orientation_of(image: Image.Image) -> int:
    """Read the EXIF orientation, 1 to 8; 1 (nothing to turn) if there is none that can be read.

    Example:
        >>> orientation_of(Image.new("RGB", (4, 2)))
        1
    """
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except PIL_ERRORS as error:
        _log.warning("EXIF of %s cannot be read (%s): it is not turned", _origin(image), error)
        return 1
    return orientation if orientation in range(1, 9) else 1


def _origin(image: Image.Image) -> str:
    return str(getattr(image, "filename", "") or "a PIL image")


def require_moderate(pixels: int) -> None:
    """Apply Pillow's limit to OpenCV and FFmpeg, which allocate first.

    Raises:
        ImageError: If an image has more pixels than twice ``PIL.Image.MAX_IMAGE_PIXELS``.

    Example:
        >>> require_moderate(1920 * 1080)
    """
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and pixels > 2 * most:
        raise ImageError(
            f"too large to be read safely: {pixels} pixels, the limit is {2 * most}; if you trust "
            "it, raise PIL.Image.MAX_IMAGE_PIXELS"
        )
