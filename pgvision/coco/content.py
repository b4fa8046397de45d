"""Content of a COCO file: what is accepted, what is corrected with a note, what is refused.

Readers of data sets, ``pgvision convert --check`` and evaluation all use it.

- Ids are whole numbers, each used once: below 2**53, those of annotations below 2**63. ``1.0`` is
  read as 1. If no annotation has an id, they are numbered.
- An image's height and width are whole and positive. Missing, null and 0 mean unknown.
- A box is four finite numbers with width and height of 0 or more. A missing or empty one is that of
  the outline.
- An outline is rings of x, y pairs or run lengths that fill the image. Rings of fewer than three
  points are left out; null, ``[]`` and ``[[]]`` mean that there is none. Coordinates further
  outside the image than its own size are refused.
- ``iscrowd`` is 0 or 1; missing and null mean 0. ``area`` is a finite number; missing, null and
  negative mean unknown.
- Categories have names, each used once. A category without objects that others name as their
  supercategory (Roboflow's grouping) is left out.
- NaN and infinity are refused in all of these; other fields are not checked.
"""

import gc
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pgvision.coco import checks
from pgvision.coco.checks import Problems, Table
from pgvision.errors import DataError
from pgvision.rle import checked_rle, outline_area, outline_xywh, ring_fault

KEYS: Final = ("images", "annotations", "categories")
FIX: Final = (
    "correct the file, or leave its broken entries out: `pgvision convert FILE OUT.json "
    "--skip-broken`; `pgvision convert FILE --check` lists all of them"
)
_ITEM_KEYS: Final = frozenset(
    ("id", "image_id", "category_id", "bbox", "segmentation", "iscrowd", "area")
)
_UNIQUE: Final = "ids must be unique"
_NO_GROUP: Final = (None, "", "none")
_MAX_ANNOTATION_ID: Final = 2**63
_UNKNOWN_HW: Final = (0, 0)  # as `ring_fault` takes it


@dataclass(frozen=True, slots=True)
class Entry:
    """An image or a category.

    Attributes:
        index: Position in its list.
        fields: The entry as the file has it.
        image_hw: An image's height and width, None where the file does not state them.
        sound: Whether it has no problem.
    """

    index: int
    fields: Mapping[str, Any]
    image_hw: tuple[int, int] | None = None
    sound: bool = True


