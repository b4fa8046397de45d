"""Pascal VOC and LabelMe folders, read: one XML or JSON file for each image."""

import base64
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pgvision.arrays import BoolArray
from pgvision.coco.checks import Fields, parse_json, read_bytes
from pgvision.datasets.dataset import (
    Annotation,
    Dataset,
    EntryErrors,
    Finding,
    ImageRecord,
    OnError,
    Polygons,
    Segmentation,
    number_dataset,
)
from pgvision.datasets.formats import refuse_foreign
from pgvision.datasets.image_names import find_named, size_of, walk_files
from pgvision.datasets.outlines import mask_to_runs, outline_fault, segmentation_to_mask
from pgvision.errors import DataError
from pgvision.images.pixels import PIL_ERRORS
from pgvision.rle import outline_xywh, ring_fault

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_Size = tuple[int | None, int | None]
_FURTHEST = 2**30  # pixels
_CIRCLE_CORNERS = 64
_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2}
_POINTS |= {"oriented_rectangle": 3, "rotation": 3, "quadrilateral": 3}  # X-AnyLabeling's too


def read_voc(
    path: str | Path, *, images: str | Path | None = None, on_error: OnError = "raise"
) -> Dataset:
    """Read Pascal VOC annotations.

    Args:
        path: Folder with ``Annotations/`` or with XML files, or one XML file.
        images: Image folder; looked for near the XML files if not given.
        on_error: ``"raise"`` refuses a broken file; ``"record"`` leaves it out and adds a finding.

    Returns:
        The data set; classes in alphabetical order from id 1; ``difficult``, ``truncated``,
        ``occluded`` and ``pose`` of an object are in its ``extra``. Where
        ``<filename>`` is not there (renamed images) and an image has the XML file's name, that is
        used, with a finding; a missing ``<filename>`` means the XML file's name.

    Raises:
        DataError: If a file is cut, declares entities (external ones could read other files), or
            lacks a box or name.

    Source:
        http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/index.html: pixels are counted from
        1, and the right and lower edges are included.
    """
    # 1. Read the files.
    given = Path(path)
    root = given.parent if given.is_file() else given
    usual = (root / name for name in ("Annotations", "annotations"))
    folder = next((place for place in usual if walk_files(place, (".xml",))), root)
    paths = [given] if given.is_file() else walk_files(folder, (".xml",))
    if not paths:
        raise DataError(f"{folder}: expected Pascal VOC files (*.xml), found none")
    # Broken files are recorded or raised, as `on_error` asks.
    errors = EntryErrors(on_error)
    names: dict[Path, str] = {}
    read: dict[Path, tuple[_Size, list[str], tuple[Annotation, ...]]] = {}
    for file in paths:
        with errors.entry(file.name):
            tree = _read_xml(file)
            height, width = (_whole(tree.findtext(f"size/{tag}")) for tag in ("height", "width"))
            labels, objects = [], []
            for item in tree.findall("object"):
                labels.append(_text(item, "name", file))
                polygons = _polygons(item, file)
                box = _box(item, file)
                objects.append(Annotation(0, 0, box, polygons, extra=_flags(item)))
            read[file] = ((height, width), labels, tuple(objects))
            # Without a name the image has that of the XML file.
            names[file] = (tree.findtext("filename") or "").strip() or file.stem
    # 2. Find the images, and build their records.
    records: list[tuple[ImageRecord, list[str]]] = []
    for file, image in find_named(root, images, names, errors).items():
        with errors.entry(file.name):
            size, names_of, items = read[file]
            image_hw = size_of(*size, image.path, where=str(file), lacks="<size>")
            for annotation in items:
                if fault := outline_fault(annotation.segmentation, image_hw):
                    raise DataError(f"{file}: {fault}")
            records.append((ImageRecord(0, image.name, image.path, image_hw, items), names_of))
    return number_dataset(records, errors.findings)


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() and len(text) < 20 else None


def _read_xml(file: Path) -> "Element":
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    # 1. Parse.
    try:
        # defusedxml refuses entities, which could read files or exhaust the memory.
        root: Element | None = fromstring(read_bytes(file).lstrip())
    except DefusedXmlException as error:
        raise DataError(
            f"{file}: refused: it declares an XML entity, which could read other files or grow "
            f"without end ({type(error).__name__}); VOC needs none, remove the DOCTYPE"
        ) from error
    except (ParseError, ValueError, LookupError) as error:
        raise DataError(f"{file}: not complete XML: {error}") from error
    # 2. XML of other tools is named.
    if root is None or root.tag != "annotation":
        refuse_foreign([file])
        raise DataError(f"{file}: expected <annotation> at the top, as Pascal VOC has it")
    return root


def _text(element: "Element", tag: str, file: Path) -> str:
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise DataError(f"{file}: <{element.tag}> lacks <{tag}>")
    return text


