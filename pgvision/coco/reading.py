"""A COCO file, read and checked: entry by entry first, then one against the others."""

from array import array
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgvision.coco.content import CocoContent, Entry
from pgvision.coco.gathering import KEYS, ONCE, Gatherer
from pgvision.coco.stream import file_members, mapping_members
from pgvision.coco.values import unwritable, whole_number
from pgvision.collecting import without_collecting
from pgvision.errors import DataError
from pgvision.rle import pack_rle, pixels_fault, rle_fault, rle_xywh, run_totals

_NO_GROUP = (None, "", "none")
_CHUNK = 4096


def read_content(
    source: str | Path | Mapping[Any, Any],
    *,
    where: str,
    outlines: bool = True,
    for_records: bool = False,
    required: Collection[str] = KEYS,
) -> CocoContent:
    """Read and check a COCO file or its content.

    Args:
        source: The path, or what ``json.load`` gave.
        where: What to call it in errors.
        outlines: Whether outlines are kept; they are checked in any case.
        for_records: Whether the other fields of annotations are kept, and rings are tuples of
            floats; else rings are lists, as evaluators want them.
        required: The keys that must be there.

    Raises:
        DataError: If it is no JSON object with lists under the required keys.
            Everything else is in `CocoContent.problems`.

    Example:
        >>> data = {
        ...     "images": [{"id": 1.0, "height": 40, "width": 60}],
        ...     "categories": [{"id": 3, "name": "helmet"}],
        ...     "annotations": [
        ...         {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 20]},
        ...         {"id": 2, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10]}]}
        >>> content = read_content(data, where="a.json")
        >>> content.xywh.tolist(), content.notes
        ([[1.0, 2.0, 10.0, 20.0]], ('whole numbers are written like 1.0: 1 (first: images[0].id)',))
        >>> [place for place, _ in content.problems]
        ['annotations[1].bbox']
    """
    gatherer = Gatherer(where, outlines=outlines, for_records=for_records)
    members = mapping_members(source) if isinstance(source, Mapping) else file_members(Path(source))
    with without_collecting():
        for member in members:
            gatherer.take(member)
        return _settled(gatherer, required)


def _settled(found: Gatherer, required: Collection[str]) -> CocoContent:
    for key in required:
        if key not in found.seen:
            raise DataError(
                f"{found.problems.source}: lacks {key!r}; a COCO file has images, annotations, "
                "categories"
            )
    if (at := unwritable(found.info)) is not None:
        found.problems.add(at[1:], "holds NaN or Infinity; expected finite numbers")
    index, category_ids = _column(found.index), _column(found.category_ids)
    boxes = np.array(found.boxes, np.float64).reshape(-1, 4)
    bad = np.zeros(len(index), np.bool_)
    _require_ids(found, index, bad)
    _require_known(found, "image_id", _column(found.image_ids), found.images, bad)
    _require_known(found, "category_id", category_ids, found.categories, bad)
    _require_run_lengths(found, boxes, bad)
    _leave_out_groups(found, set(category_ids.tolist()))
    keep = np.flatnonzero(~bad)
    some = keep.tolist() if bad.any() else None
    return CocoContent(
        images=found.images,
        categories=found.categories,
        info=found.info,
        index=index[keep],
        ids=_column(found.ids)[keep],
        image_ids=_column(found.image_ids)[keep],
        category_ids=category_ids[keep],
        xywh=boxes[keep],
        area=np.array(found.areas, np.float64)[keep],
        crowd=np.array(found.crowds, np.bool_)[keep],
        outlines=found.outlines if some is None else [found.outlines[row] for row in some],
        extra=found.extra
        if some is None or not found.extra
        else [found.extra[row] for row in some],
        problems=found.problems,
        notes=tuple(
            f"{what}: {count} (first: {place})" for what, (count, place) in found.notes.items()
        ),
    )


