"""Which labels may be written, token by token, and what may follow them.

Labels are tokenised where they will stand: behind a location token, before a separator or the end
(" helmet ; <loc" is two pieces with one tokenizer and four with another). No torch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from pgvision.arrays import IntArray
from pgvision.errors import CheckpointError, OptionError
from pgvision.runtime.vocabulary import Vocabulary
from pgvision.tokens import AnswerForm
from pgvision.tokens.grammar import LOCS_PER_BOX

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NEXT_OBJECT: Final = -1
"""In place of a node: the path leads to the next object."""

_BOX: Final = "<loc0000>" * LOCS_PER_BOX


@dataclass(frozen=True, slots=True, eq=False)
class Allowed:
    """What may come next.

    Attributes:
        span: Ids ``[first, stop)`` inside the run of locations or of codes; (0, 0): none.
        ids: Further ids: pieces of labels, the separator's first piece, ``<eos>``.
        banned: Ids inside ``span`` that may not come.
        shut: Where any text may come: the ids that are no text; else None.
        weighed: Ids that share the probability and may not come.
    """

    span: tuple[int, int] = (0, 0)
    ids: tuple[int, ...] = ()
    banned: tuple[int, ...] = ()
    shut: IntArray | None = None
    weighed: tuple[int, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether any text may come."""
        return self.shut is not None

    def holds(self, token: int) -> bool:
        """Whether ``token`` may come."""
        if self.span[0] <= token < self.span[1]:
            return token not in self.banned
        return token in self.ids or (self.shut is not None and token not in self.shut)


@dataclass(slots=True)
class Node:
    """A place in the trie of labels and what follows them."""

    children: dict[int, int] = field(default_factory=dict)  # id -> node, or NEXT_OBJECT
    can_end: bool = False
    label: int | None = None  # index of the label that ends here
    weighed: tuple[int, ...] = ()
    allowed: Allowed = field(default_factory=Allowed)
    last: Allowed = field(default_factory=Allowed)  # the same when no further object may come


@dataclass(frozen=True)
class LabelTrie:
    """What may follow a box or mask.

    Attributes:
        nodes: The first is where a box or mask is complete.
        behind: Numbers of the nodes that lie in a separator.
        separator: Ids of what stands between objects.
        bans: Ids that never come.
    """

    nodes: tuple[Node, ...]
    behind: frozenset[int]
    separator: tuple[int, ...]
    bans: frozenset[int]


def build_trie(
    tokenizer: "PreTrainedTokenizerBase", vocabulary: Vocabulary, form: AnswerForm
) -> LabelTrie:
    """Tokenise the labels of a form in their places.

    Args:
        tokenizer: The checkpoint's tokenizer.
        vocabulary: Its special ids.
        form: The form of the answer; without labels (any text) the trie is empty.

    Raises:
        CheckpointError: If the tokenizer does not keep labels and location tokens apart.
        OptionError: If ``form.bans`` names a token that is not there.
    """
    separator = _between(tokenizer, vocabulary, "")
    bans = frozenset(_id_of(tokenizer, text) for text in form.bans)
    nodes: list[Node] = [Node()]
    behind: set[int] = set()
    labels: Iterable[str] = [""] if form.label == "none" else form.labels or ()
    for number, label in enumerate(labels):
        words = f" {label}" if label else ""
        middle = _between(tokenizer, vocabulary, words)
        last = _plain(tokenizer, _BOX + words)[LOCS_PER_BOX:]
        stop = len(middle) - len(separator)
        behind |= _grow(nodes, middle, stop if middle[stop:] == separator else len(middle))
        _grow(nodes, last, None)
        if form.label != "none":
            nodes[_at_end_of(nodes, last)].label = number
            # The label may end before a separator in another node than before <eos>.
            nodes[_at_end_of(nodes, middle[:stop])].label = number
    if form.decoy is not None:
        _weigh(nodes, _between(tokenizer, vocabulary, f" {form.decoy}"))
    for node in nodes:
        _finish(node, vocabulary.eos, separator[0], bans)
    return LabelTrie(tuple(nodes), frozenset(behind), separator, bans)


def no_text(tokenizer: "PreTrainedTokenizerBase", vocabulary: Vocabulary) -> IntArray:
    """Return the ids that no label may hold: special ones, and what ends a label for a reader."""
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    stops = (";", "\n", "\r", "<0x3B>", "<0x0A>", "<0x0D>")
    shut = {vocabulary.eos, vocabulary.pad, vocabulary.bos, vocabulary.image}
    shut |= set(tokenizer.all_special_ids)
    for token, word in enumerate(words):
        is_geometry = vocabulary.is_loc(token) or vocabulary.is_seg(token)
        if is_geometry or word is None or any(stop in word for stop in stops):
            shut.add(token)
    return np.array(sorted(shut), np.int64)


def _plain(tokenizer: "PreTrainedTokenizerBase", text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _between(
    tokenizer: "PreTrainedTokenizerBase", vocabulary: Vocabulary, words: str
) -> tuple[int, ...]:
    """Return the ids of words and separator between two boxes."""
    ids = _plain(tokenizer, f"{_BOX}{words} ; <loc0000>")
    inside = ids[LOCS_PER_BOX:-1]
    if not vocabulary.is_loc(ids[-1]) or any(map(vocabulary.is_loc, inside)) or not inside:
        raise CheckpointError(
            f"tokenizer: {words + ' ; '!r} is not kept apart from location tokens; "
            "load the checkpoint's own processor"
        )
    return inside


def _id_of(tokenizer: "PreTrainedTokenizerBase", text: str) -> int:
    token = tokenizer.convert_tokens_to_ids(text)
    if not isinstance(token, int) or token == tokenizer.unk_token_id:
        raise OptionError(f"bans: {text!r} is no token of this checkpoint; leave it out")
    return token


def _grow(nodes: list[Node], path: Sequence[int], separator_at: int | None) -> set[int]:
    """Add a path to the next object, or (None) to the end; return its nodes in the separator."""
    at = 0
    behind: set[int] = set()
    for index, token in enumerate(path):
        if separator_at is not None and index == len(path) - 1:
            nodes[at].children[token] = NEXT_OBJECT
            return behind
        if token not in nodes[at].children:
            nodes.append(Node())
            nodes[at].children[token] = len(nodes) - 1
        at = nodes[at].children[token]
        if separator_at is not None and index >= separator_at:
            behind.add(at)
    nodes[at].can_end = True
    return behind


def _at_end_of(nodes: list[Node], path: Sequence[int]) -> int:
    at = 0
    for token in path:
        at = nodes[at].children[token]
    return at


def _weigh(nodes: list[Node], path: Sequence[int]) -> None:
    """Set the token at which a path leaves all labels against them."""
    at = 0
    for token in path:
        if token not in nodes[at].children:
            nodes[at].weighed = (token,)
            return
        at = nodes[at].children[token]


def _finish(node: Node, eos: int, separator: int, bans: frozenset[int]) -> None:
    ids = tuple(token for token in node.children if token not in bans)
    end = (eos,) if node.can_end else ()
    last = (*(one for one in ids if one != separator), *end)
    node.last = Allowed(ids=last, weighed=node.weighed)
    node.allowed = Allowed(ids=(*ids, *(() if eos in bans else end)), weighed=node.weighed)
