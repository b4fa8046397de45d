"""The grammar of an answer, written once.

A `Grammar` is a small table compiled from the name of a task; a `Cursor` is a place in it. The
parser judges what it found with it, `check_suffix` lints training targets with it, and a decoder
can walk it token by token: it only needs to map each of its token ids to a `Symbol`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import Final

from pgvision.errors import OptionError
from pgvision.tokens.bins import CODES_PER_MASK, NUM_BINS, NUM_CODES

LOCS_PER_BOX: Final = 4
TASKS: Final = ("detect", "segment", "text", "any")


class Symbol(Enum):
    """Token classes of the grammar."""

    LOC = "loc"
    SEG = "seg"
    TEXT = "text"
    SEPARATOR = "separator"
    END = "end"

    # Members are singletons; the default hash goes through the name and is slow in table look-ups.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True, eq=False)
class Grammar:
    """The answers that one task may have, as a table of states.

    Attributes:
        task: ``"detect"`` (boxes), ``"segment"`` (boxes with masks), ``"text"``, or ``"any"``
            (boxes with or without masks and labels: what a reader accepts).
        table: For each state, the symbols that may come and the state they lead to.

    Example:
        >>> cursor = Grammar.compile("detect").start
        >>> for _ in range(4):
        ...     cursor = cursor.advance(Symbol.LOC)
        >>> sorted(symbol.value for symbol in cursor.allowed())
        ['text']
    """

    task: str
    table: tuple[Mapping[Symbol, int], ...]

    @staticmethod
    def compile(task: str, *, labels: str = "default") -> "Grammar":
        """Build (or find again) the grammar of a task.

        Args:
            task: One of ``TASKS``.
            labels: ``"required"``, ``"optional"`` or ``"none"``; by default required for
                ``"detect"``, optional for ``"segment"`` (refcoco-seg writes none) and ``"any"``.

        Returns:
            The grammar; the same object for the same arguments.

        Raises:
            OptionError: If ``task`` or ``labels`` is unknown.

        Example:
            >>> Grammar.compile("segment") is Grammar.compile("segment")
            True
        """
        if task not in TASKS:
            raise OptionError(f"task: expected one of {', '.join(TASKS)}, got {task!r}.")
        if labels not in ("default", "required", "optional", "none"):
            raise OptionError(f"labels: expected required, optional or none, got {labels!r}.")
        if labels == "default":
            labels = "required" if task == "detect" else "optional"
        return _compile(task, labels)

    @property
    def start(self) -> "Cursor":
        """The place before the first token."""
        return Cursor(self, 0)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in an answer. Immutable: keep one for each row, or several for each beam.

    Example:
        >>> cursor = Grammar.compile("text").start.advance(Symbol.TEXT)
        >>> cursor.can_end, cursor.advance(Symbol.END).allowed()
        (True, frozenset())
    """

    grammar: Grammar
    state: int

    def allowed(self) -> frozenset[Symbol]:
        """Return the symbols that may come next; empty after the end."""
        return frozenset(self.grammar.table[self.state])

    def advance(self, symbol: Symbol) -> "Cursor":
        """Return the place after ``symbol``.

        Raises:
            OptionError: If ``symbol`` is not allowed here.
        """
        state = self.grammar.table[self.state].get(symbol)
        if state is None:
            allowed = ", ".join(sorted(s.value for s in self.allowed())) or "nothing"
            raise OptionError(f"symbol: expected {allowed} here, got {symbol.value}.")
        return Cursor(self.grammar, state)

    @property
    def can_end(self) -> bool:
        """Whether the answer may end here."""
        return Symbol.END in self.grammar.table[self.state]

    def forced(self) -> Symbol | None:
        """Return the one symbol that can come next, if there is just one.

        Example:
            >>> Grammar.compile("segment").start.advance(Symbol.LOC).forced()
            <Symbol.LOC: 'loc'>
        """
        moves = self.grammar.table[self.state]
        return next(iter(moves)) if len(moves) == 1 else None


@cache
def _compile(task: str, labels: str) -> Grammar:
    rows = _text_rows() if task == "text" else _object_rows(task, labels)
    return Grammar(task, tuple(MappingProxyType(row) for row in rows))


def _text_rows() -> list[dict[Symbol, int]]:
    # A separator is nothing special in prose.
    words = {Symbol.TEXT: 0, Symbol.SEPARATOR: 0, Symbol.END: 1}
    return [words, {}]


