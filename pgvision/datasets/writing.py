"""Write a data set as COCO, YOLO or JSONL, atomically, and read it back to compare."""

import re
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Literal, get_args

import yaml

from pgvision.coco.checks import box_fault
from pgvision.coco.content import read_content
from pgvision.coco.writing import relative_name
from pgvision.datasets.coco import write_coco_file
from pgvision.datasets.dataset import Annotation, Dataset, Finding, ImageRecord, Rle
from pgvision.datasets.examples import (
    ExampleOptions,
    MaskCodec,
    example_line,
    examples_of,
    read_jsonl,
    with_extent,
)
from pgvision.datasets.image_names import IMAGE_ENDINGS
from pgvision.datasets.linter import size_mismatch
from pgvision.datasets.outlines import is_outside
from pgvision.datasets.reading import part_of
from pgvision.datasets.yolo import label_path, label_text, read_written_yolo
from pgvision.errors import DataError, ImageError, OptionError, require_choice
from pgvision.files import readable_name, replaced_path, write_text

WriteFormat = Literal["coco", "yolo", "jsonl"]
_FILE_OF = {"coco": ("annotations", ".json"), "jsonl": ("examples", ".jsonl")}
_ENDINGS = tuple(IMAGE_ENDINGS)
_SHOWN = 3  # examples in a message
_ROUNDING = 1e-6  # pixels
_Names = dict[int, str]


@dataclass(frozen=True, kw_only=True)
class WriteReport:
    """Result of `write_dataset`, counted by reading back what was written.

    Attributes:
        path: The file or folder.
        num_images: Images that are read back.
        num_objects: Objects that are read back.
        findings: What the format does not contain, counted by kind, and images that were not there
            to be copied. `Finding.is_loss` distinguishes images and objects from fields.
    """

    path: Path
    num_images: int
    num_objects: int
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
    """Write a data set, or its splits, read it back and compare.

    A folder gets the annotations and the images: COCO ``annotations.json`` and ``images/``, JSONL
    ``examples.jsonl`` and ``images/``, YOLO ``data.yaml``, ``labels/`` and ``images/``. With
    splits, each has its own file and folder (``train.json``, ``train/``; YOLO ``images/train``).

    Args:
        dataset: The data set, or one for each split.
        out: A folder that does not exist or is empty; or a file ``*.json`` or ``*.jsonl`` for the
            annotations alone, which is replaced. It names the images relative to its own folder.
        format: ``"coco"``, ``"yolo"`` or ``"jsonl"``.
        options: For JSONL, how objects become text; for YOLO, ``task="segment"`` writes polygons.
        codec: For JSONL with ``task="segment"``.
        images: Whether to copy image files into the folder, link to them, or leave them out.

    Returns:
        What was written and what the format does not contain.

    Raises:
        OptionError: If the format or ``images`` is unknown, ``out`` has files already, or there is
            no part.
        DataError: If two images would share a place, two classes have one name, a box is no box, or
            a mask is needed and missing.

    Example:
        >>> from pgvision.datasets import Category, ImageRecord
        >>> shot = ImageRecord(7, "a.jpg", Path("a.jpg"), (480, 640))
        >>> data = Dataset(images=(shot,), categories=(Category(3, "helmet"),))
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp()) / "helmets.json"
        >>> write_dataset(data, out, format="coco").num_images
        1
    """
    # 1. Check the options.
    require_choice("format", format, get_args(WriteFormat))
    require_choice("images", images, ("copy", "link", "none"))
    target, chosen = Path(out), options or ExampleOptions()
    if format == "jsonl" and chosen.task == "segment" and codec is None:
        raise OptionError("task='segment' needs codec=..., which turns masks into codes")
    # 2. One file.
    parts = {"": dataset} if isinstance(dataset, Dataset) else dict(dataset)
    _require_sound(parts, format)
    writer = _Writer(format, chosen, codec)
    if format != "yolo" and target.suffix.lower() == _FILE_OF[format][1] and not target.is_dir():
        if len(parts) > 1:
            raise OptionError(f"{target}: one file cannot hold {len(parts)} splits; name a folder")
        (part,) = parts.values()
        writer.write_file(target, part, _relative_names(part, target), "")
        return writer.report(target)
    # 3. A folder: written to a temporary one and renamed, so that an error leaves nothing.
    places = _places(parts, format)
    with _new_folder(target) as folder:
        for split, part in parts.items():
            writer.place_images(part, folder / places[split], split, images)
        if format == "yolo":
            writer.write_yolo(parts, folder, places)
        else:
            stem, ending = _FILE_OF[format]
            for split, part in parts.items():
                names = {image.id: _new_name(image) for image in part.images}
                if images == "none":
                    names = _relative_names(part, target / "a")
                writer.write_file(folder / f"{split or stem}{ending}", part, names, split)
    return writer.report(target)


