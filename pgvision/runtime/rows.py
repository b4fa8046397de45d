"""One answer while it is written: what to feed next, where to look, and what was chosen.

A pass of the model is fed the last chosen token with whatever is known or guessed to follow. It
looks only where the grammar leaves a choice; guesses are kept as far as the choices agree with
them. No torch here: distributions come in as arrays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from pgvision.arrays import FloatArray
from pgvision.runtime.drafts import Place, draft_place
from pgvision.runtime.label_trie import Allowed
from pgvision.runtime.protocol import ObjectSpan, Request
from pgvision.runtime.token_grammar import TokenCursor, TokenGrammar
from pgvision.runtime.vocabulary import Vocabulary
from pgvision.tokens import NUM_BINS

STEADY_SHARE: Final = 0.5
STEADY_REACH: Final = 8  # bins
LOOKAHEAD: Final = 48
"""Guessed tokens in one pass after the prompt's; there the whole draft goes along."""


@dataclass(frozen=True, slots=True)
class Look:
    """A place where the model's choice is wanted.

    Attributes:
        after: Guessed tokens before it in this pass.
        allowed: What may come; None: any text.
    """

    after: int
    allowed: Allowed | None

    @property
    def is_open(self) -> bool:
        """Whether every row of the output layer is needed."""
        return self.allowed is None or self.allowed.is_open

    def may_end(self, eos: int) -> bool:
        """Whether the grammar lets the answer end here."""
        return self.allowed is not None and eos in self.allowed.ids


@dataclass(frozen=True, slots=True)
class Chances:
    """What the model says at one look.

    Attributes:
        singles: Probabilities of single ids.
        base: First id of the run.
        run: Probabilities of a whole run of ids: locations, codes, or the vocabulary; or None.
        outside: Mass outside the grammar, or NaN.
    """

    singles: Mapping[int, float]
    base: int = 0
    run: FloatArray | None = None
    outside: float = float("nan")

    def of(self, token: int) -> float:
        """Probability of a token; 0 if it may not come."""
        if self.run is not None and self.base <= token < self.base + len(self.run):
            return float(self.run[token - self.base])
        return self.singles.get(token, 0.0)

    def best(self, without: int | None = None) -> int:
        """Return the most probable token, ``without`` one.

        Raises:
            ValueError: If there is none.
        """
        chances = [(chance, token) for token, chance in self.singles.items() if token != without]
        if self.run is not None:
            at = int(self.run.argmax())
            chances.append((float(self.run[at]), self.base + at))
        return max(chances, key=lambda pair: pair[0])[1]

    @property
    def has_choice(self) -> bool:
        """Whether more than one token may come."""
        return self.run is not None or len(self.singles) > 1


