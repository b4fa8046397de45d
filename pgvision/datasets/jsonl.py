"""JSONL files of ``{"image", "prefix", "suffix"}``: read as examples, or parsed back to objects."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from pgvision.datasets.examples import Convention, Example, MaskCodec
from pgvision.datasets.fields import Fields, parse_json, read_text
from pgvision.datasets.image_files import image_hw_of
from pgvision.datasets.picture_names import PictureNames, picture_folders
from pgvision.datasets.records import (
    Annotation,
    Category,
    Dataset,
    Finding,
    ImageRecord,
    Rle,
)
from pgvision.errors import DataError, ImageError
from pgvision.masks import masks_to_rle
from pgvision.tokens import SEPARATOR, ParsedObject, check_suffix, parse_suffix

_Object: TypeAlias = tuple[int, tuple[int, ...], int]
"""Category, bins, and which of those that one line names there."""


class _Line(NamedTuple):
    name: str
    path: Path
    prefix: str
    suffix: str
    paraphrases: tuple[str, ...]
    where: str


def read_examples(path: str | Path, *, images: str | Path | None = None) -> tuple[Example, ...]:
    """Read a JSONL file of examples of any task. Images are not opened.

    Args:
        path: The file: one JSON object a line with ``image``, ``prefix`` and ``suffix``, and where
            there are other ways to ask for the same, ``paraphrases``, a list of them.
        images: Image folder; looked for near the file if not given.

    Raises:
        DataError: If a line is cut or lacks a field, an image lies outside the image folder, or
            there is no line. The message names file and line.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.jsonl"
        >>> _ = file.write_text('{"image": "a.jpg", "prefix": "caption en", "suffix": "a cat"}')
        >>> read_examples(file)[0].suffix
        'a cat'
    """
    return tuple(
        Example(line.path, line.prefix, line.suffix, line.paraphrases)
        for line in _lines(path, images)
    )


def example_line(name: str, prefix: str, suffix: str) -> str:
    """Return a line of a JSONL file.

    Example:
        >>> print(example_line("a.jpg", "detect cat", ""), end="")
        {"image": "a.jpg", "prefix": "detect cat", "suffix": ""}
    """
    fields = {"image": name, "prefix": prefix, "suffix": suffix}
    return json.dumps(fields, ensure_ascii=False) + "\n"


def _lines(path: str | Path, images: str | Path | None) -> list[_Line]:
    file = Path(path)
    entries = [
        Fields(parse_json(line, f"{file}: line {index}"), f"{file}: line {index}")
        # Only "\n" ends a line: JSON text may hold U+2028 and its like.
        for index, line in enumerate(read_text(file).split("\n"), start=1)
        if line.strip()
    ]
    if not entries:
        raise DataError(f"{file}: holds no example; expected one JSON object a line")
    names = [entry.text("image") for entry in entries]
    chosen = None if images is None else Path(images)
    folders = picture_folders(file.parent, file.stem, chosen, source=file)
    pictures = PictureNames(file.parent, folders, names)
    lines = []
    for entry, name in zip(entries, names, strict=True):
        suffix = entry.values.get("suffix")
        if not isinstance(suffix, str):
            raise entry.fail("suffix", 'text ("" for nothing)')
        found = pictures.find(name, where=entry.where)
        said = (entry.text("prefix"), suffix, _paraphrases(entry))
        lines.append(_Line(name, found.path, *said, entry.where))
    return lines


def _paraphrases(entry: Fields) -> tuple[str, ...]:
    found = entry.items("paraphrases") if "paraphrases" in entry else []
    if not all(isinstance(one, str) and one for one in found):
        raise entry.fail("paraphrases", "a list of prompts")
    return tuple(map(str, found))


def read_jsonl(
    path: str | Path,
    *,
    images: str | Path | None = None,
    codec: MaskCodec | None = None,
    convention: Convention = "1024",
) -> Dataset:
    """Parse the ``detect`` and ``segment`` lines of a JSONL file back to objects.

    Lines about one image are put together; an object that several of them name, at the same place,
    is one object. Images are opened for their size only.

    Args:
        path: The JSONL file.
        images: Image folder; looked for near the file if not given.
        codec: Turns mask codes into masks; without it objects keep their boxes alone.
        convention: Bins of a side that the file was written with.

    Returns:
        The data set: classes in the order in which prompts name them, ids from 1. What could not
        be read is in ``findings``.

    Raises:
        DataError: As `read_examples`; if an image's size cannot be read; or if no line asks for
            objects.
    """
    lines = _lines(path, images)
    asked = {line: classes for line in lines if (classes := prefix_classes(line.prefix))}
    if not asked:
        raise DataError(f"{path}: no line has a prefix 'detect ...' or 'segment ...'")
    reader = _Reader(codec, convention)
    for line in lines:
        if line not in asked:
            reader.note("left-out", "warning", line, f"{line.prefix!r:.60} asks for no objects")
            continue
        reader.add(line, asked[line])
    return reader.dataset()


def prefix_classes(prefix: str) -> tuple[str, ...]:
    """Return the classes that a detection or segmentation prompt asks for, else nothing.

    Example:
        >>> prefix_classes("detect helmet ; head"), prefix_classes("caption en")
        (('helmet', 'head'), ())
    """
    word, _, rest = prefix.strip().removeprefix("<image>").strip().partition(" ")
    if word not in ("detect", "segment"):
        return ()
    return tuple(name.strip() for name in rest.split(SEPARATOR) if name.strip())


class _Reader:
    """Gathers the objects of one file by image."""

    def __init__(self, codec: MaskCodec | None, convention: Convention) -> None:
        self.codec = codec
        self.convention = convention
        self.numbers: dict[str, int] = {}
        self.records: dict[str, tuple[Path, tuple[int, int], dict[_Object, Annotation]]] = {}
        self.findings: list[Finding] = []
        self.used = 0

    def note(self, rule: str, level: str, line: _Line, message: str) -> None:
        severity = "error" if level == "error" else "warning"
        self.findings.append(
            Finding(rule, severity, f"{line.where}: {message}", line.name)  # type: ignore[arg-type]
        )

    def add(self, line: _Line, classes: tuple[str, ...]) -> None:
        if line.name not in self.records:
            try:
                size = image_hw_of(line.path)
            except ImageError as error:
                raise DataError(f"{line.where}: bins need the image's size: {error}") from error
            self.records[line.name] = (line.path, size, {})
        _, image_hw, objects = self.records[line.name]
        for name in classes:
            self.numbers.setdefault(name, len(self.numbers) + 1)
        parsed = parse_suffix(
            line.suffix, image_hw=image_hw, classes=list(classes), convention=self.convention
        )
        for reject in parsed.rejects:
            self.note("reject", "error", line, f"{reject.text!r:.60}: {reject.reason}")
        # What a reader forgives a model should not learn to write.
        for problem in () if parsed.rejects else check_suffix(line.suffix, "any"):
            self.note("form", "warning", line, problem)
        # One object may be named by several lines (`detect x`, `segment x`, `detect x ; y`); what
        # one line says twice is there twice.
        said: Counter[tuple[int, tuple[int, ...]]] = Counter()
        for found in parsed.objects:
            category, runs = self._class_and_mask(found, line, classes, image_hw)
            key = (category, tuple(found.loc_yxyx))
            said[key] += 1
            known = objects.get((*key, said[key]))
            if known is None:
                self.used += 1
                xywh = _xywh(found, image_hw, self.convention)
                objects[(*key, said[key])] = Annotation(self.used, category, xywh, runs)
            elif known.segmentation is None and runs is not None:
                objects[(*key, said[key])] = replace(known, segmentation=runs)

    def _class_and_mask(
        self, found: ParsedObject, line: _Line, classes: tuple[str, ...], image_hw: tuple[int, int]
    ) -> tuple[int, Rle | None]:
        if found.class_id >= 0:
            name = classes[found.class_id]
        elif found.label is None and len(classes) == 1:
            # Referring checkpoints write no label: the prompt says what it is.
            name = classes[0]
        else:
            name = found.label or "(no label)"
            self.note("label", "error", line, f"label {name!r} is not in the prompt")
        category = self.numbers.setdefault(name, len(self.numbers) + 1)
        runs = None
        if found.codes is not None and self.codec is not None:
            runs = decode_masks([found], image_hw, self.codec)[0]
        return category, runs

    def dataset(self) -> Dataset:
        images = tuple(
            ImageRecord(index, name, path, image_hw, tuple(objects.values()))
            for index, (name, (path, image_hw, objects)) in enumerate(self.records.items(), 1)
        )
        categories = tuple(Category(number, name) for name, number in self.numbers.items())
        return Dataset(images=images, categories=categories, findings=tuple(self.findings))


def _xywh(
    found: ParsedObject, image_hw: tuple[int, int], convention: Convention
) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = bins_to_pixels(found.loc_yxyx, image_hw, convention)
    return (x1, y1, x2 - x1, y2 - y1)


def bins_to_pixels(
    loc_yxyx: tuple[int, int, int, int], image_hw: tuple[int, int], convention: Convention
) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of bins in full precision: files are not float32.

    Example:
        >>> bins_to_pixels((1, 2, 3, 1023), (480, 640), "1024")
        (1.25, 0.46875, 639.375, 1.40625)
    """
    top, left, bottom, right = (value / int(convention) for value in loc_yxyx)
    height, width = image_hw
    return (left * width, top * height, right * width, bottom * height)


def decode_masks(
    objects: list[ParsedObject], image_hw: tuple[int, int], codec: MaskCodec
) -> list[Rle]:
    """Decode the codes of parsed objects, all of which have some, into run lengths."""
    codes = np.asarray([found.codes for found in objects], dtype=np.int64)
    boxes = np.asarray([found.xyxy for found in objects], dtype=np.float32).reshape(-1, 4)
    logits = np.asarray(codec.decode(codes), dtype=np.float32)
    return [
        Rle(image_hw, runs["counts"]) for runs in masks_to_rle(logits, boxes, image_hw=image_hw)
    ]
