"""Read a data set of any of the five formats: whole, by its splits, or one part of it.

A part (train, validation, test) is recognised by a word of a file's or folder's name. This is the
one place for the rule: training, evaluation and `read_splits` all use it.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pgvision.datasets.coco import read_coco
from pgvision.datasets.dataset import Dataset, OnError, merge_datasets, share_ids
from pgvision.datasets.examples import Convention, MaskCodec, read_jsonl
from pgvision.datasets.formats import FORMATS, Format, detect_format, has_objects
from pgvision.datasets.voc_labelme import read_labelme, read_voc
from pgvision.datasets.yolo import read_yolo
from pgvision.errors import DataError, OptionError, SourceError, require_choice

Part = Literal["train", "valid", "test"]

_WORDS: Final[dict[str, Part]] = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "minival", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# COCO's files of one set of images: where instances are there, the others describe them again.
_COCO_BESIDE = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")


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
        format: One of the five; detected from the files if not given.
        images: Image folder; looked for where the format has it if not given.
        split: Which part, if there are several; see `find_split`. Without it they are merged; see
            `merge_datasets`.
        codec: For JSONL with mask codes.
        convention: For JSONL: bins of a side.

    Raises:
        SourceError: If there is nothing at ``path``.
        DataError: If the format is unknown, or files are broken.
        OptionError: If ``format`` or ``split`` is unknown.

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
        return parts[find_split(parts, split, source=path)]
    return next(iter(parts.values())) if len(parts) == 1 else merge_datasets(parts)


def read_evaluation_part(
    path: str | Path,
    *,
    images: str | Path | None = None,
    split: str | None = None,
) -> tuple[str, Dataset]:
    """Read the part of a data set to evaluate on: its validation part, or else its test part.

    Args:
        path: Annotation file or folder.
        images: As `read_dataset`.
        split: Which part, where it is not obvious.

    Returns:
        The name of the part and its data.

    Raises:
        SourceError: If there is nothing at ``path``.
        DataError: If the part cannot be decided, is broken, or has no object at all, in which
            case labels are most likely not where they are looked for.
        OptionError: If ``split`` is unknown.
    """
    parts = read_splits(path, images=images, split=split)
    # No training part is left out, so that there always is one.
    name = validation_part(parts, split, source=path) or next(iter(parts))
    if not parts[name].num_objects:
        raise DataError(
            f"{path}: {name} has {len(parts[name].images)} images and no annotation, so there is "
            "nothing to evaluate. Check that the labels are where the format has them: pgvision "
            "convert --check"
        )
    return name, parts[name]


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
    """Read a data set as its splits, by name; the split of a single file has the file's name.

    Args:
        path: Annotation file or folder. A folder of several COCO or JSONL files gives one split
            for each.
        format: As `read_dataset`.
        images: As `read_dataset`.
        codec: As `read_dataset`.
        convention: As `read_dataset`.
        split: The one that is wanted: where each has a file, the others are not read.
        on_error: ``"record"`` leaves broken entries out and adds a finding for each.

    Raises:
        SourceError: As `read_dataset`.
        DataError: As `read_dataset`.
        OptionError: As `read_dataset`.
    """
    given = Path(path)
    if not given.exists():
        raise SourceError(f"{given}: no such file or folder")
    chosen = format or detect_format(given)
    require_choice("format", chosen, FORMATS)
    if chosen == "yolo":
        return read_yolo(given, images=images, on_error=on_error)
    how: dict[str, Any] = {"images": images, "on_error": on_error}
    # 1. COCO: one file for each part, with ids.
    if chosen == "coco":
        files = part_files(given, ".json", split=split)
        return {key: read_coco(file, **how) for key, file in files.items()}
    # 2. Other files have no ids: parts get one list of classes.
    if chosen == "jsonl":
        files = part_files(given, ".jsonl", split=split)
        how |= {"codec": codec, "convention": convention}
        parts = {key: read_jsonl(file, **how) for key, file in files.items()}
    else:  # one file for each image: parts are folders
        read, ending = (read_voc, ".xml") if chosen == "voc" else (read_labelme, ".json")
        parts = {key: read(part, **how) for key, part in _part_folders(given, ending).items()}
    return parts if len(parts) == 1 else share_ids(parts)


def part_files(path: str | Path, ending: str, *, split: str | None = None) -> dict[str, Path]:
    """Find the files of a folder, each a split: by their own names, or their folders'.

    Args:
        path: The folder, or one file.
        ending: ``".json"`` for COCO files, ``".jsonl"`` for examples.
        split: The one that is wanted; see `find_split`.

    Raises:
        DataError: If there is none.
        OptionError: If ``split`` is none of them.
    """
    given = Path(path)
    if given.is_file():
        return {given.stem: given}
    for pattern in ("*", "annotations/*", "*/*"):
        # 1. Visible files; where instances are there, other descriptions of them are left out.
        files = sorted(file for file in given.glob(f"{pattern}{ending}") if _is_visible(file))
        if ending == ".json":  # skip caption and settings files
            files = [file for file in files if has_objects(file)] or files
        if not files:
            continue
        stems = [file.stem for file in files]
        if split not in stems and any(stem.startswith("instances_") for stem in stems):
            files = [file for file in files if not file.name.startswith(_COCO_BESIDE)]
        # 2. Name them: one file for each folder, or else files, which may have one name.
        folders = {file.parent.name: file for file in files}
        named = {file.stem: file for file in files}
        if pattern == "*/*" and len(folders) == len(files):
            named = folders
        elif len(named) < len(files):
            named = {f"{file.parent.name}_{file.stem}": file for file in files}
        key = None if split is None else find_split(named, split, source=given)
        return named if key is None else {key: named[key]}
    raise DataError(f"{given}: expected *{ending} files, found none")


def _is_visible(file: Path) -> bool:
    return not file.name.startswith(".") and not file.parent.name.startswith(".")


def _part_folders(given: Path, ending: str) -> dict[str, Path]:
    """Return the folders with one file for each image, by split (``train/`` and the like)."""
    # 1. The folder itself, or its annotation folder.
    places = [given, *(given / name for name in ("Annotations", "annotations", "labels"))]
    if not given.is_dir() or any(any(place.glob(f"*{ending}")) for place in places):
        return {given.stem: given}
    # 2. Folders of parts. Those in Annotations/ may also be of videos, which are one set.
    parts: dict[str, Path] = {}
    for place in filter(Path.is_dir, reversed(places)):
        inner = {
            part.name: part
            for part in sorted(place.iterdir())
            if _is_visible(part)
            and any([*part.glob(f"*{ending}"), *part.glob(f"Annotations/*{ending}")])
        }
        if place.name.lower() != "annotations" or any(map(part_of, inner)):
            parts |= inner
    return parts or {given.stem: given}


def _words(name: str) -> list[str]:
    """Split a name into words and numbers; words for a part become the part."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [_WORDS.get(word, word) for word in re.findall(r"[a-z]+|\d+", apart.lower())]


