"""Location bins and pixels: the 1,024 steps in which a model writes coordinates.

Two conventions are in use. ``"1024"`` (Hugging Face's space, supervision; the default) puts bin
``b`` at ``b / 1024`` of the side; ``"1023"`` (big_vision) puts it at ``b / 1023``. There is no
``<loc1024>``: both clamp to bin 1023.
"""

from collections.abc import Iterable
from operator import index
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pgvision.arrays import FloatArray, IntArray
from pgvision.errors import OptionError, ShapeError

NUM_BINS: Final = 1024
NUM_CODES: Final = 128
CODES_PER_MASK: Final = 16
LOCS_PER_BOX: Final = 4

_DIVISORS: Final = {"1024": 1024, "1023": 1023}
_LOC: Final = tuple(f"<loc{value:04d}>" for value in range(NUM_BINS))
_SEG: Final = tuple(f"<seg{value:03d}>" for value in range(NUM_CODES))


def require_convention(convention: str) -> int:
    """Return the number by which bins of ``convention`` are divided.

    Raises:
        OptionError: If ``convention`` is neither ``"1024"`` nor ``"1023"``.

    Example:
        >>> require_convention("1023")
        1023
    """
    divisor = _DIVISORS.get(convention) if isinstance(convention, str) else None
    if divisor is None:
        raise OptionError(
            f"convention: expected '1024' (Hugging Face, supervision) or '1023' (big_vision), "
            f"got {convention!r}."
        )
    return divisor


def require_image_hw(image_hw: tuple[int, int]) -> tuple[int, int]:
    """Return ``image_hw`` as two positive ints: height, width.

    Raises:
        ShapeError: If it is anything else.

    Example:
        >>> require_image_hw((480, 640))
        (480, 640)
    """
    try:
        height, width = (index(side) for side in image_hw)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise ShapeError(
            f"image_hw: expected (height, width) in whole pixels, both at least 1, got "
            f"{image_hw!r}. For an array pass image.shape[:2]."
        )
    return height, width


def decode_boxes(
    loc_yxyx: ArrayLike, *, image_hw: tuple[int, int], convention: str = "1024"
) -> FloatArray:
    """Map location bins to pixel boxes.

    Args:
        loc_yxyx: ``(n, 4)`` bins in [0, 1023], in the order the model writes: top, left, bottom,
            right. Fractions are allowed (soft coordinates).
        image_hw: Height and width of the original image, in pixels.
        convention: ``"1024"`` or ``"1023"`` (big_vision).

    Returns:
        ``(n, 4)`` float32 boxes in pixels, inside the image: left, top, right, bottom.

    Raises:
        ShapeError: If ``loc_yxyx`` is not ``(n, 4)`` numbers in [0, 1023], or ``image_hw`` is not
            two positive ints.
        OptionError: If ``convention`` is unknown.

    Source:
        google-research/big_vision, pp/proj/paligemma/segmentation.py (the encoder's side, 1023);
        roboflow/supervision, detection/vlm.py (1024).

    Example:
        >>> decode_boxes([[256, 0, 768, 512]], image_hw=(480, 640)).tolist()
        [[0.0, 120.0, 320.0, 360.0]]
    """
    # 1. Check: pixels in place of bins are the usual mistake.
    bins = _require_rows(loc_yxyx, "loc_yxyx")
    if bins.size and (bins.min() < 0 or bins.max() > NUM_BINS - 1):
        raise ShapeError(
            f"loc_yxyx: expected bins in [0, {NUM_BINS - 1}], got {bins.min():g} to "
            f"{bins.max():g}. Pixels go through encode_boxes first."
        )
    # 2. Swap to x first, and scale.
    divisor = require_convention(convention)
    height, width = require_image_hw(image_hw)
    sides = np.array([width, height, width, height], dtype=np.float64)
    return (bins[:, [1, 0, 3, 2]] / divisor * sides).astype(np.float32)


