"""Interfaces: engines take requests and give generations; backends run a model. Numpy only."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple, Protocol, get_args

import numpy as np

from pgvision.arrays import BoolArray, ByteArray, FloatArray, IntArray
from pgvision.errors import CheckpointError, require_choice, require_count
from pgvision.runtime.checkpoints import CheckpointCard
from pgvision.tokens import LOCS_PER_BOX, NUM_BINS, NUM_CODES, AnswerForm

Drafts = Literal["off", "exact"]
DRAFTS: Final[tuple[Drafts, ...]] = get_args(Drafts)
_OBJECT: Final = re.compile(r"L{4}(S{16})?T*")


class ObjectSpan(NamedTuple):
    """One object of an answer, as its tokens were written: no text has to be parsed for it.

    Token positions are half-open and index ``Generation.token_ids`` and ``pieces``: locations
    ``[start, box_stop)``, mask codes ``[box_stop, mask_stop)``, label ``[mask_stop, label_stop)``.

    Attributes:
        start: First location.
        box_stop: After the last location.
        mask_stop: After the last mask code; ``box_stop`` without a mask.
        label_stop: After the last token of the label; ``mask_stop`` without a label.
        loc_yxyx: Bins as written: top, left, bottom, right; fewer than 4 if the answer was cut off
            inside the box.
        codes: The 16 mask codes; empty without a mask, fewer if the answer was cut off.
        label: Index into the labels of the request's `AnswerForm`; None where the form has no
            labels, or the answer was not constrained to them: then the label is
            ``"".join(pieces[mask_stop:label_stop]).strip()``.
        is_complete: False for the last object of an answer that was cut off inside it: in the box,
            the mask, or where further tokens could have made its label another one. Such a
            fragment is no object: tasks report it as a reject with the reason "truncated".
        loc_row: The object's rows of ``Generation.loc_probs`` are ``[loc_row, loc_row + 4)``.
    """

    start: int
    box_stop: int
    mask_stop: int
    label_stop: int
    loc_yxyx: tuple[int, ...] = ()
    codes: tuple[int, ...] = ()
    label: int | None = None
    is_complete: bool = True
    loc_row: int = 0


def find_spans(kinds: str, values: Sequence[int]) -> tuple[ObjectSpan, ...]:
    """Find complete objects among tokens that were written without the grammar.

    Args:
        kinds: One letter for each token: "L" location, "S" mask code, "T" text, any other for
            what ends a label (of a separator at least the first piece).
        values: Bin or code of each location or mask token; anything for other tokens.

    Returns:
        The tokens of each object that has four locations.

    Example:
        >>> find_spans("LLLLT;", [1, 2, 3, 4, 0, 0])[0][:5]
        (0, 4, 4, 5, (1, 2, 3, 4))
    """
    spans = []
    for match in _OBJECT.finditer(kinds):
        start, box = match.start(), match.start() + LOCS_PER_BOX
        mask = box + len(match[1] or "")
        spans.append(
            ObjectSpan(
                *(start, box, mask, match.end()),
                tuple(values[start:box]),
                tuple(values[box:mask]),
                loc_row=kinds.count("L", 0, start),
            )
        )
    return tuple(spans)


@dataclass(frozen=True)
class Vocabulary:
    """Token ids of one checkpoint; location bins and mask codes are runs without gaps.

    Attributes:
        first_loc: Id of ``<loc0000>``.
        first_seg: Id of ``<seg000>``.
        bos, eos, pad: First token of the prefix, end of an answer, padding.
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
        self.unknown = self.id(specials.get("unk_token", "<unk>"))
        self.vocabulary = _read_vocabulary(self, specials, name)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text, without ``<bos>`` and ``<eos>``."""
        return tuple(self.table.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        return str(self.table.decode(list(ids), skip_special_tokens=False))

    def id(self, word: str) -> int | None:
        """Return the id of a token's text; None if there is no such token."""
        token: int | None = self.table.token_to_id(word)
        return token

    def word(self, token: int) -> str:
        """Return a token's text as the table has it; empty if there is no such id."""
        return self.table.id_to_token(token) or ""

    def __len__(self) -> int:
        return int(self.table.get_vocab_size())


def _read_vocabulary(tokenizer: Tokenizer, specials: dict[str, str], name: str) -> Vocabulary:
    ids: list[int] = []
    for special in ("bos", "eos", "pad", "image"):
        token = tokenizer.id(specials.get(f"{special}_token", f"<{special}>"))
        if token is None or token == tokenizer.unknown:
            raise CheckpointError(
                f"{name}: the tokenizer has no {special} token; load the checkpoint's own processor"
            )
        ids.append(token)
    return Vocabulary(
        _require_run(tokenizer, "<loc{:04d}>", NUM_BINS, name),
        _require_run(tokenizer, "<seg{:03d}>", NUM_CODES, name),
        *ids,
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
                f"of {count}; load the checkpoint's own processor"
            )
    if first is None or tokenizer.encode("".join(texts)) != tuple(range(first, first + count)):
        raise CheckpointError(f"{name}: the tokenizer splits {texts[0]} or merges it with others")
    return first


