"""The engine: requests in, answers with their probabilities out.

It owns batching: rows that end leave, the next ones enter. One image is encoded once, however
much is asked about it; the language model's pass over a prompt cannot be shared between prompts,
since image positions attend to the prefix. Any number of threads may use one engine: the state of a
call is its own, and what calls share is locked.
"""

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import numpy as np

from pgvision.errors import OptionError, PromptError, require_count
from pgvision.runtime.checkpoints import CheckpointCard
from pgvision.runtime.decoding import LOOKAHEAD, Row, read_distributions
from pgvision.runtime.grammar import TokenGrammar
from pgvision.runtime.protocol import (
    Backend,
    Generation,
    KeyValueCache,
    Picture,
    Request,
    Tokenizer,
)
from pgvision.tokens import NUM_BINS

BATCH_SIZE: Final = 8
MAX_PROMPT: Final = 512
"""Most tokens of a prefix. PaliGemma was trained with 64 to 128."""
_SLOTS_AT_ONCE: Final = 64
_TOKENS_AT_ONCE: Final = 8192
"""Image tokens encoded in one batch: 32 images at 224, 8 at 448, 2 at 896."""
_REMEMBERED_BYTES: Final = 64 * 2**20
"""Cache size for encoded images: 85 of ``small``, 15 of PaliGemma 2 at 448 in bfloat16."""
_BYTE: Final = re.compile(r"<0x[0-9A-F]{2}>")


