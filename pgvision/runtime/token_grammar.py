"""The grammar of answers, bound to a tokenizer: which token ids may come next.

`pgvision.tokens.Grammar` says in which order symbols come; here each symbol gets its ids: bins that
leave the box an area, codes, and a trie of the labels with what follows them, tokenised in context
(" helmet ; <loc" is two pieces with one tokenizer and four with another). No torch.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from pgvision.arrays import IntArray
from pgvision.errors import OptionError
from pgvision.runtime.label_trie import (
    NEXT_OBJECT,
    Allowed,
    LabelTrie,
    build_trie,
    no_text,
)
from pgvision.runtime.protocol import ObjectSpan
from pgvision.runtime.vocabulary import Vocabulary
from pgvision.tokens import CODES_PER_MASK, NUM_BINS, NUM_CODES, AnswerForm, Grammar, Symbol
from pgvision.tokens.grammar import LOCS_PER_BOX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class TokenGrammar:
    """The grammar of one form for one tokenizer. Compile once, walk with a cursor for each row.

    Attributes:
        form: What was compiled.
        vocabulary: The special ids.
        symbols: The order of symbols.
        trie: What may follow a box or mask.
        shut: The ids that are no text, where any label may come.
    """

    form: AnswerForm
    vocabulary: Vocabulary
    symbols: Grammar
    trie: LabelTrie
    shut: IntArray | None

    @staticmethod
    def compile(
        tokenizer: "PreTrainedTokenizerBase", vocabulary: Vocabulary, form: AnswerForm
    ) -> "TokenGrammar":
        """Build (or find again) the grammar of a form.

        Args:
            tokenizer: The checkpoint's tokenizer.
            vocabulary: Its special ids.
            form: The form of the answer.

        Raises:
            CheckpointError: If the tokenizer does not keep labels and location tokens apart.
            OptionError: If ``form.bans`` names a token that is not there.
        """
        known = _COMPILED.setdefault(tokenizer, {})
        if form not in known:
            # What is no text is the same for every form, and Gemma's table takes 0.3 s to read.
            shut = next((each.shut for each in known.values() if each.shut is not None), None)
            known[form] = _compiled(tokenizer, vocabulary, form, shut)
        return known[form]

    def start(self) -> "TokenCursor":
        """Return a cursor before the first token."""
        return TokenCursor(self)

    def walk(self, ids: Sequence[int]) -> tuple[ObjectSpan, ...]:
        """Find whole objects in ids that were written without the grammar."""
        table = self.vocabulary
        values = [
            token - (table.first_loc if table.is_loc(token) else table.first_seg) for token in ids
        ]
        return find_spans([self._symbol(one) for one in ids], values)

    def _symbol(self, token: int) -> Symbol:
        table = self.vocabulary
        if table.is_loc(token):
            return Symbol.LOC
        if table.is_seg(token):
            return Symbol.SEG
        if token in (table.eos, table.pad, table.bos, table.image):
            return Symbol.END
        return Symbol.SEPARATOR if token == self.trie.separator[0] else Symbol.TEXT


def find_spans(symbols: Sequence[Symbol], values: Sequence[int]) -> tuple[ObjectSpan, ...]:
    """Find whole objects among tokens that were written without the grammar.

    Args:
        symbols: What each token is; of a separator at least the first one.
        values: The bin or code of each location or mask token; anything for other tokens.

    Returns:
        The tokens of each object that has four locations; a label ends before whatever is no text.
    """
    found, at = [], 0
    while at + LOCS_PER_BOX <= len(symbols):
        box = at + LOCS_PER_BOX
        if any(one is not Symbol.LOC for one in symbols[at:box]):
            at += 1
            continue
        codes = symbols[box : box + CODES_PER_MASK]
        is_mask = codes.count(Symbol.SEG) == CODES_PER_MASK
        mask = stop = box + CODES_PER_MASK * is_mask
        while stop < len(symbols) and symbols[stop] is Symbol.TEXT:
            stop += 1
        found.append(
            ObjectSpan(
                at,
                box,
                mask,
                stop,
                tuple(values[at:box]),
                tuple(values[box:mask]),
                loc_row=symbols[:at].count(Symbol.LOC),
                seg_row=symbols[:at].count(Symbol.SEG),
            )
        )
        at = stop
    return tuple(found)


def _compiled(
    tokenizer: "PreTrainedTokenizerBase",
    vocabulary: Vocabulary,
    form: AnswerForm,
    shut: IntArray | None,
) -> TokenGrammar:
    has_labels = form.label != "none"
    if has_labels and form.labels is None and shut is None:
        shut = no_text(tokenizer, vocabulary)
    return TokenGrammar(
        form,
        vocabulary,
        Grammar.compile(form.task, labels="required" if has_labels else "none"),
        build_trie(tokenizer, vocabulary, form),
        shut if has_labels and form.labels is None else None,
    )


_COMPILED: "WeakKeyDictionary[Any, dict[AnswerForm, TokenGrammar]]" = WeakKeyDictionary()


class TokenCursor:
    """A place in one answer. ``fork`` copies it, for guesses that run ahead.

    Args:
        grammar: What it walks.
    """

    __slots__ = (
        "_bins", "_boxes", "_cursor", "_current", "_label", "_named", "_node", "_path",
        "_separated", "_spans", "_text", "_written", "grammar", "is_done",
    )  # fmt: skip

    def __init__(self, grammar: TokenGrammar) -> None:
        self.grammar = grammar
        self.is_done = False
        self._cursor = grammar.symbols.start
        self._node: int | None = None  # in the trie, once the box or mask is complete
        self._separated = 0  # pieces of the separator that open text has written
        self._text = False  # open text has begun
        self._bins: tuple[int, ...] = ()
        self._boxes: Counter[tuple[int, ...]] = Counter()
        self._spans: list[ObjectSpan] = []
        self._current: ObjectSpan | None = None
        self._path: tuple[int, ...] = ()
        self._label: tuple[int, ...] = ()
        self._named: int | None = None  # index of the label before the separator
        self._written = 0

    def fork(self) -> "TokenCursor":
        """Return a copy that goes its own way."""
        twin = object.__new__(TokenCursor)
        for name in TokenCursor.__slots__:
            setattr(twin, name, getattr(self, name))
        twin._spans, twin._boxes = self._spans.copy(), self._boxes.copy()
        return twin

    @property
    def spans(self) -> list[ObjectSpan]:
        """The objects so far; one whose box is not complete is none."""
        return [*self._spans, self._labelled(self._current)] if self._current else [*self._spans]

    @property
    def fragment(self) -> ObjectSpan | None:
        """The box that is not complete, if the answer is inside one."""
        if self._current is not None or not self._bins:
            return None
        at, start = self._written, self._written - len(self._bins)
        row = LOCS_PER_BOX * len(self._spans)
        return ObjectSpan(start, at, at, at, self._bins, is_complete=False, loc_row=row)

    @property
    def is_inside_object(self) -> bool:
        """Whether an object has begun that more tokens must or could complete."""
        current = self._current
        return bool(self._bins) if current is None else not self._labelled(current).is_complete

    def _labelled(self, span: ObjectSpan) -> ObjectSpan:
        """Add the label's index, and whether no further token could make it another label."""
        if self.grammar.shut is not None or self._node is None:
            return span._replace(is_complete=self.is_done)
        nodes, behind = self.grammar.trie.nodes, self.grammar.trie.behind
        node = nodes[self._node]
        ends = (child == NEXT_OBJECT or child in behind for child in node.children.values())
        label = self._named if self._node in behind else node.label
        is_whole = self.is_done or self._node in behind or (node.can_end and all(ends))
        return span._replace(label=label, is_complete=is_whole)

    @property
    def starts_object(self) -> bool:
        """Whether a location that comes now is the first of an object."""
        return not self._bins and self._node is None and not self._in_text

    @property
    def _in_text(self) -> bool:
        return self.grammar.shut is not None and self._node is not None

    def allowed(self) -> Allowed:
        """Return what may come next."""
        grammar = self.grammar
        if self.is_done:
            return Allowed()
        if self._node is not None:
            return self._after_geometry(self._node)
        moves = self._cursor.allowed()
        if Symbol.SEG in moves:
            first = grammar.vocabulary.first_seg
            return Allowed(span=(first, first + NUM_CODES))
        return self._coordinate(may_end=Symbol.END in moves)

    def _coordinate(self, *, may_end: bool) -> Allowed:
        grammar, at = self.grammar, len(self._bins)
        first, eos = grammar.vocabulary.first_loc, grammar.vocabulary.eos
        ids = (eos,) if may_end and eos not in grammar.trie.bans else ()
        if at < 2:  # top and left leave room for bottom and right
            return Allowed(span=(first, first + NUM_BINS - 1), ids=ids)
        low = first + self._bins[at - 2] + 1
        banned: tuple[int, ...] = ()
        if at == 3:
            limit = len(grammar.form.labels or ()) or 1
            again = [b[3] for b, n in self._boxes.items() if b[:3] == self._bins and n >= limit]
            if len(again) < first + NUM_BINS - low:
                banned = tuple(first + one for one in again)
        return Allowed(span=(low, first + NUM_BINS), banned=banned)

    def _after_geometry(self, node: int) -> Allowed:
        grammar = self.grammar
        limit = grammar.form.max_objects
        is_last = limit is not None and len(self._spans) + 1 >= limit
        if grammar.shut is None:
            place = grammar.trie.nodes[node]
            return place.last if is_last else place.allowed
        separator, eos = grammar.trie.separator, grammar.vocabulary.eos
        if self._separated:
            return Allowed(ids=(separator[self._separated],))
        ids: tuple[int, ...] = ()
        if self._text:
            ids = () if is_last else (separator[0],)
            ids = (*ids, eos) if is_last or eos not in grammar.trie.bans else ids
        shut = np.setdiff1d(grammar.shut, ids)
        return Allowed(ids=ids, shut=shut)

    def forced_run(self) -> tuple[int, ...]:
        """Return the ids that must come now, as long as there is one choice; never ``<eos>``."""
        run: list[int] = []
        cursor = self
        while True:
            token = cursor._only_choice()
            if token is None:
                return tuple(run)
            cursor = cursor.fork() if not run else cursor
            cursor.advance(token)
            run.append(token)

    def _only_choice(self) -> int | None:
        allowed = self.allowed()
        size = allowed.span[1] - allowed.span[0]
        if allowed.is_open or allowed.weighed or size - len(allowed.banned) + len(allowed.ids) != 1:
            return None
        if allowed.ids:
            return None if allowed.ids[0] == self.grammar.vocabulary.eos else allowed.ids[0]
        return next(one for one in range(*allowed.span) if one not in allowed.banned)

    def likely_run(self) -> tuple[int, ...]:
        """Return a guess that is worth its place in a pass: the last label again, a separator."""
        if self._node is None or self._separated:
            return ()
        allowed = self.allowed()
        written = len(self._path)
        if written < len(self._label) and self._label[:written] == self._path:
            token = self._label[written]
            return (token,) if allowed.holds(token) else ()
        first = self.grammar.trie.separator[0]
        return (first,) if first in allowed.ids else ()

    def advance(self, token: int) -> None:
        """Go past ``token``.

        Raises:
            OptionError: If it may not come here.
        """
        grammar = self.grammar
        if token == grammar.vocabulary.eos and not self.is_done:
            self._require(token)
            self._close_object()
            self.is_done = True
        elif self._node is None:
            self._advance_geometry(token)
        else:
            self._advance_label(token)
        self._written += 1

    def _require(self, token: int) -> None:
        if not self.allowed().holds(token):
            raise OptionError(f"token: {token} may not come here")

    def _advance_geometry(self, token: int) -> None:
        table = self.grammar.vocabulary
        self._require(token)
        symbol = Symbol.LOC if table.is_loc(token) else Symbol.SEG
        self._cursor = self._cursor.advance(symbol)
        at = self._written + 1
        if symbol is Symbol.LOC:
            self._bins = (*self._bins, token - table.first_loc)
            if len(self._bins) == LOCS_PER_BOX:
                at_row = LOCS_PER_BOX * len(self._spans), sum(len(one.codes) for one in self._spans)
                self._current = ObjectSpan(
                    at - LOCS_PER_BOX,
                    at,
                    at,
                    at,
                    self._bins,
                    loc_row=at_row[0],
                    seg_row=at_row[1],
                )
        elif self._current is not None:
            codes = (*self._current.codes, token - table.first_seg)
            self._current = self._current._replace(mask_stop=at, label_stop=at, codes=codes)
        moves = self._cursor.allowed()
        if Symbol.TEXT in moves or Symbol.SEPARATOR in moves or Symbol.END in moves:
            self._node, self._path, self._text = 0, (), False

    def _advance_label(self, token: int) -> None:
        self._require(token)
        grammar = self.grammar
        separator = grammar.trie.separator
        if grammar.shut is not None:
            if token == separator[self._separated] and (self._separated or self._text):
                self._separated += 1
                if self._separated == len(separator):
                    self._next_object()
                return
            self._text = True
            self._extend_label(token)
            return
        node = grammar.trie.nodes[self._node or 0].children[token]
        if node == NEXT_OBJECT or (
            node in grammar.trie.behind and self._node not in grammar.trie.behind
        ):
            at = grammar.trie.nodes[self._node or 0]
            self._named = at.label if self._node not in grammar.trie.behind else self._named
        if node == NEXT_OBJECT:
            self._next_object()
            return
        self._node = node
        if node not in grammar.trie.behind:
            self._extend_label(token)

    def _extend_label(self, token: int) -> None:
        self._path = (*self._path, token)
        if self._current is not None:
            self._current = self._current._replace(label_stop=self._written + 1)

    def _next_object(self) -> None:
        self._close_object()
        if Symbol.TEXT in self._cursor.allowed():
            self._cursor = self._cursor.advance(Symbol.TEXT)
        self._cursor = self._cursor.advance(Symbol.SEPARATOR)
        self._node, self._separated = None, 0

    def _close_object(self) -> None:
        if self._current is not None:
            ended = self._labelled(self._current)
            label = ended.label if ended.label is not None else self._named
            label = None if self.grammar.shut is not None else label
            self._spans.append(self._current._replace(label=label, is_complete=True))
            self._boxes[self._bins] += 1
            self._label = self._path
        self._current, self._bins, self._path = None, (), ()