@dataclass(frozen=True, eq=False)
class Picture:
    """Input image of an engine, or a part of one, with its fingerprint.

    Use one for all requests about an image, so that its fingerprint is computed once.

    Attributes:
        bgr: ``(h, w, 3)`` uint8 BGR.

    Example:
        >>> one = Picture(np.zeros((4, 6, 3), np.uint8))
        >>> one.fingerprint == Picture(np.zeros((6, 4, 3), np.uint8)).fingerprint
        False
    """

    bgr: ByteArray

    @cached_property
    def fingerprint(self) -> bytes:
        """16 bytes that differ as soon as a pixel or the shape differs."""
        digest = hashlib.sha256(np.ascontiguousarray(self.bgr).data)  # processors have it built in
        digest.update(repr(self.bgr.shape).encode())
        return digest.digest()[:16]


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """Everything that one answer needs.

    Attributes:
        picture: The picture.
        prefix: The prompt, without ``<image>`` and without the closing newline.
        form: The grammar of the answer (see `pgvision.tokens.AnswerForm`); None: any text.
        constrained: Whether decoding is constrained to ``form``; if not, ``form`` is only used to
            parse the tokens.
        draft: Token ids of a guess at the answer, such as the previous frame's.
        drafts: "exact": token for token the answer without drafts. "off": ``draft`` is ignored.
        max_new_tokens: Where the answer is cut off; None: what the checkpoint was trained to write.

    Raises:
        OptionError: If ``max_new_tokens`` or ``drafts`` is outside its range.
    """

    picture: Picture
    prefix: str
    form: AnswerForm | None = None
    constrained: bool = True
    draft: Sequence[int] | IntArray = ()
    drafts: Drafts = "exact"
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        if self.max_new_tokens is not None:
            require_count("max_new_tokens", self.max_new_tokens, least=1)
        require_choice("drafts", self.drafts, DRAFTS)


@dataclass(frozen=True, kw_only=True, eq=False)
class Generation:
    """One answer, token by token.

    What an engine cannot know is None: without ``logprobs`` or ``loc_probs`` objects have no score.

    Attributes:
        text: The suffix as text, without ``<eos>``.
        token_ids: ``(t,)`` ids as written, ``<eos>`` included if it came.
        pieces: ``t`` texts; joined they are ``text`` (the piece of ``<eos>`` is "").
        finished: Whether the answer ended by itself; False means that it was cut off.
        normalised: Over which set the probabilities sum to one: "allowed" (what the grammar lets
            come at that place) or "vocabulary" (every token).
        logprobs: ``(t,)`` natural log-probability of each written token; 0 where it was forced.
        eos_logprobs: ``(t,)`` log-probability that the answer ended at this token instead; -inf
            where it could not end.
        loc_probs: ``(l, 1024)`` over location bins, one row for each ``<loc>`` written.
        forced: ``(t,)`` whether the grammar left no choice.
        spans: Each object with its bins, codes, label and tokens (see `ObjectSpan`), in the order
            written; the last one may be incomplete. None where the request has no form, or the
            engine gives no tokens. With ``normalised`` "vocabulary" (not constrained) the text may
            contain anything else, which `pgvision.tokens.parse_suffix` reads.
        outside: Probability mass outside the grammar at the start of the answer; a large value
            means that the prompt does not suit the checkpoint. None without a grammar.
        passes: How often the model ran for this answer, the prompt's pass included.
        timings: Seconds for each phase, shared out over the rows that ran together.
    """

    text: str
    token_ids: IntArray
    pieces: tuple[str, ...]
    finished: bool
    normalised: Literal["allowed", "vocabulary"] = "vocabulary"
    logprobs: FloatArray | None = None
    eos_logprobs: FloatArray | None = None
    loc_probs: FloatArray | None = None
    forced: BoolArray | None = None
    spans: tuple[ObjectSpan, ...] | None = None
    outside: float | None = None
    passes: int = 0
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def presence(self) -> float | None:
        """Probability that there is anything at all to name, or None if unknown.

        The mass on location tokens at the answer's start.
        """
        if self.eos_logprobs is None or len(self.eos_logprobs) == 0 or self.normalised != "allowed":
            return None
        return float(np.clip(self.inside * (1.0 - np.exp(self.eos_logprobs[0])), 0.0, 1.0))

    @property
    def inside(self) -> float:
        """Mass inside the grammar at the start; 1 if it is not known."""
        return 1.0 if self.outside is None else 1.0 - self.outside