def _numbers(element: "Element", tags: tuple[str, ...], file: Path) -> list[float]:
    """Return the numbers under some tags of an element."""
    numbers = []
    for tag in tags:
        text = element.findtext(tag) or ""
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not abs(number) <= _FURTHEST:
            raise DataError(
                f"{file}: <{element.tag}>: <{tag}> is {text!r:.40}, expected a number of pixels"
            )
        numbers.append(number)
    return numbers


def _box(item: "Element", file: Path) -> tuple[float, float, float, float]:
    box = item.find("bndbox")
    if box is None:
        raise DataError(f"{file}: <object> lacks <bndbox>")
    # Swapped corners would become a negative size.
    left, top, right, bottom = _numbers(box, ("xmin", "ymin", "xmax", "ymax"), file)
    if right < left - 1 or bottom < top - 1:
        raise DataError(
            f"{file}: <bndbox>: xmax {right:g} or ymax {bottom:g} is below xmin {left:g} or ymin "
            f"{top:g}; expected left, top, right, bottom"
        )
    # Pixels are counted from 1, and the far edges are included.
    return (left - 1, top - 1, right - left + 1, bottom - top + 1)


def _polygons(item: "Element", file: Path) -> Polygons | None:
    """Return the polygons of an object."""
    rings = []
    for polygon in item.findall("polygon"):
        points = [point for point in polygon.iter() if point is not polygon and len(point) == 0]
        try:
            # Pixels are counted from 1.
            ring = tuple(float(point.text or "") - 1 for point in points)
        except ValueError as error:
            raise DataError(f"{file}: <polygon>: expected numbers: {error}") from error
        if len(ring) % 2:
            raise DataError(f"{file}: <polygon>: expected x, y pairs in pixels, got {ring!r:.60}")
        rings.append(ring)
    # Fewer than three points enclose nothing.
    return tuple(ring for ring in rings if len(ring) >= 6) or None


def _flags(item: "Element") -> dict[str, object]:
    """Return VOC's flags of an object; 0 and Unspecified are their defaults."""
    flags: dict[str, object] = {}
    for tag in ("difficult", "truncated", "occluded", "pose"):
        text = (item.findtext(tag) or "").strip()
        if text and text not in ("0", "Unspecified"):
            flags[tag] = int(text) if text.isdecimal() else text
    return flags


def read_labelme(
    path: str | Path, *, images: str | Path | None = None, on_error: OnError = "raise"
) -> Dataset:
    """Read LabelMe annotations: polygons, rectangles, circles and masks.

    Shapes of one label with the same ``group_id`` are parts of one object. Points and lines have
    no area: they are left out and listed in ``findings``.

    Args:
        path: Folder with LabelMe's JSON files, or one of them.
        images: Image folder; looked for near the JSON files if not given.
        on_error: ``"raise"`` refuses a broken file; ``"record"`` leaves it out and adds a finding.

    Returns:
        The data set; classes in alphabetical order from id 1; flags and description in ``extra``.
        Where ``imagePath`` is not there (renamed images) and an image has the JSON
        file's name, that is used, with a finding.

    Raises:
        DataError: If a file is cut or contains NaN, a shape lacks its label or points, or an image
            is outside the image folder.

    Source:
        https://github.com/wkentaro/labelme, labelme/label_file.py and shape.py
    """
    # 1. Read the files.
    given = Path(path)
    errors = EntryErrors(on_error)
    entries: dict[Path, Fields] = {}
    names: dict[Path, str] = {}
    for file in [given] if given.is_file() else walk_files(given, (".json",)):
        with errors.entry(file.name):
            entry = Fields(parse_json(read_bytes(file), str(file)), str(file))
            # The embedded image is a hundred times larger than the shapes.
            entry.values.pop("imageData", None)
            if "shapes" in entry:
                names[file], entries[file] = entry.text("imagePath"), entry
    if not entries and not errors.findings:
        raise DataError(f"{given}: expected LabelMe files (JSON with 'shapes'), found none")
    # 2. Find the images, since shapes need their sizes; read the shapes.
    records: list[tuple[ImageRecord, list[str]]] = []
    for file, image in find_named(given, images, names, errors).items():
        with errors.entry(file.name):
            entry = entries[file]
            height, width = (
                entry.integer(side) if side in entry else None
                for side in ("imageHeight", "imageWidth")
            )
            image_hw = size_of(
                height, width, image.path, where=entry.where, lacks="imageHeight and imageWidth"
            )
            labels, objects = _read_shapes(entry, image_hw, errors)
            flags = entry.values.get("flags")
            extra = {"flags": flags} if flags else {}
            record = ImageRecord(0, image.name, image.path, image_hw, objects, extra)
            records.append((record, labels))
    return number_dataset(records, errors.findings)


