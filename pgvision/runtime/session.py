"""Rows through the model: they enter when there is room, share passes, and leave when they end."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from pgvision.arrays import FloatArray
from pgvision.runtime.head import OutputHead
from pgvision.runtime.label_trie import Allowed
from pgvision.runtime.language import KeyValueCache, LanguageModel
from pgvision.runtime.rows import LOOKAHEAD, Chances, Look, Row
from pgvision.runtime.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PaliGemmaForConditionalGeneration

_SLOTS_AT_ONCE: Final = 64
_WHOLE_ROWS_AT_ONCE: Final = 16  # of the output layer: 16 MB of float32 for Gemma's vocabulary
_SMALL_VOCABULARY: Final = 32_768
"""Up to here every row of the output layer is computed wherever an object could begin."""


class Machine:
    """The parts of a checkpoint that sessions drive: language model and output layer.

    Args:
        model: The model, on its device.
        vocabulary: Its special ids.
        threads: What passes run in.
        compiled: See `LanguageModel`.
    """

    def __init__(
        self,
        model: "PaliGemmaForConditionalGeneration",
        vocabulary: Vocabulary,
        threads: AbstractContextManager[None],
        *,
        compiled: bool = False,
    ) -> None:
        self.threads = threads
        self.language = LanguageModel(model, compiled=compiled)
        self.head = OutputHead(model)
        self.vocabulary, self.device = vocabulary, model.device
        self._on_gpu = model.device.type == "cuda"

    def synchronise(self) -> None:
        """Wait for the GPU, so that a clock read next says what was really spent."""
        if self._on_gpu:
            torch.cuda.synchronize()


class Session:
    """The rows of one call, with a cache of their own.

    Args:
        machine: What runs.
        num_rows: Rows that go through the model together.
    """

    def __init__(self, machine: Machine, num_rows: int) -> None:
        self.machine, self.num_rows = machine, num_rows
        self.rows: list[Row] = []
        self._cache: KeyValueCache | None = None

    @property
    def room(self) -> int:
        """How many rows may enter: none until half of the places are free."""
        free = self.num_rows - len(self.rows)
        return free if 2 * free >= self.num_rows else 0

    @torch.inference_mode()
    def enter(self, rows: Sequence[Row], features: Tensor) -> None:
        """Read the prompts of new rows, with the guesses at their answers in the same pass.

        Args:
            rows: The new rows, at most as many as there is room for.
            features: ``(len(rows), n, d)`` of their pictures.
        """
        started = time.perf_counter()
        language, first = self.machine.language, len(self.rows)
        feeds = [row.plan() for row in rows]
        ids = _padded([[*row.prompt, *feed] for row, feed in zip(rows, feeds, strict=True)])
        embedded = language.embed_prompt(ids.to(features.device), features)
        lengths = [len(row.prompt) for row in rows]
        longest = max(len(row.prompt) + row.limit + LOOKAHEAD for row in rows)
        cache = self._cache_of(max(longest, ids.shape[1])).part(first, first + len(rows))
        hidden = language.run(
            embedded,
            cache,
            starts=[0] * len(rows),
            prefix=lengths,
            lengths=[length + len(feed) for length, feed in zip(lengths, feeds, strict=True)],
        )
        self._settle(rows, hidden, [length - 1 for length in lengths])
        self.rows += rows
        self._share("prompt", time.perf_counter() - started, rows)

    @torch.inference_mode()
    def step(self) -> None:
        """Take every row one pass further."""
        started = time.perf_counter()
        language, rows = self.machine.language, self.rows
        feeds = [row.plan() for row in rows]
        starts = [len(row.prompt) + row.cached for row in rows]
        ids = _padded(feeds)
        # Padding fills slots too: a row near its end beside one with a long guess needs more.
        cache = self._cache_of(max(starts) + ids.shape[1])
        embedded = language.embed(ids.to(self.machine.device))
        hidden = language.run(embedded, cache, starts=starts, lengths=list(map(len, feeds)))
        bases = [len(feed) - len(row.guess) - 1 for row, feed in zip(rows, feeds, strict=True)]
        self._settle(rows, hidden, bases)
        self._share("answer", time.perf_counter() - started, rows)

    def leave(self) -> list[Row]:
        """Take out the rows that have ended; the last ones move into their places."""
        done = [row for row in self.rows if row.is_done]
        at = 0
        while at < len(self.rows):
            if not self.rows[at].is_done:
                at += 1
                continue
            last = self.rows.pop()
            if at < len(self.rows):
                self.rows[at] = last
                self._cache_of(0).move(len(self.rows), at, len(last.prompt) + last.cached)
        return done

    def _cache_of(self, slots: int) -> KeyValueCache:
        """Return the cache, enlarged first if rows need more slots."""
        if self._cache is None or slots > self._cache.slots:
            rounded = -(-slots // _SLOTS_AT_ONCE) * _SLOTS_AT_ONCE
            larger = self.machine.language.allocate(self.num_rows, rounded)
            if self._cache is not None and self.rows:
                larger.take_over(self._cache)
            self._cache = larger
        return self._cache

    def _share(self, phase: str, seconds: float, rows: Sequence[Row]) -> None:
        self.machine.synchronise()
        for row in rows:
            row.timings[phase] = row.timings.get(phase, 0.0) + seconds / len(rows)

    def _settle(self, rows: Sequence[Row], hidden: Tensor, bases: Sequence[int]) -> None:
        """Give every row what the model says where it looks.

        ``bases`` are the positions of the last certain token in ``hidden`` ``(b, t, d)``.
        """
        looks = [(at, look) for at, row in enumerate(rows) for look in row.looks]
        where = torch.tensor([(at, bases[at] + look.after) for at, look in looks])
        flat = hidden[where[:, 0].to(hidden.device), where[:, 1].to(hidden.device)]
        guessed = [
            rows[at].guess[look.after] if look.after < len(rows[at].guess) else None
            for at, look in looks
        ]
        sampled = [rows[at].request.temperature > 0 for at, _ in looks]
        first = [rows[at].passes == 0 and look.after == 0 for at, look in looks]
        chances = _Reader(self.machine, flat).chances(
            [look for _, look in looks], guessed, sampled, first
        )
        start = 0
        for row in rows:
            row.settle(chances[start : start + len(row.looks)])
            start += len(row.looks)


class _Reader:
    """The output layer at a set of looks, only the rows that may come.

    Args:
        machine: The output layer and the special ids.
        hidden: ``(l, d)`` where the looks are.
    """

    def __init__(self, machine: Machine, hidden: Tensor) -> None:
        self._head, self._table, self._hidden = machine.head, machine.vocabulary, hidden

    def chances(
        self,
        looks: Sequence[Look],
        guessed: Sequence[int | None],
        sampled: Sequence[bool],
        first: Sequence[bool],
    ) -> list[Chances]:
        """Return the chances at each of ``l`` looks.

        Args:
            looks: What may come there.
            guessed: The guessed token of each, or None.
            sampled: Whether its token is drawn, so that all chances are wanted.
            first: Whether it is the first token of an answer.
        """
        found: dict[int, Chances] = {}
        totals: dict[int, float] = {}
        groups: dict[tuple[int, tuple[int, ...]], list[int]] = defaultdict(list)
        for i, logits in self._whole_rows(looks, first):
            if looks[i].is_open:
                found[i] = self._open(logits, looks[i], guessed[i], all_of_them=sampled[i])
            else:
                totals[i] = float(logits.logsumexp(-1))
        for i, look in enumerate(looks):
            if look.allowed is not None and not look.is_open:
                first_id, stop = look.allowed.span
                base = self._table.run_of(first_id).start if stop else -1
                groups[base, look.allowed.ids + look.allowed.weighed].append(i)
        for (base, ids), members in groups.items():
            rows, size = self._logits(members, base, ids)
            for i, row in zip(members, rows, strict=True):
                found[i] = self._held(looks[i], row, base, size, totals.get(i))
        return [found[i] for i in range(len(looks))]

    def _whole_rows(
        self, looks: Sequence[Look], first: Sequence[bool]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the looks that need every row of the output layer, with their logits.

        These are the open ones, and those where an object could begin: together, since weights in
        half precision are converted once a call.
        """
        is_small = self._head.size <= _SMALL_VOCABULARY
        wanted = [
            i
            for i, look in enumerate(looks)
            if look.is_open or (look.may_end(self._table.eos) and (first[i] or is_small))
        ]
        for start in range(0, len(wanted), _WHOLE_ROWS_AT_ONCE):
            part = wanted[start : start + _WHOLE_ROWS_AT_ONCE]
            yield from zip(part, self._head.logits(self._hidden[part]), strict=True)

    def _logits(
        self, members: Sequence[int], base: int, ids: tuple[int, ...]
    ) -> tuple[FloatArray, int]:
        """Logits of single ids and then of a whole run, and the run's length."""
        part = self._hidden if len(members) == len(self._hidden) else self._hidden[members]
        parts: list[FloatArray] = []
        if ids:
            parts.append(self._head.logits(part, torch.tensor(ids)).cpu().numpy())
        if base >= 0:
            parts.append(self._head.logits(part, self._table.run_of(base)).cpu().numpy())
        return np.concatenate(parts, 1), parts[-1].shape[1] if base >= 0 else 0

    def _held(
        self, look: Look, logits: FloatArray, base: int, size: int, everything: float | None
    ) -> Chances:
        """Normalise over what the grammar allows.

        ``everything`` is the log of the whole vocabulary's mass; None: not computed.
        """
        allowed = look.allowed or Allowed()
        count = len(logits) - size
        if size:
            start, stop = (count + edge - base for edge in allowed.span)
            logits[count:start] = logits[stop:] = -np.inf
            logits[[count + one - base for one in allowed.banned]] = -np.inf
        top = logits.max()
        weights = np.exp(logits - top)
        total = weights.sum()
        weights /= total
        outside = float("nan")
        if everything is not None:
            outside = float(np.clip(1.0 - np.exp(top + np.log(total) - everything), 0.0, 1.0))
        # What is weighed and may not come stands behind what may.
        singles = dict(zip(allowed.ids, weights[:count].tolist(), strict=False))
        return Chances(singles, base, weights[count:] if size else None, outside)

    def _open(
        self, logits: Tensor, look: Look, guessed: int | None, *, all_of_them: bool
    ) -> Chances:
        """Normalise over the whole vocabulary; keep the best token, the end and the guess."""
        if look.allowed is not None and look.allowed.shut is not None:
            logits[torch.from_numpy(look.allowed.shut).to(logits.device)] = -torch.inf
        logprobs = logits.log_softmax(-1)
        if all_of_them:
            return Chances({}, 0, logprobs.exp().cpu().numpy())
        ids = [int(logprobs.argmax()), self._table.eos, *([] if guessed is None else [guessed])]
        singles = dict(zip(ids, logprobs[ids].exp().tolist(), strict=True))
        for token in ids:
            if self._table.is_loc(token) or self._table.is_seg(token):
                run = self._table.run_of(token)
                return Chances(singles, run.start, logprobs[run].exp().cpu().numpy())
        return Chances(singles)


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    length = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
