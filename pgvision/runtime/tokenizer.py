"""A checkpoint's tokenizer, read by `tokenizers` alone, and the ids of its special tokens."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pgvision.errors import CheckpointError
from pgvision.hub import fetch_file
from pgvision.tokens import NUM_BINS, NUM_CODES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SPECIALS = ("bos_token", "eos_token", "pad_token", "unk_token")


class Tokenizer:
    """Text to ids and back, as PaliGemma's processor does it. Any number of threads may use one.

    Args:
        table: A `tokenizers.Tokenizer`.
        specials: Texts of ``bos_token``, ``eos_token``, ``pad_token`` and ``unk_token``.

    Raises:
        CheckpointError: If a special token is missing or a ``<loc>`` or ``<seg>`` token is split.
    """

    def __init__(self, table: Any, specials: dict[str, str], name: str = "tokenizer") -> None:
        self.table = table
        self.specials = specials
        self.bos = specials.get("bos_token", "<bos>")
        self.special_ids = frozenset(
            [token for token, added in table.get_added_tokens_decoder().items() if added.special]
            + [token for text in specials.values() if (token := self.id(text)) is not None]
        )
        self.unknown = self.id(specials.get("unk_token", "<unk>"))
        self.vocabulary = _read_vocabulary(self, specials, name)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text, without ``<bos>`` and ``<eos>``."""
        return tuple(self.table.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        text: str = self.table.decode(list(ids), skip_special_tokens=False)
        return text

    def id(self, word: str) -> int | None:
        """Return the id of a token's text; None if there is no such token."""
        token: int | None = self.table.token_to_id(word)
        return token

    def word(self, token: int) -> str:
        """Return a token's text as the table has it; empty if there is no such id."""
        return self.table.id_to_token(token) or ""

    def __len__(self) -> int:
        return int(self.table.get_vocab_size(with_added_tokens=True))


@dataclass(frozen=True)
class Vocabulary:
    """Token ids of one checkpoint; location bins and mask codes are runs without gaps.

    Attributes:
        first_loc: Id of ``<loc0000>``.
        first_seg: Id of ``<seg000>``.
        bos: First token of the prefix.
        eos: End of an answer.
        pad: Padding.
        image: Placeholder of one image token.
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
        """Return the ids of all locations or all codes, whichever ``token`` belongs to."""
        if self.is_loc(token):
            return slice(self.first_loc, self.first_loc + NUM_BINS)
        return slice(self.first_seg, self.first_seg + NUM_CODES)


def read_tokenizer(source: str, revision: str | None) -> Tokenizer:
    """Read a checkpoint's tokenizer, from ``tokenizer.json`` where there is one.

    Args:
        source: Folder or hub id.
        revision: Branch, tag or commit on the hub.

    Raises:
        CheckpointError: If it is not PaliGemma's.
    """
    from tokenizers import Tokenizer as Table

    table, settings = (
        _find(source, name, revision) for name in ("tokenizer.json", "tokenizer_config.json")
    )
    if table is None or settings is None:  # SentencePiece alone: transformers converts it
        from transformers import AutoTokenizer

        return wrap_tokenizer(AutoTokenizer.from_pretrained(source, revision=revision), source)
    # 1. Special tokens.
    content = json.loads(settings.read_text(encoding="utf-8"))
    named = {key: content[key] for key in _SPECIALS if content.get(key) is not None}
    specials = {
        key: str(token["content"] if isinstance(token, dict) else token)
        for key, token in named.items()
    }
    # 2. The tokenizers library reads the table without transformers.
    try:
        read = Table.from_file(str(table))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{table}: cannot be read ({error}); copy it again") from error
    # 3. Padding and truncation are the engine's.
    read.no_padding()
    read.no_truncation()
    return Tokenizer(read, specials, source)


def wrap_tokenizer(tokenizer: "PreTrainedTokenizerBase", name: str) -> Tokenizer:
    """Use the table of a tokenizer of transformers.

    Raises:
        CheckpointError: If it is not PaliGemma's.
    """
    specials = {key: value for key in _SPECIALS if (value := getattr(tokenizer, key)) is not None}
    return Tokenizer(tokenizer.backend_tokenizer, specials, name)


def _find(source: str, name: str, revision: str | None) -> Path | None:
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    return fetch_file(source, name, revision)


def _read_vocabulary(tokenizer: Tokenizer, specials: dict[str, str], name: str) -> Vocabulary:
    ids = {
        "bos": tokenizer.id(tokenizer.bos),
        "eos": tokenizer.id(specials.get("eos_token", "<eos>")),
        "pad": tokenizer.id(specials.get("pad_token", "<pad>")),
        "image": tokenizer.id("<image>"),
    }
    for special, token in ids.items():
        if token is None or token == tokenizer.unknown:
            raise CheckpointError(
                f"{name}: the tokenizer has no {special} token; load the checkpoint's own processor"
            )
    return Vocabulary(
        _require_run(tokenizer, "<loc{:04d}>", NUM_BINS, name),
        _require_run(tokenizer, "<seg{:03d}>", NUM_CODES, name),
        **cast("dict[str, int]", ids),
    )


def _require_run(tokenizer: Tokenizer, form: str, count: int, name: str) -> int:
    """Return the first of ``count`` ids in a row, one for each text."""
    texts = [form.format(number) for number in range(count)]
    first = tokenizer.id(texts[0])
    for number, text in enumerate(texts):
        if first is None or tokenizer.id(text) != first + number:
            pieces = [tokenizer.word(token) for token in tokenizer.encode(text)]
            raise CheckpointError(
                f"{name}: the tokenizer writes {text} as {pieces}, expected one token in one run "
                f"of {count}; this is not PaliGemma's tokenizer: load the checkpoint's own "
                f"processor"
            )
    if tokenizer.encode("".join(texts)) != tuple(range(first or 0, (first or 0) + count)):
        raise CheckpointError(f"{name}: the tokenizer splits {texts[0]} or merges it with others")
    return first or 0
