"""Write a data set as COCO, YOLO or JSONL: aside first, then renamed."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from pgvision.coco import relative_name
from pgvision.datasets.coco import write_coco_file
from pgvision.datasets.examples import ExampleOptions, MaskCodec, example_of, targets_of
from pgvision.datasets.image_files import image_path, posix_name
from pgvision.datasets.jsonl import example_line
from pgvision.datasets.losses import Losses, lost_in_examples, lost_in_yolo
from pgvision.datasets.records import Dataset, Finding, ImageRecord
from pgvision.datasets.yolo import IDS_FILE
from pgvision.datasets.yolo_labels import label_text
from pgvision.errors import DataError, OptionError
from pgvision.files import replaced_path, write_text

WriteFormat = Literal["coco", "yolo", "jsonl"]
_FILE_OF = {"coco": ("annotations", ".json"), "jsonl": ("examples", ".jsonl")}


@dataclass(frozen=True, kw_only=True)
class WriteReport:
    """What was written.

    Attributes:
        path: The file or folder.
        num_images: Images that are in what was written.
        num_objects: Objects that are.
        num_copied: Image files placed in the folder.
        findings: What the format could not hold, counted by kind, and images that were not there
            to be copied. `Finding.is_loss` tells images and objects from fields.
    """

    path: Path
    num_images: int
    num_objects: int
    num_copied: int
    findings: tuple[Finding, ...]


def write_dataset(
    dataset: Dataset | Mapping[str, Dataset],
    out: str | Path,
    *,
    format: WriteFormat,  # noqa: A002  (the word users know)
    options: ExampleOptions | None = None,
    codec: MaskCodec | None = None,
    images: Literal["copy", "link", "none"] = "copy",
) -> WriteReport:
    """Write a data set, or its splits.

    A folder gets the annotations and the images: COCO ``annotations.json`` and ``images/``, JSONL
    ``examples.jsonl`` and ``images/``, YOLO ``data.yaml``, ``labels/`` and ``images/``. With
    splits, each has its own file and folder (``train.json``, ``train/``; YOLO ``images/train``).

    Args:
        dataset: The data set, or one for each split.
        out: A folder that is not there or empty; or a file ``*.json`` or ``*.jsonl`` for the
            annotations alone, which is replaced. It names the images relative to its own folder.
        format: ``"coco"``, ``"yolo"`` or ``"jsonl"``.
        options: For JSONL, how objects become text; for YOLO, ``task="segment"`` writes polygons.
        codec: For JSONL with ``task="segment"``.
        images: Whether to copy image files into the folder, link to them, or leave them out.

    Returns:
        What was written and what the format could not hold.

    Raises:
        OptionError: If the format or ``images`` is unknown, or ``out`` holds files already.
        DataError: If two images would share a place, or a mask is needed and missing.

    Example:
        >>> from pgvision.datasets import Category, ImageRecord
        >>> shot = ImageRecord(7, "a.jpg", Path("a.jpg"), (480, 640))
        >>> data = Dataset(images=(shot,), categories=(Category(3, "helmet"),))
        >>> out = Path(tempfile.mkdtemp()) / "helmets.json"
        >>> write_dataset(data, out, format="coco").num_images
        1
    """
    if format not in ("coco", "yolo", "jsonl"):
        raise OptionError(f"format={format!r}: expected coco, yolo or jsonl")
    if images not in ("copy", "link", "none"):
        raise OptionError(f"images={images!r}: expected copy, link or none")
    target, chosen = Path(out), options or ExampleOptions()
    parts = {"": dataset} if isinstance(dataset, Dataset) else dict(dataset)
    if format != "yolo" and target.suffix == _FILE_OF[format][1] and not target.is_dir():
        if len(parts) > 1:
            raise OptionError(f"{target}: one file cannot hold {len(parts)} splits; name a folder")
        (part,) = parts.values()
        names = {image.id: relative_name(image.path, target) for image in part.images}
        return _report(target, [_write_file(target, part, names, format, chosen, codec)], 0, [])
    missing: list[Finding] = []
    with _new_folder(target) as folder:
        places = _places(parts, format)
        if format == "yolo":
            losses = _write_yolo(parts, folder, places, chosen)
        else:
            stem, ending = _FILE_OF[format]
            losses = [
                _write_file(
                    folder / f"{split or stem}{ending}",
                    part,
                    _names_in(part, target, images),
                    format,
                    chosen,
                    codec,
                    split,
                )
                for split, part in parts.items()
            ]
        copied = sum(
            _place_images(part, folder / places[split], split, images, missing)
            for split, part in parts.items()
        )
    return _report(target, losses, copied, missing)


def _names_in(part: Dataset, target: Path, how: str) -> dict[int, str]:
    """Name the images of a folder: as they are copied into it, or from there to where they lie."""
    if how == "none":
        return {image.id: relative_name(image.path, target / "a") for image in part.images}
    return {image.id: _relative_name(image) for image in part.images}


def _write_file(
    path: Path,
    dataset: Dataset,
    names: Mapping[int, str],
    format: WriteFormat,  # noqa: A002
    options: ExampleOptions,
    codec: MaskCodec | None,
    split: str = "",
) -> Losses:
    if format == "coco":
        write_coco_file(path, dataset, names)
        losses = Losses(split)
        losses.num_images, losses.num_objects = len(dataset.images), dataset.num_objects
        return losses
    if options.task == "segment" and codec is None:
        raise OptionError("task='segment' needs codec=..., which turns masks into codes")
    targets = {image.id: targets_of(image, dataset, options) for image in dataset.images}
    with replaced_path(path) as aside, aside.open("w", encoding="utf-8") as file:
        for image in dataset.images:
            for target in targets[image.id]:
                example = example_of(target, image, dataset, options, codec)
                file.write(example_line(names[image.id], example.prefix, example.suffix))
    return lost_in_examples(targets, dataset, options, split)


def _report(
    target: Path, losses: Sequence[Losses], copied: int, missing: list[Finding]
) -> WriteReport:
    return WriteReport(
        path=target,
        num_images=sum(part.num_images for part in losses),
        num_objects=sum(part.num_objects for part in losses),
        num_copied=copied,
        findings=(*missing, *(finding for part in losses for finding in part.findings())),
    )


def _places(parts: Mapping[str, Dataset], format: WriteFormat) -> dict[str, str]:  # noqa: A002
    """Return the image folder of each split, relative to the whole."""
    for split in parts:
        if split != Path(split).name or split.startswith("."):
            raise OptionError(f"split {split!r}: expected a plain name for a folder")
    if format == "yolo":
        return {split: f"images/{split}".rstrip("/") for split in parts}
    return {split: split or "images" for split in parts}


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder beside ``target`` that takes its place if all goes well."""
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise OptionError(f"{target}: already holds files; name a new or empty folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield aside
        aside.chmod(0o755)
        aside.replace(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _relative_name(image: ImageRecord) -> str:
    """Return the name inside the new image folder: no climbing, and of an absolute one the end."""
    name = posix_name(image.file_name, image.path.parent)
    if Path(name).is_absolute():
        return Path(name).name
    return "/".join(part for part in name.split("/") if part not in ("..", "."))


def _place_images(
    part: Dataset, folder: Path, split: str, how: str, findings: list[Finding]
) -> int:
    if how == "none":
        return 0
    copied = 0
    for image in part.images:
        target = image_path(_relative_name(image), folder, where="data set")
        if not image.path.is_file():
            message = f"{image.path} is not there; it was described and not copied"
            findings.append(Finding("missing-file", "error", message, image.file_name, split))
            continue
        if target.exists() or target.is_symlink():
            raise DataError(f"two images of the data set are called {image.file_name!r}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if how == "link":
            target.symlink_to(image.path.resolve())
        else:
            shutil.copyfile(image.path, target)
        copied += 1
    return copied


def _write_yolo(
    parts: Mapping[str, Dataset], folder: Path, places: Mapping[str, str], options: ExampleOptions
) -> list[Losses]:
    first = next(iter(parts.values()))
    if any(part.categories != first.categories for part in parts.values()):
        raise DataError("YOLO splits share one list of names, but these have other categories")
    config: dict[str, object] = {split or "train": places[split] for split in parts}
    # Ultralytics asks for both keys, whatever the splits are called.
    only = next(iter(config.values()))
    config.setdefault("train", only)
    config.setdefault("val", config.get("valid", only))
    config["names"] = dict(enumerate(first.classes))
    numbers: dict[str, int] = {}
    for split, part in parts.items():
        labels = folder / places[split].replace("images", "labels", 1)
        for image in part.images:
            name = _relative_name(image)
            file = labels / Path(name).with_suffix(".txt")
            if file.exists():
                raise DataError(f"two images would share the label file {file.relative_to(folder)}")
            write_text(file, label_text(image, first, options.task))
            numbers[f"{places[split]}/{name}"] = image.id
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    write_text(folder / "data.yaml", text)
    categories = {category.name: category.id for category in first.categories}
    ids = {"categories": categories, "images": numbers}
    write_text(folder / IDS_FILE, json.dumps(ids, ensure_ascii=False))
    return [lost_in_yolo(part, options, split) for split, part in parts.items()]
