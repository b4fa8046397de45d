"""Training examples of labelled images: image, prefix, suffix."""

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

from pgvision import tokens
from pgvision.arrays import FloatArray, IntArray
from pgvision.datasets.dataset import Annotation, Dataset, ImageRecord
from pgvision.datasets.outlines import clipped_xyxy, segmentation_to_mask
from pgvision.errors import Count, DataError, OptionError, check_options
from pgvision.masks import crop_mask

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
        for target in targets_of(image, dataset, chosen):
            yield example_of(target, image, dataset, chosen, codec)


def example_of(
    target: Target,
    image: ImageRecord,
    dataset: Dataset,
    options: ExampleOptions,
    codec: MaskCodec | None,
) -> Example:
    """Return one target as text; see `iter_examples`."""
    codes = None if codec is None else codes_of(target, image, options, codec)
    suffix = suffix_of(target, image, dataset, options, codes)
    prefix = prefix_of(target.classes, options.task, options.kind)
    return Example(image.path, prefix, suffix)


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
    boxes = [clipped_xyxy(item, image.image_hw) for item in items]
    pairs = zip(items, boxes, strict=True)
    inside = [item for item, box in pairs if box[2] > box[0] and box[3] > box[1]]
    bins = bins_of(inside, image, options).tolist()
    pairs = zip(inside, bins, strict=True)
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


def codes_of(
    target: Target, image: ImageRecord, options: ExampleOptions, codec: MaskCodec
) -> IntArray | None:
    """Encode the masks of a target's objects: ``(n, 16)`` codes, None for a detection task.

    Raises:
        DataError: If an object has no mask or a broken one.
    """
    if options.task == "detect":
        return None
    # 1. Rasterise each outline in its box.
    crops = []
    for item in target.objects:
        if item.segmentation is None:
            raise DataError(
                f"{image.file_name}: annotation {item.id} has a box and no mask; "
                "task='segment' needs masks, or use task='detect'"
            )
        try:
            mask = segmentation_to_mask(item.segmentation, image.image_hw)
        except DataError as error:
            raise DataError(f"{image.file_name}: annotation {item.id}: {error}") from error
        box = np.asarray(clipped_xyxy(item, image.image_hw), dtype=np.float32)
        # The codec encodes the mask inside its box.
        crops.append(crop_mask(mask, box))
    # 2. Encode all in one call.
    if not crops:
        return np.zeros((0, 16), dtype=np.int64)
    return np.asarray(codec.encode(np.stack(crops)))


@lru_cache(maxsize=4096)  # most images share their classes
def prefix_of(classes: tuple[str, ...], task: str, kind: tokens.Kind) -> str:
    """Return the prompt for classes."""
    ask = tokens.detect_prefix if task == "detect" else tokens.segment_prefix
    prefix: str = ask(list(classes), kind=kind)
    return prefix


def suffix_of(
    target: Target,
    image: ImageRecord,
    dataset: Dataset,
    options: ExampleOptions,
    codes: IntArray | None,
) -> str:
    """Return the suffix of a target: bins clamped to 1023, objects joined by ``" ; "``."""
    if not target.objects:
        return ""
    bins = bins_of(target.objects, image, options)
    masks: Iterable[Iterable[int]] = [()] * len(bins) if codes is None else codes
    # The suffix of a refcoco-seg checkpoint does not repeat the phrase.
    bare = options.kind == "refcoco-seg"
    names = (None if bare else dataset.names[item.category_id] for item in target.objects)
    return tokens.SEPARATOR.join(map(tokens.object_text, bins, names, masks))
