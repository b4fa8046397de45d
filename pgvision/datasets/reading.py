"""Open a data set of any of the five formats."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Literal

from pgvision.coco import holds_objects
from pgvision.coco.stream import file_members
from pgvision.datasets.coco import OnError, read_coco
from pgvision.datasets.examples import Convention, MaskCodec
from pgvision.datasets.jsonl import read_jsonl
from pgvision.datasets.labelme import read_labelme
from pgvision.datasets.records import Category, Dataset
from pgvision.datasets.voc import read_voc
from pgvision.datasets.yolo import read_yolo
from pgvision.datasets.yolo_config import CONFIG_NAMES
from pgvision.errors import DataError, OptionError, SourceError

Format = Literal["coco", "yolo", "voc", "labelme", "jsonl"]
FORMATS: tuple[Format, ...] = ("coco", "yolo", "voc", "labelme", "jsonl")


def read_dataset(
    path: str | Path,
    *,
    format: Format | None = None,  # noqa: A002  (the word users know)
    images: str | Path | None = None,
    split: str | None = None,
    codec: MaskCodec | None = None,
    convention: Convention = "1024",
) -> Dataset:
    """Read a data set: COCO, YOLO, Pascal VOC, LabelMe or JSONL.

    Args:
        path: Annotation file or folder.
        format: One of the five; seen from the files if not given.
        images: Image folder; looked for where the format has it if not given.
        split: Which part, where there are several. Without it the parts of a YOLO folder are put
            together, their images named ``split/name``.
        codec: For JSONL with mask codes.
        convention: For JSONL: bins of a side.

    Raises:
        SourceError: If there is nothing at ``path``.
        DataError: If the format cannot be told, the files are broken, or there are several parts
            whose ids collide.
        OptionError: If ``format`` or ``split`` is none that is there.

    Example:
        >>> import tempfile
        >>> read_dataset(Path(tempfile.mkdtemp()) / "none.json")
        Traceback (most recent call last):
        pgvision.errors.SourceError: ...none.json: no such file or folder
    """
    parts = read_splits(
        path, format=format, images=images, codec=codec, convention=convention, split=split
    )
    if split is not None:
        if split not in parts:
            raise OptionError(f"split={split!r}: {path} has {', '.join(parts)}")
        return parts[split]
    if len(parts) == 1:
        return next(iter(parts.values()))
    return _join(parts, Path(path))


def read_splits(
    path: str | Path,
    *,
    format: Format | None = None,  # noqa: A002
    images: str | Path | None = None,
    codec: MaskCodec | None = None,
    convention: Convention = "1024",
    split: str | None = None,
    on_error: OnError = "raise",
) -> dict[str, Dataset]:
    """Read a data set as its splits; a file is one split, called as the file.

    Args:
        path: Annotation file or folder. A folder of several COCO or JSONL files gives one split
            for each.
        format: As `read_dataset`.
        images: As `read_dataset`.
        codec: As `read_dataset`.
        convention: As `read_dataset`.
        split: The one that is wanted: where each has a file of its own, the others are not read.
        on_error: For COCO: ``"record"`` leaves broken entries out and has a finding for each.

    Raises:
        SourceError: As `read_dataset`.
        DataError: As `read_dataset`.
        OptionError: As `read_dataset`.
    """
    given = Path(path)
    if not given.exists():
        raise SourceError(f"{given}: no such file or folder")
    if format is not None and format not in FORMATS:
        raise OptionError(f"format={format!r}: expected one of {', '.join(FORMATS)}")
    chosen = format or detect_format(given)
    if chosen == "yolo":
        return read_yolo(given, images=images)
    if chosen == "voc":
        return _share_ids(
            {key: read_voc(part, images=images) for key, part in _part_folders(given, ".xml")}
        )
    if chosen == "labelme":
        return _share_ids(
            {key: read_labelme(part, images=images) for key, part in _part_folders(given, ".json")}
        )
    files = _files_of(given, ".json" if chosen == "coco" else ".jsonl")
    files = {split: files[split]} if split in files else files
    if chosen == "coco":
        return {
            name: read_coco(file, images=images, on_error=on_error) for name, file in files.items()
        }
    return {
        name: read_jsonl(file, images=images, codec=codec, convention=convention)
        for name, file in files.items()
    }


def _part_folders(given: Path, ending: str) -> list[tuple[str, Path]]:
    """Return the folders of one file an image, by split: ``train/`` and the like are splits."""
    places = (given, *(given / name for name in ("Annotations", "annotations", "labels")))
    for place in places if given.is_dir() else ():
        if next(place.glob(f"*{ending}"), None):
            return [(given.stem, given)]
    parts = [
        (part.name, part)
        for place in (given / "labels", given)
        if place.is_dir()
        for part in sorted(place.iterdir())
        if part.is_dir() and next(part.glob(f"*{ending}"), None)
    ]
    return parts or [(given.stem, given)]


def _share_ids(parts: dict[str, Dataset]) -> dict[str, Dataset]:
    """Give parts whose files have no ids one list of classes, and ids that do not collide."""
    if len(parts) == 1:
        return parts
    names = sorted({name for part in parts.values() for name in part.classes})
    numbers = {name: number for number, name in enumerate(names, start=1)}
    categories = tuple(Category(number, name) for name, number in numbers.items())
    shared: dict[str, Dataset] = {}
    images, objects = count(1), count(1)
    for key, part in parts.items():
        records = []
        for image in part.images:
            items = tuple(
                replace(item, id=next(objects), category_id=numbers[part.names[item.category_id]])
                for item in image.objects
            )
            records.append(replace(image, id=next(images), objects=items))
        shared[key] = replace(part, images=tuple(records), categories=categories)
    return shared


def _files_of(given: Path, ending: str) -> dict[str, Path]:
    """Find the files of a folder by the names of their splits: their own, or their folders'."""
    if given.is_file():
        return {given.stem: given}
    for pattern in ("*", "annotations/*", "*/*"):
        files = sorted(given.glob(f"{pattern}{ending}"))
        # Captions lie beside the instances of the same pictures, settings beside examples.
        files = [file for file in files if ending != ".json" or holds_objects(file)] or files
        folders = [file.parent.name for file in files]
        if files and pattern == "*/*" and len(set(folders)) == len(files):  # one file a split
            return dict(zip(folders, files, strict=True))
        if files:
            return {file.stem: file for file in files}
    raise DataError(f"{given}: expected *{ending} files, found none")


