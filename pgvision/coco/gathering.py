"""The entries of a COCO file one by one: sound annotations become columns, the others problems."""

from array import array
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf, nan
from typing import Any, Final

from pgvision.coco.content import Entry
from pgvision.coco.problems import Problems
from pgvision.coco.stream import Member
from pgvision.coco.values import (
    MISSING,
    MOST,
    box_fault,
    is_float_ring,
    is_plain,
    kind_of,
    number_fault,
    ring_fault,
    stated_size,
    unwritable,
    whole_fault,
    whole_number,
)
from pgvision.errors import DataError

KEYS: Final = ("images", "annotations", "categories")
ITEM_KEYS: Final = frozenset(
    ("id", "image_id", "category_id", "bbox", "segmentation", "iscrowd", "area")
)
ONCE: Final = "ids must be unique"
_FLOATS: Final = "whole numbers are written like 1.0"
_NOT_FINITE: Final = "holds NaN or Infinity, which is not JSON; expected finite numbers"
_MOST_ID: Final = 2**63
_NOTHING: Final[Mapping[str, Any]] = {}


class Gatherer:
    """Takes the members of a COCO file one by one; see `pgvision.coco.content` for the rules."""

    def __init__(self, where: str, *, outlines: bool, for_records: bool) -> None:
        self.problems = Problems(where)
        self.notes: dict[str, tuple[int, str]] = {}
        self.seen: set[str] = set()
        self.images: dict[int, Entry] = {}
        self.categories: dict[int, Entry] = {}
        self.info: dict[str, Any] = {}
        self.index, self.ids = array("q"), array("q")
        self.image_ids, self.category_ids = array("q"), array("q")
        self.boxes, self.areas, self.crowds = array("d"), array("d"), array("b")
        self.outlines: list[Any] = []
        self.extra: list[Mapping[str, Any]] = []
        self.rles: list[tuple[int, Mapping[str, Any]]] = []
        self.without_id: list[int] = []
        self.num_entries = 0
        self._keep_outlines, self._for_records = outlines, for_records

    def take(self, member: Member) -> None:
        """Take one member.

        Raises:
            DataError: If a key is there twice, or images, annotations or categories are no list.
        """
        key, index, value = member
        if index is None:
            if key in self.seen:
                raise DataError(f"{self.problems.source}: has the key {key!r} twice")
            self.seen.add(key)
            if key not in KEYS:
                self.info[key] = value
            elif value != []:
                raise DataError(
                    f"{self.problems.source}: {key}: expected a list of objects, got "
                    f"{kind_of(value)}"
                )
        elif key == "annotations":
            self.num_entries += 1
            self._take(self._annotation, key, index, value)
        elif key == "images":
            self._take(self._image, key, index, value)
        elif key == "categories":
            self._take(self._category, key, index, value)
        else:
            self.info[key].append(value)

    def _take(
        self, take: Callable[[int, Mapping[str, Any]], None], key: str, index: int, value: object
    ) -> None:
        # A dict is a Mapping, but asking that of a class costs more than the rest of this line.
        if isinstance(value, dict) or isinstance(value, Mapping):  # noqa: SIM101
            take(index, value)
        else:
            self.problems.add(f"{key}[{index}]", f"is {kind_of(value)}, expected an object")

    def note(self, what: str, place: str) -> None:
        """Count something that was mended."""
        count, first = self.notes.get(what, (0, place))
        self.notes[what] = (count + 1, first)

    def _whole(
        self, entry: Mapping[str, Any], key: str, kind: str, index: int, most: int = MOST
    ) -> int | None:
        value = entry.get(key, MISSING)
        number = whole_number(value, most)
        if number is None:
            self.problems.add(f"{kind}[{index}].{key}", whole_fault(value, most))
        elif type(value) is float:
            self.note(_FLOATS, f"{kind}[{index}].{key}")
        return number

    def _image(self, index: int, entry: Mapping[str, Any]) -> None:
        place, before = f"images[{index}]", len(self.problems)
        number = self._whole(entry, "id", "images", index)
        height, width = entry.get("height"), entry.get("width")
        size = None
        try:
            size = stated_size(height, width)
        except ValueError as error:
            self.problems.add(place, str(error))
        if size is None and 0 in (height, width):
            self.note("pictures have a stated size of 0: it is taken for unknown", place)
        if float in (type(height), type(width)):
            self.note(_FLOATS, place)
        self._keep(self.images, number, "images", Entry(index, entry, size), before)

    def _category(self, index: int, entry: Mapping[str, Any]) -> None:
        before = len(self.problems)
        number, name = self._whole(entry, "id", "categories", index), entry.get("name", MISSING)
        if not isinstance(name, str) or not name:
            said = "is missing" if name is MISSING else f"is {name!r:.40}"
            self.problems.add(f"categories[{index}].name", f"{said}, expected text")
        self._keep(self.categories, number, "categories", Entry(index, entry), before)

    def _keep(
        self, home: dict[int, Entry], number: int | None, kind: str, entry: Entry, before: int
    ) -> None:
        if len(self.problems) == before and (at := unwritable(entry.fields)) is not None:
            self.problems.add(f"{kind}[{entry.index}]{at}", _NOT_FINITE)
        if number is None:
            return
        if number in home:
            place = f"{kind}[{entry.index}].id"
            self.problems.add(place, f"is {number}, as {kind}[{home[number].index}]; {ONCE}")
            return
        home[number] = replace(entry, sound=len(self.problems) == before)

    def _annotation(self, index: int, entry: Mapping[str, Any]) -> None:
        before = len(self.problems)
        image_id = self._whole(entry, "image_id", "annotations", index)
        category_id = self._whole(entry, "category_id", "annotations", index)
        number = 0
        if entry.get("id") is None:
            self.without_id.append(index)
        else:
            number = self._whole(entry, "id", "annotations", index, _MOST_ID) or 0
        crowd = entry.get("iscrowd")
        if crowd not in (0, 1, None):
            self.problems.add(f"annotations[{index}].iscrowd", f"is {crowd!r:.20}, expected 0 or 1")
        area = self._area(entry.get("area"), index)
        outline = self._outline(entry.get("segmentation"), index)
        box = self._box(entry.get("bbox"), outline, index)
        extra = _NOTHING
        if not entry.keys() <= ITEM_KEYS:
            extra = {key: entry[key] for key in entry if key not in ITEM_KEYS}
            if (at := unwritable(extra)) is not None:
                self.problems.add(f"annotations[{index}]{at}", _NOT_FINITE)
        if len(self.problems) != before or image_id is None or category_id is None:
            return
        self.index.append(index)
        self.ids.append(number)
        self.image_ids.append(image_id)
        self.category_ids.append(category_id)
        self.boxes.extend(box)
        self.areas.append(area)
        self.crowds.append(crowd == 1)
        if not isinstance(outline, (list, tuple, type(None))):
            self.rles.append((len(self.index) - 1, outline))
        self.outlines.append(outline if self._keep_outlines or area != area else None)
        if self._for_records:
            self.extra.append(extra)

    def _area(self, value: object, index: int) -> float:
        if type(value) is float and 0 <= value < inf:
            return value
        if value is None:
            return nan
        if fault := number_fault(value):
            self.problems.add(f"annotations[{index}].area", fault)
            return 0.0
        area = float(value)  # type: ignore[arg-type]
        if area < 0:
            self.note("areas below 0 are taken for unknown", f"annotations[{index}]")
            return nan
        return area

    def _outline(self, value: object, index: int) -> Any:
        """Return rings or run lengths, None where there are none; note what is wrong."""
        if value is None or value == []:
            return None
        place = f"annotations[{index}].segmentation"
        if not isinstance(value, list | tuple):
            if isinstance(value, Mapping):
                return value
            self.problems.add(place, f"is {value!r:.40}, expected polygons or an RLE")
            return None
        rings = []
        for ring in value:
            if is_float_ring(ring):
                rings.append(tuple(ring) if self._for_records else ring)
                continue
            if fault := ring_fault(ring):
                self.problems.add(place, fault)
                return None
            if len(ring) >= 6:
                rings.append(tuple(map(float, ring)) if self._for_records else list(ring))
            elif ring:
                self.note("rings of fewer than 3 points enclose nothing: left out", place)
        # Evaluators look for lists; records are frozen.
        return (tuple(rings) if self._for_records else rings) if rings else None

    def _box(self, value: Any, outline: Any, index: int) -> tuple[float, ...]:
        """Return the box; that of run lengths, which are looked at later, is NaN until then."""
        if type(value) is list and len(value) == 4 and is_plain(value):
            if value[2] >= 0 and value[3] >= 0:
                return tuple(value)
        elif outline is not None and (value is None or isinstance(value, list) and not value):
            self.note("boxes are missing: they are those of the outlines", f"annotations[{index}]")
            if isinstance(outline, Mapping):
                return (nan, nan, nan, nan)
            xs = [x for ring in outline for x in ring[0::2]]
            ys = [y for ring in outline for y in ring[1::2]]
            return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        if fault := box_fault(MISSING if value is None else value):
            self.problems.add(f"annotations[{index}].bbox", fault)
            return (0.0, 0.0, 0.0, 0.0)
        return tuple(float(number) for number in value)
