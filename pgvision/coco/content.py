"""What a COCO file holds, decided once: what is sound, what is mended with a note, what is refused.

The reader of data sets, ``pgvision convert --check`` and the evaluation all start here.

- Ids are whole numbers, each used once: below 2**53, those of annotations below 2**63. ``1.0`` is
  taken for 1. If no annotation has an id they are numbered.
- An image's height and width are whole and positive. Missing, null and 0 mean unknown.
- A box is four finite numbers with width and height from 0. A missing or
  empty one is that of the outline.
- An outline is rings of x, y pairs or run lengths that fill the image. Rings of fewer than three
  points enclose nothing and are left out; null, ``[]`` and ``[[]]`` mean that there is none.
- ``iscrowd`` is 0 or 1; missing and null mean 0. ``area`` is a finite number; missing, null and
  what is below 0 mean unknown.
- Categories have names, each used once. A category without objects that the others name as their
  supercategory (Roboflow's grouping) is left out.
- NaN and infinity are refused wherever they stand.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pgvision.coco.problems import Problems
from pgvision.errors import DataError
from pgvision.rle import pack_rle, pixels_fault, polygons_to_rle, rle_area, run_totals

FIX: Final = "mend the file; `pgvision convert FILE --check` lists everything that is wrong with it"


@dataclass(frozen=True, slots=True)
class Entry:
    """An image or a category.

    Attributes:
        index: Place in its list.
        fields: The entry as the file has it.
        image_hw: An image's height and width, None where the file does not say.
        sound: Whether nothing is wrong with it.
    """

    index: int
    fields: Mapping[str, Any]
    image_hw: tuple[int, int] | None = None
    sound: bool = True


@dataclass(frozen=True, eq=False)
class CocoContent:
    """Images, categories, and the sound annotations as columns in the order of the file.

    Attributes:
        images: By id, those that are not sound included.
        categories: Likewise; without groupings.
        info: All other top-level fields.
        index: ``(n,)`` place of each annotation in the file.
        ids: ``(n,)``.
        image_ids: ``(n,)``.
        category_ids: ``(n,)``.
        xywh: ``(n, 4)`` float64, pixels: left, top, width, height.
        area: ``(n,)`` float64 as stated, NaN where the file does not say.
        crowd: ``(n,)`` bool.
        outlines: ``n`` rings, run lengths as the file has them, or None; where only boxes are asked
            for, those without a stated area.
        extra: ``n`` mappings of the other fields; empty where they are not asked for.
        problems: Everything that is refused.
        notes: What was mended, in words, with counts.
    """

    images: dict[int, Entry]
    categories: dict[int, Entry]
    info: dict[str, Any]
    index: NDArray[np.int64]
    ids: NDArray[np.int64]
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    xywh: NDArray[np.float64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    outlines: list[Any]
    extra: list[Mapping[str, Any]]
    problems: Problems
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.index)

    def known_areas(self) -> NDArray[np.float64]:
        """Return ``(n,)`` areas: stated, or of the mask, or else of the box."""
        areas = np.where(np.isnan(self.area), self.xywh[:, 2] * self.xywh[:, 3], self.area)
        for row in np.flatnonzero(np.isnan(self.area)).tolist():
            if self.outlines[row] is not None:
                image = self.images[int(self.image_ids[row])]
                areas[row] = outline_area(self.outlines[row], image.image_hw)
        return areas


def outline_area(outline: Any, image_hw: tuple[int, int] | None) -> float:
    """Count the pixels inside rings or run lengths.

    Raises:
        DataError: If run lengths do not fill their size.

    Example:
        >>> outline_area([[0, 0, 4, 0, 4, 2, 0, 2]], None)
        8.0
    """
    if isinstance(outline, Mapping):
        packed = pack_rle(outline)
        (total,) = run_totals([packed["counts"]]).tolist()
        if fault := pixels_fault(total, (packed["size"][0], packed["size"][1])):
            raise DataError(f"segmentation {fault}")
        return rle_area(packed)
    if image_hw is None:  # any canvas that holds the rings will do
        rows = max(y for ring in outline for y in ring[1::2])
        columns = max(x for ring in outline for x in ring[0::2])
        image_hw = (max(ceil(rows), 1), max(ceil(columns), 1))
    return rle_area(polygons_to_rle(outline, image_hw))
