"""Training samples: a prompt about a view of an image, and the answer; functions of a number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import numpy as np
from tokenizers import AddedToken
from torch.utils.data import Dataset as TorchDataset
from transformers import PreTrainedTokenizerBase

from pgvision.arrays import BoolArray, ByteArray, FloatArray
from pgvision.boxes import box_iou
from pgvision.datasets import Dataset, Example, ImageRecord, MaskCodec, segmentation_to_mask
from pgvision.errors import DataError, ImageError, SourceError
from pgvision.images import read_image
from pgvision.masks import crop_mask
from pgvision.tokens import (
    SEPARATOR,
    classes_per_prompt,
    detect_prefix,
    encode_boxes,
    object_text,
    segment_prefix,
)
from pgvision.training.config import TrainConfig
from pgvision.training.views import GONE, VISIBLE, View, draw_view, whole

NOISE: Final = "<noise>"
"""Class of noise boxes."""
CLOSED_PREFIX: Final = "detect all classes"
"""Prompt of answers padded with noise boxes."""
_AGAIN: Final = 0.4  # share of the boxes that show a true object a second time
_FREE: Final = 0.15  # the others overlap no object by more
_TRIES: Final = 8
_LEAST: Final = 0.01  # side, as a share of the picture
_ROUND: Final = 240  # samples in which each source of a mixture has its exact share
_JOINED: Final = 0.3  # share of prompts for several classes, where a prompt takes several
_VIEWS: Final = 8  # views to try until one cuts no object of a class that must be asked for


class _NothingToAskError(Exception):
    """Every class of an image is annotated in part only."""


@dataclass(frozen=True)
class Sample:
    """An image with a prompt and its answer.

    Attributes:
        name: The image's file.
        bgr: ``(h, w, 3)`` uint8.
        prefix: The prompt.
        suffix: The answer.
        noise_from: Character of ``suffix`` where noise boxes begin; None: there are none.
        is_whole: Whether the answer is complete, so that its end is learnt.
        unread: Images that this one replaces because they could not be read, with the reason.
    """

    name: str
    bgr: ByteArray
    prefix: str
    suffix: str
    noise_from: int | None = None
    is_whole: bool = True
    unread: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TextSource:
    """Captions, answers and readings of JSONL examples.

    Attributes:
        examples: The examples.
        config: The run.
        max_side: See `View.image`.
    """

    examples: Sequence[Example]
    config: TrainConfig
    max_side: int | None = None

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.examples)

    def draw(self, index: int, rng: np.random.Generator) -> Sample:
        """Return an example in another light, asked in one of its ways."""
        example = self.examples[index]
        ways = (example.prefix, *example.paraphrases)
        prefix = ways[int(rng.integers(len(ways)))] if example.paraphrases else example.prefix
        bgr = read_image(example.image)
        view = whole((bgr.shape[0], bgr.shape[1]))
        if self.config.augment:  # the geometry stays: a text may speak of left and right
            view = draw_view((bgr.shape[0], bgr.shape[1]), rng, geometric=False)
        picture = view.image(bgr, max_side=self.max_side)
        return Sample(str(example.image), picture, prefix, example.suffix)


@dataclass(frozen=True)
class ObjectSource:
    """Boxes and masks of a data set, asked for in the checkpoint's own prompts.

    Attributes:
        dataset: The images and their objects.
        config: The run.
        kind: Kind of the checkpoint's prompts.
        codec: Encodes masks; for task "segment".
        max_objects: Objects in an answer at most; of more a random choice, without an end. In a
            closed set each answer has this many boxes.
        max_side: See `View.image`.
    """

    dataset: Dataset
    config: TrainConfig
    kind: str
    codec: MaskCodec | None = None
    max_objects: int | None = None
    max_side: int | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset.images)

    def draw(self, index: int, rng: np.random.Generator) -> Sample:
        """Return a view of an image with a prompt about it.

        Raises:
            DataError: If the image's size is not that of its annotations.
        """
        record = self.dataset.images[index]
        bgr = read_image(record.path)
        if bgr.shape[:2] != record.image_hw:
            raise DataError(f"{record.path}: {size_mismatch(bgr.shape[:2], record.image_hw)}")
        view = self._view(record, rng)
        shown = self._shown(record, view)
        picture = view.image(bgr, max_side=self.max_side)
        if self.config.closed_set:
            return self._closed_sample(record, picture, shown, rng)
        return self._sample(record, picture, shown, rng)

    def _view(self, record: ImageRecord, rng: np.random.Generator) -> View:
        """Draw a view that leaves something to ask for; failing that, the whole image."""
        if not self.config.augment:
            return whole(record.image_hw)
        for _ in range(_VIEWS):
            view = draw_view(record.image_hw, rng, geometric=True)
            partial = self._partial(record, view)
            if not partial or (not self.config.closed_set and set(self.dataset.classes) - partial):
                return view
        return replace(view, window=whole(record.image_hw).window)

    def _partial(self, record: ImageRecord, view: View) -> set[str]:
        """Return classes of which a view shows objects that its answer would leave out."""
        boxes = np.array([item.xyxy for item in record.objects], np.float64).reshape(-1, 4)
        inside, shares = view.boxes(boxes)
        is_shown = (shares >= VISIBLE) & _has_area(inside, view)
        return {
            self.dataset.names[item.category_id]
            for item, share, shown in zip(record.objects, shares, is_shown, strict=True)
            if item.iscrowd or (share > GONE and not shown)
        }

    def _shown(self, record: ImageRecord, view: View) -> "_Shown":
        # 1. Objects that are visible enough in the view.
        items = [item for item in record.objects if not item.iscrowd]
        inside, shares = view.boxes(np.array([one.xyxy for one in items], float).reshape(-1, 4))
        kept = np.flatnonzero((shares >= VISIBLE) & _has_area(inside, view))
        # 2. Crowds and partly visible objects, which are not trained on.
        crowds, _ = view.boxes(
            np.array([one.xyxy for one in record.objects if one.iscrowd], float).reshape(-1, 4)
        )
        # 3. Masks.
        masks: list[FloatArray] = []
        if self.config.task == "segment":
            masks = [self._mask(record, items[at].segmentation, view, inside[at]) for at in kept]
        left, top, right, bottom = view.window
        return _Shown(
            image_hw=(bottom - top, right - left),
            boxes=inside[kept],
            names=[self.dataset.names[items[at].category_id] for at in kept],
            masks=masks,
            crowds=crowds,
            partial=self._partial(record, view),
        )

    def _mask(
        self, record: ImageRecord, segmentation: object, view: View, box: FloatArray
    ) -> FloatArray:
        if segmentation is None:
            raise DataError(f"{record.path}: an object has no mask; use task 'detect'")
        mask = segmentation_to_mask(segmentation, record.image_hw)  # type: ignore[arg-type]
        return crop_mask(view.mask(mask), box.astype(np.float32))

    def _sample(
        self, record: ImageRecord, picture: ByteArray, shown: "_Shown", rng: np.random.Generator
    ) -> Sample:
        # 1. Choose names and objects.
        names = self._names_to_ask(record, shown, rng)
        chosen = [at for at, name in enumerate(shown.names) if name in names]
        most = self.max_objects or len(chosen)
        is_whole = len(chosen) <= most
        if not is_whole:
            chosen = sorted(int(at) for at in rng.choice(chosen, most, replace=False))
        chosen = self._ordered(shown.boxes, chosen)
        # 2. Encode masks.
        codes: Sequence[Sequence[int]] = [()] * len(chosen)
        if shown.masks and chosen and self.codec is not None:
            codes = self.codec.encode(np.stack([shown.masks[at] for at in chosen])).tolist()
        # 3. Write prompt and answer.
        make_prefix = segment_prefix if self.config.task == "segment" else detect_prefix
        prefix, suffix = make_prefix(names, kind=self.kind), shown.suffix(chosen, codes)
        return Sample(str(record.path), picture, prefix, suffix, is_whole=is_whole)

    def _names_to_ask(
        self, record: ImageRecord, shown: "_Shown", rng: np.random.Generator
    ) -> list[str]:
        classes = [c for c in dict.fromkeys(self.dataset.classes) if c not in shown.partial]
        if not classes:
            raise _NothingToAskError(f"{record.path}: each class is annotated in part only")
        present = [name for name in classes if name in shown.names]
        absent = [name for name in classes if name not in shown.names]
        if absent and (not present or rng.random() < self.config.negatives):
            return [absent[int(rng.integers(len(absent)))]]
        most = classes_per_prompt(self.kind)
        if most > 1 and rng.random() < _JOINED:
            # Those that are there first, so that many classes do not make empty answers.
            some = [*rng.permutation(present), *rng.permutation(absent)][:most]
            return [str(name) for name in rng.permutation(some)]
        return [present[int(rng.integers(len(present)))]]

    def _ordered(self, boxes: FloatArray, chosen: list[int]) -> list[int]:
        """Sort objects as the checkpoint writes them: from the left, or in raster order."""
        if self.kind == "tiny":
            return sorted(chosen, key=lambda at: boxes[at, 0] + boxes[at, 2])
        return sorted(chosen, key=lambda at: (boxes[at, 1], boxes[at, 0]))

    def _closed_sample(
        self, record: ImageRecord, picture: ByteArray, shown: "_Shown", rng: np.random.Generator
    ) -> Sample:
        total = self.max_objects or len(shown.names)
        chosen = [int(at) for at in rng.permutation(len(shown.names))[:total]]
        suffix = shown.suffix(chosen, [()] * len(chosen))
        height, width = shown.image_hw
        scale = np.array([width, height, width, height])
        noise = noise_boxes(
            shown.boxes[chosen] / scale, total - len(chosen), rng, avoid=shown.crowds / scale
        )
        bins = encode_boxes(noise * scale, image_hw=shown.image_hw)
        texts = [*([suffix] if suffix else []), *(object_text(row, NOISE) for row in bins)]
        return Sample(str(record.path), picture, CLOSED_PREFIX, SEPARATOR.join(texts), len(suffix))


def size_mismatch(found: tuple[int, ...], stated: tuple[int, int]) -> str:
    """Return the message about an image of another size than its annotations state."""
    return f"the image is {found[1]}x{found[0]}, its annotations say {stated[1]}x{stated[0]}"


def _has_area(inside: FloatArray, view: View) -> BoolArray:
    left, top, right, bottom = view.window
    bins = encode_boxes(inside.reshape(-1, 4), image_hw=(bottom - top, right - left))
    return np.asarray((bins[:, 2:] > bins[:, :2]).all(1), np.bool_)


@dataclass(frozen=True)
class _Shown:
    """The objects of a view: boxes ``(n, 4)`` and crowds ``(m, 4)`` in its pixels."""

    image_hw: tuple[int, int]
    boxes: FloatArray
    names: list[str]
    masks: list[FloatArray]
    crowds: FloatArray
    partial: set[str]

    def suffix(self, chosen: Sequence[int], codes: Sequence[Sequence[int]]) -> str:
        bins = encode_boxes(self.boxes[list(chosen)].reshape(-1, 4), image_hw=self.image_hw)
        names = [self.names[at] for at in chosen]
        return SEPARATOR.join(map(object_text, bins, names, codes))


Source: TypeAlias = TextSource | ObjectSource


@dataclass
class Samples(TorchDataset[Sample]):
    """Samples of a run by number: each image once an epoch, in another view each time.

    The same number always gives the same sample, in any process. Several sources are drawn in a
    random order by their weights.

    Attributes:
        sources: The data.
        count: Number of samples of the run.
        seed: Random seed.
        weights: How often each source is drawn; empty: all equally.
    """

    sources: Sequence[Source]
    count: int
    seed: int
    weights: Sequence[float] = ()

    def __len__(self) -> int:
        """Return the number of samples of the run."""
        return self.count

    def __getitem__(self, number: int) -> Sample:
        """Return a sample; an image that cannot be read is replaced by the next one.

        Raises:
            DataError: If no image can be read.
        """
        which, turn = self.place(number)
        source = self.sources[which]
        size = len(source)
        # The order depends on seed and epoch only, so that a resumed run sees the same samples.
        epoch, place = divmod(turn, size)
        order = np.random.default_rng([self.seed, epoch]).permutation(size)
        unread: dict[str, str] = {}
        reason = "there is no image"
        # Skip unreadable images; they are reported with the sample.
        for more in range(size):
            index = int(order[(place + more) % size])
            rng = np.random.default_rng([self.seed, number, index])
            try:
                sample = source.draw(index, rng)
            except _NothingToAskError as error:
                reason = str(error)
            except (ImageError, SourceError, DataError) as error:
                reason = str(error)
                unread[reason.partition(":")[0]] = reason
            else:
                return replace(sample, unread=unread) if unread else sample
        raise DataError(f"none of {size} images can be trained on: {reason}")

    def place(self, number: int) -> tuple[int, int]:
        """Return the source of a sample, and how many of the earlier samples came from it."""
        shares = np.array(self.weights or [1.0] * len(self.sources), np.float64)
        shares = np.cumsum(shares / shares.sum())
        quotas = np.maximum(1, np.diff(np.rint(_ROUND * shares), prepend=0)).astype(int)
        turn, place = divmod(number, int(quotas.sum()))
        deck = np.repeat(np.arange(len(quotas)), quotas)
        np.random.default_rng([self.seed, turn]).shuffle(deck)
        which = int(deck[place])
        return which, int(turn * quotas[which] + (deck[:place] == which).sum())


def noise_boxes(
    boxes: FloatArray,
    count: int,
    rng: np.random.Generator,
    *,
    avoid: FloatArray | None = None,
) -> FloatArray:
    """Draw boxes that are no objects.

    Some overlap a true one or are next to it, like a duplicate answer; the others are where
    nothing is, with the sizes of true ones, or, where all is covered, where least is.

    Args:
        boxes: ``(n, 4)`` true boxes as shares of the picture, opposite corners in either order of
            axes.
        count: How many to draw.
        rng: Source of randomness.
        avoid: ``(m, 4)`` regions of unknown content (crowds), where no box is placed if possible.

    Returns:
        ``(count, 4)`` float32, same order of axes.

    Source:
        Answers that are filled with noise boxes never end too early, and the likelihood of the
        class token is a score: Pix2seq (arXiv 2109.10852); PaliGemma 2 (arXiv 2412.03555),
        appendix C.

    Example:
        >>> some = noise_boxes(np.array([[0.1, 0.1, 0.3, 0.3]]), 5, np.random.default_rng(0))
        >>> some.shape, bool((some[:, 2:] > some[:, :2]).all())
        ((5, 4), True)
    """
    crowds = np.empty((0, 4)) if avoid is None else avoid
    found = np.empty((count, 4), np.float32)
    for row in range(count):
        is_beside = len(boxes) > 0 and rng.random() < _AGAIN
        true = boxes[rng.integers(len(boxes))] if is_beside else None
        tries = np.stack(
            [_elsewhere(boxes, rng) if true is None else _beside(true, rng) for _ in range(_TRIES)]
        )
        taken = crowds if is_beside else np.concatenate([boxes.reshape(-1, 4), crowds])
        overlap = box_iou(tries, taken).max(1) if len(taken) else np.zeros(_TRIES)
        free = np.flatnonzero(overlap < _FREE)
        found[row] = tries[free[0] if len(free) else overlap.argmin()]
    return found


def add_noise(tokenizer: PreTrainedTokenizerBase) -> int:
    """Make ``<noise>`` one token, which takes the space before it along; return its id.

    The model's table needs a row more: ``resize_token_embeddings(len(tokenizer))``.
    """
    tokenizer.add_tokens([AddedToken(NOISE, lstrip=True, special=False, normalized=False)])
    number = tokenizer.convert_tokens_to_ids(NOISE)
    return int(number) if isinstance(number, int) else int(number[0])


def _beside(box: FloatArray, rng: np.random.Generator) -> FloatArray:
    sides = np.tile(box[2:] - box[:2], 2)
    return _held(box + rng.normal(0, 0.2, 4) * sides)


def _elsewhere(boxes: FloatArray, rng: np.random.Generator) -> FloatArray:
    if len(boxes):
        box = boxes[rng.integers(len(boxes))]
        sides = (box[2:] - box[:2]) * np.exp(rng.normal(0, 0.3, 2))
    else:
        sides = np.exp(rng.uniform(np.log(0.03), np.log(0.6), 2))
    sides = np.clip(sides, _LEAST, 1)
    corner = rng.random(2) * (1 - sides)
    return _held(np.concatenate([corner, corner + sides]))


def _held(box: FloatArray) -> FloatArray:
    """Return the box inside the picture, with an area."""
    low = np.clip(np.minimum(box[:2], box[2:]), 0, 1 - _LEAST)
    high = np.clip(np.maximum(box[:2], box[2:]), low + _LEAST, 1)
    held: FloatArray = np.concatenate([low, high]).astype(np.float32)
    return held