@dataclass(frozen=True, eq=False)
class CocoContent:
    """Images, categories, and the sound annotations as columns in the order of the file.

    Attributes:
        images: By id, those with a problem included.
        categories: Likewise; without groupings.
        info: All other top-level fields.
        index: ``(n,)`` position of each annotation in the file.
        ids: ``(n,)``.
        image_ids: ``(n,)``.
        category_ids: ``(n,)``.
        xywh: ``(n, 4)`` float64, pixels: left, top, width, height.
        area: ``(n,)`` float64: stated, or of the mask, or of the box.
        has_area: ``(n,)`` whether the area is stated.
        crowd: ``(n,)`` bool.
        outlines: ``n`` tuples of rings, run lengths as the file has them, or None; all None where
            outlines are not asked for.
        entries: ``n`` annotations as the file has them, for their other fields.
        problems: Everything that is refused, and notes of what was corrected.
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
    has_area: NDArray[np.bool_]
    crowd: NDArray[np.bool_]
    outlines: list[Any]
    entries: list[Mapping[str, Any]]
    problems: Problems

    def __len__(self) -> int:
        return len(self.index)

    def other_fields(self, row: int) -> dict[str, Any]:
        """Return the other fields of an annotation (``attributes``, ``score``)."""
        entry = self.entries[row]
        if entry.keys() <= _ITEM_KEYS:
            return {}
        return {key: value for key, value in entry.items() if key not in _ITEM_KEYS}


@contextmanager
def without_collecting() -> Iterator[None]:
    """Pause Python's garbage collector, which would scan a million new objects repeatedly.

    A COCO file of 20,000 images and 140,000 objects is read in 2.1 s of CPU instead of 3.7, and
    written in 0.5 s instead of 1.0. The block must not drop reference cycles. New objects are moved
    to the oldest generation afterwards.

    Example:
        >>> with without_collecting():
        ...     numbers = list(range(3))
        >>> gc.isenabled()
        True
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if not gc.get_freeze_count():  # objects that the program froze must stay frozen
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def read_content(
    source: str | Path | Mapping[Any, Any],
    *,
    where: str,
    outlines: bool = True,
    required: Collection[str] = KEYS,
) -> CocoContent:
    """Read and check a COCO file or its content.

    Args:
        source: The path, or what ``json.load`` returned; it is not changed.
        where: Name of the source in errors.
        outlines: Whether outlines are returned; they are checked in any case.
        required: The keys that must be there.

    Raises:
        DataError: If it is no JSON object with lists under the required keys. All other problems
            are in `CocoContent.problems`.

    Example:
        >>> data = {
        ...     "images": [{"id": 1.0, "height": 40, "width": 60}],
        ...     "categories": [{"id": 3, "name": "helmet"}],
        ...     "annotations": [
        ...         {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 20]},
        ...         {"id": 2, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10]}]}
        >>> content = read_content(data, where="a.json")
        >>> content.xywh.tolist(), content.problems.notes
        ([[1.0, 2.0, 10.0, 20.0]], ('whole numbers written as 1.0: 1 (first: images[0].id)',))
        >>> [place for place, _ in content.problems]
        ['annotations[1].bbox']
    """
    with without_collecting():
        # 1. Read the JSON; a dict of the caller is not modified.
        owned = not isinstance(source, Mapping)
        value: Any = source
        if not isinstance(source, Mapping):
            value = checks.parse_json(checks.read_bytes(Path(source)), where, allow_nan=True)
        lists, info = _split_keys(value, where, required)
        del value
        # 2. Images and categories first: annotations refer to them.
        reader = _Reader(where, owned=owned)
        reader.read_images(lists["images"])
        reader.read_categories(lists["categories"])
        return reader.content(lists.pop("annotations"), info, outlines=outlines)


