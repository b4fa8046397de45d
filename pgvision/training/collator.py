"""Samples to one batch, by the checkpoint's own processor.

Image and prompt attend to each other, the answer to what precedes it (``token_type_ids``); labels
cover the answer and its ``<eos>``.
"""

import copy
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pgvision.errors import DataError
from pgvision.runtime.checkpoint_files import wrap_tokenizer
from pgvision.runtime.protocol import Vocabulary
from pgvision.tokens import SEPARATOR
from pgvision.training.samples import Sample

IGNORED: Final = -100
"""Label of tokens that are not learnt."""


class Collator:
    """Makes batches of samples.

    Args:
        processor: The checkpoint's.
        max_length: Longest sequence of the model in tokens, image included.

    Attributes:
        separator: Ids of the separator between the objects of an answer.

    Example:
        >>> from pgvision.runtime import load
        >>> collator = Collator(load("tiny").processor, max_length=1024)
        >>> image = np.zeros((40, 60, 3), np.uint8)
        >>> batch = collator([Sample("a.jpg", image, "detect helmet", "")])
        >>> (batch["labels"] >= 0).sum().item()  # <eos>
        1
    """

    def __init__(self, processor: Any, *, max_length: int) -> None:
        # Positions are counted from the first token, so padding comes last.
        self.processor = copy.deepcopy(processor)
        self.processor.tokenizer.padding_side = "right"
        self.max_length = max_length
        self.vocabulary: Vocabulary = wrap_tokenizer(
            self.processor.tokenizer, "the processor"
        ).vocabulary
        between = self._ids(f"<loc0000>{SEPARATOR}<loc0000>")[1:-1]
        self.separator = torch.tensor(between)

    @property
    def text_places(self) -> int:
        """Tokens of the longest prompt and answer together."""
        return self.max_length - int(self.processor.image_seq_length)

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return a batch.

        Returns:
            The processor's ``input_ids``, ``attention_mask``, ``token_type_ids`` ``(b, t)`` and
            ``pixel_values``; ``labels`` ``(b, t)``, -100 where nothing is learnt; ``masks``
            ``(n, 64, 64)`` of all objects with codes, in the order of their codes; ``names`` of the
            images, and ``unread``, images that could not be read.

        Raises:
            DataError: If a row is longer than the model allows, or lacks its ``<eos>``.
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
        masks = [one.masks for one in samples if one.masks is not None]
        if masks:
            found["masks"] = torch.from_numpy(np.concatenate(masks))
        found["names"] = [one.name for one in samples]
        found["unread"] = [pair for one in samples for pair in one.unread.items()]
        return found

    def _labels(self, batch: dict[str, Tensor], samples: Sequence[Sample]) -> Tensor:
        # 1. Refuse what the model would cut off.
        ids, types = batch["input_ids"], batch["token_type_ids"]
        if ids.shape[1] > self.max_length:
            row = int(batch["attention_mask"].sum(1).argmax())
            raise DataError(
                f"{samples[row].name}: prompt and answer have {ids.shape[1]} tokens, the model "
                f"takes {self.max_length}; cut the image into tiles, or use max_objects"
            )
        # 2. Train on the suffix only.
        learnt = (types == 1) & (batch["attention_mask"] == 1)
        labels = ids.masked_fill(~learnt, IGNORED)
        for row, sample in enumerate(samples):
            places = learnt[row].nonzero()[:, 0]
            if len(places) == 0 or int(ids[row, places[-1]]) != self.vocabulary.eos:
                raise DataError(
                    f"{sample.name}: the answer {sample.suffix[:60]!r} does not end in <eos>"
                )
            # 3. A cut-off answer must not teach the end token.
            if not sample.is_whole:
                labels[row, places[-1]] = IGNORED
            # 4. Of added noise objects only the noise token is trained.
            if sample.noise_from is not None:
                true = sample.suffix[: sample.noise_from]
                filled = places[len(self._ids(true)) if true else 0 :]
                labels[row, filled[~self._is_noise(ids[row, filled])]] = IGNORED
        return labels

    def _is_noise(self, ids: Tensor) -> Tensor:
        """Return which tokens of noise boxes are their class; the others are not learnt."""
        first = self.vocabulary.first_loc
        is_loc = (ids >= first) & (ids < first + 1024)
        return ~is_loc & ~torch.isin(ids, self.separator) & (ids != self.vocabulary.eos)

    def num_tokens(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self._ids(text))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