def _require_sound(parts: Mapping[str, Dataset], format_: WriteFormat) -> None:
    """Refuse what no file can contain, before anything is written."""
    if not parts:
        raise OptionError("dataset: expected a data set or its splits by name, got none")
    if format_ == "yolo" and not any(part.classes for part in parts.values()):
        raise DataError("the data set has no class, and YOLO needs names; write COCO instead")
    for part in parts.values():
        names = Counter(part.classes)
        if twice := [name for name, count in names.items() if count > 1]:
            raise DataError(
                f"two classes are called {twice[0]!r}; merge them: "
                f"dataset.rename({{{twice[0]!r}: {twice[0]!r}}}) (--rename)"
            )
        endless = [i.file_name for i in part.images if not i.file_name.lower().endswith(_ENDINGS)]
        if format_ == "yolo" and endless:
            raise DataError(
                f"{len(endless)} image names have no ending that trainers list "
                f"({', '.join(endless[:_SHOWN])}); rename the files"
            )
        for image in part.images:
            for item in image.objects:
                if fault := box_fault(item.xywh):
                    raise DataError(f"{image.file_name}: annotation {item.id}: box {fault}")


class _Writer:
    """Writes the parts of one data set and collects the report."""

    def __init__(
        self, format_: WriteFormat, options: ExampleOptions, codec: MaskCodec | None
    ) -> None:
        self._format, self._options, self._codec = format_, options, codec
        self._findings: list[Finding] = []
        self._num_images = self._num_objects = 0

    def report(self, path: Path) -> WriteReport:
        counts = {"num_images": self._num_images, "num_objects": self._num_objects}
        return WriteReport(path=path, findings=tuple(self._findings), **counts)

    def write_file(self, path: Path, dataset: Dataset, names: _Names, split: str) -> None:
        """Write a COCO or JSONL file and count what is in it."""
        if self._format == "coco":
            write_coco_file(path, dataset, names)
            # COCO keeps everything: counting is enough.
            content = read_content(path, where=str(path), outlines=False)
            content.problems.refuse("report this as a bug of pgvision", DataError)
            counts = (len(content.images), len(content))
            expected = (len(dataset.images), dataset.num_objects)
            if counts != expected:
                raise DataError(f"{path}: wrote {expected} images and objects, read back {counts}")
            self._add_counts(*counts)
            return
        with replaced_path(path) as aside, aside.open("w", encoding="utf-8") as file:
            for image in dataset.images:
                for example in examples_of(image, dataset, self._options, self._codec):
                    file.write(example_line(names[image.id], example.prefix, example.suffix))
        # Read the examples back; an empty file has none.
        after = None
        if path.stat().st_size:
            sizes = {names[image.id]: image.image_hw for image in dataset.images}
            convention = self._options.convention
            after = read_jsonl(path, convention=convention, known_hw=sizes)
        self._compare(dataset, after, names, split, bins=True)

    def write_yolo(
        self, parts: Mapping[str, Dataset], folder: Path, places: Mapping[str, str]
    ) -> None:
        """Write data.yaml and label files, and read the labels back."""
        # 1. Write data.yaml, with one list of names for all splits.
        names = list(dict.fromkeys(name for part in parts.values() for name in part.classes))
        config = {split or "train": places[split] for split in parts}
        self._add_needed_keys(config)
        content = {**config, "names": dict(enumerate(names))}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        write_text(folder / "data.yaml", text)
        # 2. Write one label file for each image.
        sizes: dict[str, dict[Path, tuple[int, int]]] = {}
        for split, part in parts.items():
            sizes[split] = {}
            numbers = {category.id: names.index(category.name) for category in part.categories}
            for image in part.images:
                name = f"{places[split]}/{_new_name(image)}"
                file = label_path(folder / name)
                if file.exists():
                    raise DataError(f"two images share the label file {file.relative_to(folder)}")
                write_text(file, label_text(image, numbers, self._options.task))
                sizes[split][folder / name] = image.image_hw
        # 3. Read everything back and compare.
        for split, after in read_written_yolo(folder, sizes).items():
            files = {image.id: _new_name(image) for image in parts[split].images}
            self._compare(parts[split], after, files, split, bins=False)

    def _add_needed_keys(self, config: dict[str, str]) -> None:
        """Add the keys ``train`` and ``val``, without which Ultralytics refuses data.yaml."""
        # The parts by their names (instances_val2017); a single part is its own validation.
        parts = {part_of(split): place for split, place in reversed(config.items())}
        only = next(iter(config.values()))
        config.setdefault("train", parts.get("train", parts.get(None, only)))
        config.setdefault("val", parts.get("valid", config["train"]))
        if config["val"] == config["train"]:
            message = (
                f"data.yaml: 'val' names {config['val']} too, because Ultralytics needs the key: "
                "figures on it are of images that were trained on. Hold a part back: --val 0.2"
            )
            self._findings.append(Finding("no-validation", "warning", message))

    def place_images(self, part: Dataset, folder: Path, split: str, how: str) -> None:
        """Copy or link the images of a part."""
        # Hidden names would be skipped by readers.
        renamed = [image.file_name for image in part.images if _is_hidden(image)]
        if renamed:
            message = (
                f"{len(renamed)} image names begin with a dot, which readers skip: written with _ "
                f"({', '.join(renamed[:3])})"
            )
            self._findings.append(Finding("not-kept", "warning", message, split=split))
        for image in part.images if how != "none" else ():
            target = folder / _new_name(image)
            # Annotations are kept without their image.
            if not image.path.is_file():
                message = f"{image.path} is not there; it was described and not copied"
                finding = Finding("missing-file", "error", message, image.file_name, split)
                self._findings.append(finding)
                continue
            if target.exists() or target.is_symlink():
                raise DataError(f"two images of the data set are called {image.file_name!r}")
            target.parent.mkdir(parents=True, exist_ok=True)
            if how == "link":
                target.symlink_to(image.path.resolve())
            else:
                shutil.copyfile(image.path, target)

    def _compare(
        self, before: Dataset, after: Dataset | None, names: _Names, split: str, *, bins: bool
    ) -> None:
        # Shares of the stated sides are other places in an image of another size (EXIF rotation).
        for image in before.images:
            with suppress(ImageError):
                self._findings += size_mismatch(image, split)
        if after is not None:
            self._add_counts(len(after.images), after.num_objects)
        self._findings += compare_datasets(
            before, after, names=names, options=self._options, bins=bins, split=split
        )

    def _add_counts(self, num_images: int, num_objects: int) -> None:
        self._num_images += num_images
        self._num_objects += num_objects


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
    """Yield a temporary folder next to ``target`` that is renamed to it on success."""
    # The current folder cannot be replaced, and its own name is not in ".".
    if target.is_file() or not target.name or (target.is_dir() and any(target.iterdir())):
        reason = "already holds files" if target.name else "is the current folder"
        raise OptionError(f"{target}: {reason}; name a new or empty folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{secrets.token_hex(4)}.{target.name[-40:]}")
    aside.mkdir()
    try:
        yield aside
        aside.replace(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _relative_names(dataset: Dataset, file: Path) -> _Names:
    """Return the names of images that stay where they are, relative to a new file."""
    return {i.id: readable_name(relative_name(i.path, file)) for i in dataset.images}


def _new_name(image: ImageRecord) -> str:
    """Return the name inside the new image folder: no ``..``, no folder of an absolute name."""
    name = image.file_name
    if "\\" in name and not (image.path.parent / name).is_file():
        name = PureWindowsPath(name).as_posix()
    if Path(name).is_absolute() or re.match(r"[A-Za-z]:/", name):
        name = Path(name).name
    parts = [part for part in name.split("/") if part not in ("..", ".", "")]
    return readable_name("/".join(f"_{p[1:]}" if p.startswith(".") else p for p in parts))


def _is_hidden(image: ImageRecord) -> bool:
    return any(part.startswith(".") and part.strip(".") for part in image.file_name.split("/"))


def compare_datasets(
    before: Dataset,
    after: Dataset | None,
    *,
    names: Mapping[int, str],
    options: ExampleOptions,
    bins: bool,
    split: str = "",
) -> list[Finding]:
    """List what a data set has lost on the way to a YOLO or JSONL file and back.

    Objects are counted by image and class, so that an error of a writer is found as the limit of a
    format is.

    Args:
        before: What was written.
        after: What is read back; None if the file is empty.
        names: Name of each image of ``before`` in the file, by id.
        options: Of the conversion, which explain losses.
        bins: Whether the file has boxes in location bins.
        split: Name of the split, for the findings.

    Returns:
        Images and objects that are missing (``lost``) and changes (``not-kept``), counted by kind.

    Example:
        >>> from pgvision.datasets import Category
        >>> crowd = Annotation(3, 1, (0.0, 0.0, 9.0, 9.0), iscrowd=True)
        >>> shot = ImageRecord(7, "a.jpg", Path("a.jpg"), (480, 640), (crowd,))
        >>> data = Dataset((shot,), (Category(1, "helmet"),))
        >>> empty = ImageRecord(7, "a.jpg", Path("a.jpg"), (480, 640))
        >>> without = Dataset((empty,), data.categories)
        >>> report = compare_datasets(
        ...     data, without, names={7: "a.jpg"}, options=ExampleOptions(), bins=False)
        >>> report[0].message
        '1 crowd regions were left out (a.jpg annotation 3)'
    """
    # 1. Compare the images and count their objects.
    losses = _Losses(split)
    back = {} if after is None else {image.file_name: image for image in after.images}
    names_back = {} if after is None else after.names
    for image in before.images:
        other = back.pop(names[image.id], None)
        if other is None:
            losses.add_image(image, options)
        left = Counter(names_back[item.category_id] for item in (other.objects if other else ()))
        losses.add_fields("images", image.extra)
        for item in image.objects:
            place = f"{image.file_name} annotation {item.id}"
            losses.add_fields("annotations", item.extra)
            if reason := _reason(item, image, options, bins=bins):
                losses.add(reason, place)
                continue
            name = before.names[item.category_id]
            left[name] -= 1
            if left[name] < 0:
                losses.add("objects were not read back", place)
            losses.add_changes(item, image, options.task, place, bins=bins)
        for _ in range(sum(count for count in left.values() if count > 0)):
            losses.add("objects were read back that were not written", image.file_name)
    # 2. Images that are left were not in the original.
    for name in back:
        losses.add("images were read back that were not written", name)
    # 3. Compare categories and top-level fields.
    for category in before.categories:
        losses.add_fields("categories", category.extra)
        if category.name not in names_back.values():
            losses.add("classes are in no prompt", category.name, is_loss=False)
    losses.add_fields("the data set", before.info)
    return losses.findings()


def _reason(item: Annotation, image: ImageRecord, options: ExampleOptions, *, bins: bool) -> str:
    """Return why a format cannot express an object, "" if it can."""
    if item.iscrowd:
        return "crowd regions were left out"
    if is_outside(item, image.image_hw):
        return "objects were left out: their boxes are outside the image"
    if bins and not with_extent([item], image, options):
        return "objects were left out: their boxes have no extent in bins"
    return ""


class _Losses:
    """Counts of what is lost, by kind, with the first examples."""

    def __init__(self, split: str) -> None:
        self._split = split
        self._counts: Counter[tuple[str, bool]] = Counter()
        self._examples: dict[tuple[str, bool], list[str]] = {}

    def add(self, what: str, where: str, *, is_loss: bool = True) -> None:
        """Count an image or object that is lost, or a field or change of one."""
        self._counts[what, is_loss] += 1
        shown = self._examples.setdefault((what, is_loss), [])
        if where not in shown and len(shown) < _SHOWN:
            shown.append(where)

    def add_image(self, image: ImageRecord, options: ExampleOptions) -> None:
        """Count an image that was not read back."""
        what = "images were not read back"
        if image.objects:
            what = "images were left out with all their objects"
        elif options.empty == "drop":
            what = "images were left out: they have no objects and empty='drop'"
        self.add(what, image.file_name, is_loss=bool(image.objects) or options.empty != "drop")

    def add_fields(self, owners: str, fields: Mapping[str, object]) -> None:
        """Count one owner of fields that the format lacks."""
        if fields:
            names = ", ".join(sorted(fields))
            self.add(f"{owners} lost fields of their own", names, is_loss=False)

    def add_changes(
        self, item: Annotation, image: ImageRecord, task: str, place: str, *, bins: bool
    ) -> None:
        """Count the changes of a written object."""
        changes = []
        left, top, right, bottom = item.xyxy
        if min(left, top, image.image_hw[1] - right, image.image_hw[0] - bottom) < -_ROUNDING:
            changes.append("objects were cut at the border of their image")
        if item.segmentation is not None and task == "detect":
            changes.append("masks were left out")
        elif task == "segment" and not bins:
            if item.segmentation is None:
                changes.append("boxes became polygons with four corners")
            elif isinstance(item.segmentation, Rle):
                changes.append("run-length masks became polygons")
        for change in changes:
            self.add(change, place, is_loss=False)

    def findings(self) -> list[Finding]:
        """Return one finding for each kind."""
        findings = []
        for (what, is_loss), count in self._counts.items():
            message = f"{count} {what} ({', '.join(self._examples[what, is_loss])})"
            rule = "lost" if is_loss else "not-kept"
            level: Literal["error", "warning"] = "error" if is_loss else "warning"
            findings.append(Finding(rule, level, message, split=self._split))
        return findings
