"""Batches for the tiny checkpoint, drawn from scene shards; a batch is a function of its seed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pgvision.arrays import FloatArray, IntArray
from pgvision.scenes import CLASSES
from pgvision.training.losses import DenseTargets
from pgvision.training.scene_cache import Shard

# How often each task is asked.
TASKS: Final = ("detect", "segment", "answer", "caption", "ocr")
TASK_SHARES: Final = (0.44, 0.24, 0.14, 0.10, 0.08)
_ABSENT: Final = 0.2
MAX_MASKS: Final = 5


@dataclass(frozen=True)
class Batch:
    """One step's tensors: ``b`` pictures with ``k`` prompts each, so ``b * k`` rows of ``t``.

    Attributes:
        pixels: ``(b, 3, r, r)`` float32 in [-1, 1].
        ids, attention, types: ``(b * k, t)``; types are 0 on the prefix and 1 on the suffix.
        is_target: ``(b * k, t)`` bool: the suffix and its ``<eos>``.
        asked: ``(b * k,)`` index of the class that a row asks for, -1 for other tasks.
        dense: What the vision tokens should know.
    """

    pixels: Tensor
    ids: Tensor
    attention: Tensor
    types: Tensor
    is_target: Tensor
    asked: Tensor
    dense: DenseTargets


@dataclass(frozen=True)
class _View:
    boxes: FloatArray
    classes: IntArray
    colours: IntArray
    texts: IntArray
    codes: IntArray | None
    sentences: str


@dataclass(frozen=True)
class _Row:
    prefix: list[int]
    suffix: list[int]
    asked: int


class BatchMaker:
    """Draws scenes and prompts and writes them as tokens.

    Args:
        shards: The scenes.
        codes: For each shard the ``(m, 16)`` mask codes of its objects; where it is None,
            ``detect`` is asked instead of ``segment``.
        tokenizer: The small tokenizer.
        num_image_tokens: Vision tokens of one picture.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        codes: Sequence[IntArray | None],
        tokenizer: PreTrainedTokenizerBase,
        num_image_tokens: int,
    ) -> None:
        self._shards, self._codes, self._tokenizer = shards, codes, tokenizer
        self._num_image_tokens = num_image_tokens
        self._grid = round(num_image_tokens**0.5)
        self.first_loc = _token_id(tokenizer, "<loc0000>")
        self._first_seg = _token_id(tokenizer, "<seg000>")
        self._words = lru_cache(maxsize=100_000)(self._tokenize)

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def draw(self, seed: Sequence[int], *, num_images: int, num_prompts: int) -> Batch:
        """Return the batch of ``seed``: the same seed always gives the same batch.

        With ``num_prompts`` 0 it has pictures and dense targets only.
        """
        rng = np.random.default_rng(list(seed))
        pictures, views, rows = [], [], []
        for _ in range(num_images):
            shard_index = int(rng.integers(len(self._shards)))
            shard = self._shards[shard_index]
            row = int(rng.integers(len(shard.images)))
            view = self._view(shard_index, row)
            pictures.append(_relit(shard.images[row], rng))
            views.append(view)
            rows += [self._example(view, rng) for _ in range(num_prompts)]
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
        return self._pack(pixels, rows, dense_targets(views, self._grid))

    def _view(self, shard_index: int, row: int) -> _View:
        shard = self._shards[shard_index]
        mine = slice(int(shard.offsets[row]), int(shard.offsets[row + 1]))
        codes = self._codes[shard_index]
        return _View(
            shard.boxes[mine], shard.classes[mine], shard.colours[mine], shard.texts[mine],
            None if codes is None else codes[mine], shard.sentences[row],
        )  # fmt: skip

    def _example(self, view: _View, rng: np.random.Generator) -> _Row:
        task = str(rng.choice(TASKS, p=TASK_SHARES))
        caption, reading, questions = json.loads(view.sentences)
        asked = -1
        if task == "caption":
            prefix, suffix = "caption en", list(self._words(caption))
        elif task == "ocr":
            prefix, suffix = "ocr", list(self._words(reading))
        elif task == "answer":
            question, answer = questions[int(rng.integers(len(questions)))]
            prefix, suffix = f"answer en {question}", list(self._words(answer))
        else:
            task = task if view.codes is not None else "detect"
            name = self._class_to_ask(view, rng)
            prefix, suffix = f"{task} {name}", self._objects(view, name, task == "segment")
            asked = CLASSES.index(name)
        bos, eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        image = [_token_id(self._tokenizer, "<image>")] * self._num_image_tokens
        return _Row([*image, bos, *self._words(prefix), *self._words("\n")], [*suffix, eos], asked)

    def _class_to_ask(self, view: _View, rng: np.random.Generator) -> str:
        present = np.unique(view.classes)
        absent = np.setdiff1d(np.arange(len(CLASSES)), present)
        if len(present) == 0 or (len(absent) and rng.random() < _ABSENT):
            return CLASSES[int(rng.choice(absent))]
        return CLASSES[int(rng.choice(present))]

    def _objects(self, view: _View, name: str, with_masks: bool) -> list[int]:
        mine = np.flatnonzero(view.classes == CLASSES.index(name))
        if with_masks:
            mine = mine[:MAX_MASKS]
        bins = np.clip(np.round(view.boxes[mine] * 1024), 0, 1023).astype(int)
        suffix: list[int] = []
        for position, row in enumerate(bins):
            suffix += self._words(" ; ") if position else ()
            suffix += [self.first_loc + int(value) for value in row]
            if with_masks and view.codes is not None:
                suffix += [self._first_seg + int(code) for code in view.codes[mine[position]]]
            suffix += self._words(f" {name}")
        return suffix

    def _pack(self, pixels: Tensor, rows: Sequence[_Row], dense: DenseTargets) -> Batch:
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
        asked = torch.tensor([row.asked for row in rows], dtype=torch.long)
        return Batch(pixels, ids, attention, types, is_target, asked, dense)


