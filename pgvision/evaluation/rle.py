"""Run-length masks: checked before a C decoder meets them, and made from polygons.

pycocotools decodes a short RLE to uninitialised memory; the totals here catch it at the door.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgvision.errors import EvaluationError
from pgvision.evaluation.columns import number_fault

Rle = dict[str, Any]


def run_totals(counts: Sequence[bytes]) -> NDArray[np.int64]:
    """How many pixels each compressed RLE covers.

    The COCO packing: 5 bits a character above 48, bit 5 says that more follow, bit 4 of the last
    is the sign; from the third run on, a run is stored as the difference to the one two before.

    Args:
        counts: Compressed ``counts`` of ``n`` masks.

    Returns:
        ``(n,)`` totals; -1 where the bytes are no RLE (other characters, an unfinished run, a
        negative run).

    Source:
        cocodataset/cocoapi, common/maskApi.c, rleFrString.

    Example:
        >>> run_totals([b"04", b"0"]).tolist()
        [4, 0]
    """
    lengths = np.array([len(text) for text in counts], np.int64)
    data = np.frombuffer(b"".join(counts), np.uint8).astype(np.int64) - 48
    owner = np.repeat(np.arange(len(counts)), lengths)
    bad = np.zeros(len(counts), bool)
    bad[owner[(data < 0) | (data > 63)]] = True
    last = (data & 32) == 0
    ends = np.cumsum(lengths) - 1
    filled = lengths > 0
    bad[filled] |= ~last[ends[filled]]
    # an unfinished run must not leak into the next mask: close it, its owner is bad already
    last[ends[filled]] = True
    values, owners = _unpack(data, last, owner, bad)
    return _totals(values, owners, bad)


def _unpack(
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


def _totals(
    values: NDArray[np.int64], owners: NDArray[np.int64], bad: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Undo the differences along each mask's odd and even runs, and add them up."""
    count = len(bad)
    sizes = np.bincount(owners, minlength=count)
    first = np.cumsum(sizes) - sizes
    place = np.arange(len(values)) - first[owners]
    totals = np.zeros(count, np.int64)
    head = place == 0
    np.add.at(totals, owners[head], values[head])
    bad[owners[head & (values < 0)]] = True
    for parity in (0, 1):
        chosen = (place >= 1) & (place % 2 == parity)
        steps, own = values[chosen], owners[chosen]
        running = np.cumsum(steps)
        begins = np.flatnonzero(np.diff(own, prepend=-1))
        offset = np.repeat(running[begins] - steps[begins], np.diff(np.append(begins, len(own))))
        runs = running - offset
        bad[own[runs < 0]] = True
        np.add.at(totals, own, runs)
    return np.where(bad, -1, totals)


def rle_fault(rle: object, image_hw: tuple[int, int]) -> str | None:
    """What is wrong with the shape of an RLE object, or None. The runs are checked in bulk."""
    if not isinstance(rle, Mapping) or "size" not in rle or "counts" not in rle:
        return f'is {type(rle).__name__}, expected an RLE {{"size": [h, w], "counts": ...}}'
    size = rle["size"]
    if not isinstance(size, list | tuple) or len(size) != 2 or tuple(size) != image_hw:
        return f"RLE size is {size!r:.40}, expected [{image_hw[0]}, {image_hw[1]}] as the image"
    if not isinstance(rle["counts"], str | bytes | list):
        return f"RLE counts are {type(rle['counts']).__name__}, expected a string"
    if isinstance(rle["counts"], str) and not rle["counts"].isascii():
        return "RLE counts hold characters that no RLE has"
    if isinstance(rle["counts"], list) and any(
        type(run) is not int or run < 0 for run in rle["counts"]
    ):
        return "RLE counts hold something that is not a run length"
    return None


def polygon_fault(polygons: object) -> str | None:
    """What is wrong with a list of polygons ``[x1, y1, x2, y2, x3, y3, ...]``, or None."""
    if not isinstance(polygons, list | tuple) or not polygons:
        return f"is {polygons!r:.40}, expected polygons or an RLE"
    for polygon in polygons:
        if not isinstance(polygon, list | tuple) or len(polygon) < 6 or len(polygon) % 2:
            return f"holds {polygon!r:.40}, expected at least 3 points x, y"
        for number in polygon:
            if fault := number_fault(number):
                return f"holds a coordinate that {fault}"
    return None


def packed(rle: Mapping[str, Any]) -> Rle:
    """The RLE with compressed ``bytes`` counts, whatever form they came in."""
    counts, size = rle["counts"], [int(side) for side in rle["size"]]
    if isinstance(counts, list):
        from pycocotools import mask as coco_mask

        made: Rle = coco_mask.frPyObjects({"size": size, "counts": counts}, *size)
        return made
    return {"size": size, "counts": counts.encode() if isinstance(counts, str) else counts}


def segmentation_to_rle(segmentation: object, image_hw: tuple[int, int]) -> Rle:
    """One compressed RLE from COCO polygons or an RLE of any form.

    Raises:
        EvaluationError: If ``segmentation`` is neither.
    """
    from pycocotools import mask as coco_mask

    fault = rle_fault(segmentation, image_hw)
    if isinstance(segmentation, Mapping) and fault is None:
        return packed(segmentation)
    if (fault := polygon_fault(segmentation)) is not None:
        raise EvaluationError(f"segmentation {fault}. Fix: write polygons or an RLE of the image.")
    merged: Rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, *image_hw))
    return merged
