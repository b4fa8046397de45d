"""Pascal VOC folders, read: one XML file for each image."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pgvision.coco.checks import read_bytes
from pgvision.datasets.dataset import (
    Annotation,
    Dataset,
    EntryErrors,
    ImageRecord,
    OnError,
    Polygons,
    number_dataset,
)
from pgvision.datasets.formats import refuse_foreign
from pgvision.datasets.image_names import find_named, size_of, walk_files
from pgvision.errors import DataError
from pgvision.rle import outline_xywh

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_Size = tuple[int | None, int | None]
_FURTHEST = 2**30  # pixels


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
        ``occluded``, ``pose``, attributes and parts of an object are in its ``extra``. Where
        ``<filename>`` is not there (renamed images) and an image has the XML file's name, that is
        used, with a finding.

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
            read[file] = ((height, width), *_read_objects(tree, file))
            names[file] = _text(tree, "filename", file)
    # 2. Find the images, and build their records.
    records: list[tuple[ImageRecord, list[str]]] = []
    for file, image in find_named(root, images, names, errors).items():
        with errors.entry(file.name):
            size, labels, objects = read[file]
            image_hw = size_of(*size, image.path, where=str(file), lacks="<size>")
            records.append((ImageRecord(0, image.name, image.path, image_hw, objects), labels))
    return number_dataset(records, errors.findings)


def _read_objects(tree: "Element", file: Path) -> tuple[list[str], tuple[Annotation, ...]]:
    names, objects = [], []
    for item in tree.findall("object"):
        names.append(_text(item, "name", file))
        polygons = _polygons(item, file)
        box = _box(item, polygons, file)
        objects.append(Annotation(0, 0, box, polygons, extra=_flags(item)))
    return names, tuple(objects)


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() and len(text) < 20 else None


def _read_xml(file: Path) -> "Element":
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    data = read_bytes(file)
    try:
        # defusedxml refuses entities, which could read files or exhaust the memory.
        root: Element | None = fromstring(_xml_source(data))
    except DefusedXmlException as error:
        raise DataError(
            f"{file}: refused: it declares an XML entity, which could read other files or grow "
            f"without end ({type(error).__name__}); VOC needs none, remove the DOCTYPE"
        ) from error
    except (ParseError, ValueError, LookupError) as error:
        raise DataError(f"{file}: not complete XML: {error}") from error
    if root is None or root.tag != "annotation":
        refuse_foreign([file])
        raise DataError(f"{file}: expected <annotation> at the top, as Pascal VOC has it")
    return root


def _xml_source(data: bytes) -> bytes | str:
    """Return bytes for the parser, or text for encodings that it lacks (GBK, Shift JIS)."""
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return data
    data = data.lstrip()
    stated = re.match(rb"""<\?xml[^>]*?encoding=["']([\w.-]+)["'][^>]*\?>""", data)
    if stated is None or stated[1].lower() in (b"utf-8", b"utf-16"):
        return data
    return data[stated.end() :].decode(stated[1].decode("ascii"))


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


def _box(
    item: "Element", polygons: Polygons | None, file: Path
) -> tuple[float, float, float, float]:
    box = item.find("bndbox")
    if box is None and item.find("robndbox") is not None and polygons:
        return outline_xywh(polygons)
    if box is None:
        raise DataError(f"{file}: <object> lacks <bndbox>")
    left, top, right, bottom = _numbers(box, ("xmin", "ymin", "xmax", "ymax"), file)
    if right < left - 1 or bottom < top - 1:
        raise DataError(
            f"{file}: <bndbox>: xmax {right:g} or ymax {bottom:g} is below xmin {left:g} or ymin "
            f"{top:g}; expected left, top, right, bottom"
        )
    # Pixels are counted from 1, and the far edges are included.
    return (left - 1, top - 1, right - left + 1, bottom - top + 1)


def _polygons(item: "Element", file: Path) -> Polygons | None:
    """Return the polygons of an object, or the corners of a rotated box (roLabelImg)."""
    rings = []
    for polygon in item.findall("polygon"):
        try:
            # Pixels are counted from 1.
            ring = tuple(float(point.text or "") - 1 for point in polygon.iter() if len(point) == 0)
        except ValueError as error:
            raise DataError(f"{file}: <polygon>: expected numbers: {error}") from error
        if len(ring) % 2 or not all(abs(number) <= _FURTHEST for number in ring):
            raise DataError(f"{file}: <polygon>: expected x, y pairs in pixels, got {ring!r:.60}")
        rings.append(ring)
    box = item.find("robndbox")
    if not rings and box is not None:
        cx, cy, w, h, angle = _numbers(box, ("cx", "cy", "w", "h", "angle"), file)
        cos, sin = math.cos(angle), math.sin(angle)
        corners = [(-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2)]
        places = [(cx + x * cos - y * sin, cy + x * sin + y * cos) for x, y in corners]
        rings.append(tuple(value for place in places for value in place))
    return tuple(rings) or None


def _flags(item: "Element") -> dict[str, object]:
    flags: dict[str, object] = {}
    for tag in ("difficult", "truncated", "occluded", "pose"):
        text = (item.findtext(tag) or "").strip()
        if text and text not in ("0", "Unspecified"):
            flags[tag] = int(text) if text.isdecimal() else text
    # Attributes are elements (CVAT) or text.
    attributes = {
        (each.findtext("name") or "").strip(): (each.findtext("value") or "").strip()
        for each in item.findall("attributes/attribute")
    }
    if attributes:
        flags["attributes"] = attributes
    elif text := (item.findtext("attributes") or "").strip():
        flags["attributes"] = text
    if parts := item.findall("part"):
        flags["parts"] = [
            {each.tag: (each.text or "").strip() for each in part.iter() if len(each) == 0}
            for part in parts
        ]
    return flags
