import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgvision.errors import OptionError
from pgvision.tokens import Cursor, Grammar, Symbol, check_suffix, object_text, parse_suffix

L, S, T, SEP, END = Symbol.LOC, Symbol.SEG, Symbol.TEXT, Symbol.SEPARATOR, Symbol.END


def walk(grammar: Grammar, symbols: list[Symbol]) -> Cursor | None:
    """The place after ``symbols``, or None if the grammar does not let them through."""
    cursor = grammar.start
    for symbol in symbols:
        if symbol not in cursor.allowed():
            return None
        cursor = cursor.advance(symbol)
    return cursor


BOX, MASK = [L] * 4, [S] * 16
GOOD = {
    "detect": [[END], [*BOX, T, END], [*BOX, T, T, SEP, *BOX, T, END]],
    "segment": [[END], [*BOX, *MASK, END], [*BOX, *MASK, T, SEP, *BOX, *MASK, T, END]],
    "any": [[*BOX, END], [*BOX, *MASK, SEP, *BOX, T, END]],
    "text": [[T, SEP, T, END], [END]],
}
BAD = {
    "detect": [[*BOX, END], [*BOX, S], [*BOX, L], [T], [SEP], [*BOX, T, SEP, END], [S], [L, T]],
    "segment": [[*BOX, T], [*BOX, *MASK[:-1], T], [*BOX, *MASK, S], [*BOX, END]],
    "any": [[*BOX, L], [T], [L, L, L, END], [S]],
    "text": [[L], [T, S], [END, T]],
}


@pytest.mark.parametrize(("task", "symbols"), [(t, s) for t, rows in GOOD.items() for s in rows])
def test_good_answers_pass_to_the_end(task: str, symbols: list[Symbol]) -> None:
    cursor = walk(Grammar.compile(task), symbols)
    assert cursor is not None
    assert cursor.allowed() == frozenset()


@pytest.mark.parametrize(("task", "symbols"), [(t, s) for t, rows in BAD.items() for s in rows])
def test_bad_answers_do_not(task: str, symbols: list[Symbol]) -> None:
    assert walk(Grammar.compile(task), symbols) is None


def test_labels_may_be_required_optional_or_none() -> None:
    assert walk(Grammar.compile("detect", labels="optional"), [*BOX, END]) is not None
    assert walk(Grammar.compile("detect", labels="none"), [*BOX, T]) is None
    assert walk(Grammar.compile("segment", labels="required"), [*BOX, *MASK, END]) is None


@given(data=st.data(), task=st.sampled_from(["detect", "segment", "any", "text"]))
def test_a_random_walk_writes_what_the_parser_reads(data: st.DataObject, task: str) -> None:
    # A constrained decoder in small: any allowed symbol, spelled as a token of its class.
    cursor, text, last = Grammar.compile(task).start, "", None
    spelling = {T: " word", SEP: " ; ", S: "<seg007>", END: ""}
    num_locs = 0
    for _ in range(80):
        symbol = data.draw(st.sampled_from(sorted(cursor.allowed(), key=lambda s: s.value)))
        text += spelling.get(symbol) or ("" if symbol is END else f"<loc0{num_locs % 4}00>")
        num_locs += symbol is L
        cursor, last = cursor.advance(symbol), symbol
        if symbol is END:
            break
    if last is END and task != "text":
        parsed = parse_suffix(text, image_hw=(480, 640))
        assert not parsed.rejects
        assert len(parsed.objects) == num_locs // 4
        assert check_suffix(text, task) == [] or not text


def test_forced_tokens_are_known_without_the_model() -> None:
    cursor = Grammar.compile("segment").start.advance(L)
    for symbol in [*BOX[1:], *MASK]:
        assert cursor.forced() is symbol
        cursor = cursor.advance(symbol)
    assert cursor.forced() is None
    assert cursor.can_end


def test_grammars_and_cursors_are_shared_and_cannot_be_changed() -> None:
    grammar = Grammar.compile("detect")
    assert Grammar.compile("detect") is grammar
    assert grammar.start == grammar.start
    with pytest.raises(dataclasses.FrozenInstanceError):
        grammar.start.state = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        grammar.table[0][L] = 5  # type: ignore[index]


def test_misuse_is_refused() -> None:
    with pytest.raises(OptionError, match="task"):
        Grammar.compile("caption")
    with pytest.raises(OptionError, match="labels"):
        Grammar.compile("detect", labels="maybe")
    with pytest.raises(OptionError, match="expected end, loc here, got text"):
        Grammar.compile("detect").start.advance(T)


BOX_TEXT = "<loc0100><loc0200><loc0300><loc0400>"
LINT = [
    (f"{BOX_TEXT} cat<eos>", "detect", "added by the processor"),
    (f"{BOX_TEXT} cat\n", "detect", "start or end"),
    (f" {BOX_TEXT} cat", "detect", "start or end"),
    (f"{BOX_TEXT} a\nb", "detect", "line break"),
    (f"{BOX_TEXT}cat", "detect", "one space"),
    (f"{BOX_TEXT} cat; {BOX_TEXT} dog", "detect", "expected"),
    (f"{BOX_TEXT} cat ;", "detect", "objects"),
    (f"{BOX_TEXT} a;b", "detect", "objects"),
    (BOX_TEXT, "detect", "expected text, got the end"),
    ("<loc0100><loc0200><loc0300> cat", "detect", "expected loc, got text"),
    ("<loc0100><loc0200><loc1024><loc0400> cat", "detect", "<loc1024> is no token"),
    ("<loc0400><loc0200><loc0300><loc0400> cat", "detect", "no area"),
    ("<loc100><loc0200><loc0300><loc0400> cat", "detect", "is no token"),
    (f"{BOX_TEXT} cat", "segment", "expected seg"),
    (f"{BOX_TEXT}{'<seg128>' * 16}", "segment", "<seg128> is no token"),
    (f"{BOX_TEXT} cat", "text", "expected"),
    ("", "text", "empty"),
    ("a cat", "detect", "expected end or loc, got text"),
]


@pytest.mark.parametrize(("text", "task", "problem"), LINT)
def test_targets_that_would_teach_mistakes(text: str, task: str, problem: str) -> None:
    assert any(problem in found for found in check_suffix(text, task)), check_suffix(text, task)


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("", "detect"),
        (f"{BOX_TEXT} driver's helmet ; {BOX_TEXT} a/b", "detect"),
        (object_text([1, 2, 3, 4], None, range(16)), "segment"),
        (object_text([1, 2, 3, 4], "cat", range(16)), "segment"),
        ("a man ; a dog, 3 < 4", "text"),
        (BOX_TEXT, "any"),
    ],
)
def test_targets_without_a_fault(text: str, task: str) -> None:
    assert check_suffix(text, task) == []