def _kind(shape: Fields) -> str:
    """Return the type of a shape; files of LabelMe 3 have none and mean polygons."""
    return str(shape.values.get("shape_type") or "polygon")


def _read_shapes(
    entry: Fields, image_hw: tuple[int, int], errors: EntryErrors
) -> tuple[list[str], tuple[Annotation, ...]]:
    """Return label and outline of each object; add findings for shapes without an area."""
    # Several shapes with one group id are one object.
    groups: dict[object, list[Fields]] = {}
    for index, value in enumerate(entry.items("shapes")):
        shape = Fields(value, f"{entry.where}: shapes[{index}]")
        if _kind(shape) not in _POINTS:
            message = f"{shape.where}: a {_kind(shape)} has no area and was left out"
            errors.findings.append(Finding("left-out", "warning", message))
            continue
        group = shape.values.get("group_id")
        key = ("alone", index) if group is None else (shape.text("label"), str(group))
        groups.setdefault(key, []).append(shape)
    objects = []
    for parts in groups.values():
        xywh, segmentation = _outline(parts, image_hw)
        extra = {
            key: value
            for part in reversed(parts)
            for key in ("flags", "description")
            if (value := part.values.get(key))
        }
        objects.append(Annotation(0, 0, xywh, segmentation, extra=extra))
    return [parts[0].text("label") for parts in groups.values()], tuple(objects)


def _outline(
    parts: list[Fields], image_hw: tuple[int, int]
) -> tuple[tuple[float, float, float, float], Segmentation | None]:
    """Return box and outline of the shapes of an object; masks become run lengths."""
    kinds = {_kind(part) for part in parts}
    rings = tuple(_ring(part, image_hw) for part in parts if _kind(part) != "mask")
    # 1. Polygons and boxes.
    if "mask" not in kinds:
        # Newer tools may rotate rectangles: those of two x and two y are boxes.
        upright = all(len(set(ring[0::2])) == len(set(ring[1::2])) == 2 for ring in rings)
        boxes = kinds == {"rectangle"} and upright
        return outline_xywh(rings), (None if boxes else rings)
    # 2. A mask among the shapes: all of them become one mask.
    mask = np.zeros(image_hw, dtype=bool)
    for part in parts:
        if _kind(part) == "mask":
            _draw_mask(mask, part)
    if rings:
        mask |= segmentation_to_mask(rings, image_hw)
    if not mask.any():
        raise DataError(f"{parts[0].where}: 'mask' is empty")
    runs = mask_to_runs(mask)
    return outline_xywh(runs._asdict()), runs


def _ring(shape: Fields, image_hw: tuple[int, int]) -> tuple[float, ...]:
    kind = _kind(shape)
    points = _points(shape, kind)
    ring = tuple(value for point in points for value in point)
    if kind == "circle":
        # LabelMe stores the centre and one point of the rim.
        (x, y), (rim_x, rim_y) = points[0], points[1]
        radius = math.hypot(rim_x - x, rim_y - y)
        turns = [2 * math.pi * step / _CIRCLE_CORNERS for step in range(_CIRCLE_CORNERS)]
        corners = [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]
        return tuple(value for point in corners for value in point)
    if kind == "rectangle" and len(points) == 2:
        # Two corners in any order.
        left, right = sorted(ring[0::2])
        top, bottom = sorted(ring[1::2])
        ring = (left, top, right, top, right, bottom, left, bottom)
    elif kind != "rectangle" and (fault := ring_fault(ring, image_hw)):
        raise DataError(f"{shape.where}: 'points' {fault}")
    return ring


def _points(shape: Fields, kind: str) -> list[tuple[float, float]]:
    points = shape.points("points")
    if len(points) < _POINTS[kind]:
        raise DataError(
            f"{shape.where}: a {kind} of {len(points)} points, expected at least {_POINTS[kind]}"
        )
    return points


def _draw_mask(mask: BoolArray, shape: Fields) -> None:
    """Draw a mask shape: a PNG of the box; the first point is its top left pixel."""
    x, y = (round(value) for value in _points(shape, "mask")[0])
    try:
        data = base64.b64decode(shape.text("mask"), validate=True)
        with Image.open(io.BytesIO(data)) as image:
            part = np.asarray(image.convert("L")) > 0
    except PIL_ERRORS as error:  # ValueError: text that is not base64
        raise DataError(f"{shape.where}: 'mask' is not a PNG in base64: {error}") from error
    height, width = part.shape
    if x < 0 or y < 0 or y + height > mask.shape[0] or x + width > mask.shape[1]:
        raise DataError(f"{shape.where}: 'mask' reaches beyond the image of {list(mask.shape)}")
    mask[y : y + height, x : x + width] |= part
