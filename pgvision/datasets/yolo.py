"""YOLO folders, read: ``data.yaml`` or ``labels/``, boxes and polygons.

Supervision's reader is not used: it keeps float32 (a box of 113.92 comes back as 113.91999), takes
a line of 6 numbers for a box and a line of 8 for a polygon of 3 corners without a word, and turns
polygons into masks with rounded corners.
"""

import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import yaml

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
from pgvision.errors import DataError, ImageError

IDS_FILE = "coco_ids.json"
"""Beside data.yaml: the COCO ids that label files have no room for."""

_NOT_SPLITS = {"path", "names", "nc", "download", "roboflow", "kpt_shape", "flip_idx", "yaml_file"}


def read_yolo(path: str | Path, *, images: str | Path | None = None) -> dict[str, Dataset]:
    """Read a YOLO data set.

    Args:
        path: ``data.yaml``, or its folder, or a folder with ``labels/`` and ``images/``.
        images: Image folder, if the labels in ``labels/`` are of images elsewhere.

    Returns:
        One data set per split, in the order of the file; a split is called ``"train"`` if nothing
        names it. Coordinates are rounded to 1e-9 pixel: what was written from decimal pixels comes
        back as the same number.

    Raises:
        DataError: If a line has another count of numbers than 5 (a box) or 1 + 2k, k >= 3 (a
            polygon), a class is not among the names, or a folder lies outside the data set.

    Source:
        https://docs.ultralytics.com/datasets/detect/ and /segment/
    """
    given = Path(path).absolute()
    root = given.parent if given.is_file() else given
    config = _read_config(given if given.is_file() else _config_of(root))
    folders = _split_folders(config, root, None if images is None else Path(images))
    names = _names(config, root, [labels for _, labels in folders.values()])
    ids = _Ids(root, names)
    splits = {
        split: _read_split(image_dir, label_dir, names, ids)
        for split, (image_dir, label_dir) in folders.items()
    }
    return {split: data for split, data in splits.items() if data is not None}


def _config_of(root: Path) -> Path | None:
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if (root / name).is_file():
            return root / name
    return None


def _read_config(file: Path | None) -> Fields | None:
    if file is None:
        return None
    try:
        value = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        raise DataError(f"{file}: not YAML that can be read: {error}") from error
    return Fields(value, str(file))


def _split_folders(
    config: Fields | None, root: Path, images: Path | None
) -> dict[str, tuple[Path, Path]]:
    """Return the image and label folder of each split."""
    if images is not None:
        return {"train": (images, root / "labels" if (root / "labels").is_dir() else root)}
    found: dict[str, tuple[Path, Path]] = {}
    if config is not None:
        for key, value in config.values.items():
            if key in _NOT_SPLITS or not isinstance(value, str) or not value:
                continue
            folder = _inside(value, root, config)
            if folder.is_dir() and folder not in [image_dir for image_dir, _ in found.values()]:
                found[key] = (folder, _labels_of(folder))
    if not found and (root / "labels").is_dir():
        parts = sorted(part.name for part in (root / "labels").iterdir() if part.is_dir())
        if parts and not any((root / "labels").glob("*.txt")):
            return {part: (root / "images" / part, root / "labels" / part) for part in parts}
        return {"train": (root / "images", root / "labels")}
    if not found:
        raise DataError(
            f"{root}: no YOLO data set: expected data.yaml whose train/val name folders that are "
            "there, or a folder labels/ beside images/"
        )
    return found


def _inside(value: str, root: Path, config: Fields) -> Path:
    """Place a folder that data.yaml names, and keep it inside the data set."""
    base = config.values.get("path")
    parts = [part for part in Path(value).parts if part != "."]
    # Roboflow writes ../train/images beside train/images: the first step up is a known slip.
    parts = parts[1:] if parts[:1] == [".."] else parts
    root = root.absolute()
    candidates = [root.joinpath(*parts)]
    if isinstance(base, str):
        candidates.append(root.joinpath(base, *parts))
    inside = [
        folder
        for folder in candidates
        if folder.is_relative_to(root) and ".." not in folder.relative_to(root).parts
    ]
    if inside:
        return next((folder for folder in inside if folder.is_dir()), inside[0])
    raise DataError(
        f"{config.where}: folder {value!r} lies outside the data set's folder {root}; "
        "move it in, or name the image folder (images=...)"
    )


