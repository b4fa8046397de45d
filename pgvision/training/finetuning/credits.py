"""Whose work a checkpoint rests on: what its base and its data say of themselves."""

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pgvision.datasets import Dataset, Example, ImageRecord
from pgvision.files import write_text
from pgvision.runtime.checkpoints import CheckpointCard, find_checkpoint
from pgvision.training.finetuning.data import Parts

CREDITS_NAME: Final = "credits.csv"
_UNKNOWN: Final = "unknown: nothing here says whose work it is; say where it comes from"
_ADDRESSES: Final = ("flickr_url", "coco_url", "url")
_WHOLE: Final = re.compile(r"(licen[cs]e|copying|notice|credits?|sources?|attribution)\b", re.I)
_PARTLY: Final = re.compile(r"readme\b.*|data\.ya?ml", re.I)
_HEADINGS: Final = re.compile(
    r"licen[cs]e|credit|comes? from|sources?\b|attribution|acknowledg|citation", re.I
)
_LINES: Final = re.compile(
    r"licen[cs]e|copyright|\xa9|public domain|creative commons|\bcc[ -](by|0)|\bcc0\b", re.I
)
_ENDINGS: Final = ("", ".md", ".txt", ".rst", ".yaml", ".yml")
_LONGEST: Final = 1500  # characters of a file that is told whole: the MIT licence, not Apache's
_FIRST: Final = 300  # of a longer one
_MOST: Final = 8000  # of what a README says; that of a base of a base has grown
_READ: Final = 1 << 16


def credits_told(base: CheckpointCard, parts: Sequence[Parts]) -> str:
    """Return what the card says of whose work the checkpoint is.

    Args:
        base: The checkpoint that training began with.
        parts: The data.

    Returns:
        Markdown: a heading of the third level for each, and what it says of itself; where it says
        nothing, that it does not.
    """
    told = [f"### Base: {base.name}\n\n{base_credits(base)}"]
    for one in _sets(parts):
        told.append(f"### Data: {one.name}\n\n{data_credits(one.pictures, one.place)}")
    return "\n\n".join(dict.fromkeys(told))  # a data set may serve two tasks


def base_credits(card: CheckpointCard) -> str:
    """Return what a checkpoint says of whose work it is, and the one beneath an adapter.

    Example:
        >>> "DINOv2" in base_credits(find_checkpoint("small"))
        True
    """
    if not card.is_local:
        words = f"Licence and credits: https://huggingface.co/{card.location}"
        google = " (Gemma terms, https://ai.google.dev/gemma/terms: they are passed on)"
        return words + (google if card.location.startswith("google/") else "")
    told = [card.about, _beside(Path(card.location)) or _UNKNOWN]
    if card.base is not None:
        beneath = find_checkpoint(card.base)
        told += [f"An adapter of {beneath.name}:", base_credits(beneath)]
    return "\n\n".join(told)


def data_credits(data: Sequence[Dataset | Sequence[Example]], place: Path) -> str:
    """Return what a data set says of whose work it is.

    Args:
        data: Its parts; of COCO's files ``info``, ``licenses`` and each picture's ``license``.
        place: File or folder that they were read from; of what lies beside it README, LICENSE,
            SOURCE, data.yaml and the like are read.
    """
    about = next((one.info for one in data if isinstance(one, Dataset)), {})
    beside = _beside(place if place.is_dir() else place.parent)
    found = [part for part in (_of_coco(about, _images(data)), beside) if part]
    return "\n\n".join(found) or _UNKNOWN


def write_picture_credits(folder: Path, parts: Sequence[Parts]) -> None:
    """Write ``credits.csv``: licence and address of each picture whose file names its licence."""
    rows = [
        (one.name, image.file_name, _short(image.extra["license"]), _short(_address(image)))
        for one in _sets(parts)
        for image in _images(one.pictures)
        if image.extra.get("license") is not None
    ]
    if rows:
        text = io.StringIO()
        csv.writer(text).writerows([("data", "picture", "licence", "address"), *rows])
        write_text(folder / CREDITS_NAME, text.getvalue())


class _Set(NamedTuple):
    name: str
    place: Path
    pictures: list[Dataset | Sequence[Example]]


def _sets(parts: Sequence[Parts]) -> list[_Set]:
    """Return the data sets; what is validated on is one of its own where it was named so."""
    found = []
    for one in parts:
        train, valid = one.places.data, one.places.valid
        found.append(_Set(train.name, train, [one.train, *([one.valid] if valid is None else [])]))
        if valid is not None:
            found.append(_Set(f"{valid.name}, to validate on", valid, [one.valid]))
    return found


def _images(data: Sequence[Dataset | Sequence[Example]]) -> list[ImageRecord]:
    return [image for one in data if isinstance(one, Dataset) for image in one.images]


def _address(image: ImageRecord) -> object:
    return next((image.extra[key] for key in _ADDRESSES if image.extra.get(key)), "")


def _of_coco(about: Mapping[str, object], images: Sequence[ImageRecord]) -> str:
    info, listed = about.get("info"), about.get("licenses")
    told = []
    if isinstance(info, Mapping):
        told += [f"- {_short(key)}: {_short(value)}" for key, value in info.items() if value]
    licences = {
        _short(one.get("id")): " ".join(_short(one[key]) for key in ("name", "url") if one.get(key))
        for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, Mapping)
    }
    said = (one.extra.get("license") for one in images)
    counts = Counter("" if number is None else _short(number) for number in said)
    unnamed = counts.pop("", 0)
    for number in sorted(counts or licences):  # files list many licences that no picture has
        words = licences.get(number, "not described in the file")
        many = f": {counts[number]} pictures" if counts else ""
        told.append(f"- licence {number}, {words}{many}")
    if counts and unnamed:
        told.append(f"- no licence named: {unnamed} pictures")
    return "\n".join(told)


def _short(value: object) -> str:
    """Return any value of a file in one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= _FIRST else text[:_FIRST] + "..."


def _beside(folder: Path) -> str:
    """Return what the files of a folder say that are called as credits are."""
    told = []
    for file in folder.iterdir():
        partly = _PARTLY.fullmatch(file.name)
        if not (partly or _WHOLE.match(file.name)) or file.suffix.lower() not in _ENDINGS:
            continue
        text = _text(file)
        if partly:
            text, most = _about_credits(text), _MOST
        else:
            most = _LONGEST if len(text) <= _LONGEST else _FIRST
        if text:
            end = "" if len(text) <= most else f" ... (the whole is in {file.name})"
            told.append(f"{file.name}:\n\n{_without_headings(text[:most])}{end}")
    return "\n\n".join(sorted(told))


def _text(file: Path) -> str:
    """Return a file's words; none if it cannot be read, for hours of training lie behind."""
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            return lines.read(_READ).strip()
    except OSError:
        return ""


def _about_credits(text: str) -> str:
    """Return the sections about credits, and other lines that speak of a licence."""
    kept, inside, fenced = [], 0, False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        level = 0 if fenced else len(line) - len(line.lstrip("#"))
        if level and (not inside or level <= inside):
            inside = level if _HEADINGS.search(line) else 0
            kept += ["", line, ""] if inside else []
        elif inside or _LINES.search(line):
            kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _without_headings(text: str) -> str:
    """Make headings bold words: the card that takes the text has its own."""
    return re.sub(r"^#+\s+(.*)$", r"**\1**", text, flags=re.M)
