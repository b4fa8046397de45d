"""Label Studio's brushes: a mask as run lengths in bits, without its SDK and the SDK's OpenCV."""

from typing import Final

import numpy as np

from pgvision.arrays import BoolArray

_SIZES: Final = (3, 4, 8, 16)
"""Bits of the four kinds of run length, as Label Studio's converter chooses them."""


def brush_rle(mask: BoolArray) -> list[int]:
    """Write a mask as Label Studio's ``brushlabels`` have it.

    The picture is red, green, blue and alpha, row by row, all 0 or all 255. In bits: how many
    values (32), bits of a value less 1 (5), bits of the four kinds of length less 1 (4 each); then
    for each run a 1, the kind of its length (2), its length less 1, and the value (8).

    Args:
        mask: ``(h, w)``.

    Returns:
        Bytes, 0 to 255.

    Source:
        thi.ng/umbrella, packages/rle-pack, which Label Studio's frontend uses.

    Example:
        >>> brush_rle(np.array([[False, True]]))
        [0, 0, 0, 8, 57, 27, 252, 96, 17, 255, 128]
    """
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    # Four channels per pixel, all equal.
    lengths = 4 * np.diff(starts, append=flat.size)
    bits = [f"{4 * flat.size:032b}{7:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    most = 1 << _SIZES[-1]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = f"{255 * int(flat[start]):08b}"
        # Split runs that are longer than the largest length.
        for left in range(length, 0, -most):
            run = min(left, most) - 1
            kind = next(at for at, size in enumerate(_SIZES) if run < 1 << size)
            bits.append(f"1{kind:02b}{run:0{_SIZES[kind]}b}{value}")
    packed = np.packbits(np.frombuffer("".join(bits).encode(), np.uint8) - ord("0"))
    found: list[int] = packed.tolist()
    return found
