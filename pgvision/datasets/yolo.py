"""YOLO folders, read: ``data.yaml``, ``obj.data`` or ``labels/``; boxes, polygons, key points.

Supervision's reader is not used: it keeps float32 (a box of 113.92 comes back as 113.91999), takes
a line of 6 numbers for a box and a line of 8 for a polygon of 3 corners without a word, and turns
polygons into masks with rounded corners.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

from pgvision.datasets.fields import Fields, load_json, read_text
from pgvision.datasets.image_files import IMAGE_ENDINGS, image_hw_of, list_images
from pgvision.datasets.records import (
    Annotation,
    Category,
    Dataset,
    Finding,
    ImageRecord,
    Polygons,
)
from pgvision.datasets.segmentations import polygons_xywh
from pgvision.datasets.yolo_config import CONFIG_NAMES, Split, YoloConfig, lines_of
from pgvision.errors import DataError, ImageError

IDS_FILE = "coco_ids.json"
"""Beside data.yaml: the COCO ids that label files have no room for."""

_NAMES_FILES = ("classes.txt", "obj.names")


def read_yolo(path: str | Path, *, images: str | Path | None = None) -> dict[str, Dataset]:
    """Read a YOLO data set.

    The label file of a picture is where Ultralytics looks for it: the last ``images`` of its path
    becomes ``labels``; failing that, beside the picture.

    Args:
        path: ``data.yaml`` (or Darknet's ``obj.data``), or its folder, or a folder with
            ``labels/`` and ``images/`` (or such folders in it), or pictures with their labels and
            ``classes.txt``.
        images: Image folder, if the labels in ``labels/`` are of images elsewhere.

    Returns:
        One data set per split, in the order of the file; a split is called ``"train"`` if nothing
        names it. Coordinates are rounded to 1e-9 pixel: what was written from decimal pixels comes
        back as the same number. With ``kpt_shape`` objects have boxes, and COCO's ``keypoints`` in
        ``extra``. An optional split that is not there is an error in ``findings``.

    Raises:
        DataError: If train or val is not there, lies outside the data set or is empty; if a line
            has another count of numbers than 5 (a box), 1 + 2k, k >= 3 (a polygon) or what
            ``kpt_shape`` says; or if a class is not among the names.

    Source:
        https://docs.ultralytics.com/datasets/detect/ (/segment/, /pose/); ultralytics/data/utils.py
    """
    given = Path(path).absolute()
    root = given.parent if given.is_file() else given
    file = given if given.is_file() else _config_of(root)
    config = None if file is None else YoloConfig(file)
    findings: list[Finding] = []
    if images is not None:
        folder = Path(images).absolute()
        splits = {"train": Split([folder], list_images(folder))}
        labels = _Labels(folder, root / "labels" if (root / "labels").is_dir() else root)
    else:
        splits, findings = ({}, []) if config is None else config.splits()
        splits = splits or _splits_of_folder(root, findings)
        labels = _Labels()
    names = (config and config.names()) or _names_beside(root, splits, labels)
    keypoints = None if config is None else config.num_keypoints()
    reader = _Reader(root, names, keypoints, labels)
    return reader.read(splits, findings)


def _config_of(root: Path) -> Path | None:
    files = (root / name for name in CONFIG_NAMES)
    return next((file for file in files if file.is_file()), None)


def _splits_of_folder(root: Path, findings: list[Finding]) -> dict[str, Split]:
    """Return the splits of a folder that no file describes."""
    folders = {"train": root}
    if (root / "labels").is_dir():
        parts = sorted(part.name for part in (root / "labels").iterdir() if part.is_dir())
        folders = {"train": root / "images"}
        if parts and not any((root / "labels").glob("*.txt")):
            folders = {part: root / "images" / part for part in parts}
    elif parts := sorted(place.parent.name for place in root.glob("*/labels") if place.is_dir()):
        folders = {part: root / part / "images" for part in parts}
    elif findings or not any((root / name).is_file() for name in _NAMES_FILES):
        raise DataError(
            f"{root}: no YOLO data set: expected data.yaml whose train/val name folders that are "
            "there, or a folder labels/ beside images/"
            + "".join(f"; {finding.message}" for finding in findings)
        )
    splits = {key: Split([place], list_images(place)) for key, place in folders.items()}
    for split in splits.values():
        if not split.pictures:
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


class _Labels:
    """Knows the label file of each picture: the one place for it."""

    def __init__(self, images: Path | None = None, labels: Path | None = None) -> None:
        self._images, self._labels = images, labels

    def of_folder(self, folder: Path) -> Path:
        """Return the label folder of an image folder."""
        if self._labels is not None:
            return self._labels
        return _swapped(folder, "images", "labels")

    def of(self, picture: Path) -> Path:
        """Return the label file of a picture, there or not."""
        if self._images is not None and self._labels is not None:
            return (self._labels / picture.relative_to(self._images)).with_suffix(".txt")
        place = _swapped(picture.parent, "images", "labels") / f"{picture.stem}.txt"
        beside = picture.with_suffix(".txt")
        return beside if not place.is_file() and beside.is_file() else place

    def has_picture(self, label: Path) -> bool:
        """Whether there is a picture whose label file this might be."""
        places = [label.parent, _swapped(label.parent, "labels", "images")]
        if self._images is not None and self._labels is not None:
            places = [self._images / label.relative_to(self._labels).parent]
        endings = [*IMAGE_ENDINGS, *(ending.upper() for ending in IMAGE_ENDINGS)]
        return any((place / f"{label.stem}{end}").is_file() for place in places for end in endings)


def _swapped(folder: Path, old: str, new: str) -> Path:
    """Replace the last part called ``old``."""
    parts = list(folder.parts)
    if old not in parts:
        return folder
    index = len(parts) - 1 - parts[::-1].index(old)
    return Path(*parts[:index], new, *parts[index + 1 :])


class _Ids:
    """Hands out ids: those of the file that `write_dataset` leaves, or else counted from 1."""

    def __init__(self, root: Path, names: list[str]) -> None:
        self.categories = list(range(1, len(names) + 1))
        self.annotations = count(1)
        self._images: dict[str, int] = {}
        self._root = root
        file = root / IDS_FILE
        if file.is_file():
            entry = Fields(load_json(file), str(file))
            categories = Fields(entry.values.get("categories"), f"{file}: categories")
            if set(categories.values) == set(names):
                self.categories = [categories.integer(name) for name in names]
            known = Fields(entry.values.get("images"), f"{file}: images")
            self._images = {name: known.integer(name) for name in known.values}
        self._next = count(max(self._images.values(), default=0) + 1)

    def image(self, path: Path) -> int:
        name = path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else ""
        return self._images[name] if name in self._images else next(self._next)


class _Reader:
    """Reads the splits of one data set, which share names and ids."""

    def __init__(
        self, root: Path, names: list[str], keypoints: tuple[int, int] | None, labels: _Labels
    ) -> None:
        self._root, self._keypoints, self._labels = root, keypoints, labels
        self._ids = _Ids(root, names)
        self._categories = tuple(
            Category(number, name) for number, name in zip(self._ids.categories, names, strict=True)
        )

    def read(self, splits: dict[str, Split], findings: list[Finding]) -> dict[str, Dataset]:
        own = (self._root / IDS_FILE).is_file()
        known: dict[tuple[Path, ...], str] = {}
        for key, split in splits.items():
            first = known.setdefault(tuple(split.pictures), key)
            if first != key and not own:
                note = f"{key} names the same pictures as {first}: they were read once"
                findings.append(Finding("same-split", "warning", note, key))
        read = {key: self._read_split(splits[key]) for key in known.values()}
        first = next(iter(read))
        read[first] = replace(read[first], findings=(*findings, *read[first].findings))
        return read

    def _read_split(self, split: Split) -> Dataset:
        records = []
        base = self._base(split)
        for path in split.pictures:
            try:
                image_hw = image_hw_of(path)
            except ImageError as error:
                raise DataError(f"YOLO boxes need the image's size: {error}") from error
            file = self._labels.of(path)
            objects = tuple(self._read_labels(file, image_hw)) if file.is_file() else ()
            name = path.relative_to(base).as_posix()
            records.append(ImageRecord(self._ids.image(path), name, path, image_hw, objects))
        alone = tuple(note for folder in split.folders for note in self._labels_alone(folder))
        return Dataset(tuple(records), self._categories, findings=alone)

    def _base(self, split: Split) -> Path:
        """Return the folder that the names of a split start at."""
        one = split.folders[0] if len(split.folders) == 1 else self._root
        if all(path.is_relative_to(one) for path in split.pictures):
            return one
        return Path(os.path.commonpath([path.parent for path in split.pictures]))

    def _labels_alone(self, folder: Path) -> Iterator[Finding]:
        place = self._labels.of_folder(folder)
        for file in sorted(place.rglob("*.txt")) if place.is_dir() else []:
            if self._labels.has_picture(file) or not _starts_with_number(file):
                continue
            name = file.relative_to(place).as_posix()
            message = f"{file} labels an image that is not there"
            yield Finding("missing-file", "error", message, name)

    def _read_labels(self, file: Path, image_hw: tuple[int, int]) -> Iterator[Annotation]:
        for index, line in enumerate(read_text(file).splitlines(), start=1):
            if not line.split():
                continue
            where = f"{file}: line {index}"
            number, values = _parse_line(line.split(), where, self._keypoints)
            if not 0 <= number < len(self._categories):
                raise DataError(
                    f"{where}: class {number}, but there are {len(self._categories)} class names"
                )
            polygons: Polygons | None = None
            extra: dict[str, object] = {}
            if self._keypoints is not None:
                extra = _keypoints(values[4:], self._keypoints[1], image_hw)
            if self._keypoints is not None or len(values) == 4:
                xywh = _to_pixels(values[:4], image_hw, where)
            else:
                polygons = (_ring_to_pixels(values, image_hw),)
                xywh = polygons_xywh(polygons)
            category = self._categories[number].id
            yield Annotation(next(self._ids.annotations), category, xywh, polygons, extra=extra)


def _starts_with_number(file: Path) -> bool:
    """Tell labels from notes (classes.txt, README) that lie among them."""
    words = read_text(file).split(maxsplit=1)
    return bool(words) and words[0].isdecimal() and file.name not in _NAMES_FILES


def _keypoints(values: list[float], each: int, image_hw: tuple[int, int]) -> dict[str, object]:
    """Return COCO's fields; where YOLO has no visibility, a point at 0, 0 is one not labelled."""
    height, width = image_hw
    points: list[float] = []
    for start in range(0, len(values), each):
        x, y, *seen = values[start : start + each]
        points += [
            _decimal(x * width),
            _decimal(y * height),
            int(seen[0] if seen else 2 * (x != 0 or y != 0)),
        ]
    return {"keypoints": points, "num_keypoints": sum(seen > 0 for seen in points[2::3])}


def _parse_line(
    words: list[str], where: str, keypoints: tuple[int, int] | None
) -> tuple[int, list[float]]:
    if keypoints is not None and len(words) != 5 + keypoints[0] * keypoints[1]:
        raise DataError(
            f"{where}: {len(words)} numbers; expected {5 + keypoints[0] * keypoints[1]}: a box and "
            f"{keypoints[0]} key points of {keypoints[1]}, as kpt_shape says"
        )
    if keypoints is None and len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise DataError(
            f"{where}: {len(words)} numbers; expected 5 (class, x and y of the centre, width, "
            "height) or a polygon of 1 + 2k with k >= 3. Is there a confidence at the end, or is "
            "the class missing?"
        )
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        raise DataError(f"{where}: expected numbers, got {' '.join(words)!r:.80}") from error
    if not all(map(math.isfinite, numbers)) or numbers[0] != int(numbers[0]):
        raise DataError(
            f"{where}: expected a whole class number and finite coordinates, got "
            f"{' '.join(words)!r:.80}"
        )
    return int(numbers[0]), numbers[1:]


def _to_pixels(
    values: list[float], image_hw: tuple[int, int], where: str
) -> tuple[float, float, float, float]:
    height, width = image_hw
    cx, cy, w, h = values[0] * width, values[1] * height, values[2] * width, values[3] * height
    if w < 0 or h < 0:
        raise DataError(f"{where}: width and height must not be negative")
    return (_decimal(cx - w / 2), _decimal(cy - h / 2), _decimal(w), _decimal(h))


def _ring_to_pixels(values: list[float], image_hw: tuple[int, int]) -> tuple[float, ...]:
    height, width = image_hw
    return tuple(
        _decimal(value * (height if index % 2 else width)) for index, value in enumerate(values)
    )


def _decimal(value: float) -> float:
    """Round to 1e-9 pixel; ``+ 0.0`` turns -0.0 into 0.0."""
    return round(value, 9) + 0.0