def _token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    found = tokenizer.convert_tokens_to_ids([token])
    return int(found[0])


def _relit(
    image: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", rng: np.random.Generator
) -> FloatArray:
    gain = rng.uniform(0.85, 1.15) * rng.uniform(0.96, 1.04, 3)
    relit = image * gain.astype(np.float32) + np.float32(rng.uniform(-12, 12))
    scaled: FloatArray = (np.clip(relit, 0, 255) / np.float32(127.5) - 1).astype(np.float32)
    return scaled


def dense_targets(views: Sequence[_View], grid: int) -> DenseTargets:
    """Spread objects over the ``grid * grid`` tokens whose centre they cover.

    Small objects always own the token under their middle; where objects of one class overlap,
    the smaller one wins, since the larger has other tokens left.
    """
    shape = (len(views), grid, grid, len(CLASSES))
    present, edges = np.zeros(shape, np.float32), np.zeros((*shape, 4), np.float32)
    sides, weights = np.ones((*shape, 2), np.float32), np.zeros(shape, np.float32)
    colours = np.full(shape[:3], -100)
    texts = np.full(shape[:3], -100)
    for index, view in enumerate(views):
        sizes = (view.boxes[:, 2:] - view.boxes[:, :2]).prod(1)
        for row in np.argsort(-sizes):
            top, left, bottom, right = view.boxes[row]
            rows, columns = _cells(top, bottom, grid), _cells(left, right, grid)
            centre_y, centre_x = (rows + 0.5) / grid, (columns + 0.5) / grid
            where = (index, rows[:, None], columns[None, :])
            block = edges[index, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            target = block[:, :, view.classes[row]]
            target[..., 0], target[..., 2] = (top - centre_y)[:, None], (bottom - centre_y)[:, None]
            target[..., 1], target[..., 3] = left - centre_x, right - centre_x
            mine = (*where, view.classes[row])
            present[mine] = 1.0
            sides[mine] = (bottom - top, right - left)
            weights[mine] = (len(rows) * len(columns)) ** -0.5
            if view.colours[row] >= 0:
                colours[where] = view.colours[row]
            if view.texts[row] >= 0:
                texts[where] = view.texts[row]
    flat = (len(views), grid * grid)
    return DenseTargets(
        present=torch.from_numpy(present.reshape(*flat, -1)),
        edges=torch.from_numpy(edges.reshape(*flat, len(CLASSES), 4)),
        colours=torch.from_numpy(colours.reshape(flat)),
        texts=torch.from_numpy(texts.reshape(flat)),
        sides=torch.from_numpy(sides.reshape(*flat, len(CLASSES), 2)),
        weights=torch.from_numpy(weights.reshape(*flat, -1)),
    )


def _cells(start: float, end: float, grid: int) -> IntArray:
    first, last = int(np.ceil(start * grid - 0.5)), int(np.floor(end * grid - 0.5))
    if last < first:
        first = last = min(grid - 1, int((start + end) / 2 * grid))
    return np.arange(max(first, 0), min(last, grid - 1) + 1)