def detect_format(path: str | Path) -> Format:
    """Tell a data set's format from its files.

    Args:
        path: Annotation file or folder.

    Raises:
        DataError: If it looks like none of the five.

    Example:
        >>> detect_format("labels/train.jsonl")
        'jsonl'
    """
    given = Path(path)
    if not given.is_dir():
        return _file_format(given)
    if any((given / name).is_file() for name in CONFIG_NAMES):
        return "yolo"
    # Examples beside a COCO file are made from it, and hold less.
    if any(given.glob("*.jsonl")) and not any(map(holds_objects, sorted(given.glob("*.json")))):
        return "jsonl"
    xml = ("*.xml", "Annotations/**/*.xml", "annotations/**/*.xml")
    if any(next(given.glob(pattern), None) for pattern in xml):
        return "voc"
    if any((given / name).is_file() for name in ("classes.txt", "obj.names")):
        return "yolo"
    if (given / "labels").is_dir():
        return _labels_format(given / "labels")
    for folder in (given, given / "annotations"):
        for file in sorted(folder.glob("*.json")):
            return _json_format(file)
    if any(map(holds_objects, sorted(given.glob("*/*.json")))):
        return "coco"
    parts = [part for part in sorted(given.iterdir()) if part.is_dir()]
    if any((part / "labels").is_dir() for part in parts):
        return "yolo"
    if any(next(part.glob("*.xml"), None) for part in parts):
        return "voc"
    for file in sorted(given.glob("*/*.json")):
        if _json_format(file) == "labelme":
            return "labelme"
    raise DataError(_unknown(given))


def _labels_format(labels: Path) -> Format:
    """Tell by what lies in ``labels/``: all tools call it so."""
    if next(labels.rglob("*.txt"), None) is None:
        if next(labels.rglob("*.xml"), None):
            return "voc"
        if file := next(labels.rglob("*.json"), None):
            return _json_format(file)
    return "yolo"


def _file_format(given: Path) -> Format:
    by_ending: dict[str, Format] = {
        ".jsonl": "jsonl",
        ".xml": "voc",
        ".yaml": "yolo",
        ".yml": "yolo",
        ".data": "yolo",
    }
    if given.suffix.lower() == ".json":
        return _json_format(given)
    if given.suffix.lower() not in by_ending:
        raise DataError(_unknown(given))
    return by_ending[given.suffix.lower()]


def _json_format(file: Path) -> Format:
    """Look at the first keys only: a COCO file may be hundreds of megabytes."""
    try:
        for key, _, _ in file_members(file):
            if key in ("shapes", "imagePath", "imageData"):
                return "labelme"
            if key in ("images", "annotations", "categories"):
                return "coco"
    except DataError:
        if not file.is_file():
            raise
    return "coco"


def _unknown(given: Path) -> str:
    return (
        f"{given}: the format cannot be told; expected a COCO or LabelMe .json, a .jsonl, VOC .xml "
        "files, or a YOLO folder with data.yaml or labels/. Say which (format=...)"
    )


def _join(parts: Mapping[str, Dataset], path: Path) -> Dataset:
    first = next(iter(parts.values()))
    if any(part.categories != first.categories for part in parts.values()):
        raise DataError(
            f"{path}: parts {', '.join(parts)} have other categories; name one (split=)"
        )
    images = tuple(
        replace(image, file_name=f"{split}/{image.file_name}")
        for split, part in parts.items()
        for image in part.images
    )
    findings = tuple(
        replace(finding, split=split) for split, part in parts.items() for finding in part.findings
    )
    try:
        return replace(first, images=images, findings=findings)
    except DataError as error:
        raise DataError(
            f"{path}: holds the parts {', '.join(parts)}, which number their images alike "
            f"({error}); name one (split=...) or read them apart (read_splits)"
        ) from error
