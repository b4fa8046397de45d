"""Training examples: objects as text, JSONL files of examples, and their text as objects."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

from pgvision import tokens
from pgvision.arrays import FloatArray, IntArray
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
from pgvision.datasets.formats import refuse_foreign
from pgvision.datasets.image_names import FoundImage, ImageFinder
from pgvision.datasets.outlines import clipped_xyxy, segmentation_to_mask
from pgvision.errors import Count, DataError, ImageError, OptionError, check_options
from pgvision.images import image_hw_of
from pgvision.masks import crop_mask, masks_to_rle

Convention = Literal["1024", "1023"]


class MaskCodec(Protocol):
    """Encoder and decoder of mask codes; `vqvae.MaskCodec` is one."""

    def encode(self, masks: FloatArray) -> IntArray:
        """Turn ``(b, 64, 64)`` masks in [0, 1] into ``(b, 16)`` codes."""

    def decode(self, codes: IntArray) -> FloatArray:
        """Turn ``(b, 16)`` codes into ``(b, 64, 64)`` logits."""


class Example(NamedTuple):
    """A training example.

    Attributes:
        image: Path of the image.
        prefix: The prompt (no ``<image>``, no newline: the processor adds both).
        suffix: The target; "" where there is nothing to find.
        paraphrases: Other prompts with the same target.
    """

    image: Path
    prefix: str
    suffix: str
    paraphrases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExampleOptions:
    """How objects become prefixes and suffixes. COCO's crowd regions are left out.

    Attributes:
        task: ``"detect"`` writes boxes, ``"segment"`` boxes and mask codes.
        order: Of the objects in a suffix: ``"raster"`` by top, then left; ``"random"`` by ``seed``
            and image name.
        prompts: ``"joined"`` asks for all classes at once, ``"per_class"`` for one at a time, as
            ``kind="refcoco-seg"`` always does.
        empty: Images without objects: ``"keep"`` gives them an empty suffix; ``"drop"`` leaves
            them out; ``"negatives"`` keeps them, and adds prompts for absent classes to every
            image.
        num_negatives: How many absent classes an image is asked for (``"negatives"``, and empty
            images with ``"per_class"``).
        seed: For ``"random"`` and for choosing absent classes.
        convention: Bins of a side: ``"1024"``, or big_vision's ``"1023"``.
        kind: Kind of checkpoint, for the form of prompt and answer.

    Raises:
        OptionError: If a value has another type or range.
    """

    task: Literal["detect", "segment"] = "detect"
    order: Literal["raster", "random"] = "raster"
    prompts: Literal["joined", "per_class"] = "joined"
    empty: Literal["keep", "drop", "negatives"] = "keep"
    num_negatives: Count = 1
    seed: int = 0
    convention: Convention = "1024"
    kind: tokens.Kind = "pt"

    def __post_init__(self) -> None:
        check_options(vars(self), type(self), "examples")


class Target(NamedTuple):
    """A prompt of one image and its objects, in the order of the suffix."""

    classes: tuple[str, ...]
    objects: tuple[Annotation, ...]


def iter_examples(
    dataset: Dataset, *, options: ExampleOptions | None = None, codec: MaskCodec | None = None
) -> Iterator[Example]:
    """Turn a data set into examples, image by image, without opening the images.

    Args:
        dataset: The data set.
        options: Order, prompts, empty images and so on; the defaults if not given.
        codec: Needed for ``task="segment"``.

    Yields:
        Examples in the order of the images.

    Raises:
        OptionError: If masks are asked for and there is no codec.
        DataError: If masks are asked for and an object has none, or a broken one.
        PromptError: If a class name cannot be put into a prompt.

    Example:
        >>> from pgvision.datasets import Annotation, Category, Dataset, ImageRecord
        >>> box = Annotation(id=1, category_id=3, xywh=(320.0, 120.0, 160.0, 240.0))
        >>> shot = ImageRecord(7, "a.jpg", Path("a.jpg"), (480, 640), (box,))
        >>> data = Dataset(images=(shot,), categories=(Category(3, "helmet"),))
        >>> [(example.prefix, example.suffix) for example in iter_examples(data)]
        [('detect helmet', '<loc0256><loc0512><loc0768><loc0768> helmet')]
    """
    chosen = options or ExampleOptions()
    if chosen.task == "segment" and codec is None:
        raise OptionError("task='segment' needs codec=..., which turns masks into codes")
    for image in dataset.images:
        yield from examples_of(image, dataset, chosen, codec)


def examples_of(
    image: ImageRecord, dataset: Dataset, options: ExampleOptions, codec: MaskCodec | None
) -> Iterator[Example]:
    """Yield the examples of one image; see `iter_examples`."""
    for target in targets_of(image, dataset, options):
        # 1. Bins and mask codes of the objects.
        bins = bins_of(target.objects, image, options)
        masks: Iterable[Iterable[int]] = [()] * len(bins)
        if codec is not None and options.task == "segment" and target.objects:
            crops = [_mask_of(item, image) for item in target.objects]
            masks = np.asarray(codec.encode(np.stack(crops)))
        # 2. The suffix. That of a refcoco-seg checkpoint does not repeat the phrase.
        bare = options.kind == "refcoco-seg"
        names = (None if bare else dataset.names[item.category_id] for item in target.objects)
        suffix = tokens.SEPARATOR.join(map(tokens.object_text, bins, names, masks))
        yield Example(image.path, _prefix_of(target.classes, options.task, options.kind), suffix)


def targets_of(image: ImageRecord, dataset: Dataset, options: ExampleOptions) -> list[Target]:
    """List the prompts of one image with the objects of each.

    Objects without extent in bins are left out, because parsers reject them. An image with nothing
    but such objects or crowds gives no prompt: an empty suffix would be wrong.
    """
    # 1. Objects that an answer can contain.
    kept = [item for item in image.objects if not item.iscrowd]
    shown = with_extent(kept, image, options)
    if not shown and (image.objects or options.empty == "drop"):
        return []
    # 2. Order, and absent classes: by seed and name, so that every run gives the same.
    text = f"{options.seed}\0{image.file_name}".encode("utf-8", "surrogatepass")
    seed = int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
    chance = random.Random(seed)  # noqa: S311
    ordered = tuple(_ordered(shown, options.order, chance))
    named = {dataset.names[item.category_id] for item in image.objects}
    classes = tuple(dict.fromkeys(dataset.classes))
    absent = [name for name in classes if name not in named]
    asked = sorted(chance.sample(absent, min(options.num_negatives, len(absent))))
    # 3. One prompt for all classes, or one for each.
    if options.prompts == "joined" and options.kind != "refcoco-seg":
        targets = [Target(classes, ordered)]
        if options.empty == "negatives" and shown and asked:
            targets.append(Target(tuple(asked), ()))
        return targets
    split = {name: [i for i in ordered if dataset.names[i.category_id] == name] for name in classes}
    targets = [Target((name,), tuple(items)) for name, items in split.items() if items]
    if options.empty == "negatives" or not shown:
        targets += [Target((name,), ()) for name in asked]
    return targets


def with_extent(
    items: Sequence[Annotation], image: ImageRecord, options: ExampleOptions
) -> list[Annotation]:
    """Keep the objects with a box of at least one bin inside the image."""
    pairs = zip(items, bins_of(items, image, options).tolist(), strict=True)
    return [item for item, (top, left, bottom, right) in pairs if left < right and top < bottom]


def bins_of(items: Sequence[Annotation], image: ImageRecord, options: ExampleOptions) -> IntArray:
    """Return the bins of objects' boxes inside the image: ``(n, 4)``, top first, at most 1023."""
    # float64: an error of 1e-5 bins can round to the next bin.
    boxes = np.asarray([clipped_xyxy(item, image.image_hw) for item in items], dtype=np.float64)
    bins: IntArray = tokens.encode_boxes(
        boxes.reshape(-1, 4), image_hw=image.image_hw, convention=options.convention
    )
    return bins


