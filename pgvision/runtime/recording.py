"""From a finished row to a generation: ids become text, lists become arrays."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from pgvision.runtime.protocol import Generation
from pgvision.runtime.rows import Row
from pgvision.runtime.vocabulary import Vocabulary
from pgvision.tokens import NUM_BINS, NUM_CODES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE: Final = re.compile(r"<0x[0-9A-F]{2}>")


class Scribe:
    """Writes down what rows came to.

    Args:
        vocabulary: Ids of the special tokens.
        tokenizer: The checkpoint's tokenizer.
    """

    def __init__(self, vocabulary: Vocabulary, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._vocabulary, self._tokenizer = vocabulary, tokenizer

    def generation(self, row: Row) -> Generation:
        """Return a row's answer with everything that was recorded."""
        written = row.written
        pieces = self._pieces(written.ids)
        return Generation(
            text="".join(pieces),
            token_ids=np.array(written.ids, np.int64),
            pieces=pieces,
            finished=row.finished,
            normalised="vocabulary" if row.cursor is None else "allowed",
            logprobs=np.array(written.logprobs, np.float32),
            eos_logprobs=np.array(written.eos, np.float32),
            loc_probs=np.array(written.locs, np.float32).reshape(-1, NUM_BINS),
            seg_probs=np.array(written.segs, np.float32).reshape(-1, NUM_CODES),
            forced=np.array(written.forced, np.bool_),
            spans=row.spans,
            outside=None if row.cursor is None else np.array(written.outside, np.float32),
            passes=row.passes,
            timings=dict(row.timings),
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
