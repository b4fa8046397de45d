"""One answer while it is decoded: tokens to feed, positions to read, tokens chosen.

Each pass of the model is fed the last chosen token with whatever is known or guessed to follow. Its
logits are read only where the grammar leaves a choice; guesses are accepted as far as the choices
agree with them. Numpy alone: backends deliver logits as arrays.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from pgvision.arrays import FloatArray, IntArray
from pgvision.errors import CheckpointError
from pgvision.runtime.grammar import Allowed, TokenCursor, TokenGrammar
from pgvision.runtime.protocol import ObjectSpan, Request, Vocabulary
from pgvision.tokens import NUM_BINS

LOOKAHEAD: Final = 48
"""Draft tokens in one pass after the prompt's; the prompt's pass takes the whole draft."""
MEDIAN_REACH: Final = 64  # bins to both sides of the most probable one


@dataclass(frozen=True, slots=True)
class Query:
    """A position at which logits are needed.

    Attributes:
        after: Guessed tokens before it in this pass.
        allowed: What may come; None: any token.
        is_first: Whether it is the first token of the answer.
    """

    after: int
    allowed: Allowed | None
    is_first: bool = False


@dataclass(frozen=True, slots=True)
class TokenDistribution:
    """Probabilities of the tokens that may come at one position.

    Attributes:
        singles: Probabilities of single ids.
        base: First id of the run.
        run: Probabilities of a run of ids: locations, codes, or the whole vocabulary; or None.
        outside: Mass outside the grammar; None if it was not computed.
    """

    singles: Mapping[int, float]
    base: int = 0
    run: FloatArray | None = None
    outside: float | None = None

    def of(self, token: int) -> float:
        """Return the probability of a token; 0 if it may not come."""
        if self.run is not None and self.base <= token < self.base + len(self.run):
            return float(self.run[token - self.base])
        return self.singles.get(token, 0.0)

    def best(self, without: int | None = None) -> int:
        """Return the most probable token, leaving out ``without``, one of the single ids."""
        ranked = [(share, token) for token, share in self.singles.items() if token != without]
        if self.run is not None:
            at = int(self.run.argmax())
            ranked.append((float(self.run[at]), self.base + at))
        return max(ranked, key=lambda pair: pair[0])[1]

    def median_near(self, token: int, run: slice, reach: int) -> int:
        """Return the median of the tokens at most ``reach`` from one token of a run of ids."""
        if self.run is None:
            return token
        low, high = int(max(run.start, token - reach)), min(run.stop, token + reach + 1)
        mass = self.run[low - self.base : high - self.base].cumsum(dtype=np.float64)
        return low + int(np.searchsorted(mass, mass[-1] / 2))


@dataclass(slots=True)
class Transcript:
    """Tokens of an answer so far, with probabilities; see `Generation` for the fields."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    eos: list[float] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    locs: list[FloatArray] = field(default_factory=list)
    outside: float | None = None


