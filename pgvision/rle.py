"""COCO run lengths (RLE): encoding, checks and decoding.

``{"size": [height, width], "counts": ...}``: alternating lengths of runs outside and inside the
mask, column by column from the left; a plain list, or packed as text. pycocotools' C code reads
past the end of a broken text and allocates by the coordinates of a polygon, so everything is
checked before it is called.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pgvision.arrays import BoolArray, IntArray
from pgvision.errors import DataError, ShapeError

Rle: TypeAlias = dict[str, Any]
_LARGEST_SIDE = 1 << 16  # pixels; bound of coordinates where the size of the image is unknown
_MOST_PIXELS = (1 << 32) - 1  # of a mask
_LONGEST_RING = 10_000_000  # pixels; pycocotools takes 100 bytes for each


def mask_to_rle(mask: BoolArray) -> Rle:
    """Return the COCO run lengths of a full-frame mask ``(h, w)`` bool.

    Raises:
        ShapeError: If the mask is not ``(h, w)`` bool.

    Example:
        >>> mask_to_rle(np.ones((2, 2), np.bool_))
        {'size': [2, 2], 'counts': '04'}
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ShapeError(f"mask: expected (h, w) bool, got {mask.shape} {mask.dtype}")
    return crop_to_rle(mask, (0, 0), (mask.shape[0], mask.shape[1]))


def crop_to_rle(crop: BoolArray, corner: tuple[int, int], image_hw: tuple[int, int]) -> Rle:
    """Return the run lengths of a frame that is empty but for a crop; no frame is built.

    Args:
        crop: ``(h, w)`` bool.
        corner: Left and top of the crop in the frame, in pixels.
        image_hw: Height and width of the frame.

    Example:
        >>> crop_to_rle(np.ones((3, 1), np.bool_), (0, 0), (3, 4))
        {'size': [3, 4], 'counts': '039'}
    """
    counts = _run_lengths(crop, corner, image_hw).tolist()
    packed = pack_rle({"size": list(image_hw), "counts": counts})
    return {"size": list(image_hw), "counts": packed["counts"].decode("ascii")}


