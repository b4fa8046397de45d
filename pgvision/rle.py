"""Run lengths, COCO's form of a mask: made, checked and read in one place.

``{"size": [height, width], "counts": ...}``: the lengths of runs outside and inside in turn, down
the columns, from left to right; plain, or packed as text. pycocotools reads a text that is too
short as uninitialised memory, so nothing reaches its C code unchecked.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pgvision.arrays import BoolArray, IntArray
from pgvision.errors import DataError, ShapeError

Rle: TypeAlias = dict[str, Any]
_CHUNK = 4096
"""Masks checked at a time: a character of text needs some fifty bytes while it is looked at."""


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
    # Columns one after the other with a gap behind each; every change starts or ends a run.
    lines = np.zeros((crop.shape[1], rows), np.bool_)
    lines[:, :-1] = crop.T
    flat = lines.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat.size and flat[0]:
        changes = np.concatenate([[0], changes])
    offset = (changes // rows + left) * height + top + changes % rows
    begin, stop = offset[0::2], offset[1::2]
    # A run that ends at the bottom of the frame goes on at the top of the next column.
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
    height, width = _size_of(rle)
    counts = rle.get("counts")
    if isinstance(counts, str | bytes):
        runs, _, bad = _unpacked([_as_bytes(counts)])
        if bad[0]:
            raise DataError(
                "rle: not COCO's run-length text: a character that it has not, a run that is "
                "negative or longer than any picture, or an end inside a number (cut off)"
            )
    elif isinstance(counts, list | tuple) and all(type(count) is int for count in counts):
        runs = np.array(counts, np.int64)
    else:
        raise DataError(f"rle: counts must be text or a list of ints, got {type(counts).__name__}")
    if (runs < 0).any() or int(runs.sum()) != height * width:
        raise DataError(
            f"rle: runs cover {int(runs.sum())} pixels, expected {height} x {width} = "
            f"{height * width}; the size belongs to another mask, or the text is cut"
        )
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def _size_of(rle: Mapping[str, Any]) -> tuple[int, int]:
    size = rle.get("size") if isinstance(rle, Mapping) else None
    if isinstance(size, list | tuple) and len(size) == 2:
        height, width = size
        if type(height) is int and type(width) is int and min(size) >= 1:
            return height, width
    raise DataError(f"rle: size must be [height, width] in whole pixels, got {size!r}")


def _as_bytes(counts: str | bytes) -> bytes:
    return counts.encode("latin-1", "replace") if isinstance(counts, str) else counts


def pack_rle(rle: Mapping[str, Any]) -> Rle:
    """Return the run lengths with packed ``bytes``, as pycocotools takes them, from any form.

    Args:
        rle: Run lengths that `rle_fault` finds no fault with.

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