def _labels_of(image_dir: Path) -> Path:
    """Return the label folder of an image folder: ``images`` becomes ``labels``, as in YOLO."""
    parts = list(image_dir.parts)
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] == "images":
            return Path(*parts[:index], "labels", *parts[index + 1 :])
    return image_dir


def _names(config: Fields | None, root: Path, labels: list[Path]) -> list[str]:
    if config is not None and "names" in config:
        value = config.values["names"]
        if isinstance(value, dict):
            by_number = {str(key): str(name) for key, name in value.items()}
            if set(by_number) != set(map(str, range(len(value)))):
                raise config.fail("names", "names numbered from 0 without gaps")
            return [by_number[str(index)] for index in range(len(value))]
        return [str(name) for name in config.items("names")]
    for file in (root / "classes.txt", *(folder / "classes.txt" for folder in labels)):
        if file.is_file():
            return [line.strip() for line in read_text(file).splitlines() if line.strip()]
    raise DataError(
        f"{root}: class names are missing: expected 'names' in data.yaml, or classes.txt with one "
        "name a line"
    )


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


def _read_split(image_dir: Path, label_dir: Path, names: list[str], ids: _Ids) -> Dataset | None:
    images = list_images(image_dir) if image_dir.is_dir() else []
    findings = tuple(_labels_alone(image_dir, label_dir))
    if not images and not findings:
        return None
    if not images:
        raise DataError(f"{image_dir}: expected the images of {label_dir}, found none")
    records = []
    for path in images:
        name = path.relative_to(image_dir)
        try:
            image_hw = image_hw_of(path)
        except ImageError as error:
            raise DataError(f"YOLO boxes need the image's size: {error}") from error
        file = label_dir / name.with_suffix(".txt")
        objects = tuple(_read_labels(file, image_hw, ids, len(names))) if file.is_file() else ()
        records.append(ImageRecord(ids.image(path), name.as_posix(), path, image_hw, objects))
    categories = tuple(
        Category(number, name) for number, name in zip(ids.categories, names, strict=True)
    )
    return Dataset(images=tuple(records), categories=categories, findings=findings)


def _labels_alone(image_dir: Path, label_dir: Path) -> Iterator[Finding]:
    for file in sorted(label_dir.rglob("*.txt")) if label_dir.is_dir() else []:
        name = file.relative_to(label_dir)
        endings = [*IMAGE_ENDINGS, *(ending.upper() for ending in IMAGE_ENDINGS)]
        if name.name == "classes.txt" or any(
            (image_dir / name.with_suffix(ending)).is_file() for ending in endings
        ):
            continue
        yield Finding(
            "missing-file", "error", f"{file} labels an image that is not there", name.as_posix()
        )


def _read_labels(
    file: Path, image_hw: tuple[int, int], ids: _Ids, num_classes: int
) -> Iterator[Annotation]:
    for index, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.split():
            continue
        where = f"{file}: line {index}"
        number, values = _parse_line(line.split(), where)
        if not 0 <= number < num_classes:
            raise DataError(f"{where}: class {number}, but there are {num_classes} class names")
        polygons: Polygons | None = None
        if len(values) == 4:
            xywh = _to_pixels(values, image_hw, where)
        else:
            polygons = (_ring_to_pixels(values, image_hw),)
            xywh = polygons_xywh(polygons)
        yield Annotation(next(ids.annotations), ids.categories[number], xywh, polygons)


def _parse_line(words: list[str], where: str) -> tuple[int, list[float]]:
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
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
