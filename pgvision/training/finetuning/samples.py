"""Samples to learn from: all chance is a function of the run's seed and the sample's number."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from torch.utils.data import Dataset as TorchDataset

from pgvision.arrays import ByteArray, FloatArray
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
from pgvision.training.finetuning.augment import VISIBLE, View, draw_view, whole
from pgvision.training.finetuning.settings import FinetuneSettings
from pgvision.training.noise import CLOSED_PREFIX, NOISE, noise_boxes

_LOG = logging.getLogger(__name__)
_ROUND: Final = 240  # samples, of which each source of a mixture gives its share
_JOINED: Final = 0.3  # how often all classes are asked for at once, where a prompt takes several


@dataclass(frozen=True)
class Sample:
    """One picture with what is asked and what should be said.

    Attributes:
        name: Where the picture lies.
        bgr: ``(h, w, 3)`` uint8.
        prefix: The prompt.
        suffix: The answer.
        noise_from: The character of ``suffix`` where boxes that show nothing begin; None: nowhere.
        masks: ``(n, 64, 64)`` float32 of its objects, for the mask loss; None: none is known.
    """

    name: str
    bgr: ByteArray
    prefix: str
    suffix: str
    noise_from: int | None = None
    masks: FloatArray | None = None


class Source(Protocol):
    """Where samples come from."""

    def __len__(self) -> int:
        """Number of pictures."""
        ...

    def draw(self, index: int, rng: np.random.Generator) -> Sample:
        """Return a sample about the picture of that number."""
        ...


@dataclass(frozen=True)
class TextSource:
    """Captions, answers and readings, as JSONL has them."""

    examples: Sequence[Example]
    settings: FinetuneSettings

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.examples)

    def draw(self, index: int, rng: np.random.Generator) -> Sample:
        """Return an example in another light, asked in one of its ways."""
        one = self.examples[index]
        ways = (one.prefix, *one.paraphrases)
        prefix = ways[int(rng.integers(len(ways)))] if one.paraphrases else one.prefix
        bgr = read_image(one.image)
        if self.settings.augment:
            bgr = draw_view((bgr.shape[0], bgr.shape[1]), rng, geometric=False).picture(bgr)
        return Sample(str(one.image), bgr, prefix, one.suffix)


@dataclass(frozen=True)
class ObjectSource:
    """Boxes and masks of a data set, asked for in the checkpoint's own prompts.

    Attributes:
        dataset: The pictures and their objects; crowds are left out.
        settings: How objects become answers.
        kind: Which prompts the checkpoint knows.
        codec: Turns masks into codes.
        num_objects: Boxes of a closed set's answer.
    """

    dataset: Dataset
    settings: FinetuneSettings
    kind: str
    codec: MaskCodec | None = None
    num_objects: int = 0

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.dataset.images)

    def draw(self, index: int, rng: np.random.Generator) -> Sample:
        """Return a view of a picture with a prompt about it."""
        record = self.dataset.images[index]
        bgr = read_image(record.path)
        if bgr.shape[:2] != record.image_hw:
            raise DataError(
                f"{record.path} is {bgr.shape[:2]}, the annotations say {record.image_hw} (height, "
                "width): pgvision convert --check"
            )
        view = whole(record.image_hw)
        if self.settings.augment:
            view = draw_view(record.image_hw, rng, geometric=True)
        found = self._seen(record, view)
        picture = view.picture(bgr)
        ask = self._closed if self.settings.closed_set else self._asked
        return ask(record, picture, found, rng)

    def _seen(self, record: ImageRecord, view: View) -> "_Seen":
        items = [item for item in record.objects if not item.iscrowd]
        boxes = np.array([item.xyxy for item in items], np.float64).reshape(-1, 4)
        inside, shares = view.boxes(boxes)
        kept = np.flatnonzero(shares >= VISIBLE)
        names = [self.dataset.names[items[at].category_id] for at in kept]
        left, top, right, bottom = view.window
        size = (bottom - top, right - left)
        bins = encode_boxes(inside[kept], image_hw=size)
        has_area = [bool((row[2:] > row[:2]).all()) for row in bins]
        masks: list[FloatArray] = []
        if self.settings.task == "segment":
            masks = [
                self._mask(record, items[kept[at]].segmentation, view, inside[kept[at]])
                for at in np.flatnonzero(has_area)
            ]
        # What is hardly to be seen is still there: it must not be asked for as absent.
        there = {self.dataset.names[item.category_id] for item in record.objects}
        return _Seen(
            size, inside[kept][has_area], [n for n, ok in zip(names, has_area, strict=True) if ok],
            masks, there,
        )  # fmt: skip

    def _mask(
        self, record: ImageRecord, segmentation: object, view: View, box: FloatArray
    ) -> FloatArray:
        if segmentation is None:
            raise DataError(
                f"{record.file_name}: an object has a box and no mask; task 'segment' needs masks, "
                "or use task 'detect'"
            )
        mask = segmentation_to_mask(segmentation, record.image_hw)  # type: ignore[arg-type]
        return crop_mask(view.mask(mask), box.astype(np.float32))

    def _asked(
        self, record: ImageRecord, picture: ByteArray, found: "_Seen", rng: np.random.Generator
    ) -> Sample:
        names = self._names_to_ask(found, rng)
        mine = [at for at, name in enumerate(found.names) if name in names]
        mine = self._ordered(found.boxes, mine, rng)
        ask = detect_prefix if self.settings.task == "detect" else segment_prefix
        masks = np.stack([found.masks[at] for at in mine]) if found.masks and mine else None
        codes: Sequence[Sequence[int]] = [()] * len(mine)
        if masks is not None and self.codec is not None:
            codes = self.codec.encode(masks).tolist()
        suffix = found.suffix(mine, codes)
        return Sample(str(record.path), picture, ask(names, kind=self.kind), suffix, masks=masks)

    def _names_to_ask(self, found: "_Seen", rng: np.random.Generator) -> list[str]:
        classes = list(dict.fromkeys(self.dataset.classes))
        present = [name for name in classes if name in found.names]
        absent = [name for name in classes if name not in found.there]
        if absent and (not present or rng.random() < self.settings.negatives):
            return [absent[int(rng.integers(len(absent)))]]
        most = classes_per_prompt(self.kind)
        if most > 1 and rng.random() < _JOINED:
            return classes[:most]
        some = present or classes
        return [some[int(rng.integers(len(some)))]]

    def _ordered(self, boxes: FloatArray, mine: list[int], rng: np.random.Generator) -> list[int]:
        order = self.settings.order or ("left" if self.kind == "tiny" else "raster")
        if order == "random":
            return [mine[at] for at in rng.permutation(len(mine))]
        keys = {
            "left": lambda at: boxes[at, 0] + boxes[at, 2],
            "raster": lambda at: (boxes[at, 1], boxes[at, 0]),
            "area": lambda at: -(boxes[at, 2:] - boxes[at, :2]).prod(),
        }
        return sorted(mine, key=keys[order])

    def _closed(
        self, record: ImageRecord, picture: ByteArray, found: "_Seen", rng: np.random.Generator
    ) -> Sample:
        mine = [int(at) for at in rng.permutation(len(found.names))[: self.num_objects]]
        suffix = found.suffix(mine, [()] * len(mine))
        height, width = found.image_hw
        scale = np.array([width, height, width, height])
        noise = noise_boxes(found.boxes[mine] / scale, self.num_objects - len(mine), rng) * scale
        bins = encode_boxes(noise, image_hw=found.image_hw)
        more = [object_text(row, NOISE) for row in bins]
        whole_text = SEPARATOR.join([*([suffix] if suffix else []), *more])
        return Sample(str(record.path), picture, CLOSED_PREFIX, whole_text, len(suffix))


@dataclass(frozen=True)
class _Seen:
    """The objects of one view."""

    image_hw: tuple[int, int]
    boxes: FloatArray  # (n, 4) pixels of the view
    names: list[str]
    masks: list[FloatArray]
    there: set[str]  # names of all objects of the picture

    def suffix(self, mine: Sequence[int], codes: Sequence[Sequence[int]]) -> str:
        bins = encode_boxes(self.boxes[list(mine)].reshape(-1, 4), image_hw=self.image_hw)
        names = [self.names[at] for at in mine]
        return SEPARATOR.join(map(object_text, bins, names, codes))


@dataclass
class Samples(TorchDataset[Sample]):
    """A run's samples, by number: every picture once an epoch, each time in another view.

    Several sources are drawn from in turn, in an order of chance, by their weights.

    Attributes:
        sources: Where they come from.
        count: How many a run takes.
        seed: Of all chance.
        weights: How often each source is drawn from; empty: all alike.
        unread: Pictures that could not be read, with the reason; another takes their place.
    """

    sources: Sequence[Source]
    count: int
    seed: int
    weights: Sequence[float] = ()
    unread: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many there are."""
        return self.count

    def __getitem__(self, number: int) -> Sample:
        """Draw a sample; the same number always gives the same one."""
        which, turn = self.place(number)
        source = self.sources[which]
        size = len(source)
        epoch, place = divmod(turn, size)
        order = np.random.default_rng([self.seed, epoch]).permutation(size)
        for more in range(size):
            index = int(order[(place + more) % size])
            rng = np.random.default_rng([self.seed, number, index])
            try:
                return source.draw(index, rng)
            except (ImageError, SourceError) as error:
                self._note(str(error))
        raise DataError(f"not one of {size} pictures could be read: {next(iter(self.unread), '')}")

    def place(self, number: int) -> tuple[int, int]:
        """Return the source of a sample, and how many of earlier ones came from it."""
        shares = np.array(self.weights or [1.0] * len(self.sources), np.float64)
        shares = np.cumsum(shares / shares.sum())
        quotas = np.maximum(1, np.diff(np.rint(_ROUND * shares), prepend=0)).astype(int)
        turn, place = divmod(number, int(quotas.sum()))
        deck = np.repeat(np.arange(len(quotas)), quotas)
        np.random.default_rng([self.seed, turn]).shuffle(deck)
        which = int(deck[place])
        return which, int(turn * quotas[which] + (deck[:place] == which).sum())

    def _note(self, reason: str) -> None:
        name = reason.partition(":")[0]
        if name not in self.unread:
            self.unread[name] = reason
            _LOG.warning("left out: %s", reason)