class Row:
    """One request on its way through the model.

    Args:
        index: Its number among the requests.
        request: What is asked.
        prompt: Token ids of image, prefix and newline.
        limit: Most tokens to write. An object's forced tokens are completed beyond it, since a
            label that is cut may be the name of another class.
        vocabulary: Ids of the special tokens.
        grammar: The compiled form of the answer; None: any text.
        median: Take the median of a location's distribution, not its mode; see `CheckpointCard`.
    """

    def __init__(
        self,
        index: int,
        request: Request,
        prompt: Sequence[int],
        *,
        limit: int,
        vocabulary: Vocabulary,
        grammar: TokenGrammar | None,
        median: bool = False,
    ) -> None:
        self.index, self.request, self.prompt, self.limit = index, request, prompt, limit
        self.transcript = Transcript()
        self.cached = 0  # tokens of the answer with keys and values in the cache
        self.passes = 0
        self.is_finished = self.is_done = False
        self.timings: dict[str, float] = {}
        self.guess: list[int] = []
        self.queries: list[Query] = []
        # 1. The grammar's state.
        self._vocabulary, self._grammar, self._median = vocabulary, grammar, median
        is_constrained = grammar is not None and request.constrained
        self.cursor = TokenCursor(grammar) if grammar and is_constrained else None
        draft = [int(token) for token in request.draft] if request.drafts != "off" else []
        # 2. The draft, cut into objects.
        if vocabulary.eos in draft:
            draft = draft[: draft.index(vocabulary.eos)]
        spans = grammar.walk(draft) if grammar else ()
        self._place = draft_place(draft, spans, first_loc=vocabulary.first_loc)

    @property
    def spans(self) -> tuple[ObjectSpan, ...] | None:
        """The objects; None for text."""
        if self.cursor is not None:
            return self.cursor.spans
        return None if self._grammar is None else self._grammar.walk(self.transcript.ids)

    def plan(self) -> list[int]:
        """Return what this pass is fed: what is written and not cached, then a guess."""
        self.guess, self.queries = [], []
        # Walk a copy of the grammar's state: the draft may be rejected.
        cursor = self.cursor.fork() if self.cursor else None
        place, written = self._place, len(self.transcript.ids)
        # The prompt's pass takes the whole draft; later passes are short, so that few are wasted.
        room = min(self.limit - written, self.limit if self.passes == 0 else LOOKAHEAD)
        while True:
            # 1. Tokens without an alternative need no logits.
            run = cursor.forced_run() if cursor is not None else ()
            if not run:
                # 2. Otherwise query the logits, and continue with the drafted token.
                allowed = None if cursor is None else cursor.allowed()
                is_first = written == 0 and not self.guess
                self.queries.append(Query(len(self.guess), allowed, is_first))
                proposed = self._proposed(cursor, place)
                run = () if proposed is None else (proposed,)
            if not run or len(self.guess) + len(run) > room:
                break
            # 3. Advance.
            for token in run:
                place = self._moved(place, token, cursor)
                if cursor is not None:
                    cursor.advance(token)
            self.guess += run
        return [*self.transcript.ids[self.cached :], *self.guess]

    def _proposed(self, cursor: TokenCursor | None, place: "Place") -> int | None:
        token = place.token
        if token is not None and (cursor is None or token in cursor.allowed()):
            return token
        return None if cursor is None else cursor.likely_next()

    def _moved(self, place: "Place", token: int, cursor: TokenCursor | None) -> "Place":
        table = self._vocabulary
        starts = cursor is not None and table.is_loc(token) and cursor.starts_object
        return place.after(token, starts_object=starts, first_loc=table.first_loc)

    def settle(self, distributions: Sequence[TokenDistribution]) -> None:
        """Choose the tokens of this pass, from one distribution for each query."""
        self.passes += 1
        ids = self.transcript.ids
        # Tokens of the guess that were chosen, too: their keys and values are in the cache already.
        before, matched = len(ids), 0
        for query, distribution in zip(self.queries, distributions, strict=True):
            start = len(ids)
            self._commit(self._choice(distribution, query), distribution, query)
            self._commit_forced()
            same = _num_common(ids[start:], self.guess[matched:])
            matched += same
            # Later logits were computed after a guess that turned out wrong.
            if self.is_done or same < len(ids) - start:
                break
        self.cached = before + matched

    def _choice(self, distribution: TokenDistribution, query: Query) -> int:
        eos = self._vocabulary.eos
        token = distribution.best()
        is_place = query.allowed is not None and query.allowed.span[1] > 0
        if token == eos and is_place and distribution.of(eos) <= 0.5:
            # Where many objects could come first the model's belief is spread over their edges,
            # and a small probability of the end would beat each single one of them.
            token = distribution.best(without=eos)
        # The first coordinate also chooses the object: its distribution has a peak for each.
        is_median = self._median and self.cursor is not None and not self.cursor.starts_object
        if is_median and self._vocabulary.is_loc(token):
            run = self._vocabulary.run_of(token)
            token = distribution.median_near(token, run, MEDIAN_REACH)
        return token

    def _commit(self, token: int, distribution: TokenDistribution, query: Query) -> None:
        table, out = self._vocabulary, self.transcript
        eos = distribution.of(table.eos)
        # The floor keeps the logarithm finite where a probability underflows.
        self._append(token, float(np.log(max(distribution.of(token), 1e-45))), eos=eos)
        if table.is_loc(token) and distribution.run is not None:
            start = table.first_loc - distribution.base
            out.locs.append(distribution.run[start : start + NUM_BINS].copy())
        if query.is_first:
            out.outside = distribution.outside

    def _commit_forced(self) -> None:
        while self.cursor is not None and not self.is_finished:
            run = self.cursor.forced_run()
            if not run:
                return
            for token in run:
                # Beyond the limit only what completes the label of an object.
                if self.is_done and not self.cursor.is_inside_object:
                    return
                self._append(token, 0.0, eos=0.0, forced=True)
                # A bin without an alternative has a row, too: all of its mass is on it.
                bin_ = token - self._vocabulary.first_loc
                if 0 <= bin_ < NUM_BINS:
                    certain = np.zeros(NUM_BINS, np.float32)
                    certain[bin_] = 1.0
                    self.transcript.locs.append(certain)

    def _append(self, token: int, logprob: float, *, eos: float, forced: bool = False) -> None:
        out = self.transcript
        out.ids.append(token)
        out.logprobs.append(logprob)
        out.eos.append(float(np.log(eos)) if eos > 0 else -np.inf)
        out.forced.append(forced)
        self._place = self._moved(self._place, token, self.cursor)
        if self.cursor is not None:
            self.cursor.advance(token)
        self.is_finished = token == self._vocabulary.eos
        self.is_done = self.is_finished or len(out.ids) >= self.limit