def rle_fault(rle: object, image_hw: tuple[int, int]) -> str | None:
    """Return what is wrong with run lengths' form and size, or None; `run_totals` looks inside."""
    if not isinstance(rle, Mapping) or "size" not in rle or "counts" not in rle:
        return f'is {type(rle).__name__}, expected an RLE {{"size": [h, w], "counts": ...}}'
    size, counts = rle["size"], rle["counts"]
    if not isinstance(size, list | tuple) or len(size) != 2 or tuple(size) != image_hw:
        return (
            f"RLE size is {size!r:.40}, but the image is [{image_hw[0]}, {image_hw[1]}] "
            "(height, width)"
        )
    if not isinstance(counts, str | bytes | list | tuple):
        return f"RLE counts are {type(counts).__name__}, expected a string"
    if isinstance(counts, str) and not counts.isascii():
        return "RLE counts hold characters that no RLE has"
    if isinstance(counts, list | tuple):
        if not all(type(run) in (int, float) and run >= 0 and run == run // 1 for run in counts):
            return "RLE counts hold something that is not a run length"
        if sum(counts) != image_hw[0] * image_hw[1]:
            return pixels_fault(int(sum(counts)), image_hw)
    return None


def pixels_fault(total: int, image_hw: tuple[int, int]) -> str | None:
    """Return what is wrong with run lengths over ``total`` pixels (-1: broken ones), or None."""
    expected = image_hw[0] * image_hw[1]
    if total == expected:
        return None
    got = "broken runs" if total < 0 else f"runs over {total} pixels"
    return f"has {got}, expected {expected} pixels"


def run_totals(counts: Sequence[bytes]) -> NDArray[np.int64]:
    """Count the pixels that each packed text covers, inside and outside.

    Args:
        counts: Packed ``counts`` of ``n`` masks.

    Returns:
        ``(n,)`` totals; -1 where the bytes are no RLE (other characters, an unfinished run, a
        negative run).

    Example:
        >>> run_totals([b"04", b"0"]).tolist()
        [4, 0]
    """
    totals = np.zeros(len(counts), np.int64)
    for start in range(0, len(counts), _CHUNK):
        part = counts[start : start + _CHUNK]
        runs, owners, bad = _unpacked(part)
        sums = np.zeros(len(part), np.int64)
        np.add.at(sums, owners, runs)
        totals[start : start + _CHUNK] = np.where(bad, -1, sums)
    return totals


def _unpacked(
    counts: Sequence[bytes],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Read many texts at once: all runs, whose each run is, and which texts are broken.

    COCO's packing: 5 bits a character above 48, low ones first; bit 5 says that more follow, bit 4
    of the last is the sign; from the third run on, a run is the difference to the one two before.

    Source:
        cocodataset/cocoapi, common/maskApi.c, rleFrString.
    """
    lengths = np.array([len(text) for text in counts], np.int64)
    data = np.frombuffer(b"".join(counts), np.uint8).astype(np.int64) - 48
    owner = np.repeat(np.arange(len(counts)), lengths)
    bad = np.zeros(len(counts), np.bool_)
    bad[owner[(data < 0) | (data > 63)]] = True
    last = (data & 32) == 0
    ends = np.cumsum(lengths) - 1
    filled = lengths > 0
    bad[filled] |= ~last[ends[filled]]
    # An unfinished run must not leak into the next mask: close it, its owner is bad already.
    last[ends[filled]] = True
    values, owners = _numbers(data, last, owner, bad)
    return _undo_differences(values, owners, bad), owners, bad


def _numbers(
    data: NDArray[np.int64],
    last: NDArray[np.bool_],
    owner: NDArray[np.int64],
    bad: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Characters -> stored numbers, and whose each number is."""
    stop = np.flatnonzero(last)
    start = np.concatenate([[0], stop[:-1] + 1]) if len(stop) else stop
    size = stop - start + 1
    too_long = size > 7  # more than 35 bits: no image is that large, and shifts would overflow
    bad[owner[start[too_long]]] = True
    place = np.arange(len(data)) - np.repeat(start, size)
    parts = (data & 31) << np.minimum(5 * place, 35)
    values = np.add.reduceat(parts, start) if len(start) else parts
    negative = (data[stop] & 16) != 0
    values = values - (negative.astype(np.int64) << np.minimum(5 * size, 40))
    return values, owner[start]


def _undo_differences(
    values: NDArray[np.int64], owners: NDArray[np.int64], bad: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Add up the differences along each mask's odd and even runs; negative runs are broken."""
    sizes = np.bincount(owners, minlength=len(bad))
    first = np.cumsum(sizes) - sizes
    place = np.arange(len(values)) - first[owners]
    runs = values.copy()
    for parity in (0, 1):
        chosen = (place >= 1) & (place % 2 == parity)
        steps, own = values[chosen], owners[chosen]
        running = np.cumsum(steps)
        begins = np.flatnonzero(np.diff(own, prepend=-1))
        offset = np.repeat(running[begins] - steps[begins], np.diff(np.append(begins, len(own))))
        runs[chosen] = running - offset
    bad[owners[runs < 0]] = True
    return runs


def polygons_to_rle(polygons: Sequence[Sequence[float]], image_hw: tuple[int, int]) -> Rle:
    """Rasterise rings, united, exactly as pycocotools does, into packed ``bytes``.

    Args:
        polygons: Rings ``(x0, y0, x1, y1, ...)`` in pixels. Those of fewer than three points
            enclose nothing and are left out; pycocotools reads one of 4 numbers as a box.
        image_hw: Height and width of the image, in pixels.

    Source:
        cocodataset/cocoapi, PythonAPI/pycocotools/coco.py, ``annToRLE``.

    Example:
        >>> square = polygons_to_rle([[1, 0, 3, 0, 3, 2, 1, 2]], (2, 4))
        >>> rle_to_mask(square).astype(int).tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0]]
    """
    rings = [list(ring) for ring in polygons if len(ring) >= 6]
    if not rings:
        return pack_rle({"size": image_hw, "counts": [image_hw[0] * image_hw[1]]})
    merged: Rle = coco_mask.merge(coco_mask.frPyObjects(rings, *image_hw))
    return merged


def rle_area(rle: Mapping[str, Any]) -> float:
    """Count the pixels inside a sound mask.

    Example:
        >>> rle_area({"size": [2, 2], "counts": [1, 2, 1]})
        2.0
    """
    return float(coco_mask.area(pack_rle(rle)))


def rle_xywh(rle: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Return left, top, width and height of what a sound mask covers; zeros if nothing.

    Example:
        >>> rle_xywh({"size": [2, 3], "counts": [2, 2, 2]})
        (1.0, 0.0, 1.0, 2.0)
    """
    x, y, width, height = coco_mask.toBbox(pack_rle(rle)).tolist()
    return (x, y, width, height)