class Engine:
    """A loaded checkpoint.

    Args:
        backend: The model.
        tokenizer: Its tokenizer.
        card: What the checkpoint is.

    Attributes:
        max_new_tokens: Longest answer by default.
    """

    def __init__(self, backend: Backend, tokenizer: Tokenizer, card: CheckpointCard) -> None:
        self.backend, self.tokenizer, self.card = backend, tokenizer, card
        self.vocabulary = tokenizer.vocabulary
        self.resolution = backend.resolution
        self.num_image_tokens = backend.num_image_tokens
        self.max_new_tokens = card.longest_answer(self.resolution)
        self._name = f"{card.name} ({backend.description})"
        self._lock = threading.Lock()
        self.forget_images()

    @property
    def model(self) -> Any:
        """Model of transformers, for training and comparison.

        Raises:
            OptionError: If the engine is not torch's.
        """
        return self._of_torch("model")

    @property
    def processor(self) -> Any:
        """Processor of transformers; see `model`."""
        return self._of_torch("processor")

    def _of_torch(self, name: str) -> Any:
        part = getattr(self.backend, name, None)
        if part is None:
            raise OptionError(f"{name}: {self._name} has none; load it with pgvision.runtime.load")
        return part

    def generate(
        self, requests: Iterable[Request], *, batch_size: int | None = None
    ) -> Iterator[tuple[int, Generation]]:
        """Answer requests as they come and yield each answer when it ends, with its number.

        Args:
            requests: Drawn lazily as rows become free; may be endless.
            batch_size: Answers written together; None: 8. Memory grows with the rows in use.

        Yields:
            ``(number of the request, its answer)``, in the order in which answers end.

        Raises:
            OptionError: If ``batch_size`` is not a whole number above 0.
            PromptError: If a prompt is too long.
            CheckpointError: If the model's output is NaN or infinite.
        """
        # Batching is continuous: finished rows are replaced while the others continue.
        size = BATCH_SIZE if batch_size is None else require_count("batch_size", batch_size, 1)
        numbered, batch = enumerate(requests), _Batch(self)
        while True:
            # 1. New rows enter once half of the places are free: prompts share a pass.
            free = size - len(batch.rows)
            drawn = islice(numbered, free if 2 * free >= size else 0)
            rows = [self._row(index, request) for index, request in drawn]
            if rows:
                batch.enter(rows)
            # 2. All rows advance by one pass.
            elif batch.rows:
                batch.step()
            else:
                break
            # 3. Finished rows leave.
            for row in batch.leave():
                yield row.index, self._generation(row)

    def encode(self, images: Sequence[Picture]) -> list[Any]:
        """Return the image tokens of images, from the cache where they were encoded before.

        Args:
            images: The same one may come many times.

        Returns:
            ``(n, d)`` of each.
        """
        # 1. Look up the cache.
        known: dict[bytes, Any] = {}
        with self._lock:
            for image in images:
                if (features := self._encoded.get(image.fingerprint)) is not None:
                    known[image.fingerprint] = features
        # 2. Encode the others, each once, in parts that bound the memory.
        fresh = [image for image in images if image.fingerprint not in known]
        fresh = list({image.fingerprint: image for image in fresh}.values())
        size = max(1, _TOKENS_AT_ONCE // self.num_image_tokens)
        for start in range(0, len(fresh), size):
            part = fresh[start : start + size]
            encoded = self.backend.encode([image.bgr for image in part])
            with self._lock:
                for image, features in zip(part, encoded, strict=True):
                    known[image.fingerprint] = features
                    self._encoded.put(image.fingerprint, features)
        return [known[image.fingerprint] for image in images]

    def forget_images(self) -> None:
        """Empty the cache of encoded images."""
        with self._lock:
            self._encoded = _ImageCache(_REMEMBERED_BYTES)

    def input_ids(self, prefix: str) -> list[int]:
        """Return the prompt's token ids: image tokens, ``<bos>``, prefix, newline.

        Raises:
            PromptError: If the prefix is longer than the limit or contains an image token.
        """
        ids = self.tokenizer.encode(f"{self.tokenizer.bos}{prefix}\n")
        if len(ids) > MAX_PROMPT:
            raise PromptError(
                f"prefix: {len(ids)} tokens, and at most {MAX_PROMPT} are read (PaliGemma was "
                f"trained with 128): {prefix[:60]!r}... Shorten it"
            )
        if self.vocabulary.image in ids:
            raise PromptError(f"prefix: {prefix[:60]!r} contains <image>, which is added for you")
        return [*[self.vocabulary.image] * self.num_image_tokens, *ids]

    def _row(self, index: int, request: Request) -> Row:
        grammar = request.form and TokenGrammar.compile(self.tokenizer, request.form)
        return Row(
            index,
            request,
            self.input_ids(request.prefix),
            limit=request.max_new_tokens or self.max_new_tokens,
            vocabulary=self.vocabulary,
            grammar=grammar or None,
            median=self.card.locations == "median",
        )

    def _generation(self, row: Row) -> Generation:
        out = row.transcript
        pieces = self._pieces(out.ids)
        return Generation(
            text="".join(pieces),
            token_ids=np.array(out.ids, np.int64),
            pieces=pieces,
            finished=row.is_finished,
            normalised="vocabulary" if row.cursor is None else "allowed",
            logprobs=np.array(out.logprobs, np.float32),
            eos_logprobs=np.array(out.eos, np.float32),
            loc_probs=np.array(out.locs, np.float32).reshape(-1, NUM_BINS),
            forced=np.array(out.forced, np.bool_),
            spans=row.spans,
            outside=out.outside,
            passes=row.passes,
            timings=dict(row.timings),
        )

    def _pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Split the decoded text by token: each piece is what its token added.

        Byte tokens in a row are decoded together and belong to the last of them, so that the
        pieces always join to the text that the tokenizer decodes.
        """
        words = [self.tokenizer.word(token) for token in ids]
        pieces, run = [], []
        for index, token in enumerate(ids):
            run.append(token)
            follows = words[index + 1] if index + 1 < len(words) else ""
            if token == self.vocabulary.eos:
                pieces.append("")
            elif _BYTE.fullmatch(words[index]) and _BYTE.fullmatch(follows):
                pieces.append("")
                continue
            else:
                # Decoders may drop the space at the very start; a location in front keeps it.
                text = self.tokenizer.decode([self.vocabulary.first_loc, *run])
                pieces.append(text.removeprefix("<loc0000>"))
            run = []
        return tuple(pieces)


class _Batch:
    """The rows of one call, and their cache."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._backend = engine, engine.backend
        self.rows: list[Row] = []
        self._cache: KeyValueCache | None = None

    def enter(self, rows: Sequence[Row]) -> None:
        """Read the prompts of new rows, with the guesses at their answers in the same pass."""
        started = time.perf_counter()
        # 1. Encode the images.
        features = self._engine.encode([row.request.picture for row in rows])
        started = self._share("vision", started, rows)
        # 2. Feed prompts and drafts in one pass.
        feeds = [[*row.prompt, *row.plan()] for row in rows]
        first, longest = len(self.rows), max(map(len, feeds))
        slots = max(len(row.prompt) + row.limit + LOOKAHEAD for row in rows)
        cache = self._cache_of(first + len(rows), max(slots, longest))
        hidden = self._backend.run(
            feeds,
            cache.part(first, first + len(rows)),
            starts=[0] * len(rows),
            prompts=[len(row.prompt) for row in rows],
            features=features,
            wanted=_wanted(rows, [len(row.prompt) - 1 for row in rows]),
        )
        # 3. Choose tokens.
        self._settle(rows, hidden)
        self.rows += rows
        self._share("prompt", started, rows)

    def step(self) -> None:
        """Take every row one pass further."""
        started = time.perf_counter()
        # 1. What each row is fed, and where it goes.
        rows = self.rows
        feeds = [row.plan() for row in rows]
        starts = [len(row.prompt) + row.cached for row in rows]
        # Padding fills slots too: a long draft in one row pads all the others.
        cache = self._cache_of(len(rows), max(starts) + max(map(len, feeds)))
        # 2. Run the model; the last token that is certain comes before the guess.
        bases = [len(feed) - len(row.guess) - 1 for row, feed in zip(rows, feeds, strict=True)]
        hidden = self._backend.run(
            feeds,
            cache.part(0, len(rows)),
            starts=starts,
            prompts=None,
            features=None,
            wanted=_wanted(rows, bases),
        )
        # 3. Choose tokens.
        self._settle(rows, hidden)
        self._share("answer", started, rows)

    def leave(self) -> list[Row]:
        """Take out the rows that have ended; the last ones move to their places."""
        done = [row for row in self.rows if row.is_done]
        # The rows in use stay the first ones of the cache.
        at = 0
        while at < len(self.rows):
            if not self.rows[at].is_done:
                at += 1
                continue
            last = self.rows.pop()
            if at < len(self.rows):
                self.rows[at] = last
                if self._cache is not None and not last.is_done:
                    self._cache.move(len(self.rows), at, len(last.prompt) + last.cached)
        return done

    def _cache_of(self, rows: int, slots: int) -> KeyValueCache:
        """Return the cache, enlarged first if more rows or slots are needed."""
        cache = self._cache
        if cache is not None:
            if rows <= cache.rows and slots <= cache.slots:
                return cache
            rows, slots = max(rows, cache.rows), max(slots, cache.slots)
        # Rounded up, so that it seldom grows.
        larger = self._backend.allocate(rows, -(-slots // _SLOTS_AT_ONCE) * _SLOTS_AT_ONCE)
        if cache is not None and self.rows:
            larger.copy_from(cache)
        self._cache = larger
        return larger

    def _settle(self, rows: Sequence[Row], hidden: Any) -> None:
        engine, backend = self._engine, self._backend
        # 1. One call for all rows: queries that need the same rows of the output layer share them.
        distributions = read_distributions(
            lambda positions, ids: backend.logits(hidden, positions, ids),
            [query for row in rows for query in row.queries],
            engine.vocabulary,
            engine._name,
        )
        # 2. Each row takes its own.
        start = 0
        for row in rows:
            row.settle(distributions[start : start + len(row.queries)])
            start += len(row.queries)

    def _share(self, phase: str, started: float, rows: Sequence[Row]) -> float:
        """Add the seconds since ``started`` to the rows' timings; return the time now."""
        self._backend.synchronise()
        now = time.perf_counter()
        for row in rows:
            row.timings[phase] = row.timings.get(phase, 0.0) + (now - started) / len(rows)
        return now


def _wanted(rows: Sequence[Row], bases: Sequence[int]) -> list[list[int]]:
    """Return positions of the queries; ``bases`` are those of each row's last certain token."""
    return [
        [base + query.after for query in row.queries] for row, base in zip(rows, bases, strict=True)
    ]


class _ImageCache:
    """Encoded images by fingerprint, up to a number of bytes; least recently used ones go first."""

    def __init__(self, max_bytes: int) -> None:
        self._entries: OrderedDict[bytes, Any] = OrderedDict()
        self._bytes, self._max_bytes = 0, max_bytes

    def get(self, key: bytes) -> Any:
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: bytes, features: Any) -> None:
        if key not in self._entries:
            self._entries[key] = features
            self._bytes += features.nbytes
        while self._bytes > self._max_bytes and len(self._entries) > 1:
            self._bytes -= self._entries.popitem(last=False)[1].nbytes