def _ordered(items: Sequence[Annotation], order: str, chance: random.Random) -> list[Annotation]:
    if order == "random":
        return chance.sample(list(items), len(items))
    return sorted(items, key=lambda item: (item.xywh[1], item.xywh[0]))


def _mask_of(item: Annotation, image: ImageRecord) -> FloatArray:
    """Return the mask of an object inside its box, as the codec encodes it: ``(64, 64)``."""
    if item.segmentation is None:
        raise DataError(
            f"{image.file_name}: annotation {item.id} has a box and no mask; "
            "task='segment' needs masks, or use task='detect'"
        )
    try:
        mask = segmentation_to_mask(item.segmentation, image.image_hw)
    except DataError as error:
        raise DataError(f"{image.file_name}: annotation {item.id}: {error}") from error
    return crop_mask(mask, np.asarray(clipped_xyxy(item, image.image_hw), dtype=np.float32))


@lru_cache(maxsize=4096)  # most images share their classes
def _prefix_of(classes: tuple[str, ...], task: str, kind: tokens.Kind) -> str:
    ask = tokens.detect_prefix if task == "detect" else tokens.segment_prefix
    prefix: str = ask(list(classes), kind=kind)
    return prefix


# --- JSONL files ---------------------------------------------------------------------------------

_Object: TypeAlias = tuple[int, tuple[int, ...], int]
"""Category, bins, and number among equal objects of one line."""