def encode_boxes(
    xyxy: ArrayLike, *, image_hw: tuple[int, int], convention: str = "1024"
) -> IntArray:
    """Map pixel boxes to the nearest location bins.

    Coordinates outside the image are clamped to it. Decoding gives back each coordinate within half
    a bin, except beyond the last bin's middle under ``"1024"``, where it is within one bin.

    Args:
        xyxy: ``(n, 4)`` boxes in pixels: left, top, right, bottom.
        image_hw: Height and width of the original image, in pixels.
        convention: ``"1024"`` or ``"1023"`` (big_vision).

    Returns:
        ``(n, 4)`` int64 bins in [0, 1023] in token order: top, left, bottom, right.

    Raises:
        ShapeError: If ``xyxy`` is not ``(n, 4)`` numbers, contains NaN, or ``image_hw`` is not two
            positive ints.
        OptionError: If ``convention`` is unknown.

    Source:
        google-research/big_vision, pp/proj/paligemma/segmentation.py (``round(v * 1023)``).

    Example:
        >>> encode_boxes([[0, 120, 320, 480]], image_hw=(480, 640)).tolist()
        [[256, 0, 1023, 512]]
    """
    pixels = _require_rows(xyxy, "xyxy")
    divisor = require_convention(convention)
    height, width = require_image_hw(image_hw)
    sides = np.array([height, width, height, width], dtype=np.float64)
    # Clamped before scaling, so that huge or infinite pixels never reach the cast to int.
    shares = np.clip(pixels[:, [1, 0, 3, 2]], 0.0, sides) / sides
    bins: IntArray = np.minimum(np.rint(shares * divisor), NUM_BINS - 1).astype(np.int64)
    return bins


def loc_text(bins: Iterable[int]) -> str:
    """Write bins as location tokens, in the order given (top, left, bottom, right for a box).

    Raises:
        ShapeError: If a value is not a whole number in [0, 1023].

    Example:
        >>> loc_text([1, 22, 333, 1023])
        '<loc0001><loc0022><loc0333><loc1023>'
    """
    return _token_text(bins, _LOC, "bins")


def seg_text(codes: Iterable[int]) -> str:
    """Write mask codes as segmentation tokens (a whole mask has 16, row by row).

    Raises:
        ShapeError: If a value is not a whole number in [0, 127].

    Example:
        >>> seg_text([0, 17, 127])
        '<seg000><seg017><seg127>'
    """
    return _token_text(codes, _SEG, "codes")


def object_text(loc_yxyx: Iterable[int], label: str | None, codes: Iterable[int] = ()) -> str:
    """Write one object of a suffix. Join several with ``" ; "`` (`SEPARATOR`).

    Args:
        loc_yxyx: Four bins: top, left, bottom, right.
        label: The name that follows, or None to write none (``ft-refcoco-seg``).
        codes: The 16 codes of its mask, or nothing.

    Returns:
        The text, as a model writes it.

    Raises:
        ShapeError: If there are not 4 bins, or neither 0 nor 16 codes, or one is out of range.

    Example:
        >>> object_text([256, 0, 768, 512], "helmet")
        '<loc0256><loc0000><loc0768><loc0512> helmet'
    """
    bins, mask = list(loc_yxyx), list(codes)
    if len(bins) != 4 or len(mask) not in (0, CODES_PER_MASK):
        raise ShapeError(
            f"object: expected 4 bins and 0 or {CODES_PER_MASK} codes, got {len(bins)} bins and "
            f"{len(mask)} codes."
        )
    return loc_text(bins) + seg_text(mask) + (f" {label}" if label else "")


def _token_text(values: Iterable[int], table: tuple[str, ...], name: str) -> str:
    try:
        numbers = [index(value) for value in values]
    except TypeError as error:
        raise ShapeError(f"{name}: expected a row of whole numbers, got {values!r}.") from error
    for number in numbers:
        if not 0 <= number < len(table):
            raise ShapeError(
                f"{name}: expected whole numbers in [0, {len(table) - 1}], got {number}."
            )
    return "".join([table[number] for number in numbers])


def _require_rows(values: ArrayLike, name: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different length
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "iuf" or array.ndim != 2 or array.shape[1] != 4:
        raise ShapeError(
            f"{name}: expected numbers of shape (n, 4), got {array.dtype} of shape {array.shape}. "
            "One box is [[a, b, c, d]]; no boxes are numpy.empty((0, 4))."
        )
    rows = array.astype(np.float64)
    if np.isnan(rows).any():
        row = int(np.isnan(rows).any(axis=1).argmax())
        raise ShapeError(f"{name}: expected numbers, got NaN in row {row}.")
    return rows