def _object_rows(task: str, labels: str) -> list[dict[Symbol, int]]:
    """States: 0-3 locs read, 4 box, 5-19 codes read, 20 mask, label, next object, end."""
    mask = LOCS_PER_BOX + CODES_PER_MASK
    label, following, end = mask + 1, mask + 2, mask + 3
    rows: list[dict[Symbol, int]] = [{} for _ in range(end + 1)]
    # 1. Locations, then codes.
    for at in range(LOCS_PER_BOX):
        rows[at][Symbol.LOC] = at + 1
    for at in range(LOCS_PER_BOX, mask):
        rows[at][Symbol.SEG] = at + 1
    if task == "detect":
        del rows[LOCS_PER_BOX][Symbol.SEG]
    after = {Symbol.SEPARATOR: following, Symbol.END: end}
    # 2. After a complete object: label, next object or end.
    complete = {"detect": (LOCS_PER_BOX,), "segment": (mask,)}.get(task, (LOCS_PER_BOX, mask))
    for at in complete:
        if labels != "none":
            rows[at][Symbol.TEXT] = label
        if labels != "required":
            rows[at].update(after)
    rows[label] = {Symbol.TEXT: label, **after}
    # 3. An empty list is valid.
    rows[0][Symbol.END] = end
    rows[following] = {Symbol.LOC: 1}
    return rows


_LINT_TOKEN: Final = re.compile(
    r"(?P<loc><loc[0-9]*>)|(?P<seg><seg[0-9]*>)|(?P<separator> ; )"
    r"|(?P<text>(?:(?!<(?:loc|seg)[0-9]*>| ; ).)+)",
    re.DOTALL,
)
_SIZES: Final = {Symbol.LOC: (4, NUM_BINS), Symbol.SEG: (3, NUM_CODES)}
_SPECIAL: Final = re.compile(r"<(?:eos|bos|pad|image)>")


def check_suffix(text: str, task: str) -> list[str]:
    """List what is wrong with a training target; an empty list means nothing.

    Stricter than the parser: this is what a model would learn to write. An empty target for a
    task with boxes is right (nothing to find).

    Args:
        text: The suffix, without ``<eos>`` (the processor adds it).
        task: ``"detect"``, ``"segment"``, ``"text"`` or ``"any"``.

    Returns:
        One sentence for each problem, with its place in the text.

    Raises:
        OptionError: If ``task`` is unknown.

    Example:
        >>> check_suffix("<loc0010><loc0010><loc0200><loc0300> helmet", "detect")
        []
        >>> check_suffix("<loc0010><loc0010><loc0200> helmet", "detect")
        ['at 27: expected loc, got text']
    """
    # 1. Characters that the processor adds.
    cursor = Grammar.compile(task).start
    problems = [
        f"at {m.start()}: {m[0]} is added by the processor" for m in _SPECIAL.finditer(text)
    ]
    if text != text.strip():
        problems.append("spaces or line breaks at the start or end")
    if "\n" in text.strip():
        problems.append(f"at {text.index(chr(10))}: a line break inside")
    # 2. Walk the grammar; the first violation ends the check.
    bins: list[int] = []
    for symbol, token, at in _lint_symbols(text):
        if symbol not in cursor.allowed():
            allowed = " or ".join(sorted(s.value for s in cursor.allowed()))
            return [*problems, f"at {at}: expected {allowed}, got {symbol.value}"]
        cursor = cursor.advance(symbol)
        problems.extend(_token_problems(symbol, token, at, has_boxes=task != "text"))
        bins = [*bins, int(token[4:-1] or 0)] if symbol is Symbol.LOC else bins
        if len(bins) == LOCS_PER_BOX:
            problems.extend(_box_problems(bins, at))
            bins = []
    # 3. The end.
    if not cursor.can_end:
        allowed = " or ".join(sorted(s.value for s in cursor.allowed()))
        problems.append(f"at {len(text)}: expected {allowed}, got the end")
    if task == "text" and not text.strip():
        problems.append("empty text")
    return problems


def _lint_symbols(text: str) -> Iterator[tuple[Symbol, str, int]]:
    for match in _LINT_TOKEN.finditer(text):
        yield Symbol(match.lastgroup), match[0], match.start()


def _token_problems(symbol: Symbol, token: str, at: int, *, has_boxes: bool) -> Iterator[str]:
    if symbol in _SIZES:
        digits, size = _SIZES[symbol]
        if len(token) != digits + 5 or int(token[4:-1]) >= size:
            yield f"at {at}: {token} is no token (there are {size}, written with {digits} digits)"
    elif symbol is Symbol.TEXT and has_boxes and (not token.startswith(" ") or ";" in token):
        yield f"at {at}: {token!r} should be one space and a label, and ' ; ' between objects"


def _box_problems(bins: Iterable[int], at: int) -> Iterator[str]:
    top, left, bottom, right = bins
    if bottom <= top or right <= left:
        yield f"at {at}: the box that ends here has no area (top, left, bottom, right)"
