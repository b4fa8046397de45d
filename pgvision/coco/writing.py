"""COCO files, written entry by entry, so that memory does not grow with the file."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from pgvision.coco.content import without_collecting
from pgvision.errors import DataError
from pgvision.files import readable_name, replaced_path
from pgvision.rle import outline_area

Fields = Mapping[str, Any]
_SLOW = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_BATCH = 1000


def write_coco(
    path: str | Path,
    *,
    images: Iterable[Fields],
    annotations: Iterable[Fields],
    categories: Iterable[Fields],
    info: Fields | None = None,
) -> None:
    """Write a COCO file, aside and then renamed. Numbers have every digit that they need.

    Args:
        path: The file.
        images: Its images; `image_entry` makes one.
        annotations: Its annotations; `annotation_entry` makes one. They may come one by one.
        categories: Its categories, ``{"id", "name"}``.
        info: Other top-level fields.

    Raises:
        DataError: If a number is NaN or infinite. Errors of the iterables are not changed.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.json"
        >>> shot = image_entry(1, "a.jpg", (4, 6))
        >>> write_coco(file, images=[shot], annotations=[], categories=[])
        >>> file.read_text()
        '{"images":[{"id":1,"file_name":"a.jpg","width":6,"height":4}],"annotations":[],"categories":[]}'
    """
    lists = {"images": images, "annotations": annotations, "categories": categories}
    with replaced_path(path) as aside, aside.open("wb") as file, without_collecting():
        file.writelines(_pieces(dict(info or {}), lists, str(path)))


def _joined(entries: Iterable[Fields], where: str) -> Iterator[bytes]:
    source, separator = iter(entries), b""
    while batch := list(islice(source, _BATCH)):
        yield separator + _encode(batch, where)[1:-1]
        separator = b","


def _encode(value: object, where: str) -> bytes:
    """Return compact JSON, every digit included.

    Raises:
        DataError: If a number is NaN or infinite.
    """
    try:
        text = orjson.dumps(value)
        if b"null" not in text:  # which is also what orjson makes of NaN
            return text
    except TypeError:  # integers of more than 64 bits, NumPy's numbers, text that is no UTF-8
        pass
    try:
        return _SLOW(_readable(value)).encode()
    except ValueError as error:
        raise DataError(f"{where}: contains a number that is not finite: {error}") from error


def _readable(value: Any) -> Any:
    """Return a JSON value of plain numbers, with text that can be written; see `readable_name`."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):
        return readable_name(value)
    if isinstance(value, Mapping):
        return {readable_name(str(key)): _readable(part) for key, part in value.items()}
    return [_readable(part) for part in value] if isinstance(value, list | tuple) else value


def _pieces(
    info: dict[str, Any], lists: Mapping[str, Iterable[Fields]], where: str
) -> Iterator[bytes]:
    yield b"{"
    for key, value in info.items():
        yield _encode(key, where) + b":" + _encode(value, where) + b","
    for place, (key, entries) in enumerate(lists.items()):
        yield f'{"," * bool(place)}"{key}":['.encode()
        yield from _joined(entries, where)
        yield b"]"
    yield b"}"


def image_entry(image_id: int, file_name: str, image_hw: tuple[int, int]) -> dict[str, Any]:
    """Return a COCO image.

    Example:
        >>> image_entry(7, "a.jpg", (480, 640))
        {'id': 7, 'file_name': 'a.jpg', 'width': 640, 'height': 480}
    """
    return {"id": image_id, "file_name": file_name, "width": image_hw[1], "height": image_hw[0]}


def annotation_entry(
    number: int,
    image_id: int,
    category_id: int,
    xywh: Iterable[float],
    *,
    area: float | None = None,
    iscrowd: bool = False,
    segmentation: Any = None,
    image_hw: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Return a COCO annotation. COCO tools fail without an area, so a missing one is filled in.

    Args:
        number: Its id.
        image_id: The image's id.
        category_id: The category's id.
        xywh: Left, top, width, height in pixels.
        area: In square pixels; that of the mask, or else of the box, if None.
        iscrowd: Whether it is a region of many objects.
        segmentation: Rings or run lengths as JSON has them; left out if None.
        image_hw: Height and width of the image, to rasterise rings.

    Example:
        >>> annotation_entry(1, 7, 3, (0, 0, 4, 2.5))["area"]
        10.0
    """
    # The area of the mask where there is one: evaluators group objects by it.
    box = list(xywh)
    if area is None:
        area = max(box[2], 0.0) * max(box[3], 0.0)
        if segmentation:
            area = outline_area(segmentation, image_hw)
    entry = {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "area": area,
        "iscrowd": int(iscrowd),
    }
    return entry if segmentation is None else entry | {"segmentation": segmentation}


def relative_name(image: str | Path, file: str | Path) -> str:
    """Return how an annotation file should name an image: relative to its own folder.

    Args:
        image: Path of the image.
        file: The annotation file that names it, written or to be written.

    Returns:
        The path with forward slashes; it begins with ``../`` where the image is in another folder,
        and is absolute where no relative path leads there (another drive).

    Example:
        >>> relative_name("site/a.jpg", "site/out.json"), relative_name("a.jpg", "out/all.json")
        ('a.jpg', '../a.jpg')
    """
    folder = Path(file).parent.absolute()
    try:
        return Path(os.path.relpath(Path(image).absolute(), folder)).as_posix()
    except ValueError:
        return Path(image).absolute().as_posix()
