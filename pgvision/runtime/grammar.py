"""Answer grammar over token ids: which tokens may come next, and the objects written so far.

Labels are tokenised in context, after a location and before a separator or the end, since
" helmet ; <loc" is two pieces with one tokenizer and four with another.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary

from pgvision.errors import CheckpointError, OptionError
from pgvision.runtime.protocol import ObjectSpan, Tokenizer, Vocabulary, find_spans
from pgvision.tokens import CODES_PER_MASK, LOCS_PER_BOX, NUM_BINS, NUM_CODES, AnswerForm

_BOX: Final = "<loc0000>" * LOCS_PER_BOX
_MAX_GRAMMARS: Final = 256  # compiled forms kept for each tokenizer


@dataclass(frozen=True, slots=True, eq=False)
class Allowed:
    """The tokens that may come next.

    Attributes:
        span: Ids ``[first, stop)`` inside the run of locations or of codes; (0, 0): none.
        ids: Further ids: pieces of labels, the separator's first piece, ``<eos>``.
        banned: Ids inside ``span`` that may not come.
        weighed: Scored but disallowed ids: they share the probability.
    """

    span: tuple[int, int] = (0, 0)
    ids: tuple[int, ...] = ()
    banned: tuple[int, ...] = ()
    weighed: tuple[int, ...] = ()

    def __contains__(self, token: int) -> bool:
        if self.span[0] <= token < self.span[1]:
            return token not in self.banned
        return token in self.ids

    @property
    def only(self) -> int | None:
        """The one token that may come; None if there is a choice."""
        size = self.span[1] - self.span[0]
        if self.weighed or size - len(self.banned) + len(self.ids) != 1:
            return None
        if self.ids:
            return self.ids[0]
        return next(token for token in range(*self.span) if token not in self.banned)


@dataclass(slots=True)
class _Node:
    """A place in the trie of labels and separators."""

    # id -> node or, where a path leads to the next object, -1 - the index of its label.
    children: dict[int, int] = field(default_factory=dict)
    label: int | None = None  # index of the label that is complete here
    is_separator: bool = False
    is_whole: bool = False  # nothing but the end or a separator may follow
    weighed: tuple[int, ...] = ()
    allowed: Allowed = field(default_factory=Allowed)
    last: Allowed = field(default_factory=Allowed)  # the same when no further object may come


@dataclass(frozen=True, eq=False)
class TokenGrammar:
    """The grammar of one form for one tokenizer; compile once, then a cursor for each answer.

    Attributes:
        form: What was compiled.
        vocabulary: The special ids.
        nodes: Trie of labels; the first node is where a box or mask is complete.
        separator: Ids between objects.
        bans: Ids that never come.
    """

    form: AnswerForm
    vocabulary: Vocabulary
    nodes: tuple[_Node, ...]
    separator: tuple[int, ...]
    bans: frozenset[int]

    @staticmethod
    def compile(tokenizer: Tokenizer, form: AnswerForm) -> "TokenGrammar":
        """Build (or find again) the grammar of a form; any number of threads may call this.

        Args:
            tokenizer: The checkpoint's tokenizer.
            form: The form of the answer.

        Raises:
            CheckpointError: If the tokenizer does not keep labels and location tokens apart.
            OptionError: If ``form.bans`` names a token that does not exist.
        """
        with _LOCK:
            known = _COMPILED.setdefault(tokenizer, OrderedDict())
            if form in known:
                known.move_to_end(form)
                return known[form]
        built = _compile(tokenizer, form)
        with _LOCK:
            known[form] = built
            while len(known) > _MAX_GRAMMARS:
                known.popitem(last=False)
        return built

    def walk(self, ids: Sequence[int]) -> tuple[ObjectSpan, ...]:
        """Find complete objects in ids that were written without the grammar."""
        table = self.vocabulary
        ends = {table.eos, table.pad, table.bos, table.image, self.separator[0]}

        def kind(token: int) -> str:
            if table.is_loc(token):
                return "L"
            return "S" if table.is_seg(token) else "E" if token in ends else "T"

        values = [token - table.run_of(token).start for token in ids]
        return find_spans("".join(map(kind, ids)), values)


_COMPILED: "WeakKeyDictionary[Tokenizer, OrderedDict[AnswerForm, TokenGrammar]]" = (
    WeakKeyDictionary()
)
_LOCK: Final = threading.Lock()


class TokenCursor:
    """A place in one answer. ``fork`` copies it, for guesses that run ahead.

    Args:
        grammar: What it walks.

    Attributes:
        written: Tokens so far.
        is_done: Whether ``<eos>`` came.
    """

    def __init__(self, grammar: TokenGrammar) -> None:
        self.grammar = grammar
        self.written = 0
        self.is_done = False
        self._start = 0  # of the current object
        self._bins: tuple[int, ...] = ()
        self._codes: tuple[int, ...] = ()
        self._node: int | None = None  # in the trie, once the box or mask is complete
        self._path: tuple[int, ...] = ()  # ids of the label so far
        self._label: int | None = None
        self._last_path: tuple[int, ...] = ()
        self._objects: tuple[ObjectSpan, ...] = ()
        self._boxes: frozenset[tuple[int | None, tuple[int, ...]]] = frozenset()

    def fork(self) -> "TokenCursor":
        """Return an independent copy; all state is immutable values."""
        twin = object.__new__(TokenCursor)
        twin.__dict__.update(self.__dict__)
        return twin

    @property
    def starts_object(self) -> bool:
        """Whether a location that comes now is the first of an object."""
        return not self._bins and self._node is None

    @property
    def is_inside_object(self) -> bool:
        """Whether an object has begun that more tokens must or could complete."""
        span = self._current()
        return span is not None and not span.is_complete

    @property
    def spans(self) -> tuple[ObjectSpan, ...]:
        """The objects so far; the last one is incomplete while tokens of it may follow."""
        span = self._current()
        return self._objects if span is None else (*self._objects, span)

    def _current(self) -> ObjectSpan | None:
        if not self._bins:
            return None
        box = self._start + len(self._bins)
        mask = box + len(self._codes)
        # Where tokens could still change the label, the object is not complete.
        is_whole = self._node is not None and self.grammar.nodes[self._node].is_whole
        # Ends of box, mask and label; the first row in the table of distributions.
        return ObjectSpan(
            *(self._start, box, mask, mask + len(self._path)),
            self._bins,
            self._codes,
            self._label,
            self.is_done or is_whole,
            LOCS_PER_BOX * len(self._objects),
        )

    def allowed(self) -> Allowed:
        """Return what may come next."""
        table = self.grammar.vocabulary
        if self.is_done:
            return Allowed()
        if self._node is not None:
            return self._after_geometry(self._node)
        if len(self._bins) < LOCS_PER_BOX:
            return self._coordinate()
        return Allowed(span=(table.first_seg, table.first_seg + NUM_CODES))

    def _coordinate(self) -> Allowed:
        grammar, at = self.grammar, len(self._bins)
        first, eos = grammar.vocabulary.first_loc, grammar.vocabulary.eos
        if at < 2:  # top and left must leave bins for bottom and right
            may_end = at == 0 and not self._objects and eos not in grammar.bans
            return Allowed(span=(first, first + NUM_BINS - 1), ids=(eos,) if may_end else ())
        # Bottom and right come after top and left, so that a box has an area.
        low = first + self._bins[at - 2] + 1
        if at == 2:
            return Allowed(span=(low, first + NUM_BINS))
        # A box may come once for each label: here those that all labels have are banned.
        repeated = [
            box[3]
            for box in {box for _, box in self._boxes if box[:3] == self._bins}
            if sum(other == box for _, other in self._boxes) >= self._num_labels
        ]
        banned = tuple(first + right for right in sorted(repeated))
        return Allowed(
            span=(low, first + NUM_BINS),
            banned=banned if len(banned) < first + NUM_BINS - low else (),
        )

    @property
    def _num_labels(self) -> int:
        return 1 if self.grammar.form.label == "none" else len(self.grammar.form.labels)

    def _after_geometry(self, number: int) -> Allowed:
        limit, node = self.grammar.form.max_objects, self.grammar.nodes[number]
        is_last = limit is not None and len(self._objects) + 1 >= limit
        allowed = node.last if is_last else node.allowed
        # Leave out pieces that lead only to labels this very box has already.
        if self._num_labels == 1 or not self._boxes:
            return allowed
        # 1. Labels that this box has.
        nodes = self.grammar.nodes
        used = {label for label, box in self._boxes if box == self._bins}
        if not used or nodes[number].is_separator:
            return allowed
        # 2. A token is left out if all labels behind it are used; the end, if the one here is.
        here = nodes[number].label
        ends = (self.grammar.vocabulary.eos, self.grammar.separator[0])

        def leads_on(token: int) -> bool:
            if token in ends:
                return here not in used
            return bool(_labels_under(nodes, nodes[number].children[token]) - used)

        # 3. If nothing is left, allow all: the grammar must not reach a dead end.
        ids = tuple(token for token in allowed.ids if leads_on(token))
        return Allowed(ids=ids, weighed=allowed.weighed) if ids else allowed

    def forced_run(self) -> tuple[int, ...]:
        """Return the ids that must come now, as long as there is one choice; never ``<eos>``."""
        run: list[int] = []
        cursor = self
        while True:
            token = cursor.allowed().only
            if token is None or token == self.grammar.vocabulary.eos:
                return tuple(run)
            cursor = cursor.fork() if not run else cursor
            cursor.advance(token)
            run.append(token)

    def likely_next(self) -> int | None:
        """Return a guess that is worth a place in a pass: the last label again, a separator."""
        if self._node is None:
            return None
        # In crowds the same label comes again and again.
        allowed = self.allowed()
        written = len(self._path)
        if written < len(self._last_path) and self._last_path[:written] == self._path:
            token = self._last_path[written]
            return token if token in allowed else None
        first = self.grammar.separator[0]
        return first if first in allowed.ids else None

    def advance(self, token: int) -> None:
        """Go past ``token``.

        Raises:
            OptionError: If it may not come here.
        """
        if token not in self.allowed():
            raise OptionError(f"token: {token} may not come here")
        if token == self.grammar.vocabulary.eos:
            self.is_done = True
        elif self._node is None:
            self._advance_geometry(token)
        else:
            self._advance_label(self._node, token)
        self.written += 1

    def _advance_geometry(self, token: int) -> None:
        table, form = self.grammar.vocabulary, self.grammar.form
        if not self._bins:
            self._start = self.written
        if table.is_loc(token):
            self._bins = (*self._bins, token - table.first_loc)
        else:
            self._codes = (*self._codes, token - table.first_seg)
        # The geometry is complete: the label comes next.
        wanted = CODES_PER_MASK if form.task == "segment" else 0
        if len(self._bins) == LOCS_PER_BOX and len(self._codes) == wanted:
            self._node = 0

    def _advance_label(self, number: int, token: int) -> None:
        nodes = self.grammar.nodes
        child = nodes[number].children[token]
        # The path ends with the separator: its label is in the number.
        if child < 0:
            self._label = -1 - child if self.grammar.form.label != "none" else None
            self._next_object()
            return
        self._node = child
        if not nodes[child].is_separator:
            self._path = (*self._path, token)
            self._label = nodes[child].label

    def _next_object(self) -> None:
        span = self._current()
        if span is not None:
            self._objects = (*self._objects, span._replace(is_complete=True))
            self._boxes |= {(self._label, self._bins)}
        self._last_path = self._path
        self._bins = self._codes = self._path = ()
        self._node = self._label = None


def _labels_under(nodes: Sequence[_Node], number: int) -> set[int]:
    """Return the labels that can still be written from a node on."""
    if number < 0:
        return {-1 - number}
    node = nodes[number]
    labels = set() if node.label is None else {node.label}
    return labels.union(*(_labels_under(nodes, child) for child in node.children.values()))


def _compile(tokenizer: Tokenizer, form: AnswerForm) -> TokenGrammar:
    # 1. Tokens of separator and bans.
    table = tokenizer.vocabulary
    separator = _between(tokenizer, "")
    bans = frozenset(_id_of(tokenizer, text) for text in form.bans)
    # 2. Trie of the labels' tokens.
    nodes = [_Node()]
    for number, label in enumerate([""] if form.label == "none" else form.labels):
        words = f" {label}" if label else ""
        middle = _between(tokenizer, words)
        last = tokenizer.encode(_BOX + words)[LOCS_PER_BOX:]
        stop = len(middle) - len(separator)
        # The label ends in one node before the end of the answer, maybe in another one before a
        # separator, where tokenizers merge differently.
        nodes[_grow(nodes, last)].label = number
        # Where tokenizers keep the separator apart, the label is known before it.
        is_apart = middle[stop:] == separator
        if is_apart:
            nodes[_grow(nodes, middle[:stop])].label = number
        _grow(nodes, middle, number, stop if is_apart else len(middle))
    if form.decoy is not None:
        _weigh(nodes, _between(tokenizer, f" {form.decoy}"))
    # 3. Allowed tokens of each node.
    for node in nodes:
        ids = tuple(token for token in node.children if token not in bans)
        end = (table.eos,) if node.label is not None else ()
        last = (*(token for token in ids if token != separator[0]), *end)
        node.last = Allowed(ids=last, weighed=node.weighed)
        follows = [child < 0 or nodes[child].is_separator for child in node.children.values()]
        node.is_whole = node.is_separator or (node.label is not None and all(follows))
        node.allowed = Allowed(ids=ids + end * (table.eos not in bans), weighed=node.weighed)
    return TokenGrammar(form, table, tuple(nodes), separator, bans)


def _between(tokenizer: Tokenizer, words: str) -> tuple[int, ...]:
    """Return the ids of words and separator between two boxes."""
    ids = tokenizer.encode(f"{_BOX}{words} ; <loc0000>")
    inside, is_loc = ids[LOCS_PER_BOX:-1], tokenizer.vocabulary.is_loc
    if not is_loc(ids[-1]) or any(map(is_loc, inside)) or not inside:
        raise CheckpointError(
            f"tokenizer: {words + ' ; '!r} is not kept apart from location tokens; "
            "load the checkpoint's own processor"
        )
    return inside


def _id_of(tokenizer: Tokenizer, text: str) -> int:
    token = tokenizer.id(text)
    if token is None or token == tokenizer.unknown:
        raise OptionError(f"bans: {text!r} is no token of this checkpoint; leave it out")
    return token


def _grow(
    nodes: list[_Node], path: Sequence[int], label: int | None = None, separator_at: int = 0
) -> int:
    """Add a path to the end of an answer or, with ``label``, to the next object.

    Returns:
        The node at its end.
    """
    at = 0
    for index, token in enumerate(path):
        if label is not None and index == len(path) - 1:
            nodes[at].children[token] = -1 - label
            return at
        if token not in nodes[at].children:
            nodes.append(_Node(is_separator=label is not None and index >= separator_at))
            nodes[at].children[token] = len(nodes) - 1
        at = nodes[at].children[token]
    return at


def _weigh(nodes: list[_Node], path: Sequence[int]) -> None:
    """Mark the token at which a path leaves all labels as scored but disallowed."""
    at = 0
    for token in path:
        if token not in nodes[at].children:
            nodes[at].weighed = (token,)
            return
        at = nodes[at].children[token]
