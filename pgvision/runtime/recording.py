"""Keeps what a batch writes: tokens, their probabilities, and where each answer ended."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from pgvision.arrays import FloatArray
from pgvision.runtime.protocol import Generation
from pgvision.runtime.vocabulary import Vocabulary
from pgvision.tokens import NUM_BINS, NUM_CODES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_BYTE: Final = re.compile(r"<0x[0-9A-F]{2}>")


class Recorder:
    """Greedy choice and bookkeeping for one batch."""

    def __init__(
        self, num_rows: int, vocabulary: Vocabulary, tokenizer: "PreTrainedTokenizerBase"
    ) -> None:
        self._vocabulary, self._tokenizer = vocabulary, tokenizer
        self._finished = np.zeros(num_rows, np.bool_)
        self._ids: list[list[int]] = [[] for _ in range(num_rows)]
        self._logprobs: list[list[float]] = [[] for _ in range(num_rows)]
        self._eos: list[list[float]] = [[] for _ in range(num_rows)]
        self._locs: list[list[FloatArray]] = [[] for _ in range(num_rows)]
        self._segs: list[list[FloatArray]] = [[] for _ in range(num_rows)]

    @property
    def is_done(self) -> bool:
        """Whether every answer has ended."""
        return bool(self._finished.all())

    def record(self, logits: Tensor) -> Tensor:
        """Choose the next token of each row from ``(b, v)`` logits and keep its probabilities.

        Returns:
            ``(b,)`` ids on the logits' device; ``<pad>`` for rows that have ended.
        """
        table = self._vocabulary
        chosen = logits.argmax(-1)
        logprobs = logits.float().log_softmax(-1)
        own = logprobs.gather(1, chosen[:, None])[:, 0].tolist()
        ends = logprobs[:, table.eos].tolist()
        ids = chosen.tolist()
        for row in np.flatnonzero(~self._finished):
            token = ids[row]
            self._ids[row].append(token)
            self._logprobs[row].append(own[row])
            self._eos[row].append(ends[row])
            self._finished[row] = token == table.eos
            for first, count, kept in (
                (table.first_loc, NUM_BINS, self._locs),
                (table.first_seg, NUM_CODES, self._segs),
            ):
                if first <= token < first + count:
                    kept[row].append(logprobs[row, first : first + count].exp().cpu().numpy())
        ended = torch.from_numpy(self._finished).to(chosen.device)
        return chosen.masked_fill(ended, table.pad)

    def generations(
        self,
        timings: Mapping[str, float],
        alternatives: Sequence[tuple[tuple[str, float], ...]],
    ) -> list[Generation]:
        """Return what was recorded, one generation for each row."""
        return [self._generation(row, timings, alternatives[row]) for row in range(len(self._ids))]

    def _generation(
        self, row: int, timings: Mapping[str, float], alternatives: tuple[tuple[str, float], ...]
    ) -> Generation:
        pieces = self._pieces(self._ids[row])
        return Generation(
            text="".join(pieces),
            token_ids=np.array(self._ids[row], np.int64),
            pieces=pieces,
            logprobs=np.array(self._logprobs[row], np.float32),
            eos_logprobs=np.array(self._eos[row], np.float32),
            loc_probs=np.array(self._locs[row], np.float32).reshape(-1, NUM_BINS),
            seg_probs=np.array(self._segs[row], np.float32).reshape(-1, NUM_CODES),
            finished=bool(self._finished[row]),
            timings=dict(timings),
            alternatives=alternatives,
        )

    def _pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Split the decoded text by token: each piece is what its token added.

        Byte tokens in a row are decoded together and belong to the last of them, so that the
        pieces always join to the text that the tokenizer decodes.
        """
        words = [word or "" for word in self._tokenizer.convert_ids_to_tokens(list(ids))]
        pieces, run = [], []
        for index, token in enumerate(ids):
            run.append(token)
            follows = words[index + 1] if index + 1 < len(words) else ""
            if token == self._vocabulary.eos:
                pieces.append("")
            elif _BYTE.fullmatch(words[index]) and _BYTE.fullmatch(follows):
                pieces.append("")
                continue
            else:
                pieces.append(self._decode(run))
            run = []
        return tuple(pieces)

    def _decode(self, ids: Sequence[int]) -> str:
        # Decoders may drop the space at the very start; a guard in front keeps it.
        guard = self._tokenizer.convert_tokens_to_ids("<loc0000>")
        text: str = self._tokenizer.decode([guard, *ids], clean_up_tokenization_spaces=False)
        return text.removeprefix("<loc0000>")