def part_of(name: str) -> Part | None:
    """Return the part that a file or folder name means.

    Args:
        name: Name without its folder; an ending does no harm.

    Returns:
        The part that has a word in the name; None if there is no such word, or words of
        training and another part.

    Example:
        >>> [part_of(name) for name in ("_annotations.train", "instances_val2017", "b_test")]
        ['train', 'valid', 'test']
        >>> part_of("trains"), part_of("train_test")
        (None, None)
    """
    words = set(_words(name))
    if "train" in words:
        return None if words & {"valid", "test"} else "train"
    if "test" in words:  # COCO's test-dev is a test part
        return "test"
    return "valid" if "valid" in words else None


def find_split(names: Iterable[str], split: str, *, source: object) -> str:
    """Return the one of several names that a user's ``split`` means.

    Args:
        names: Names of files or folders.
        split: A whole name, or words of one: ``val2017`` for ``instances_val2017``, ``valid`` for
            ``helmets_val``.
        source: The data set, for errors.

    Raises:
        OptionError: If none fits, or several do.

    Example:
        >>> find_split(["instances_train2017", "instances_val2017"], "val2017", source="coco/")
        'instances_val2017'
    """
    known = list(names)
    if split in known:
        return split
    # `val2017` fits `instances_val2017`, `valid` fits `helmets_val`.
    wanted = f" {' '.join(_words(split))} "
    fitting = [name for name in known if wanted.strip() and wanted in f" {' '.join(_words(name))} "]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise OptionError(
            f"split={split!r}: {source} has several that fit: {', '.join(fitting)}; give the whole "
            "name"
        )
    raise OptionError(f"split={split!r}: {source} has {', '.join(known)}")


def training_part(names: Iterable[str], split: str | None = None, *, source: object) -> str:
    """Return the name of the part to learn from.

    A part called test is chosen by ``split`` only. A single file or folder is the training part
    unless it is called test.

    Args:
        names: Names of the parts: stems of files, or folder names.
        split: The user's choice; see `find_split`.
        source: The data set, for errors.

    Raises:
        DataError: If it cannot be decided; the message lists the names.
        OptionError: If ``split`` is none of the names.

    Example:
        >>> training_part(["b_test", "b_train", "b_val"], source="b/")
        'b_train'
    """
    known = list(names)
    if split is not None:
        return find_split(known, split, source=source)
    # A part called train, else the only one without such a word.
    named = [name for name in known if part_of(name) == "train"]
    chosen = named or [name for name in known if part_of(name) is None]
    if len(chosen) == 1:
        return chosen[0]
    if len(known) == 1 and part_of(known[0]) == "valid":
        return known[0]
    raise DataError(_undecided(known, "learn from", source))


def validation_part(
    names: Iterable[str], split: str | None = None, *, source: object, beside: str | None = None
) -> str | None:
    """Return the name of the part to validate or evaluate on.

    Args:
        names: Names of the parts: stems of files, or folder names.
        split: The user's choice; see `find_split`.
        source: The data set, for errors.
        beside: The training part, which is left out; None if there is no training, as in
            ``pgvision eval``. Then a single part is taken whatever its name.

    Returns:
        The validation part, else the test part; None if there is neither and ``beside`` is given.

    Raises:
        DataError: If it cannot be decided; the message lists the names.
        OptionError: If ``split`` is none of the names.

    Example:
        >>> validation_part(["train", "valid", "test"], source="site/")
        'valid'
    """
    # 1. The named part, or the only one.
    known = [name for name in names if name != beside]
    if split is not None:
        return find_split(known, split, source=source)
    if beside is None and len(known) == 1:
        return known[0]
    # 2. Validation before test.
    for part in ("valid", "test"):
        chosen = [name for name in known if part_of(name) == part]
        if len(chosen) == 1:
            return chosen[0]
        if chosen:
            raise DataError(_undecided(chosen, "validate on", source))
    if beside is not None:
        return None
    raise DataError(_undecided(known, "evaluate on", source))


def _undecided(names: Sequence[str], purpose: str, source: object) -> str:
    return (
        f"{source}: cannot decide which part to {purpose}: {', '.join(names)}. Name one with "
        "split=... (--split)"
    )
