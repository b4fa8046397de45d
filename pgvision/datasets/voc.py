"""Pascal VOC folders, read: one XML file an image."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pgvision.datasets.image_files import image_hw_of, stated_hw
from pgvision.datasets.picture_names import Picture, PictureNames, picture_folders
from pgvision.datasets.records import Annotation, Category, Dataset, ImageRecord, Polygons
from pgvision.errors import DataError, ImageError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def read_voc(path: str | Path, *, images: str | Path | None = None) -> Dataset:
    """Read Pascal VOC annotations.

    Boxes are read by supervision, whose reading of VOC's 1-based, inclusive pixels is the
    devkit's. Its walk over the folder is not used: it skips an XML file whose image is missing,
    decodes every picture for its size, and numbers classes by the file that names them first.

    Args:
        path: Folder with ``Annotations/`` or with XML files, or one XML file.
        images: Image folder; looked for from the XML files if not given.

    Returns:
        The data set; classes in alphabetical order from id 1; ``difficult``, ``truncated``,
        ``occluded``, ``pose``, attributes and parts of an object are kept in its ``extra``.

    Raises:
        DataError: If a file is cut, declares entities (external ones could read other files), or
            lacks a box or name.

    Source:
        http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/index.html
    """
    given = Path(path)
    root = given.parent if given.is_file() else given
    usual = (root / name for name in ("Annotations", "annotations"))
    folder = next((place for place in usual if any(place.rglob("*.xml"))), root)
    files = [given] if given.is_file() else sorted(folder.rglob("*.xml"))
    folder = given.parent if given.is_file() else folder
    if not files:
        raise DataError(f"{folder}: expected Pascal VOC files (*.xml), found none")
    trees = [_read_xml(file) for file in files]
    names = sorted({_text(item, "name", file) for file, tree in zip(files, trees, strict=True)
                    for item in tree.findall("object")})  # fmt: skip
    numbers = {name: index for index, name in enumerate(names, start=1)}
    chosen = None if images is None else Path(images)
    texts = [_text(tree, "filename", file) for file, tree in zip(files, trees, strict=True)]
    folders = picture_folders(folder, "", chosen, source=root)
    places = {}
    for place in dict.fromkeys(file.parent for file in files):
        inner = place.relative_to(folder) if chosen is None else Path()
        # The devkit's folder first: JPEGImages/ beside Annotations/.
        there = [each / inner for each in sorted(folders, key=lambda f: f.name != "JPEGImages")]
        own = [text for file, text in zip(files, texts, strict=True) if file.parent == place]
        places[place] = PictureNames(place, there, own)
    records: list[ImageRecord] = []
    used = 0
    for index, (file, tree, text) in enumerate(zip(files, trees, texts, strict=True), start=1):
        picture = places[file.parent].find(text, where=str(file))
        records.append(_read_image(file, tree, picture, index, numbers, used))
        used += len(records[-1].objects)
    categories = tuple(Category(number, name) for name, number in numbers.items())
    return Dataset(images=tuple(records), categories=categories)


def _read_xml(file: Path) -> "Element":
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        root: Element | None = fromstring(_xml_source(file))
    except DefusedXmlException as error:
        raise DataError(
            f"{file}: refused: it declares an XML entity, which could read other files or grow "
            f"without end ({type(error).__name__}); VOC needs none, take the DOCTYPE out"
        ) from error
    except (ParseError, ValueError, LookupError) as error:
        raise DataError(f"{file}: not complete XML: {error}") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
    if root is None or root.tag != "annotation":
        raise DataError(f"{file}: expected <annotation> at the top, as Pascal VOC has it")
    return root


def _xml_source(file: Path) -> bytes | str:
    """Return bytes for the parser, or text where it does not know the encoding (GBK, Shift JIS)."""
    data = file.read_bytes()
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


def _read_image(
    file: Path, tree: "Element", picture: Picture, number: int, classes: dict[str, int], used: int
) -> ImageRecord:
    name, path = picture
    items = tree.findall("object")
    boxes = _read_boxes(tree, file)
    objects = tuple(
        Annotation(
            id=used + index,
            category_id=classes[_text(item, "name", file)],
            xywh=box,
            segmentation=_polygons(item, file),
            extra=_flags(item),
        )
        for index, (item, box) in enumerate(zip(items, boxes, strict=True), start=1)
    )
    return ImageRecord(number, name, path, _image_hw(tree, path, file), objects)


def _read_boxes(tree: "Element", file: Path) -> list[tuple[float, float, float, float]]:
    """Read the boxes alone: supervision would rasterise polygons over the whole image."""
    from copy import deepcopy
    from xml.etree.ElementTree import SubElement

    from supervision.dataset.formats.pascal_voc import detections_from_xml_obj

    bare = deepcopy(tree)
    for item in bare.findall("object"):
        for polygon in item.findall("polygon"):
            item.remove(polygon)
        if item.find("bndbox") is None and (ring := _turned(item, file)) is not None:
            box = SubElement(item, "bndbox")
            edges = (min(ring[0::2]), min(ring[1::2]), max(ring[0::2]), max(ring[1::2]))
            for index, tag in enumerate(("xmin", "ymin", "xmax", "ymax")):
                SubElement(box, tag).text = repr(edges[index] + (index < 2))
    try:
        with np.errstate(over="raise"):
            found, _ = detections_from_xml_obj(bare, [], (1, 1))
    except (ValueError, FloatingPointError) as error:
        raise DataError(f"{file}: {error}") from error
    corners = found.xyxy.astype(float).tolist()
    return [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in corners]


def _turned(item: "Element", file: Path) -> tuple[float, ...] | None:
    """Return the corners of a rotated box (roLabelImg's centre, sides and angle in radians)."""
    box = item.find("robndbox")
    if box is None:
        return None
    try:
        texts = [box.findtext(tag) or "" for tag in ("cx", "cy", "w", "h", "angle")]
        cx, cy, w, h, angle = map(float, texts)
    except ValueError as error:
        raise DataError(f"{file}: <robndbox>: expected numbers: {error}") from error
    cos, sin = math.cos(angle), math.sin(angle)
    corners = [(-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2)]
    places = [(cx + x * cos - y * sin, cy + x * sin + y * cos) for x, y in corners]
    return tuple(value for place in places for value in place)


def _polygons(item: "Element", file: Path) -> Polygons | None:
    rings = []
    for polygon in item.findall("polygon"):
        try:
            # VOC counts pixels from 1.
            ring = tuple(float(point.text or "") - 1 for point in polygon.iter() if len(point) == 0)
        except ValueError as error:
            raise DataError(f"{file}: <polygon>: expected numbers: {error}") from error
        if len(ring) % 2:
            raise DataError(f"{file}: <polygon>: expected x, y pairs, got {len(ring)} numbers")
        rings.append(ring)
    if not rings and (turned := _turned(item, file)) is not None:
        rings.append(turned)
    return tuple(rings) or None


def _flags(item: "Element") -> dict[str, object]:
    flags: dict[str, object] = {}
    for tag in ("difficult", "truncated", "occluded", "pose"):
        text = (item.findtext(tag) or "").strip()
        if text and text not in ("0", "Unspecified"):
            flags[tag] = int(text) if text.isdecimal() else text
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


def _image_hw(tree: "Element", path: Path, file: Path) -> tuple[int, int]:
    texts = [tree.findtext(f"size/{tag}") or "" for tag in ("height", "width")]
    if all(text.strip().isdecimal() and len(text) < 20 for text in texts):
        stated = stated_hw(int(texts[0]), int(texts[1]), where=str(file))
        if stated is not None:
            return stated
    try:
        return image_hw_of(path)
    except ImageError as error:
        raise DataError(f"{file}: lacks <size>, and the image does not tell: {error}") from error
