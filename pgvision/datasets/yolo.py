"""YOLO folders: ``data.yaml``, ``obj.data`` or ``labels/``; boxes and polygons.

Supervision's reader is not used: it returns float32 (113.92 becomes 113.91999), reads a line of 6
numbers as a box and one of 8 as a polygon of 3 corners, and turns polygons into masks.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Literal

from pgvision.coco.checks import read_bytes, read_text
from pgvision.datasets.dataset import (
    Annotation,
    Category,
    Dataset,
    EntryErrors,
    Finding,
    ImageRecord,
    OnError,
    Polygons,
)
from pgvision.datasets.image_names import list_images, size_of, walk_files
from pgvision.datasets.outlines import clipped_xyxy, is_outside, one_ring
from pgvision.datasets.yolo_config import Split, YoloConfig, find_config, lines_of
from pgvision.errors import DataError
from pgvision.rle import outline_xywh

_NAMES_FILES = ("classes.txt", "obj.names")
_LABEL_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*\d+\s")
_FURTHEST = 2.0  # shares of a side; a label beyond is in pixels, or wrong


def label_path(image: Path) -> Path:
    """Return the label file of an image, for reading and for writing.

    The last folder called ``images`` becomes ``labels``, as in Ultralytics.

    Source:
        ultralytics/data/utils.py, ``img2label_paths``.

    Example:
        >>> label_path(Path("yolo/images/train/images/a.jpg")).as_posix()
        'yolo/images/train/labels/a.txt'
    """
    return label_folder(image.parent) / f"{image.stem}.txt"


def label_folder(folder: Path) -> Path:
    """Return the folder of the labels of the images in ``folder``; see `label_path`."""
    parts = list(folder.parts)
    if "images" not in parts:
        return folder
    index = len(parts) - 1 - parts[::-1].index("images")
    return Path(*parts[:index], "labels", *parts[index + 1 :])


def read_yolo(
    path: str | Path, *, images: str | Path | None = None, on_error: OnError = "raise"
) -> dict[str, Dataset]:
    """Read a YOLO data set.

    The label file of an image is that of `label_path`, or else next to the image.

    Args:
        path: ``data.yaml`` (or Darknet's ``obj.data``), or its folder, or a folder with
            ``labels/`` and ``images/`` (or such folders in it), or images with their labels and
            ``classes.txt``.
        images: Image folder, if the labels in ``labels/`` are of images elsewhere.
        on_error: ``"raise"`` refuses a broken label file or image; ``"record"`` leaves the image
            out and adds a finding.

    Returns:
        One data set per split, in the order of the file; a split is called ``"train"`` if nothing
        names it. Coordinates are rounded to 1e-9 pixel, so that decimal pixels are read back as
        the same numbers. Ids are numbered from 1, those of classes in the order of their names. Key
        points (``kpt_shape``) are left out, with a finding. An optional split that is not there is
        an error in ``findings``.

    Raises:
        DataError: If train or val is not there, is outside the data set or is empty; if a line
            has another count of numbers than 5 (a box) or 1 + 2k, k >= 3 (a polygon); if
            coordinates are no shares of the image's sides (pixels); or if a class has no name.

    Source:
        https://docs.ultralytics.com/datasets/detect/ (/segment/, /pose/); ultralytics/data/utils.py
    """
    # 1. Find the splits: in data.yaml, or by the folders.
    given = Path(path).absolute()
    root = given.parent if given.is_file() else given
    file = given if given.is_file() else find_config(root)
    config = None if file is None else YoloConfig(file)
    findings: list[Finding] = []
    if images is not None:
        folder = Path(images).absolute()
        splits = {"train": Split([folder], list_images(folder))}
        # The folder's own labels if it is part of this data set, else those of root.
        own, usual = label_folder(folder), root / "labels"
        labels = _Labels(folder, usual if usual.is_dir() else root)
        if own != folder and own.is_dir() and own.is_relative_to(root):
            labels = _Labels()
    else:
        splits, findings = ({}, []) if config is None else config.splits()
        splits = splits or _splits_of_folder(root, findings)
        labels = _Labels()
    # 2. Find the class names, which all splits share.
    names = (config and config.names()) or _names_beside(root, splits, labels)
    if "" in names:
        raise DataError(
            f"{root}: class {names.index('')} has no name; is a line of the list blank?"
        )
    # 3. Read the labels of each image.
    is_pose = config is not None and "kpt_shape" in config.fields
    if is_pose:
        findings.append(Finding("not-kept", "warning", "key points (kpt_shape) are left out"))
    return _Reader(root, names, labels, on_error, is_pose=is_pose).read(splits, findings)


def _splits_of_folder(root: Path, findings: list[Finding]) -> dict[str, Split]:
    """Return the splits of a folder without data.yaml."""
    # 1. Ultralytics: labels/, with or without a folder for each part; Roboflow: PART/labels.
    folders = {"train": root}
    if (root / "labels").is_dir():
        parts = sorted(
            part.name
            for part in (root / "labels").iterdir()
            if part.is_dir() and not part.name.startswith(".")
        )
        folders = {"train": root / "images"}
        if parts and not any((root / "labels").glob("*.txt")):
            folders = {part: root / "images" / part for part in parts}
    elif parts := sorted(place.parent.name for place in root.glob("*/labels") if place.is_dir()):
        folders = {part: root / part / "images" for part in parts}
    elif findings or not any((root / name).is_file() for name in _NAMES_FILES):
        raise DataError(
            f"{root}: no YOLO data set: expected data.yaml whose train/val name folders that are "
            "there, or folders labels/ and images/"
            + "".join(f"; {finding.message}" for finding in findings)
        )
    # 2. List the images.
    splits = {key: Split([place], list_images(place)) for key, place in folders.items()}
    for split in splits.values():
        if not split.images:
            raise DataError(
                f"{split.folders[0]}: expected the images of the labels in {root}, found none"
            )
    return splits


def _names_beside(root: Path, splits: dict[str, Split], labels: "_Labels") -> list[str]:
    places = [root, *(labels.of_folder(f) for split in splits.values() for f in split.folders)]
    for file in (place / name for place in places for name in _NAMES_FILES):
        if file.is_file():
            return lines_of(file)
    raise DataError(
        f"{root}: class names are missing: expected 'names' in data.yaml, or classes.txt with one "
        "name a line"
    )


def read_written_yolo(
    folder: Path, images: Mapping[str, Mapping[Path, tuple[int, int]]]
) -> dict[str, Dataset]:
    """Read the labels of a written folder; its images may be missing.

    Args:
        folder: The folder with data.yaml.
        images: Height and width of the images of each split, by path.

    Raises:
        DataError: As `read_yolo`.
    """
    names = YoloConfig(folder / "data.yaml").names() or []
    reader = _Reader(folder.absolute(), names, _Labels(), "raise")
    read = {}
    for split, sizes in images.items():
        reader.known_hw = {path.absolute(): size for path, size in sizes.items()}
        place = folder.absolute() / "images" / split
        read[split] = reader.read_split(Split([place], list(reader.known_hw)))
    return read


class _Labels:
    """Label files of images: by `label_path`, or in a folder of labels given with the images."""

    def __init__(self, images: Path | None = None, labels: Path | None = None) -> None:
        self._images, self._labels = images, labels

    def of_folder(self, folder: Path) -> Path:
        """Return the label folder of an image folder."""
        return label_folder(folder) if self._labels is None else self._labels

    def of(self, image: Path) -> Path:
        """Return the label file of an image, which need not exist."""
        if self._images is not None and self._labels is not None:
            return (self._labels / image.relative_to(self._images)).with_suffix(".txt")
        place, beside = label_path(image), image.with_suffix(".txt")
        return beside if not place.is_file() and beside.is_file() else place


class _Reader:
    """Reads the splits of one data set, which share names and ids."""

    def __init__(
        self,
        root: Path,
        names: list[str],
        labels: _Labels,
        on_error: OnError,
        *,
        is_pose: bool = False,
    ) -> None:
        self._root, self._labels, self._on_error = root, labels, on_error
        self._is_pose = is_pose
        self.known_hw: Mapping[Path, tuple[int, int]] = {}
        self._categories = tuple(Category(number, name) for number, name in enumerate(names, 1))
        self._image_ids, self._annotation_ids = count(1), count(1)
        self._read: set[Path] = set()  # label files of all splits

    def read(self, splits: dict[str, Split], findings: list[Finding]) -> dict[str, Dataset]:
        # data.yaml of a single part names it as train and val.
        known: dict[tuple[Path, ...], str] = {}
        for key, split in splits.items():
            first = known.setdefault(tuple(split.images), key)
            if first != key:
                note = f"{key} names the same images as {first}: they were read once"
                findings.append(Finding("same-split", "warning", note, key))
        read = {key: self.read_split(splits[key]) for key in known.values()}
        # Labels without an image are reported: their objects are lost.
        for folder in dict.fromkeys(place for split in splits.values() for place in split.folders):
            findings += self._labels_alone(folder)
        first = next(iter(read))
        read[first] = replace(read[first], findings=(*findings, *read[first].findings))
        return read

    def read_split(self, split: Split) -> Dataset:
        records = []
        base = self._base(split)
        errors = EntryErrors(self._on_error)
        for path in split.images:
            name = path.relative_to(base).as_posix()
            file = self._labels.of(path)
            self._read.add(file)
            with errors.entry(name):
                # Labels are shares of the image's sides.
                image_hw = self.known_hw.get(path) or size_of(
                    None, None, path, where=name, lacks="a size, which YOLO's numbers are shares of"
                )
                objects = tuple(self._read_labels(file, image_hw)) if file.is_file() else ()
                records.append(ImageRecord(next(self._image_ids), name, path, image_hw, objects))
        return Dataset(tuple(records), self._categories, findings=tuple(errors.findings))

    def _base(self, split: Split) -> Path:
        """Return the folder that the names of a split start at."""
        one = split.folders[0] if len(split.folders) == 1 else self._root
        if all(path.is_relative_to(one) for path in split.images):
            return one
        return Path(os.path.commonpath([path.parent for path in split.images]))

    def _labels_alone(self, folder: Path) -> Iterator[Finding]:
        place = self._labels.of_folder(folder)
        for file in walk_files(place, (".txt",)) if place.is_dir() else []:
            if file in self._read or file.name in _NAMES_FILES:
                continue
            # Notes (README) of any encoding may be in the same folder; labels begin with a number.
            if _LABEL_START.match(read_bytes(file)):
                message = f"{file} labels an image that is not there"
                name = file.relative_to(place).as_posix()
                yield Finding("missing-file", "error", message, name)

    def _read_labels(self, file: Path, image_hw: tuple[int, int]) -> Iterator[Annotation]:
        for index, line in enumerate(read_text(file).splitlines(), start=1):
            if not line.split():
                continue
            # 1. Class and numbers.
            where = f"{file}: line {index}"
            words = line.split()
            number, values = _parse_line(words[:5] if self._is_pose else words, where)
            if not 0 <= number < len(self._categories):
                raise DataError(
                    f"{where}: class {number}, but there are {len(self._categories)} class names"
                )
            # 2. Box and outline in pixels: four numbers are a box, more are a polygon.
            polygons: Polygons | None = None
            if len(values) == 4:
                cx, cy, w, h = _scaled(values, image_hw)
                if w < 0 or h < 0:
                    raise DataError(f"{where}: width and height must not be negative")
                xywh = (_decimal(cx - w / 2), _decimal(cy - h / 2), _decimal(w), _decimal(h))
            else:
                polygons = (tuple(map(_decimal, _scaled(values, image_hw))),)
                xywh = outline_xywh(polygons)
            category = self._categories[number].id
            yield Annotation(next(self._annotation_ids), category, xywh, polygons)


def _parse_line(words: list[str], where: str) -> tuple[int, list[float]]:
    # 1. Count the numbers: a box or a polygon.
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise DataError(
            f"{where}: {len(words)} numbers; expected 5 (class, x and y of the centre, width, "
            "height) or a polygon of 1 + 2k with k >= 3. Is there a confidence at the end, or is "
            "the class missing?"
        )
    # 2. Read the numbers.
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)) or numbers[0] != int(numbers[0]):
        raise DataError(
            f"{where}: expected a whole class number and finite coordinates, got "
            f"{' '.join(words)!r:.80}"
        )
    # 3. Refuse pixels. Ultralytics rejects such images; boxes would be far outside.
    far = max(map(abs, numbers[1:]))
    if far > _FURTHEST:
        raise DataError(
            f"{where}: a coordinate of {far:g}, but YOLO's are shares of the image's sides, from 0 "
            "to 1. Divide pixels by width and height"
        )
    return int(numbers[0]), numbers[1:]


def _scaled(shares: list[float], image_hw: tuple[int, int]) -> list[float]:
    """Return alternating shares of width and height in pixels."""
    height, width = image_hw
    return [share * (height if at % 2 else width) for at, share in enumerate(shares)]


def _decimal(value: float) -> float:
    """Round to 1e-9 pixel; ``+ 0.0`` turns -0.0 into 0.0."""
    return round(value, 9) + 0.0


def label_text(
    image: ImageRecord, numbers: Mapping[int, int], task: Literal["detect", "segment"] = "detect"
) -> str:
    r"""Return the label file of one image: a line for each object, cut at the border.

    Every digit is written that a number needs to be read back the same. Crowds and objects outside
    the image are left out.

    Args:
        image: The image.
        numbers: Number of each category id in data.yaml.
        task: ``"detect"`` writes boxes; ``"segment"`` polygons, and corners where there is only a
            box.

    Example:
        >>> box = Annotation(id=1, category_id=3, xywh=(320.0, 120.0, 160.0, 240.0))
        >>> label_text(ImageRecord(7, "a.jpg", Path("a.jpg"), (480, 640), (box,)), {3: 0})
        '0 0.625 0.5 0.25 0.5\n'
    """
    text, shares = "", _box if task == "detect" else _polygon
    for item in image.objects:
        if not (item.iscrowd or is_outside(item, image.image_hw)):
            values = map(repr, map(float, shares(item, image)))  # NumPy's have another repr
            text += " ".join([str(numbers[item.category_id]), *values]) + "\n"
    return text


def _box(item: Annotation, image: ImageRecord) -> list[float]:
    x, y, w, h = map(float, item.xywh)
    height, width = image.image_hw
    if min(x, y, width - (x + w), height - (y + h)) < 0:
        # Trainers reject an image for one number outside [0, 1].
        left, top, right, bottom = clipped_xyxy(item, image.image_hw)
        x, y, w, h = left, top, right - left, bottom - top
    return [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]


def _polygon(item: Annotation, image: ImageRecord) -> list[float]:
    height, width = image.image_hw
    ring = () if item.segmentation is None else one_ring(item.segmentation, image.image_hw)
    if not ring:
        left, top, right, bottom = clipped_xyxy(item, image.image_hw)
        ring = (left, top, right, top, right, bottom, left, bottom)
    return [value / (height if index % 2 else width) for index, value in enumerate(ring)]
