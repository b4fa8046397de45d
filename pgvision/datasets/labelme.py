"""LabelMe folders, read: one JSON file an image, its shapes as boxes and outlines."""

import base64
import binascii
import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from pgvision.arrays import BoolArray
from pgvision.datasets.fields import Fields, is_number, load_json
from pgvision.datasets.image_files import image_hw_of, stated_hw
from pgvision.datasets.picture_names import Picture, PictureNames, picture_folders
from pgvision.datasets.records import (
    Annotation,
    Category,
    Dataset,
    Finding,
    ImageRecord,
    Segmentation,
)
from pgvision.datasets.segmentations import (
    mask_to_runs,
    mask_xywh,
    polygons_xywh,
    segmentation_to_mask,
)
from pgvision.errors import DataError, ImageError

_CIRCLE_CORNERS = 64
_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2}
_POINTS |= {"oriented_rectangle": 3, "rotation": 3, "quadrilateral": 3}  # X-AnyLabeling's too
_READ = ("label", "points", "shape_type", "group_id", "mask")
_COCO = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")


def read_labelme(path: str | Path, *, images: str | Path | None = None) -> Dataset:
    """Read LabelMe annotations: polygons, rectangles, circles and masks.

    Shapes of one label with the same ``group_id`` are parts of one object. Points and lines
    enclose nothing: they are left out and listed in ``findings``.

    Args:
        path: Folder with LabelMe's JSON files, or one of them.
        images: Image folder; looked for from the JSON files if not given.

    Returns:
        The data set; classes in alphabetical order from id 1; flags, description and the like in
        ``extra``.

    Raises:
        DataError: If a file is cut or holds NaN, a shape lacks its label or points, or an image
            lies outside the image folder.

    Source:
        https://github.com/wkentaro/labelme, labelme/label_file.py and shape.py
    """
    given = Path(path)
    files = [given] if given.is_file() else sorted(given.rglob("*.json"))
    entries = [Fields(load_json(file), str(file)) for file in files]
    kept = [(file, e) for file, e in zip(files, entries, strict=True) if "shapes" in e]
    if not kept:
        raise DataError(f"{given}: expected LabelMe files (JSON with 'shapes'), found none")
    shapes = [
        [
            Fields(shape, f"{file}: shapes[{index}]")
            for index, shape in enumerate(entry.items("shapes"))
        ]
        for file, entry in kept
    ]
    names = sorted({shape.text("label") for part in shapes for shape in part if _encloses(shape)})
    numbers = {name: index for index, name in enumerate(names, start=1)}
    records: list[ImageRecord] = []
    used = 0
    chosen = None if images is None else Path(images)
    places: dict[Path, PictureNames] = {}
    for (file, entry), part in zip(kept, shapes, strict=True):
        if file.parent not in places:
            folders = picture_folders(file.parent, "", chosen, source=given)
            places[file.parent] = PictureNames(file.parent, folders)
        picture = places[file.parent].find(entry.text("imagePath"), where=str(file))
        records.append(_read_image(entry, part, picture, len(records) + 1, numbers, used))
        used += len(records[-1].objects)
    categories = tuple(Category(number, name) for name, number in numbers.items())
    return Dataset(tuple(records), categories, findings=_left_out(shapes))


def _encloses(shape: Fields) -> bool:
    return _kind(shape) in _POINTS


def _kind(shape: Fields) -> str:
    """Return the type of a shape; files of LabelMe 3 have none and mean polygons."""
    return str(shape.values.get("shape_type") or "polygon")


def _left_out(shapes: list[list[Fields]]) -> tuple[Finding, ...]:
    return tuple(
        Finding(
            "left-out",
            "warning",
            f"{shape.where}: a {_kind(shape)} encloses nothing and was left out",
        )
        for part in shapes
        for shape in part
        if not _encloses(shape)
    )


def _read_image(
    entry: Fields,
    shapes: list[Fields],
    picture: Picture,
    number: int,
    classes: dict[str, int],
    used: int,
) -> ImageRecord:
    name, path = picture
    groups: dict[object, list[Fields]] = {}
    for index, shape in enumerate(shape for shape in shapes if _encloses(shape)):
        group = shape.values.get("group_id")
        key = ("alone", index) if group is None else (shape.text("label"), str(group))
        groups.setdefault(key, []).append(shape)
    image_hw = _image_hw(entry, path)
    objects = []
    for index, parts in enumerate(groups.values(), start=used + 1):
        xywh, segmentation = _outline(parts, image_hw)
        category = classes[parts[0].text("label")]
        extra = _extra(parts)
        objects.append(Annotation(index, category, xywh, segmentation, extra=extra))
    flags = entry.values.get("flags")
    return ImageRecord(
        number, name, path, image_hw, tuple(objects), {"flags": flags} if flags else {}
    )


