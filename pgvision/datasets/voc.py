"""Pascal VOC folders, read: one XML file an image."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pgvision.datasets.image_files import image_hw_of, image_path, stated_hw
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
        images: Image folder; ``JPEGImages/`` or ``images/`` beside, or the XML files' own folder.

    Returns:
        The data set; classes in alphabetical order from id 1; ``difficult``, ``truncated``,
        ``occluded`` and ``pose`` of an object are kept in its ``extra``.

    Raises:
        DataError: If a file is cut, declares entities (external ones could read other files), or
            lacks a box or name.

    Source:
        http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/index.html
    """
    given = Path(path)
    root = given.parent if given.is_file() else given
    folder = root / "Annotations" if (root / "Annotations").is_dir() else root
    files = [given] if given.is_file() else sorted(folder.glob("*.xml"))
    if not files:
        raise DataError(f"{folder}: expected Pascal VOC files (*.xml), found none")
    trees = [_read_xml(file) for file in files]
    names = sorted({_text(item, "name", file) for file, tree in zip(files, trees, strict=True)
                    for item in tree.findall("object")})  # fmt: skip
    numbers = {name: index for index, name in enumerate(names, start=1)}
    image_dir = _image_folder(root, folder, images)
    records: list[ImageRecord] = []
    used = 0
    for index, (file, tree) in enumerate(zip(files, trees, strict=True), start=1):
        records.append(_read_image(file, tree, image_dir, index, numbers, used))
        used += len(records[-1].objects)
    categories = tuple(Category(number, name) for name, number in numbers.items())
    return Dataset(images=tuple(records), categories=categories)


def _image_folder(root: Path, folder: Path, images: str | Path | None) -> Path:
    if images is not None:
        if not Path(images).is_dir():
            raise DataError(f"{images}: expected the folder of images of {root}, found none")
        return Path(images)
    beside = [root / "JPEGImages", root / "images", folder.parent / "JPEGImages"]
    return next((candidate for candidate in beside if candidate.is_dir()), folder)


def _read_xml(file: Path) -> "Element":
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import parse

    try:
        root: Element | None = parse(file).getroot()
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


def _text(element: "Element", tag: str, file: Path) -> str:
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise DataError(f"{file}: <{element.tag}> lacks <{tag}>")
    return text


def _read_image(
    file: Path, tree: "Element", folder: Path, number: int, classes: dict[str, int], used: int
) -> ImageRecord:
    name = _text(tree, "filename", file)
    path = image_path(name, folder, where=str(file))
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

    from supervision.dataset.formats.pascal_voc import detections_from_xml_obj

    bare = deepcopy(tree)
    for item in bare.findall("object"):
        for polygon in item.findall("polygon"):
            item.remove(polygon)
    try:
        with np.errstate(over="raise"):
            found, _ = detections_from_xml_obj(bare, [], (1, 1))
    except (ValueError, FloatingPointError) as error:
        raise DataError(f"{file}: {error}") from error
    corners = found.xyxy.astype(float).tolist()
    return [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in corners]


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
    return tuple(rings) or None


def _flags(item: "Element") -> dict[str, object]:
    flags: dict[str, object] = {}
    for tag in ("difficult", "truncated", "occluded", "pose"):
        text = (item.findtext(tag) or "").strip()
        if text and text not in ("0", "Unspecified"):
            flags[tag] = int(text) if text.isdecimal() else text
    return flags


def _image_hw(tree: "Element", path: Path, file: Path) -> tuple[int, int]:
    texts = [tree.findtext(f"size/{tag}") or "" for tag in ("height", "width")]
    if all(text.strip().isdecimal() and len(text) < 20 for text in texts):
        return stated_hw(int(texts[0]), int(texts[1]), where=str(file))
    try:
        return image_hw_of(path)
    except ImageError as error:
        raise DataError(f"{file}: lacks <size>, and the image does not tell: {error}") from error