class Generator(Protocol):
    """Anything that answers requests: our engine, a scripted one in tests, a served one."""

    @property
    def card(self) -> CheckpointCard:
        """Metadata of the checkpoint: prompt format, mask codec."""
        ...

    def generate(
        self, requests: Iterable[Request], *, batch_size: int | None = None
    ) -> Iterator[tuple[int, Generation]]:
        """Answer requests as they come and yield each answer when it ends, with its number.

        The generator draws requests as rows become free and may answer them out of order.

        Args:
            requests: Drawn lazily; may be endless.
            batch_size: Answers written together; None: the generator's own choice.
        """
        ...


class KeyValueCache:
    """Keys and values of every layer; a row is one answer, a slot one token of it.

    Args:
        tables: Arrays or tensors ``(rows, kv_heads, slots, head_dim)``, the keys of all layers and
            then the values of all layers.
    """

    def __init__(self, tables: Sequence[Any]) -> None:
        self.tables = tuple(tables)
        self.rows, _, self.slots, _ = self.tables[0].shape

    def part(self, start: int, stop: int) -> "KeyValueCache":
        """Return the rows ``[start, stop)`` as a cache over the same memory."""
        return KeyValueCache([table[start:stop] for table in self.tables])

    def copy_from(self, smaller: "KeyValueCache") -> None:
        """Copy the contents of a cache with no more rows and slots."""
        for mine, theirs in zip(self.tables, smaller.tables, strict=True):
            mine[: smaller.rows, :, : smaller.slots] = theirs

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first ``length`` slots to a free row."""
        for table in self.tables:
            table[target, :, :length] = table[source, :, :length]


class Backend(Protocol):
    """A model on a device: the only part of an engine that differs between libraries.

    Attributes:
        description: Library, device, number type and threads, for logs and errors.
        resolution: Image resolution of the model: pixels of a side.
        num_image_tokens: Tokens of an image in the prompt.
    """

    description: str
    resolution: int
    num_image_tokens: int

    def encode(self, images: Sequence[ByteArray]) -> Sequence[Any]:
        """Return ``(n, d)`` image tokens of each ``(h, w, 3)`` uint8 BGR image."""
        ...

    def allocate(self, rows: int, slots: int) -> KeyValueCache:
        """Return an empty cache, filled with zeros."""
        ...

    def run(
        self,
        feeds: Sequence[Sequence[int]],
        cache: KeyValueCache,
        *,
        starts: Sequence[int],
        prompts: Sequence[int] | None,
        features: Sequence[Any] | None,
        wanted: Sequence[Sequence[int]],
    ) -> Any:
        """Read tokens into the cache and return hidden states.

        Token i of row r goes to slot ``starts[r] + i``. It sees the slots before it and itself, and
        in a prompt the whole prompt. To take tokens back, start lower at the next pass.

        Args:
            feeds: Token ids of each row; rows 0 to b - 1 of the cache.
            cache: Of `allocate`.
            starts: Slots that are filled already.
            prompts: Lengths of the prompts that the feeds begin with; None: no prompts.
            features: Image tokens that replace the first ids of each prompt; None: no prompts.
            wanted: For each row the positions in its feed that need hidden states.

        Returns:
            Hidden states of all wanted positions in order, for `logits`.
        """
        ...

    def logits(
        self, hidden: Any, positions: Sequence[int], ids: "slice | IntArray | None"
    ) -> FloatArray:
        """Return ``(len(positions), len(ids))`` float32 logits; None: of the whole vocabulary."""
        ...

    def synchronise(self) -> None:
        """Wait for the device, so that a clock read next is right."""
        ...


def attention_mask(
    starts: Sequence[int],
    length: int,
    slots: int,
    prompts: Sequence[int] | None,
    *,
    window: int = 0,
) -> FloatArray | None:
    """Return ``(b, length, slots)``: 0 where a new token sees a slot, else minus infinity.

    Args:
        starts: Slots in use of each row; new token i goes to slot ``start + i``.
        length: New tokens of a row, with padding.
        slots: Number of cache slots that are read.
        prompts: Lengths of the prompts that the new tokens begin with; their tokens attend to each
            other; None: no prompts.
        window: Of sliding attention; a prompt still sees all of itself. 0: none.

    Returns:
        The mask; None if every token sees every slot.

    Example:
        >>> (attention_mask([0], 3, 3, [2]) == 0).astype(int)[0].tolist()
        [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    """
    places = np.array(starts)[:, None, None] + np.arange(length)[:, None]
    prompt = np.array(prompts if prompts is not None else [0] * len(starts))[:, None, None]
    keys = np.arange(slots)
    seen = keys < np.maximum(places + 1, prompt)
    if window:
        seen &= (keys > places - window) | (places < prompt)
    return None if seen.all() else np.where(seen, np.float32(0.0), np.float32(-np.inf))