def _column(values: "array[int]") -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _require_ids(found: Gatherer, index: NDArray[np.int64], bad: NDArray[np.bool_]) -> None:
    """Check that each annotation has an id of its own, or number them if none has any."""
    if found.without_id and len(found.without_id) == found.num_entries:
        found.note("annotations have no ids: they are numbered from 1", "annotations[0]")
        found.ids = array("q", range(1, len(index) + 1))
        return
    for place in found.without_id:
        found.problems.add(f"annotations[{place}].id", "is missing, expected an integer")
    bad |= np.isin(index, found.without_id)
    ids = _column(found.ids)
    if len(np.unique(ids)) == len(ids):
        return
    first: dict[int, int] = {}
    for row, (number, place) in enumerate(zip(ids.tolist(), index.tolist(), strict=True)):
        if not bad[row] and first.setdefault(number, place) != place:
            what = f"is {number}, as annotations[{first[number]}]; {ONCE}"
            found.problems.add(f"annotations[{place}].id", what)
            bad[row] = True


def _require_known(
    found: Gatherer,
    key: str,
    column: NDArray[np.int64],
    known: Mapping[int, Entry],
    bad: NDArray[np.bool_],
) -> None:
    """Check that images and categories are listed; what belongs to a broken one goes with it."""
    unknown = ~np.isin(column, list(known))
    for row in np.flatnonzero(unknown).tolist():
        what = f"is {column[row]}, which is not listed"
        found.problems.add(f"annotations[{found.index[row]}].{key}", what)
    bad |= ~np.isin(column, [number for number, entry in known.items() if entry.sound])


def _require_run_lengths(
    found: Gatherer, boxes: NDArray[np.float64], bad: NDArray[np.bool_]
) -> None:
    """Check sizes and totals of run lengths, and fill the boxes that are theirs."""
    for start in range(0, len(found.rles), _CHUNK):
        packs, rows = [], []
        for row, rle in found.rles[start : start + _CHUNK]:
            image = found.images.get(found.image_ids[row])
            image_hw = (image and image.image_hw) or _own_size(rle)
            if fault := rle_fault(rle, image_hw):
                found.problems.add(f"annotations[{found.index[row]}].segmentation", fault)
                bad[row] = True
            else:
                packs.append(pack_rle(rle))
                rows.append(row)
        totals = run_totals([pack["counts"] for pack in packs]).tolist()
        for row, pack, total in zip(rows, packs, totals, strict=True):
            if fault := pixels_fault(total, (pack["size"][0], pack["size"][1])):
                found.problems.add(f"annotations[{found.index[row]}].segmentation", fault)
                bad[row] = True
    held = dict(found.rles)
    for row in np.flatnonzero(np.isnan(boxes[:, 0]) & ~bad).tolist():
        boxes[row] = rle_xywh(held[row])


def _own_size(rle: Mapping[str, Any]) -> tuple[int, int]:
    size = rle.get("size")
    if isinstance(size, list | tuple) and len(size) == 2:
        height, width = map(whole_number, size)
        return (height or 0, width or 0)
    return (0, 0)


def _leave_out_groups(found: Gatherer, used: set[int]) -> None:
    """Leave out categories that only group others, then require each name once."""
    categories = [(number, entry) for number, entry in found.categories.items() if entry.sound]
    above = [entry.fields.get("supercategory") for _, entry in categories]
    groups = {name for name in above if isinstance(name, str)} - set(_NO_GROUP)
    for number, entry in categories:
        name = entry.fields["name"]
        alone = number not in used and entry.fields.get("supercategory") in _NO_GROUP
        if alone and name in groups:
            what = f"category {name!r} only groups others and has no object: left out"
            found.note(what, f"categories[{entry.index}]")
            del found.categories[number]
    first: dict[str, int] = {}
    for number, entry in categories:
        name = entry.fields["name"]
        if number in found.categories and first.setdefault(name, number) != number:
            place = f"categories[{entry.index}].name"
            found.problems.add(place, f"{name!r:.40} is there twice")