def _run_lengths(crop: BoolArray, corner: tuple[int, int], image_hw: tuple[int, int]) -> IntArray:
    height, width = image_hw
    left, top = corner
    rows = crop.shape[0] + 1
    # Columns one after the other with a gap after each; every change starts or ends a run.
    lines = np.zeros((crop.shape[1], rows), np.bool_)
    lines[:, :-1] = crop.T
    flat = lines.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat.size and flat[0]:
        changes = np.concatenate([[0], changes])
    offset = (changes // rows + left) * height + top + changes % rows
    begin, stop = offset[0::2], offset[1::2]
    # A run that ends at the bottom of the frame continues at the top of the next column.
    apart = begin[1:] != stop[:-1]
    begin = begin[np.concatenate([[True], apart])] if len(begin) else begin
    stop = stop[np.concatenate([apart, [True]])] if len(stop) else stop
    borders = np.concatenate([[0], np.stack([begin, stop], 1).ravel(), [height * width]])
    counts: IntArray = np.diff(borders)
    return counts[:-1] if counts[-1] == 0 and len(counts) > 1 else counts


def rle_to_mask(rle: Mapping[str, Any]) -> BoolArray:
    """Read COCO run lengths, packed (text or bytes) or plain (a list), as ``(h, w)`` bool.

    Raises:
        DataError: If the size is missing or the runs do not fill it exactly (pycocotools returns
            uninitialised memory there).

    Example:
        >>> rle_to_mask({"size": [2, 2], "counts": [1, 2, 1]}).astype(int).tolist()
        [[0, 1], [1, 0]]
    """
    # 1. Read the run lengths.
    size = rle.get("size") if isinstance(rle, Mapping) else None
    sides = size if isinstance(size, list | tuple) else ()
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        raise DataError(f"rle: size must be [height, width] in whole pixels, got {size!r:.60}")
    try:
        packed = checked_rle(rle, (sides[0], sides[1]))
    except DataError as error:
        raise DataError(f"rle: {error}") from error
    mask: BoolArray = coco_mask.decode(packed).astype(np.bool_)
    return mask


def _as_bytes(counts: str | bytes) -> bytes:
    # Letters outside ASCII become bytes that no packed text contains.
    return counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts


def checked_rle(rle: object, image_hw: tuple[int, int]) -> Rle:
    """Check run lengths of any form, and return them packed: nothing else may reach pycocotools.

    Args:
        rle: Run lengths, as a user or a file gives them.
        image_hw: Height and width of the image, in pixels.

    Raises:
        DataError: If they are broken or of another size. The message begins with a verb, to be
            put after a place.

    Example:
        >>> checked_rle({"size": [2, 2], "counts": [0, 3]}, (2, 2))
        Traceback (most recent call last):
        pgvision.errors.DataError: has runs over 3 pixels, expected 4 pixels; ...
    """
    # 1. The size.
    if not isinstance(rle, Mapping) or "size" not in rle or "counts" not in rle:
        raise DataError(
            f'is {type(rle).__name__}, expected an RLE {{"size": [h, w], "counts": ...}}'
        )
    size, counts = rle["size"], rle["counts"]
    if not isinstance(size, list | tuple) or tuple(size) != image_hw:
        raise DataError(
            f"RLE size is {size!r:.40}, but the image is {list(image_hw)} (height, width)"
        )
    # 2. The runs must fill the image: pycocotools would read or leave other memory.
    total, expected = run_total(counts), image_hw[0] * image_hw[1]
    if expected > _MOST_PIXELS:
        raise DataError(f"has {expected} pixels, and run lengths have 32 bits")
    if total is None:
        raise DataError(
            f"has broken counts, expected {expected} pixels as COCO's run-length text or a list of "
            "run lengths"
        )
    if total != expected:
        raise DataError(
            f"has runs over {total} pixels, expected {expected} pixels; the size belongs to "
            "another mask, or the text is cut"
        )
    return pack_rle(rle)


def run_total(counts: object) -> int | None:
    """Count the pixels that run lengths cover, inside and outside; None if they are broken.

    Example:
        >>> run_total(b"04"), run_total([0, 4]), run_total(b"P"), run_total([0, 1.5])
        (4, 4, None, None)
    """
    if isinstance(counts, list | tuple):
        whole = all(type(run) in (int, float) and run >= 0 and run == run // 1 for run in counts)
        return int(sum(counts)) if whole else None
    runs = _unpack(_as_bytes(counts)) if isinstance(counts, str | bytes) else None
    return None if runs is None else int(runs.sum())


def pack_rle(rle: Mapping[str, Any]) -> Rle:
    """Return the run lengths with packed ``bytes``, as pycocotools takes them, from any form.

    Args:
        rle: Run lengths that passed `checked_rle`.

    Example:
        >>> pack_rle({"size": [2, 2], "counts": [0, 4]})
        {'size': [2, 2], 'counts': b'04'}
    """
    counts, size = rle["counts"], [int(side) for side in rle["size"]]
    if isinstance(counts, str | bytes):
        return {"size": size, "counts": _as_bytes(counts)}
    plain = {"size": size, "counts": [int(run) for run in counts]}
    made: Rle = coco_mask.frPyObjects(plain, *size)
    return made


def _unpack(counts: bytes) -> NDArray[np.int64] | None:
    """Return the runs of one packed text; None if it is broken.

    COCO's packing: 5 bits a character above 48, low ones first; bit 5 means that more follow, bit 4
    of the last is the sign; from the fourth run on, the difference to the run two before is stored.

    Source:
        cocodataset/cocoapi, common/maskApi.c, rleFrString.
    """
    # 1. Where each number begins and ends.
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not len(digits):
        return digits
    last = np.flatnonzero((digits & 32) == 0)
    if digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        return None
    first = np.concatenate([[0], last[:-1] + 1])
    size = last - first + 1
    if size.max() > 7:  # more than 35 bits: no image is that large, and shifts would overflow
        return None
    # 2. Join the digits of each number, with its sign, and undo the differences.
    place = np.arange(len(digits)) - np.repeat(first, size)
    runs: NDArray[np.int64] = np.add.reduceat((digits & 31) << 5 * place, first)
    runs -= ((digits[last] & 16) != 0).astype(np.int64) << 5 * size
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return None if runs.min() < 0 else runs


def polygons_to_rle(polygons: Sequence[Sequence[float]], image_hw: tuple[int, int]) -> Rle:
    """Rasterise rings, united, exactly as pycocotools does, into packed ``bytes``.

    Args:
        polygons: Rings ``(x0, y0, x1, y1, ...)`` in pixels. Those of fewer than three points
            enclose nothing and are left out; pycocotools reads one of 4 numbers as a box.
        image_hw: Height and width of the image, in pixels.

    Raises:
        DataError: If `ring_fault` finds fault with a ring.

    Source:
        cocodataset/cocoapi, PythonAPI/pycocotools/coco.py, ``annToRLE``.

    Example:
        >>> square = polygons_to_rle([[1, 0, 3, 0, 3, 2, 1, 2]], (2, 4))
        >>> rle_to_mask(square).astype(int).tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0]]
    """
    if fault := polygons_fault(polygons, image_hw):
        raise DataError(fault)
    rings = [list(ring) for ring in polygons if len(ring) >= 6]
    if not rings:
        return pack_rle({"size": image_hw, "counts": [image_hw[0] * image_hw[1]]})
    merged: Rle = coco_mask.merge(coco_mask.frPyObjects(rings, *image_hw))
    return merged


def polygons_fault(polygons: Sequence[Sequence[float]], image_hw: tuple[int, int]) -> str | None:
    """Return what `ring_fault` finds first, of rings that enclose something, or None.

    Example:
        >>> polygons_fault([[0, 0, 8, 0], [0, 0, 8, 0, 8, float("nan")]], (10, 10))
        'polygon has a coordinate that is NaN or infinite'
    """
    faults = (ring_fault(ring, image_hw) for ring in polygons if len(ring) >= 6)
    return next((f"polygon {fault}" for fault in faults if fault), None)


def ring_fault(ring: Sequence[float], image_hw: tuple[int, int]) -> str | None:
    """Return what is wrong with the coordinates of a ring, or None.

    A ring may leave the image by up to the image's own width and height. pycocotools allocates in
    proportion to the length of a ring: one wild coordinate, or thousands of lines across a large
    image, take gigabytes or end the process.

    Example:
        >>> ring_fault([0, 0, 8, 0, 8, 9], (10, 10)) is None
        True
        >>> ring_fault([0, 0, 1e9, 0, 0, 9], (10, 10))
        'reaches x = 1e+09, far outside the image (10 x 10 pixels, width x height)'
    """
    # 1. Pairs of finite numbers.
    height, width = (side or _LARGEST_SIDE for side in image_hw)
    if len(ring) % 2:
        return f"has {len(ring)} numbers, expected pairs of x and y"
    if not all(map(math.isfinite, ring)):
        return "has a coordinate that is NaN or infinite"
    # 2. Not far outside the image.
    for axis, side, name in ((0, width, "x"), (1, height, "y")):
        values = ring[axis::2]
        for value in (min(values), max(values)):
            if not -side <= value <= 2 * side:
                return (
                    f"reaches {name} = {value:g}, far outside the image "
                    f"({width} x {height} pixels, width x height)"
                )
    # 3. Not too long.
    if len(ring) * max(height, width) > _LONGEST_RING:  # few rings have so many points
        corners = np.array(ring, np.float64).reshape(-1, 2)
        length = np.abs(np.diff(corners, axis=0, append=corners[:1])).max(axis=1).sum()
        if length > _LONGEST_RING:
            return f"is {length:.0f} pixels long, longer than any outline; simplify it"
    return None


def outline_area(outline: Any, image_hw: tuple[int, int] | None) -> float:
    """Count the pixels inside rings or run lengths.

    Raises:
        DataError: If run lengths do not fill their size, or a ring is far outside the image.

    Example:
        >>> outline_area([[0, 0, 4, 0, 4, 2, 0, 2]], None)
        8.0
    """
    if isinstance(outline, Mapping):
        packed = checked_rle(outline, tuple(outline["size"]))
        return float(coco_mask.area(packed))
    if image_hw is None:  # a canvas that contains the rings
        left, top, width, height = outline_xywh(outline)
        image_hw = (max(math.ceil(top + height), 1), max(math.ceil(left + width), 1))
    return float(coco_mask.area(polygons_to_rle(outline, image_hw)))


def outline_xywh(outline: Any) -> tuple[float, float, float, float]:
    """Return left, top, width and height of rings or run lengths, in pixels.

    Example:
        >>> outline_xywh(((1.0, 2.0, 5.0, 2.0, 5.0, 8.0),))
        (1.0, 2.0, 4.0, 6.0)
    """
    if isinstance(outline, Mapping):
        left, top, width, height = coco_mask.toBbox(pack_rle(outline)).tolist()
        return left, top, width, height
    xs = [x for ring in outline for x in ring[0::2]]
    ys = [y for ring in outline for y in ring[1::2]]
    return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