def _split_keys(
    value: Any, where: str, required: Collection[str]
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: expected a JSON object, got {checks.kind_of(value)}")
    # Missing lists are errors of the file: nothing can be corrected.
    lists: dict[str, list[Any]] = {}
    for key in KEYS:
        if key not in value and key in required:
            raise DataError(
                f"{where}: lacks {key!r}; a COCO file has images, annotations, categories"
            )
        entries = value.get(key, [])
        if not isinstance(entries, list | tuple):
            raise DataError(
                f"{where}: {key}: expected a list of objects, got {checks.kind_of(entries)}"
            )
        lists[key] = list(entries)
    return lists, {str(key): part for key, part in value.items() if key not in KEYS}


class _Reader:
    """Reads the three lists of a COCO file."""

    def __init__(self, where: str, *, owned: bool) -> None:
        self.problems = Problems(where)
        self.images: dict[int, Entry] = {}
        self.categories: dict[int, Entry] = {}
        self._owned = owned

    def read_images(self, records: list[Any]) -> None:
        table = Table(records, "images", self.problems)
        sizes: list[tuple[int, int] | None] = []
        for row, record in enumerate(table.records):
            try:
                # 0 and null mean unknown: the reader takes the size from the image.
                sizes.append(checks.stated_size(record.get("height"), record.get("width")))
            except ValueError as error:
                table.fail(row, "", str(error))
                sizes.append(None)
        self._keep(table, self.images, sizes)

    def read_categories(self, records: list[Any]) -> None:
        table = Table(records, "categories", self.problems)
        for row, name in enumerate(table.values("name")):
            if not isinstance(name, str) or not name:
                table.fail(row, "name", f"is {name!r:.40}, expected text")
        self._keep(table, self.categories, [None] * len(table.records))

    def _keep(
        self, table: Table, home: dict[int, Entry], sizes: list[tuple[int, int] | None]
    ) -> None:
        # An entry with another problem still takes its id.
        other_problems, table.bad[:] = table.bad.copy(), False
        ids = table.whole("id").tolist()
        has_id = ~table.bad
        table.bad |= other_problems
        for row, record in enumerate(table.records):
            if not has_id[row]:
                continue
            # The first entry of an id counts.
            if ids[row] in home:
                other = f"{table.where}[{home[ids[row]].index}]"
                table.fail(row, "id", f"is {ids[row]}, as {other}; {_UNIQUE}")
                continue
            sound = not table.bad[row]
            home[ids[row]] = Entry(int(table.index[row]), record, sizes[row], sound)

    def content(
        self, annotations: list[Any], info: dict[str, Any], *, outlines: bool
    ) -> CocoContent:
        # 1. Each field by itself.
        table = Table(annotations, "annotations", self.problems)
        image_ids, category_ids = table.whole("image_id"), table.whole("category_id")
        ids = self._read_ids(table)
        crowds = table.values("iscrowd")
        for row, value in enumerate(crowds):
            if value not in (0, 1, None):
                table.fail(row, "iscrowd", f"is {value!r:.20}, expected 0 or 1")
        area = table.numbers("area", optional=True)
        negative = area < 0
        for row in np.flatnonzero(negative).tolist():
            self.problems.note("areas below 0, read as unknown", table.place(row, "area"))
        area[negative] = np.nan
        shapes = self._read_outlines(table, image_ids)
        boxes = self._read_boxes(table, shapes)
        # 2. Against the other lists.
        self._require_listed(table, "image_id", image_ids, self.images)
        self._require_listed(table, "category_id", category_ids, self.categories)
        self._require_unique(table, ids)
        self._leave_out_groups(set(category_ids.tolist()))
        # 3. Sound rows only, with the areas that are not stated.
        keep = np.flatnonzero(~table.bad)
        rows = keep.tolist()
        has_area = ~np.isnan(area)
        for row in np.flatnonzero(~table.bad & ~has_area).tolist():
            # pycocotools needs an area for its size ranges.
            area[row] = boxes[row, 2] * boxes[row, 3]
            if shapes[row] is not None:
                area[row] = outline_area(shapes[row], self.images[int(image_ids[row])].image_hw)
        return CocoContent(
            images=self.images,
            categories=self.categories,
            info=info,
            index=table.index[keep],
            ids=ids[keep],
            image_ids=image_ids[keep],
            category_ids=category_ids[keep],
            xywh=boxes[keep],
            area=area[keep],
            has_area=has_area[keep],
            crowd=np.array([crowds[row] == 1 for row in rows], np.bool_),
            outlines=[shapes[row] for row in rows] if outlines else [None] * len(rows),
            entries=[table.records[row] for row in rows],
            problems=self.problems,
        )

    def _read_ids(self, table: Table) -> NDArray[np.int64]:
        values = table.values("id")
        if values and all(value is None for value in values):
            self.problems.note("annotations without ids, numbered from 1", "annotations[0]")
            return np.arange(1, len(values) + 1)
        return table.whole("id", _MAX_ANNOTATION_ID)

    def _read_outlines(self, table: Table, image_ids: NDArray[np.int64]) -> list[Any]:
        """Return rings or run lengths of each row, None where there are none."""
        sizes = {number: entry.image_hw for number, entry in self.images.items()}
        outlines: list[Any] = []
        for row, (record, image_id) in enumerate(
            zip(table.records, image_ids.tolist(), strict=True)
        ):
            # One broken outline costs its annotation alone.
            value = record.get("segmentation")
            if self._owned and value is not None:
                del record["segmentation"]  # frees the lists as the tuples are made
            image_hw = sizes.get(image_id)
            try:
                outlines.append(self._outline(value, image_hw, table.place, row))
            except (ValueError, OverflowError) as error:  # an integer of 400 digits
                table.fail(row, "segmentation", str(error))
                outlines.append(None)
        return outlines

    def _outline(self, value: Any, image_hw: tuple[int, int] | None, place: Any, row: int) -> Any:
        # 1. None at all, or run lengths.
        if value is None or value == []:
            return None
        if isinstance(value, Mapping):
            return _checked_rle(value, image_hw)
        if not isinstance(value, list | tuple):
            raise ValueError(f"is {value!r:.40}, expected polygons or an RLE")
        # 2. Polygons: check each ring.
        rings = []
        for ring in value:
            if not isinstance(ring, list | tuple) or len(ring) % 2:
                raise ValueError(f"contains {ring!r:.60}, expected rings of x, y pairs")
            if set(map(type, ring)) - {int, float}:
                fault = next((fault for n in ring if (fault := checks.number_fault(n))), None)
                if fault:
                    raise ValueError(f"contains a coordinate that {fault}")
            # Three points are the minimum.
            if len(ring) >= 6:
                if fault := ring_fault(ring, image_hw or _UNKNOWN_HW):
                    raise ValueError(fault)
                rings.append(tuple(map(float, ring)))
            elif ring:
                self.problems.note(
                    "rings of fewer than 3 points, left out", place(row, "segmentation")
                )
        return tuple(rings) or None

    def _read_boxes(self, table: Table, shapes: list[Any]) -> NDArray[np.float64]:
        values = table.values("bbox")
        for row, (value, shape) in enumerate(zip(values, shapes, strict=True)):
            if value is None or (isinstance(value, list) and not value):
                values[row] = None
                if shape is not None:
                    self.problems.note("missing boxes, taken from the outlines", table.place(row))
                    values[row] = outline_xywh(shape)
                elif table.bad[row]:  # the outline is the problem
                    values[row] = (0.0, 0.0, 0.0, 0.0)
        return table.boxes(values)

    def _require_listed(
        self, table: Table, key: str, column: NDArray[np.int64], known: Mapping[int, Entry]
    ) -> None:
        unknown = ~np.isin(column, list(known)) & ~table.bad
        for row in np.flatnonzero(unknown).tolist():
            table.fail(row, key, f"is {column[row]}, which is not listed")
        # What belongs to a broken image or category is left out with it.
        table.bad |= ~np.isin(column, [number for number, entry in known.items() if entry.sound])

    def _require_unique(self, table: Table, ids: NDArray[np.int64]) -> None:
        if len(np.unique(ids)) == len(ids):
            return
        first: dict[int, int] = {}
        for row, number in enumerate(ids.tolist()):
            if not table.bad[row] and first.setdefault(number, row) != row:
                other = table.place(first[number])
                table.fail(row, "id", f"is {number}, as {other}; {_UNIQUE}")

    def _leave_out_groups(self, used: set[int]) -> None:
        """Leave out categories that only group others, then require each name once."""
        # 1. Names that other categories have as their supercategory.
        categories = [(number, entry) for number, entry in self.categories.items() if entry.sound]
        above = [entry.fields.get("supercategory") for _, entry in categories]
        groups = {name for name in above if isinstance(name, str)} - set(_NO_GROUP)
        first: dict[str, int] = {}
        for number, entry in categories:
            name, place = entry.fields["name"], f"categories[{entry.index}]"
            # Roboflow adds a group without objects, which no detector should be asked for.
            alone = number not in used and entry.fields.get("supercategory") in _NO_GROUP
            if alone and name in groups:
                what = f"category {name!r}, which only groups others, left out"
                self.problems.note(what, place)
                del self.categories[number]
            elif first.setdefault(name, number) != number:
                self.problems.add(f"{place}.name", f"{name!r:.40} is the name of two categories")


def _checked_rle(rle: Mapping[str, Any], image_hw: tuple[int, int] | None) -> Mapping[str, Any]:
    """Check run lengths, of any size where that of the image is unknown; return them unchanged."""
    size = rle.get("size")
    if image_hw is None and isinstance(size, list | tuple) and len(size) == 2:
        height, width = map(checks.whole_number, size)
        image_hw = (height or 0, width or 0)
    checked_rle(rle, image_hw or _UNKNOWN_HW)
    return rle