def _num_common(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


Logits = Callable[[Sequence[int], "slice | IntArray | None"], FloatArray]
"""``(positions, ids)`` to ``(len(positions), len(ids))`` float32; None: the whole vocabulary."""


def read_distributions(
    logits: Logits, queries: Sequence[Query], vocabulary: Vocabulary, name: str
) -> list[TokenDistribution]:
    """Return the distribution at each query.

    Only those rows of the output layer are computed that may come: 1,024 of Gemma's 257,216 for a
    location.

    Args:
        logits: The output layer; positions count the queries.
        queries: What may come at each.
        vocabulary: The special ids.
        name: Checkpoint and number type, for errors.

    Raises:
        CheckpointError: If a logit is NaN or infinite.
    """
    # 1. Whole vocabulary: text, and the first token, for the mass outside the grammar.
    whole = [at for at, query in enumerate(queries) if query.allowed is None or query.is_first]
    found: dict[int, TokenDistribution] = {}
    totals: dict[int, float] = {}
    for at, values in zip(whole, _finite(logits(whole, None), name) if whole else (), strict=True):
        query = queries[at]
        if query.allowed is None:
            weights = np.exp(values - values.max())
            found[at] = TokenDistribution({}, 0, weights / weights.sum(dtype=np.float64))
        else:
            top = float(values.max())
            totals[at] = top + float(np.log(np.exp(values - top).sum(dtype=np.float64)))
    # 2. Constrained queries, those that need the same rows together.
    groups: dict[tuple[int, tuple[int, ...]], list[int]] = defaultdict(list)
    for at, query in enumerate(queries):
        if query.allowed is not None:
            first, stop = query.allowed.span
            base = vocabulary.run_of(first).start if stop else -1
            groups[base, query.allowed.ids + query.allowed.weighed].append(at)
    for (base, ids), members in groups.items():
        parts = [logits(members, np.array(ids))] if ids else []
        if base >= 0:
            parts.append(logits(members, vocabulary.run_of(base)))
        # Logits of the single ids come first, then those of the run.
        for at, row in zip(members, _finite(np.concatenate(parts, 1), name), strict=True):
            allowed = queries[at].allowed or Allowed()
            found[at] = _normalised(allowed, row.astype(np.float64), base, totals.get(at))
    return [found[at] for at in range(len(queries))]


def _normalised(
    allowed: Allowed, logits: FloatArray, base: int, everything: float | None
) -> TokenDistribution:
    """Normalise over the tokens that the grammar allows.

    Args:
        allowed: What may come.
        logits: Of its single ids, the scored but disallowed ids, and the run that begins at
            ``base``.
        base: -1 without a run.
        everything: Log of the mass of the whole vocabulary; None: not computed.
    """
    count = len(allowed.ids) + len(allowed.weighed)
    if base >= 0:
        first, stop = (count + edge - base for edge in allowed.span)
        logits[count:first] = logits[stop:] = -np.inf
        logits[[count + token - base for token in allowed.banned]] = -np.inf
    # Softmax over what is left; subtracting the largest keeps it finite.
    top = logits.max()
    weights = np.exp(logits - top)
    total = weights.sum()
    weights /= total
    # Mass outside the grammar: what the allowed tokens lack of the whole vocabulary.
    outside = None
    if everything is not None:
        outside = float(np.clip(1.0 - np.exp(top + np.log(total) - everything), 0.0, 1.0))
    # Scored but disallowed ids come after the allowed ones, and get no entry.
    singles = dict(zip(allowed.ids, weights[:count].tolist(), strict=False))
    return TokenDistribution(singles, base, weights[count:] if base >= 0 else None, outside)


def _finite(values: FloatArray, name: str) -> FloatArray:
    if not np.isfinite(values).all():
        raise CheckpointError(
            f"{name}: the model's output is NaN or infinite, so it has no answer. In float16 "
            f"numbers above 65,504 overflow: load it with dtype='bfloat16' or 'float32'. "
            f"Otherwise its weights are damaged, or its training diverged"
        )
    return values


# --- drafts -------------------------------------------------------------------------------------

_NEAR: Final = 32
"""Bins; maximum difference of top edges for a drafted object to be matched."""


@dataclass(frozen=True, slots=True)
class Place:
    """Position in a draft (a guess at the answer); immutable, so that guesses can run ahead.

    A draft is a list of objects. Inside an object the same offset of the drafted one comes next,
    whatever bins differ; at the start of an object the drafted one with the nearest top edge is
    taken, so that one object more or less does not spoil the rest.

    Attributes:
        objects: The drafted objects, each with what follows it up to the next.
        index: The object that is being written or, while nothing fits, the first one left.
        offset: The token of it that comes next; None: nothing fits until the next object.

    Example:
        >>> place = draft_place([7, 8, 9], (), first_loc=100)
        >>> place.token, place.after(7, starts_object=False, first_loc=100).token
        (7, 8)
    """

    objects: tuple[tuple[int, ...], ...]
    index: int = 0
    offset: int | None = 0

    @property
    def token(self) -> int | None:
        """The id that the draft proposes here, or None."""
        if self.offset is None or self.index >= len(self.objects):
            return None
        drafted = self.objects[self.index]
        return drafted[self.offset] if self.offset < len(drafted) else None

    def after(self, token: int, *, starts_object: bool, first_loc: int) -> "Place":
        """Return the position after ``token`` was written.

        Args:
            token: The id that was written.
            starts_object: Whether it is the first location of an object.
            first_loc: Id of ``<loc0000>``.
        """
        if starts_object:
            return self._at_start_of(token)
        expected = self.token
        if expected is None or self.offset is None:
            return self
        # A different bin still belongs to the same object.
        both_locs = min(token, expected) >= first_loc and max(token, expected) < first_loc + 1024
        if token != expected and not both_locs:
            return replace(self, index=self.index + 1, offset=None)
        if self.offset + 1 < len(self.objects[self.index]):
            return replace(self, offset=self.offset + 1)
        return replace(self, index=self.index + 1, offset=0)

    def _at_start_of(self, token: int) -> "Place":
        first = self.index if self.offset in (None, 0) else self.index + 1
        # The nearest top edge among the objects ahead.
        ahead = [
            (abs(drafted[0] - token), index)
            for index, drafted in enumerate(self.objects[first:], first)
        ]
        distance, index = min(ahead, default=(_NEAR + 1, 0))
        if distance > _NEAR:
            return replace(self, index=first, offset=None)
        return replace(self, index=index, offset=1)


def draft_place(ids: Sequence[int], spans: Sequence[ObjectSpan], *, first_loc: int) -> Place:
    """Cut a guess into objects and return its first position.

    Args:
        ids: Token ids of the guess, without ``<eos>``.
        spans: Its objects, from `TokenGrammar.walk`; empty for text.
        first_loc: Id of ``<loc0000>``.
    """
    starts = [span.start for span in spans if ids[span.start] >= first_loc] or [0]
    stops = [*starts[1:], len(ids)]
    cut = tuple(tuple(ids[a:b]) for a, b in zip(starts, stops, strict=True))
    return Place(tuple(part for part in cut if part))
