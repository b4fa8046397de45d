"""The ids of ``<loc>``, ``<seg>`` and special tokens, looked up and checked at load."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgvision.errors import CheckpointError
from pgvision.tokens import NUM_BINS, NUM_CODES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Vocabulary:
    """Token ids of one checkpoint; location bins and mask codes are runs without gaps.

    Attributes:
        first_loc: Id of ``<loc0000>``.
        first_seg: Id of ``<seg000>``.
        bos: Begin of the prefix.
        eos: End of an answer.
        pad: Filler on the left.
        image: Place of one vision token.
    """

    first_loc: int
    first_seg: int
    bos: int
    eos: int
    pad: int
    image: int

    def is_loc(self, token: int) -> bool:
        """Whether a token is a location bin."""
        return self.first_loc <= token < self.first_loc + NUM_BINS

    def is_seg(self, token: int) -> bool:
        """Whether a token is a mask code."""
        return self.first_seg <= token < self.first_seg + NUM_CODES

    def run_of(self, token: int) -> slice:
        """Return the whole run of locations or codes that a token lies in."""
        if self.is_loc(token):
            return slice(self.first_loc, self.first_loc + NUM_BINS)
        return slice(self.first_seg, self.first_seg + NUM_CODES)


def read_vocabulary(tokenizer: "PreTrainedTokenizerBase", name: str) -> Vocabulary:
    """Look up the token table and prove that each ``<loc>`` and ``<seg>`` is one token.

    Args:
        tokenizer: The checkpoint's tokenizer.
        name: Name of the checkpoint, for errors.

    Raises:
        CheckpointError: If a token is split, missing, or out of its run.
    """
    first_loc = _require_run(tokenizer, "loc", 4, NUM_BINS, name)
    first_seg = _require_run(tokenizer, "seg", 3, NUM_CODES, name)
    specials = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "pad": tokenizer.pad_token_id,
        "image": tokenizer.convert_tokens_to_ids("<image>"),
    }
    for special, value in specials.items():
        if not isinstance(value, int) or value == tokenizer.unk_token_id:
            raise CheckpointError(
                f"{name}: the tokenizer has no {special} token; load the checkpoint's own processor"
            )
    return Vocabulary(first_loc, first_seg, **{key: int(value) for key, value in specials.items()})


def _require_run(
    tokenizer: "PreTrainedTokenizerBase", word: str, digits: int, count: int, name: str
) -> int:
    texts = [f"<{word}{number:0{digits}d}>" for number in range(count)]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for text, row in zip(texts, rows, strict=True):
        if len(row) != 1 or row[0] != rows[0][0] + texts.index(text):
            raise CheckpointError(
                f"{name}: the tokenizer writes {text} as {tokenizer.convert_ids_to_tokens(row)}, "
                f"expected one token in one run of {count}; this is not PaliGemma's tokenizer: "
                f"load the checkpoint's own processor"
            )
    return int(rows[0][0])
