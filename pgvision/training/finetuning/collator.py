"""Samples as one batch, written by the checkpoint's own processor.

Picture and prompt see each other whole, the answer what came before it (``token_type_ids``), and
the answer and its ``<eos>`` alone are learnt.
"""

import copy
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pgvision.errors import DataError
from pgvision.runtime.tokenizer import Vocabulary, wrap_tokenizer
from pgvision.tokens import SEPARATOR
from pgvision.training.finetuning.samples import Sample

IGNORED: Final = -100
"""In place of a label: nothing is learnt here."""


class Collator:
    """Makes batches of samples.

    Args:
        processor: The checkpoint's.
        max_length: Tokens that the language model has places for, picture included.

    Attributes:
        separator: Ids of what stands between the objects of an answer.

    Example:
        >>> from pgvision.runtime import load
        >>> collator = Collator(load("tiny").processor, max_length=1024)
        >>> shot = np.zeros((40, 60, 3), np.uint8)
        >>> batch = collator([Sample("a.jpg", shot, "detect helmet", "")])
        >>> (batch["labels"] >= 0).sum().item()  # <eos>
        1
    """

    def __init__(self, processor: Any, *, max_length: int) -> None:
        # Positions are counted from the first token: padding stands behind.
        self.processor = copy.deepcopy(processor)
        self.processor.tokenizer.padding_side = "right"
        self.max_length = max_length
        self.vocabulary: Vocabulary = wrap_tokenizer(
            self.processor.tokenizer, "the processor"
        ).vocabulary
        between = self._ids(f"<loc0000>{SEPARATOR}<loc0000>")[1:-1]
        self.separator = torch.tensor(between)

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return a batch.

        Returns:
            The processor's ``input_ids``, ``attention_mask``, ``token_type_ids`` ``(b, t)`` and
            ``pixel_values``; ``labels`` ``(b, t)``, -100 where nothing is learnt; ``kept``, the
            positions whose logits predict a label in any row; ``masks`` ``(n, 64, 64)`` of all
            objects with codes, in the order of their codes; and ``names``.

        Raises:
            DataError: If a row is longer than the model has places for, or lacks its ``<eos>``.
        """
        batch = self.processor(
            images=[Image.fromarray(np.ascontiguousarray(one.bgr[..., ::-1])) for one in samples],
            text=[f"<image>{one.prefix}" for one in samples],
            suffix=[one.suffix for one in samples],
            padding="longest",
            return_tensors="pt",
        )
        found: dict[str, Any] = dict(batch)
        found["labels"] = self._labels(found, samples)
        places = (found["labels"] != IGNORED).any(0).nonzero()[:, 0]
        found["kept"] = torch.arange(int(places[0]) - 1, int(places[-1]))
        masks = [one.masks for one in samples if one.masks is not None]
        if masks:
            found["masks"] = torch.from_numpy(np.concatenate(masks))
        found["names"] = [one.name for one in samples]
        return found

    def _labels(self, batch: dict[str, Tensor], samples: Sequence[Sample]) -> Tensor:
        ids, types = batch["input_ids"], batch["token_type_ids"]
        if ids.shape[1] > self.max_length:
            row = int(batch["attention_mask"].sum(1).argmax())
            raise DataError(
                f"{samples[row].name}: prompt and answer are {ids.shape[1]} tokens, the model has "
                f"places for {self.max_length}; cut the picture into tiles, or ask for one class"
            )
        learnt = (types == 1) & (batch["attention_mask"] == 1)
        labels = ids.masked_fill(~learnt, IGNORED)
        for row, one in enumerate(samples):
            places = learnt[row].nonzero()[:, 0]
            if len(places) == 0 or int(ids[row, places[-1]]) != self.vocabulary.eos:
                raise DataError(f"{one.name}: the answer {one.suffix[:60]!r} does not end in <eos>")
            if one.noise_from is not None:
                count = len(self._ids(one.suffix[: one.noise_from])) if one.noise_from else 0
                filled = places[count:]
                labels[row, filled[~self._is_noise(ids[row, filled])]] = IGNORED
        return labels

    def _is_noise(self, ids: Tensor) -> Tensor:
        """Say which tokens of boxes that show nothing are their class; no other is learnt."""
        first = self.vocabulary.first_loc
        is_loc = (ids >= first) & (ids < first + 1024)
        return ~is_loc & ~torch.isin(ids, self.separator) & (ids != self.vocabulary.eos)

    def num_tokens(self, text: str) -> int:
        """Return how many tokens a text is."""
        return len(self._ids(text))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
