"""``data.yaml`` and Darknet's ``obj.data``: class names and splits.

All forms of an entry that Ultralytics reads are read; entries that name nothing are refused.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from pgvision.coco.checks import Fields, read_bytes, read_text
from pgvision.datasets.dataset import Finding
from pgvision.datasets.image_names import IMAGE_ENDINGS, list_images
from pgvision.errors import DataError

CONFIG_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "obj.data")
_NOT_SPLITS = {"path", "names", "nc", "download", "roboflow", "kpt_shape", "flip_idx", "yaml_file"}
_NEEDED = {"train", "val", "valid", "validation"}
_SPLITS = _NEEDED | {"test", "minival"}
_ABSENT = ("", "null", "Null", "NULL", "~", "None")


def find_config(folder: Path) -> Path | None:
    """Return the file that describes a YOLO folder: by its name, or the one YAML with ``names``.

    Raises:
        DataError: If several YAML files have class names and none has a usual name.
    """
    usual = next((folder / name for name in CONFIG_NAMES if (folder / name).is_file()), None)
    if usual is not None or not folder.is_dir():
        return usual
    # YAML files of other purposes have no class names, and may have any encoding.
    others = [
        file
        for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
        if re.search(rb"^names\s*:", read_bytes(file), re.MULTILINE)
    ]
    if len(others) > 1:
        raise DataError(
            f"{folder}: {', '.join(file.name for file in others)} all have class names; name one"
        )
    return others[0] if others else None


@dataclass
class Split:
    """The images of one split.

    Attributes:
        folders: Folders that entries name, where label files without an image are looked for.
        images: The image files, in order.
    """

    folders: list[Path] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)


class YoloConfig:
    """A ``data.yaml`` or ``obj.data``; scalars are kept as text.

    Args:
        file: The file.

    Raises:
        DataError: If it is not YAML, or not a mapping.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.root = file.parent.absolute()
        text = read_text(file)
        if file.suffix == ".data":
            pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
            self.fields = Fields({key.strip(): value.strip() for key, _, value in pairs}, str(file))
        else:
            try:
                # Text only: YAML 1.1 makes False of "no", 7 of "007" and 750 of "12:30".
                value = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506  (makes no objects)
            except (yaml.YAMLError, RecursionError) as error:
                raise DataError(f"{file}: not YAML that can be read: {error}") from error
            self.fields = Fields(value, str(file))
        # Entries start at ``path`` as Ultralytics has it, or at the file.
        bases = []
        stated = self._stated("path")
        if isinstance(stated, str):
            starts = (start / stated.replace("\\", "/") for start in (self.root, self.root.parent))
            bases = [place for place in map(Path, map(os.path.normpath, starts)) if place.is_dir()]
        self._bases = list(dict.fromkeys([*bases, self.root]))

    def _stated(self, key: str) -> Any:
        """Return the value of a key, None if it is missing or one of YAML's forms of null."""
        value = self.fields.values.get(key)
        return None if value in _ABSENT else value

    def names(self) -> list[str] | None:
        """Return the class names, None if there are none here.

        Raises:
            DataError: If they are not numbered from 0 without gaps, or ``nc`` is another number.
        """
        value = self._stated("names")
        if value is None:
            return None
        given = value.values() if isinstance(value, dict) else value
        # Checked first: as text, a few nested aliases of YAML would take gigabytes.
        if isinstance(given, Iterable) and any(not isinstance(name, str) for name in given):
            raise self.fields.fail("names", "a list of texts")
        # 1. Darknet names a file; Ultralytics writes a dict or a list.
        if self.file.suffix == ".data" and isinstance(value, str):
            found = self._place(value, "names")
            if found is None:
                raise self.fields.fail("names", "a file that is there")
            names = lines_of(found)
        elif isinstance(value, dict):
            numbers = {int(key): name for key, name in value.items() if key.isdecimal()}
            if len(numbers) != len(value) or set(numbers) != set(range(len(value))):
                raise self.fields.fail("names", "names numbered from 0 without gaps")
            names = [numbers[index] for index in range(len(value))]
        else:
            names = self.fields.items("names")
        # 2. Compare with the stated number of classes.
        stated = self.fields.values.get("nc", self.fields.values.get("classes"))
        if isinstance(stated, str) and stated.isdecimal() and int(stated) != len(names):
            raise DataError(
                f"{self.file}: nc is {stated}, but there are {len(names)} names; correct one"
            )
        return names

    def splits(self) -> tuple[dict[str, Split], list[Finding]]:
        """Return the splits in the order of the file, and the problems of optional ones.

        Raises:
            DataError: If train or val names what is not there, is outside the data set, could mean
                two places, or contains no images.
        """
        # A problem of an optional part must not hide the others.
        found: dict[str, Split] = {}
        findings: list[Finding] = []
        for key, value in self.fields.values.items():
            if key in _NOT_SPLITS or not self._is_split(key, value):
                continue
            try:
                found[key] = self._split(key, value)
            except DataError as error:
                # train and val must exist; a missing test folder is common.
                if key in _NEEDED:
                    raise
                findings.append(Finding("missing-folder", "error", str(error), key))
        return found, findings

    def _is_split(self, key: str, value: object) -> bool:
        if value in _ABSENT or value == []:
            return False
        if key in _SPLITS:
            return True
        # Another key is a split if it names places: "author: me" and "license: CC/BY" do not.
        entries = value if isinstance(value, list) else [value]
        return all(isinstance(entry, str) and self._is_place(entry, key) for entry in entries)

    def _is_place(self, entry: str, key: str) -> bool:
        try:
            return self._place(entry, key) is not None
        except DataError:
            return False

    def _split(self, key: str, value: object) -> Split:
        entries = value if isinstance(value, list) else [value]
        split = Split()
        for entry in entries:
            if not isinstance(entry, str):
                raise self.fields.fail(key, "a folder, a .txt list of images, or a list of these")
            place = self._place(entry, key)
            if place is None:
                raise DataError(
                    f"{self.file}: {key}: {entry!r} is not there (looked in "
                    f"{', '.join(map(str, self._bases))}); correct the entry or take it out"
                )
            # A folder of images, one image, or a text file that lists images.
            if place.is_dir():
                split.folders.append(place)
                split.images += list_images(place)
            elif place.suffix.lower() in IMAGE_ENDINGS:
                split.images.append(place)
            else:
                split.images += self._listed(place)
        split.images = list(dict.fromkeys(split.images))
        if not split.images:
            raise DataError(f"{self.file}: {key}: expected images in {value!r}, found none")
        return split

    def _listed(self, file: Path) -> list[Path]:
        """Return the images of a list: ``./`` starts at the list, other names at the data set."""
        # Tools disagree: a name that is not at its place is looked for at the other.
        images = []
        for line in filter(None, lines_of(file)):
            entry, where = line.replace("\\", "/"), f"{file.name}: {line}"
            place = Path(os.path.normpath(file.parent / entry))
            if not (entry.startswith("./") and place.is_file()):
                place = self._place(line, where) or place
            if not place.is_file():
                raise DataError(f"{file}: image {line!r} is not there; correct or remove the line")
            images.append(place)
        return images

    def _place(self, value: str, key: str) -> Path | None:
        """Return the place of an entry inside the data set; None if it does not exist."""
        entry = value.strip().replace("\\", "/")
        outside = True
        for base in self._bases:
            # Tools write paths relative to different folders: try each in turn.
            hits: list[Path] = []
            for form in _forms(entry, base):
                place = Path(os.path.normpath(base / form))
                step = form == entry and entry.startswith("../") and "../" not in entry[3:]
                inside = [base, self.root, *([base.parent] if step else [])]
                if any(place.is_relative_to(folder) for folder in inside):
                    outside = False
                    if place.exists() and place not in hits:
                        hits.append(place)
            # Two hits: guessing would mix up data sets.
            if len(hits) > 1:
                raise DataError(
                    f"{self.file}: {key}: {value!r} may mean {hits[0]} or {hits[1]}; write the "
                    "entry without '..'"
                )
            if hits:
                return hits[0]
        if outside:
            raise DataError(
                f"{self.file}: {key}: {value!r} is outside the data set's folder {self.root}; "
                "move it in, name that folder (path: ...), or name the image folder (images=..., "
                "--images)"
            )
        return None


def _forms(entry: str, base: Path) -> list[str]:
    """Return the readings of an entry.

    Roboflow writes ``../train/images`` next to train/, or the data set's own name first; Darknet
    starts at the folder above, which it calls ``data``.
    """
    parts = PurePosixPath(entry).parts
    if parts and not PurePosixPath(entry).is_absolute() and not PureWindowsPath(entry).drive:
        if parts[0] == "..":
            return [str(PurePosixPath(*parts[1:])), entry]
        if parts[0] in ("data", base.name) and len(parts) > 1 and not (base / entry).exists():
            return [entry, str(PurePosixPath(*parts[1:]))]
    return [entry]


def lines_of(file: Path) -> list[str]:
    """Return the lines of a text file, without blank ones at its end.

    Raises:
        DataError: As `read_text`.
    """
    return [line.strip() for line in read_text(file).rstrip().splitlines()]
