"""Batches of pictures and prompts, drawn from shards; a batch is a function of its seed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pgvision.arrays import FloatArray, IntArray
from pgvision.tokens import SEPARATOR, encode_boxes, object_text
from pgvision.training.samples import CLOSED_PREFIX, NOISE, noise_boxes
from recipes.dense import DenseTargets, Truth, dense_targets
from recipes.features import relit
from recipes.scenes import CLASSES
from recipes.scenes.wordings import trained_forms
from recipes.shards import Shard

# How often each task is asked.
TASK_SHARES: Final = {"detect": 0.44, "segment": 0.24, "answer": 0.14, "caption": 0.10, "ocr": 0.08}
_ABSENT: Final = 0.2
_FOREIGN: Final = 0.15  # of the absent classes: one that its whole shard never shows
_FIRST_FORM: Final = 0.4  # how often a question is asked in the first of its forms
MAX_OBJECTS: Final = 14
MAX_MASKS: Final = 5
CLOSED_OBJECTS: Final = 18
_CLOSED: Final = 0.4  # how often a picture is asked for the whole closed set, where it can be


@dataclass(frozen=True)
class Wording:
    """The classes of a run, and the words that ask for them.

    Attributes:
        classes: Every class, in the order of the heads' outputs.
        same: A shard's name of a class -> the class it is.
        phrases: A shard's name of a class -> the ways to ask for it; itself if not given.
        closed: Names that are also asked for all at once, in answers filled with noise boxes.
    """

    classes: tuple[str, ...] = CLASSES
    same: Mapping[str, str] = field(default_factory=dict)
    phrases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    closed: tuple[str, ...] = ()

    def index(self, name: str) -> int:
        """Return the number of the class that a shard calls ``name``."""
        return self.classes.index(self.same.get(name, name))


@dataclass(frozen=True)
class Batch:
    """One step's tensors: ``b`` pictures with ``k`` prompts each, so ``b * k`` rows of ``t``.

    Attributes:
        pictures: ``(b, 3, r, r)`` float32 in [-1, 1], or ``(b, p, d)`` cached features.
        ids, attention, types: ``(b * k, t)``; types are 0 on the prefix and 1 on the suffix.
        is_target: ``(b * k, t)`` bool: the suffix and its ``<eos>``.
        asked: ``(b * k,)`` index of the class that a row asks for, -1 for other tasks.
        dense: What the vision tokens should know.
        sources: ``(b,)`` number of the shard that each picture is from.
        rows: ``(b,)`` its place in that shard.
    """

    pictures: Tensor
    ids: Tensor
    attention: Tensor
    types: Tensor
    is_target: Tensor
    asked: Tensor
    dense: DenseTargets
    sources: IntArray
    rows: IntArray


@dataclass(frozen=True)
class View:
    """The truth of one image.

    Attributes:
        boxes: ``(n, 4)`` top, left, bottom, right as shares of the image.
        classes: ``(n,)`` numbers in the run's wording.
        colours: ``(n,)``, -1 for unknown.
        texts: The same for what is written on the objects.
        codes: ``(n, 16)`` mask codes, -1 for unknown.
        sentences: JSON with caption, reading and questions.
        names: Number -> the shard's name, for classes of which every object is annotated.
        absent: The same, for classes that the image does not show.
        present: The same, for classes of which at least one object is annotated.
    """

    boxes: FloatArray
    classes: IntArray
    colours: IntArray
    texts: IntArray
    codes: IntArray
    sentences: str
    names: Mapping[int, str]
    absent: Mapping[int, str]
    present: Mapping[int, str]

    def narrowed(
        self, *, names: Mapping[int, str], absent: Mapping[int, str], present: Mapping[int, str]
    ) -> "View":
        """Return the same image with other statements about its classes."""
        return replace(self, names=names, absent=absent, present=present)

    def truth(self, num_classes: int) -> Truth:
        """Return what the dense head learns from."""
        known = np.zeros(num_classes, np.bool_)
        known[[*self.names, *self.absent]] = True
        return Truth(self.boxes, self.classes, known, self.colours, self.texts)


@dataclass(frozen=True)
class _Row:
    prefix: list[int]
    suffix: list[int]
    asked: int
    noise: range = range(0)  # of the suffix: here the class alone is taught


class BatchMaker:
    """Draws pictures and prompts and writes them as tokens.

    Args:
        shards: The pictures.
        tokenizer: The small tokenizer.
        num_image_tokens: Vision tokens of one picture.
        features: For each shard the cached features of its pictures, instead of pixels.
        shares: How often each shard is drawn from; all alike if not given.
        wording: The classes, and how they are asked for.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        tokenizer: PreTrainedTokenizerBase,
        num_image_tokens: int,
        *,
        features: Sequence["np.ndarray[Any, np.dtype[np.float16]]"] | None = None,
        shares: Sequence[float] | None = None,
        wording: Wording | None = None,
    ) -> None:
        self._shards, self._tokenizer, self._features = shards, tokenizer, features
        weights = np.ones(len(shards)) if shares is None else np.array(shares, np.float64)
        self._shares = weights / weights.sum()
        self._wording = wording or Wording()
        self._num_image_tokens = num_image_tokens
        self._grid = round(num_image_tokens**0.5)
        self.first_loc = _token_id(tokenizer, "<loc0000>")
        self._noise = _token_id(tokenizer, NOISE)

    def draw(self, seed: Sequence[int], *, num_images: int, num_prompts: int) -> Batch:
        """Return the batch of ``seed``: the same seed always gives the same batch.

        With ``num_prompts`` 0 it has pictures and dense targets only.
        """
        rng = np.random.default_rng(list(seed))
        sources = rng.choice(len(self._shards), size=num_images, p=self._shares)
        places = np.array([int(rng.integers(len(self._shards[k].offsets) - 1)) for k in sources])
        pictures, views, rows = [], [], []
        for shard, place in zip(sources, places, strict=True):
            view = self.view(int(shard), int(place))
            pictures.append(self._picture(int(shard), int(place), rng))
            views.append(view)
            rows += self._examples(view, num_prompts, rng)
        count = len(self._wording.classes)
        dense = dense_targets([view.truth(count) for view in views], self._grid)
        return self._pack(torch.from_numpy(np.stack(pictures)), rows, dense, sources, places)

    def _picture(self, shard: int, place: int, rng: np.random.Generator) -> FloatArray:
        if self._features is not None:
            features: FloatArray = self._features[shard][place].astype(np.float32)
            return features
        pixels: FloatArray = relit(self._shards[shard].images[place][None], rng)[0]
        return pixels.transpose(2, 0, 1)

    def view(self, shard_index: int, place: int) -> View:
        """Return the truth of one image of a shard."""
        shard = self._shards[shard_index]
        mine = slice(int(shard.offsets[place]), int(shard.offsets[place + 1]))
        number = self._wording.index
        numbers = np.array([number(name) for name in shard.names])
        names = {number(name): name for name in shard.names}
        classes = numbers[shard.classes[mine]]
        return View(
            shard.boxes[mine], classes, shard.colours[mine],
            shard.texts[mine], shard.codes[mine], shard.sentences[place],
            names,
            {number(name): name for name in shard.absent},
            {int(one): names[int(one)] for one in np.unique(classes)},
        )  # fmt: skip

    def _examples(self, view: View, count: int, rng: np.random.Generator) -> list[_Row]:
        """Draw prompts for one picture, no two alike if that can be had."""
        rows: list[_Row] = []
        for _ in range(3 * count):
            row = self._example(view, rng)
            if all(row.prefix != other.prefix for other in rows):
                rows.append(row)
            if len(rows) == count:
                break
        while len(rows) < count:
            rows.append(self._example(view, rng))
        return rows

    def _example(self, view: View, rng: np.random.Generator) -> _Row:
        task = str(rng.choice(list(TASK_SHARES), p=list(TASK_SHARES.values())))
        caption, reading, questions = json.loads(view.sentences)
        closed = self._wording.closed
        if closed and set(closed) <= set(view.names.values()) and rng.random() < _CLOSED:
            return self._closed_set(view, rng)
        if task == "caption" and caption:
            return self._row("caption en", caption)
        if task == "ocr" and set(CLASSES) <= set(view.names.values()):
            return self._row("ocr", reading)
        if task == "answer" and questions:
            question, answer = questions[int(rng.integers(len(questions)))]
            forms = trained_forms(question)
            if rng.random() > _FIRST_FORM:
                question = forms[int(rng.integers(len(forms)))]
            return self._row(f"answer en {question}", answer)
        return self._objects(view, task, rng)

    def _row(self, prefix: str, suffix: str, *, asked: int = -1, is_whole: bool = True) -> _Row:
        bos, eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        image = [_token_id(self._tokenizer, "<image>")] * self._num_image_tokens
        before, after = self._words(prefix + "\n"), self._words(suffix)
        return _Row([*image, bos, *before], [*after, eos] if is_whole else after, asked)

    def _words(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def class_to_ask(self, view: View, rng: np.random.Generator) -> tuple[int, str]:
        """Choose a class, and the words to ask for it with."""
        present = np.unique(view.classes)
        missing = np.setdiff1d(list(view.names), present)
        foreign = list(view.absent)
        if foreign and rng.random() < _ABSENT * _FOREIGN:
            some = foreign
        elif len(missing) and (len(present) == 0 or rng.random() < _ABSENT):
            some = list(missing)
        else:
            some = list(present) if len(present) else foreign
        number = int(rng.choice(some))
        name = view.names.get(number) or view.absent[number]
        phrases = self._wording.phrases.get(name, (name,))
        return number, phrases[int(rng.integers(len(phrases)))]

    def _objects(self, view: View, task: str, rng: np.random.Generator) -> _Row:
        number, phrase = self.class_to_ask(view, rng)
        mine = np.flatnonzero(view.classes == number)
        with_masks = task == "segment" and bool((view.codes[mine] >= 0).all())
        kept = mine[: MAX_MASKS if with_masks else MAX_OBJECTS]
        bins = encode_boxes(view.boxes[kept][:, [1, 0, 3, 2]], image_hw=(1, 1))
        codes = [view.codes[one] if with_masks else () for one in kept]
        texts = [object_text(row, phrase, some) for row, some in zip(bins, codes, strict=True)]
        # An answer that was cut for its length must not teach the model to stop there.
        return self._row(
            f"{'segment' if with_masks else 'detect'} {phrase}",
            SEPARATOR.join(texts),
            asked=number,
            is_whole=len(kept) == len(mine),
        )

    def _closed_set(self, view: View, rng: np.random.Generator) -> _Row:
        """Name every object of the closed set, in any order, and then boxes that show nothing."""
        names = {self._wording.index(name): name for name in self._wording.closed}
        mine = rng.permutation(np.flatnonzero(np.isin(view.classes, list(names))))[:CLOSED_OBJECTS]
        noise = noise_boxes(view.boxes[mine], CLOSED_OBJECTS - len(mine), rng)
        labels = [names[int(number)] for number in view.classes[mine]] + [NOISE] * len(noise)
        boxes = np.concatenate([view.boxes[mine], noise])
        bins = encode_boxes(boxes[:, [1, 0, 3, 2]], image_hw=(1, 1))
        texts = [object_text(row, label) for row, label in zip(bins, labels, strict=True)]
        row = self._row(CLOSED_PREFIX, SEPARATOR.join(texts))
        first = len(self._words(SEPARATOR.join(texts[: len(mine)])))
        return replace(row, noise=range(first, len(row.suffix)))

    def _pack(
        self,
        pictures: Tensor,
        rows: Sequence[_Row],
        dense: DenseTargets,
        sources: IntArray,
        places: IntArray,
    ) -> Batch:
        length = max((len(row.prefix) + len(row.suffix) for row in rows), default=0)
        ids = torch.full((len(rows), length), int(self._tokenizer.pad_token_id))
        attention, types = torch.zeros_like(ids), torch.zeros_like(ids)
        is_target = torch.zeros_like(ids, dtype=torch.bool)
        for index, row in enumerate(rows):
            start, end = len(row.prefix), len(row.prefix) + len(row.suffix)
            ids[index, :end] = torch.tensor([*row.prefix, *row.suffix])
            attention[index, :end] = 1
            types[index, start:] = 1
            is_target[index, start:end] = True
            for place in row.noise:
                is_target[index, start + place] = row.suffix[place] == self._noise
        asked = torch.tensor([row.asked for row in rows], dtype=torch.long)
        return Batch(pictures, ids, attention, types, is_target, asked, dense, sources, places)


def _token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    found = tokenizer.convert_tokens_to_ids([token])
    return int(found[0])