class _Line(NamedTuple):
    name: str
    example: Example
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
    return tuple(line.example for line in _lines(path, images, EntryErrors("raise")))


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
            prefix, *others = map(_plain, (entry.text("prefix"), *paraphrases))
            example = Example(image.path, prefix, suffix, tuple(others))
            lines.append(_Line(name, example, entry.where))
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
    asked = {line: classes for line in lines if (classes := prefix_classes(line.example.prefix))}
    if not asked:
        raise DataError(f"{path}: no line has a prefix 'detect ...' or 'segment ...'")
    # 2. Parse the answers into objects.
    reader = _Reader(codec, convention, known_hw or {})
    for line in lines:
        with errors.entry(line.name):
            if line in asked:
                reader.add(line, asked[line])
            else:
                message = f"{line.example.prefix!r:.60} asks for no objects"
                reader.note(line, "left-out", message, "warning")
    return reader.dataset(errors.findings)


def prefix_classes(prefix: str) -> tuple[str, ...]:
    """Return the classes of a detection or segmentation prompt, else nothing.

    Example:
        >>> prefix_classes("detect helmet ; head"), prefix_classes("caption en")
        (('helmet', 'head'), ())
    """
    word, _, rest = _plain(prefix).partition(" ")
    if word not in ("detect", "segment"):
        return ()
    return tuple(name.strip() for name in rest.split(tokens.SEPARATOR) if name.strip())


def _plain(prefix: str) -> str:
    """Return a prompt without ``<image>`` and newline, which the processor adds."""
    return prefix.strip().removeprefix("<image>").strip()


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
                size = self.known_hw.get(line.name) or image_hw_of(line.example.image)
            except ImageError as error:
                raise DataError(f"{line.where}: bins need the image's size: {error}") from error
            self.records[line.name] = (line.example.image, size, {})
        _, image_hw, objects = self.records[line.name]
        for name in classes:
            self.numbers.setdefault(name, len(self.numbers) + 1)
        # 2. Parse the answer.
        suffix = line.example.suffix
        parsed = tokens.parse_suffix(
            suffix, image_hw=image_hw, classes=list(classes), convention=self.convention
        )
        for reject in parsed.rejects:
            self.note(line, "reject", f"{reject.text!r:.60}: {reject.reason}")
        # The parser accepts forms that a model should not be trained to write.
        written = tokens.SEPARATOR.join(
            tokens.object_text(one.loc_yxyx, one.label, one.codes or ()) for one in parsed.objects
        )
        if not parsed.rejects and written != suffix:
            problem = f"{suffix!r:.80}, expected {written!r:.80}"
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
