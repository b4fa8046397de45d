"""JSONL files of ``{"image", "prefix", "suffix"}``: read as examples, or parsed into objects."""

import json
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from pgvision.coco.checks import Fields, parse_json, read_bytes
from pgvision.datasets.dataset import (
    Annotation,
    Category,
    Dataset,
    EntryErrors,
    Finding,
    ImageRecord,
    OnError,
    Rle,
)
from pgvision.datasets.examples import Convention, Example, MaskCodec
from pgvision.datasets.formats import refuse_foreign
from pgvision.datasets.image_names import FoundImage, ImageFinder
from pgvision.errors import DataError, ImageError
from pgvision.images import image_hw_of
from pgvision.masks import masks_to_rle
from pgvision.tokens import SEPARATOR, object_text, parse_suffix

_Object: TypeAlias = tuple[int, tuple[int, ...], int]
"""Category, bins, and number among equal objects of one line."""


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
        path: The file: one JSON object a line with ``image``, ``prefix`` and ``suffix``, and
            optionally ``paraphrases``, a list of other prompts with the same suffix.
        images: Image folder; looked for near the file if not given.

    Raises:
        DataError: If a line is cut or lacks a field, an image is outside the image folder, or
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
        for line in _lines(path, images, EntryErrors("raise"))
    )


def example_line(name: str, prefix: str, suffix: str) -> str:
    """Return a line of a JSONL file.

    Example:
        >>> print(example_line("a.jpg", "detect cat", ""), end="")
        {"image": "a.jpg", "prefix": "detect cat", "suffix": ""}
    """
    fields = {"image": name, "prefix": prefix, "suffix": suffix}
    return json.dumps(fields, ensure_ascii=False) + "\n"


def _lines(
    path: str | Path, images: str | Path | None, errors: EntryErrors, known: Container[str] = ()
) -> list[_Line]:
    """Read the lines of a file; images with a known size need not be where they are named."""
    # 1. Read the entries.
    file = Path(path)
    finder = ImageFinder(file, images, file.parent, file.stem)
    data = read_bytes(file)
    if b'"prefix"' not in data:
        refuse_foreign([file])
    entries: list[tuple[Fields, str]] = []
    # Only "\n" ends a line: JSON text may contain U+2028 and the like.
    for index, text in enumerate(data.split(b"\n"), start=1):
        where = f"{file}: line {index}"
        with errors.entry(f"line {index}"):
            if text.strip():
                entry = Fields(parse_json(text, where), where)
                entries.append((entry, entry.text("image")))
    if not entries and not errors.findings:
        raise DataError(f"{file}: contains no example; expected one JSON object a line")
    lines = []
    # 2. Find the images, each once: many lines name one image.
    names = list(dict.fromkeys(name for _, name in entries if name not in known))
    found = dict(zip(names, finder.find_all(names), strict=True))
    # 3. Build the lines.
    for entry, name in entries:
        with errors.entry(entry.where.rpartition(": ")[2]):
            image = found.get(name, FoundImage(name, file.parent / name))
            if isinstance(image, DataError):
                raise DataError(f"{entry.where}: {image}")
            suffix = entry.values.get("suffix")
            if not isinstance(suffix, str):
                raise entry.fail("suffix", 'text ("" for nothing)')
            paraphrases = entry.items("paraphrases") if "paraphrases" in entry else []
            if not all(isinstance(text, str) and text for text in paraphrases):
                raise entry.fail("paraphrases", "a list of prompts")
            texts = (entry.text("prefix"), suffix, tuple(paraphrases))
            lines.append(_Line(name, image.path, *texts, entry.where))
    return lines


def read_jsonl(
    path: str | Path,
    *,
    images: str | Path | None = None,
    codec: MaskCodec | None = None,
    convention: Convention = "1024",
    on_error: OnError = "raise",
    known_hw: Mapping[str, tuple[int, int]] | None = None,
) -> Dataset:
    """Parse the ``detect`` and ``segment`` lines of a JSONL file into objects.

    Lines about one image are merged; an object at the same place in several of them is one object.
    Images are opened for their size only.

    Args:
        path: The JSONL file.
        images: Image folder; looked for near the file if not given.
        codec: Decodes mask codes; without it objects have boxes only.
        convention: Bins of a side that the file was written with.
        on_error: ``"raise"`` refuses a broken line; ``"record"`` leaves it out and adds a finding.
        known_hw: Height and width, by name, of images that need not be opened.

    Returns:
        The data set: classes in the order in which prompts name them, ids from 1. What could not
        be parsed is in ``findings``.

    Raises:
        DataError: As `read_examples`; if an image's size cannot be read; or if no line asks for
            objects.
    """
    # 1. Lines that ask for objects; captions and questions have none.
    errors = EntryErrors(on_error)
    lines = _lines(path, images, errors, known_hw or {})
    asked = {line: classes for line in lines if (classes := prefix_classes(line.prefix))}
    if not asked:
        raise DataError(f"{path}: no line has a prefix 'detect ...' or 'segment ...'")
    # 2. Parse the answers into objects.
    reader = _Reader(codec, convention, known_hw or {})
    for line in lines:
        with errors.entry(line.name):
            if line in asked:
                reader.add(line, asked[line])
            else:
                reader.note(line, "left-out", f"{line.prefix!r:.60} asks for no objects", "warning")
    return reader.dataset(errors.findings)