def _outline(
    parts: list[Fields], image_hw: tuple[int, int]
) -> tuple[tuple[float, float, float, float], Segmentation | None]:
    """Return box and outline of one object; pixel masks may have holes and become run lengths."""
    kinds = {_kind(part) for part in parts}
    rings = tuple(_ring(part) for part in parts if _kind(part) != "mask")
    if "mask" not in kinds:
        boxes = kinds == {"rectangle"} and all(map(_is_upright, rings))
        return polygons_xywh(rings), (None if boxes else rings)
    mask = np.zeros(image_hw, dtype=bool)
    for part in parts:
        if _kind(part) == "mask":
            mask |= _mask_in_frame(part, image_hw)
    if rings:
        mask |= segmentation_to_mask(rings, image_hw)
    if not mask.any():
        raise DataError(f"{parts[0].where}: 'mask' is empty")
    return mask_xywh(mask), mask_to_runs(mask)


def _image_hw(entry: Fields, path: Path) -> tuple[int, int]:
    if "imageHeight" in entry and "imageWidth" in entry:
        height, width = entry.integer("imageHeight"), entry.integer("imageWidth")
        if (stated := stated_hw(height, width, where=entry.where)) is not None:
            return stated
    try:
        return image_hw_of(path)
    except ImageError as error:
        raise DataError(
            f"{entry.where}: lacks imageHeight and imageWidth, and the image does not tell: {error}"
        ) from error


def _extra(parts: list[Fields]) -> dict[str, object]:
    """Return what else the shapes say: flags, description and what other tools add."""
    found: dict[str, object] = {}
    for part in reversed(parts):
        said = part.rest(*_READ, *_COCO)
        found |= {
            key: value for key, value in said.items() if value not in (None, "", {}, [], False)
        }
    return found


def _ring(shape: Fields) -> tuple[float, ...]:
    kind = _kind(shape)
    points = _points(shape, kind)
    if kind not in ("rectangle", "circle") or (kind == "rectangle" and len(points) > 2):
        return tuple(value for point in points for value in point)
    (x1, y1), (x2, y2) = points[0], points[1]
    if kind == "circle":
        # LabelMe keeps the centre and one point of the rim.
        radius = math.hypot(x2 - x1, y2 - y1)
        turns = [2 * math.pi * step / _CIRCLE_CORNERS for step in range(_CIRCLE_CORNERS)]
        rim = [(x1 + radius * math.cos(turn), y1 + radius * math.sin(turn)) for turn in turns]
        return tuple(value for point in rim for value in point)
    left, right, top, bottom = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    return (left, top, right, top, right, bottom, left, bottom)


def _is_upright(ring: tuple[float, ...]) -> bool:
    """Whether all corners of a ring are corners of its box: newer tools may turn rectangles."""
    return len(set(ring[0::2])) == 2 and len(set(ring[1::2])) == 2


def _points(shape: Fields, kind: str) -> list[tuple[float, float]]:
    points = []
    for point in shape.items("points"):
        if not isinstance(point, list) or len(point) != 2 or not all(map(is_number, point)):
            raise shape.fail("points", "a list of x, y pairs of finite numbers")
        points.append((float(point[0]), float(point[1])))
    if len(points) < _POINTS[kind]:
        raise DataError(
            f"{shape.where}: a {kind} of {len(points)} points, expected at least {_POINTS[kind]}"
        )
    return points


def _mask_in_frame(shape: Fields, image_hw: tuple[int, int]) -> BoolArray:
    """Place a mask shape: a PNG of the box, whose first point is its left top pixel."""
    x, y = (round(value) for value in _points(shape, "mask")[0])
    try:
        data = base64.b64decode(shape.text("mask"), validate=True)
        with Image.open(io.BytesIO(data)) as image:
            part = np.asarray(image.convert("L")) > 0
    except (binascii.Error, OSError, ValueError) as error:
        raise DataError(f"{shape.where}: 'mask' is not a PNG in base64: {error}") from error
    height, width = part.shape
    if x < 0 or y < 0 or y + height > image_hw[0] or x + width > image_hw[1]:
        raise DataError(f"{shape.where}: 'mask' reaches beyond the image of {list(image_hw)}")
    mask = np.zeros(image_hw, dtype=bool)
    mask[y : y + height, x : x + width] = part
    return mask