@dataclass(slots=True)
class Written:
    """What has been written of an answer, token by token."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    eos: list[float] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    locs: list[FloatArray] = field(default_factory=list)
    segs: list[FloatArray] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)


class Row:
    """One request on its way through the model.

    Args:
        index: Its number among the requests.
        request: What is asked.
        prompt: Token ids of image, prefix and newline.
        limit: Most tokens to write.
        vocabulary: Ids of the special runs.
        grammar: The compiled form of the answer; None: any text.
        replay: Token ids to follow whatever the model prefers; for scoring a given answer.
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
        replay: bool = False,
    ) -> None:
        self.index, self.request, self.prompt, self.limit = index, request, prompt, limit
        self.written = Written()
        self.cached = 0  # tokens of the answer whose keys and values are in the cache
        self.passes = 0
        self.finished = self.is_done = False
        self.timings: dict[str, float] = {}
        self.guess: list[int] = []
        self.looks: list[Look] = []
        self._vocabulary, self._replay = vocabulary, replay
        held = grammar is not None and request.constrained
        self.cursor: TokenCursor | None = grammar.start() if grammar and held else None
        self._extra = request.form.past_end if request.form else 0
        self._rng = np.random.default_rng(request.seed) if request.temperature > 0 else None
        ids = [int(token) for token in request.draft] if request.drafts != "off" else []
        if vocabulary.eos in ids:
            ids = ids[: ids.index(vocabulary.eos)]
        spans = grammar.walk(ids) if grammar else ()
        self._walk = grammar.walk if grammar else None
        self._place = draft_place(ids, spans, first_loc=vocabulary.first_loc)

    @property
    def is_steady(self) -> bool:
        """Whether a drafted bin near the best one is kept."""
        return self.request.drafts == "steady"

    @property
    def spans(self) -> tuple[ObjectSpan, ...] | None:
        """The tokens of each object; None for text."""
        if self.cursor is not None:
            fragment = self.cursor.fragment
            return (*self.cursor.spans, fragment) if fragment else tuple(self.cursor.spans)
        return None if self._walk is None else self._walk(self.written.ids)

    def plan(self) -> list[int]:
        """Decide what this pass is fed: what is written and not cached, then a guess."""
        self.guess, self.looks = [], []
        cursor = self.cursor.fork() if self.cursor else None
        place = self._place
        room = min(
            self.limit - len(self.written.ids),
            self.limit if self.passes == 0 else LOOKAHEAD,
        )
        while True:
            if cursor is None:
                self.looks.append(Look(len(self.guess), None))
                run: tuple[int, ...] = ()
            else:
                run = cursor.forced_run()
                if not run:
                    self.looks.append(Look(len(self.guess), cursor.allowed()))
            run = run or self._proposal(cursor, place)
            if not run or len(self.guess) + len(run) > room:
                break
            for token in run:
                place = self._moved(place, token, cursor)
                if cursor is not None:
                    cursor.advance(token)
            self.guess += run
        return [*self.written.ids[self.cached :], *self.guess]

    def _proposal(self, cursor: TokenCursor | None, place: Place) -> tuple[int, ...]:
        token = place.token
        if token is not None and (cursor is None or cursor.allowed().holds(token)):
            return (token,)
        return cursor.likely_run()[:1] if cursor is not None else ()

    def _moved(self, place: Place, token: int, cursor: TokenCursor | None) -> Place:
        table = self._vocabulary
        starts = cursor is not None and table.is_loc(token) and cursor.starts_object
        return place.after(token, starts_object=starts, first_loc=table.first_loc)

    def settle(self, chances: Sequence[Chances]) -> None:
        """Take the choices of this pass, one `Chances` for each look."""
        self.passes += 1
        before = len(self.written.ids)
        self.cached = before
        matched = 0
        for look, one in zip(self.looks, chances, strict=True):
            start = len(self.written.ids)
            guessed = self.guess[look.after] if look.after < len(self.guess) else None
            self._commit(self._choice(one, guessed), one, look)
            self._commit_forced()
            fresh = self.written.ids[start:]
            same = _common(fresh, self.guess[matched : matched + len(fresh)])
            matched += same
            if self.is_done or same < len(fresh):
                break
        self.cached = before + matched

    def _choice(self, chances: Chances, guessed: int | None) -> int:
        if self._replay:
            return self._vocabulary.eos if guessed is None else guessed
        if self._rng is not None:
            return self._drawn(chances, self._rng)
        token = chances.best()
        if token == self._vocabulary.eos and self._has_more(chances):
            token = chances.best(without=token)
        if token == self._vocabulary.eos and self._extra > 0 and chances.has_choice:
            self._extra -= 1  # past the model's own stop: the best of what is not the end
            return chances.best(without=token)
        if guessed is not None and self.is_steady and self._vocabulary.is_loc(guessed):
            near = abs(guessed - token) <= STEADY_REACH
            if near and chances.of(guessed) >= STEADY_SHARE * chances.of(token):
                return guessed
        return token

    def _has_more(self, chances: Chances) -> bool:
        """Whether places are more probable than the end together, though each of them is less.

        Where many objects could come first the model's belief is spread over their edges, and a
        small chance of the end would beat every single one of them.
        """
        held = self.cursor is not None and chances.run is not None
        return held and chances.of(self._vocabulary.eos) <= 0.5

    def _drawn(self, chances: Chances, rng: np.random.Generator) -> int:
        """Draw a token: nucleus first, then chances to the power of 1 / temperature."""
        ids = np.array(list(chances.singles), np.int64)
        probs = np.array(list(chances.singles.values()), np.float64)
        if chances.run is not None:
            ids = np.concatenate([ids, chances.base + np.arange(len(chances.run))])
            probs = np.concatenate([probs, chances.run])
        order = np.argsort(-probs, kind="stable")
        with np.errstate(divide="ignore"):  # what may not come stays at nothing
            logits = np.log(probs[order]) / self.request.temperature
        weights = np.exp(logits - logits[0])
        weights /= weights.sum()
        weights *= np.cumsum(weights) - weights < self.request.top_p
        return int(ids[order[rng.choice(len(order), p=weights / weights.sum())]])

    def _commit(self, token: int, chances: Chances, look: Look) -> None:
        table = self._vocabulary
        out = self.written
        eos = chances.of(table.eos)
        self._note(token, float(np.log(max(chances.of(token), 1e-45))), forced=False)
        out.eos.append(float(np.log(eos)) if eos > 0 else -np.inf)
        for is_one, kept in ((table.is_loc, out.locs), (table.is_seg, out.segs)):
            if is_one(token) and chances.run is not None:
                run = table.run_of(token)
                kept.append(chances.run[run.start - chances.base : run.stop - chances.base])
        if look.may_end(table.eos):
            out.outside.append(chances.outside)
        self._close(token)

    def _commit_forced(self) -> None:
        # Inside an object past the limit too: forced tokens cost no pass, and half of a label may
        # be the name of another class.
        while self.cursor is not None and not self.finished:
            run = self.cursor.forced_run()
            if not run:
                return
            for token in run:
                if self.is_done and not self.cursor.is_inside_object:
                    return
                self._note(token, 0.0, forced=True)
                self.written.eos.append(-np.inf)
                self._record_forced_location(token)
                self._close(token)

    def _record_forced_location(self, token: int) -> None:
        bin_ = token - self._vocabulary.first_loc
        if 0 <= bin_ < NUM_BINS:
            certain = np.zeros(NUM_BINS, np.float32)
            certain[bin_] = 1.0
            self.written.locs.append(certain)

    def _note(self, token: int, logprob: float, *, forced: bool) -> None:
        out = self.written
        out.ids.append(token)
        out.logprobs.append(logprob)
        out.forced.append(forced)
        self._place = self._moved(self._place, token, self.cursor)
        if self.cursor is not None:
            self.cursor.advance(token)

    def _close(self, token: int) -> None:
        self.finished = token == self._vocabulary.eos
        self.is_done = self.finished or len(self.written.ids) >= self.limit


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count