def prefix_classes(prefix: str) -> tuple[str, ...]:
    """Return the classes of a detection or segmentation prompt, else nothing.

    Example:
        >>> prefix_classes("detect helmet ; head"), prefix_classes("caption en")
        (('helmet', 'head'), ())
    """
    word, _, rest = prefix.strip().removeprefix("<image>").strip().partition(" ")
    if word not in ("detect", "segment"):
        return ()
    return tuple(name.strip() for name in rest.split(SEPARATOR) if name.strip())


class _Reader:
    """Objects of one file by image."""

    def __init__(
        self,
        codec: MaskCodec | None,
        convention: Convention,
        known_hw: Mapping[str, tuple[int, int]],
    ) -> None:
        self.codec, self.convention, self.known_hw = codec, convention, known_hw
        self.numbers: dict[str, int] = {}
        self.records: dict[str, tuple[Path, tuple[int, int], dict[_Object, Annotation]]] = {}
        self.findings: list[Finding] = []
        self.used = 0

    def note(
        self, line: _Line, rule: str, message: str, level: Literal["error", "warning"] = "error"
    ) -> None:
        self.findings.append(Finding(rule, level, f"{line.where}: {message}", line.name))

    def add(self, line: _Line, classes: tuple[str, ...]) -> None:
        # 1. Read the image's size: bins are relative to it.
        if line.name not in self.records:
            try:
                size = self.known_hw.get(line.name) or image_hw_of(line.path)
            except ImageError as error:
                raise DataError(f"{line.where}: bins need the image's size: {error}") from error
            self.records[line.name] = (line.path, size, {})
        _, image_hw, objects = self.records[line.name]
        for name in classes:
            self.numbers.setdefault(name, len(self.numbers) + 1)
        # 2. Parse the answer.
        parsed = parse_suffix(
            line.suffix, image_hw=image_hw, classes=list(classes), convention=self.convention
        )
        for reject in parsed.rejects:
            self.note(line, "reject", f"{reject.text!r:.60}: {reject.reason}")
        # The parser accepts forms that a model should not be trained to write.
        texts = [object_text(one.loc_yxyx, one.label, one.codes or ()) for one in parsed.objects]
        written = SEPARATOR.join(texts)
        if not parsed.rejects and written != line.suffix:
            problem = f"{line.suffix!r:.80}, expected {written!r:.80}"
            self.note(line, "form", problem, "warning")
        # 3. Merge objects. Several lines may name one (`detect x`, `segment x`, `detect x ; y`);
        # two equal objects of one line are two objects.
        seen: Counter[tuple[int, tuple[int, ...]]] = Counter()
        for found in parsed.objects:
            # 1. Class: referring checkpoints write no label, so that it is that of the prompt.
            name = classes[found.class_id]
            if found.class_id < 0 and (found.label is not None or len(classes) > 1):
                name = found.label or "(no label)"
                self.note(line, "label", f"label {name!r} is not in the prompt")
            category = self.numbers.setdefault(name, len(self.numbers) + 1)
            # 2. Mask.
            runs = None
            if found.codes is not None and self.codec is not None:
                logits = self.codec.decode(np.asarray([found.codes], dtype=np.int64))
                (rle,) = masks_to_rle(logits, [found.xyxy], image_hw=image_hw)
                runs = Rle(image_hw, rle["counts"])
            # 3. Objects that several lines of an image repeat are one.
            key = (category, tuple(found.loc_yxyx))
            seen[key] += 1
            known = objects.get((*key, seen[key]))
            if known is None:
                self.used += 1
                xywh = _xywh(found.loc_yxyx, image_hw, self.convention)
                objects[(*key, seen[key])] = Annotation(self.used, category, xywh, runs)
            elif known.segmentation is None and runs is not None:
                objects[(*key, seen[key])] = replace(known, segmentation=runs)

    def dataset(self, broken: list[Finding]) -> Dataset:
        images = tuple(
            ImageRecord(index, name, path, image_hw, tuple(objects.values()))
            for index, (name, (path, image_hw, objects)) in enumerate(self.records.items(), 1)
        )
        categories = tuple(Category(number, name) for name, number in self.numbers.items())
        return Dataset(images=images, categories=categories, findings=(*broken, *self.findings))


def _xywh(
    loc_yxyx: tuple[int, int, int, int], image_hw: tuple[int, int], convention: Convention
) -> tuple[float, float, float, float]:
    """Return left, top, width, height of bins in float64.

    Example:
        >>> _xywh((1, 2, 3, 1023), (480, 640), "1024")
        (1.25, 0.46875, 638.125, 0.9375)
    """
    height, width = image_hw
    scale = int(convention)
    top, left, bottom, right = loc_yxyx
    x, y = left / scale * width, top / scale * height
    return (x, y, right / scale * width - x, bottom / scale * height - y)
