"""The grammar of token ids: whatever walks through it is read back as exactly what was walked."""

import sys
import threading
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from gemma import gemma

from pgvision.errors import OptionError
from pgvision.runtime import find_checkpoint
from pgvision.runtime.checkpoint_files import read_tokenizer, wrap_tokenizer
from pgvision.runtime.grammar import _COMPILED, Allowed, TokenCursor, TokenGrammar
from pgvision.runtime.protocol import Tokenizer, Vocabulary
from pgvision.tokens import AnswerForm, parse_suffix

NAMES = ("helmet", "safety helmet", "safety", "head")


@cache
def tiny() -> Tokenizer:
    return read_tokenizer(find_checkpoint("tiny").location, None)


@cache
def whole_gemma() -> Tokenizer:
    return wrap_tokenizer(gemma(), "gemma")


TOKENIZERS = {"tiny": tiny, "gemma": whole_gemma}


def bound(name: str, form: AnswerForm) -> tuple[Tokenizer, Vocabulary, TokenGrammar]:
    tokenizer = TOKENIZERS[name]()
    return tokenizer, tokenizer.vocabulary, TokenGrammar.compile(tokenizer, form)


def choices(allowed: Allowed) -> list[int]:
    """Some of what may come: both ends of the run, and all single ids."""
    found = [one for one in range(*allowed.span) if one not in allowed.banned]
    return [*found[:3], *found[-3:], *found[len(found) // 2 : len(found) // 2 + 2], *allowed.ids]


def walk(data: st.DataObject, cursor: TokenCursor) -> list[int]:
    ids: list[int] = []
    while not cursor.is_done:
        run = cursor.forced_run()
        options = choices(cursor.allowed())
        if run:
            assert run[0] in cursor.allowed().ids or run[0] in cursor.allowed()
        token = run[0] if run else data.draw(st.sampled_from(options))
        cursor.advance(token)
        ids.append(token)
    return ids


@settings(max_examples=40, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(TOKENIZERS)))
def test_whatever_is_walked_is_read_back(data: st.DataObject, name: str) -> None:
    labels = data.draw(st.permutations(NAMES).map(lambda p: tuple(p[:2])))
    task = data.draw(st.sampled_from(["detect", "segment"]))
    label = data.draw(st.sampled_from(["required", "none"]))
    form = AnswerForm(task, labels, label, max_objects=data.draw(st.integers(1, 4)))
    tokenizer, table, grammar = bound(name, form)
    cursor = TokenCursor(grammar)
    ids = walk(data, cursor)
    guard = table.first_loc
    text = tokenizer.decode([guard, *ids[:-1]])[9:]
    read = parse_suffix(text, image_hw=(1024, 1024), classes=labels)
    assert [r for r in read.rejects if r.reason != "degenerate box"] == [], text
    assert len(read.objects) == len(cursor.spans) <= (form.max_objects or 99)
    for one, span in zip(read.objects, cursor.spans, strict=True):
        bins = [token - table.first_loc for token in ids[span.start : span.box_stop]]
        assert list(one.loc_yxyx) == bins
        assert bins[0] < bins[2] and bins[1] < bins[3]  # noqa: PT018
        codes = [token - table.first_seg for token in ids[span.box_stop : span.mask_stop]]
        assert (one.codes is None) == (task == "detect")
        assert list(one.codes or ()) == codes
        words = tokenizer.decode([guard, *ids[span.mask_stop : span.label_stop]])[9:].strip()
        assert (one.label or "") == (words if label == "required" else "")
        if label == "required":
            assert one.label in labels
    if label == "required":
        assert [span[:6] for span in grammar.walk(ids)] == [span[:6] for span in cursor.spans]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_labels_are_the_tokenizers_own_pieces(name: str) -> None:
    """No forced token where a longer label has another piece; the shorter one may still end."""
    tokenizer, table, grammar = bound(name, AnswerForm("detect", ("safety", "safety helmet")))
    box = [table.first_loc + n for n in (10, 20, 30, 40)]
    short = [*tokenizer.encode("<loc0001> safety ; <loc0001>")][1:-1]
    long = [*tokenizer.encode("<loc0001> safety helmet")][1:]
    for path in (short, long):
        cursor = TokenCursor(grammar)
        for token in [*box, *path]:
            assert token in cursor.allowed()
            cursor.advance(token)
    at_fork = TokenCursor(grammar)
    for token in [*box, *long[:1]]:
        at_fork.advance(token)
    assert at_fork.forced_run() == ()
    assert {long[1], table.eos} < {*at_fork.allowed().ids}


def test_the_separator_is_as_the_tokenizer_writes_it() -> None:
    assert len(bound("tiny", AnswerForm("detect", ("helmet",)))[2].separator) == 1
    tokenizer, _, grammar = bound("gemma", AnswerForm("detect", ("helmet",)))
    assert [tokenizer.word(token) for token in grammar.separator] == ["▁;", "▁"]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_box_is_not_written_twice(name: str) -> None:
    tokenizer, table, grammar = bound(name, AnswerForm("detect", ("helmet",)))
    ids = tokenizer.encode(
        "<loc0001><loc0002><loc0003><loc0004> helmet ; <loc0001><loc0002><loc0003>"
    )
    cursor = TokenCursor(grammar)
    for token in ids:
        cursor.advance(token)
    assert table.first_loc + 4 not in cursor.allowed()
    assert table.first_loc + 3 in cursor.allowed()
    with pytest.raises(OptionError):
        cursor.advance(table.first_loc + 4)


def test_a_box_is_written_once_for_each_label() -> None:
    """With several labels the same box may come again under another name, and no other time."""
    labels = ("safety", "safety helmet", "head")
    tokenizer, table, grammar = bound("gemma", AnswerForm("detect", labels))
    box = "<loc0001><loc0002><loc0003><loc0004>"
    cursor = TokenCursor(grammar)
    for token in tokenizer.encode(f"{box} safety ; {box}"):
        cursor.advance(token)
    first, second = tokenizer.encode(f"{box} safety helmet")[4:]
    cursor.advance(first)
    assert cursor.allowed().ids == (second,), "the end would repeat the object"
    assert cursor.forced_run()[0] == second
    for token in tokenizer.encode(f"{box} safety helmet ; {box} head ; {box[:27]}")[5:]:
        cursor.advance(token)
    assert table.first_loc + 4 not in cursor.allowed(), "every label has this box"
    assert table.first_loc + 5 in cursor.allowed()
    assert [(span.label, span.loc_yxyx) for span in cursor.spans[:3]] == [
        (label, (1, 2, 3, 4)) for label in (0, 1, 2)
    ]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_label_that_a_box_has_is_not_begun_again(name: str) -> None:
    tokenizer, _, grammar = bound(name, AnswerForm("detect", ("helmet", "head")))
    box = "<loc0001><loc0002><loc0003><loc0004>"
    for first, second in (("helmet", "head"), ("head", "helmet")):
        cursor = TokenCursor(grammar)
        for token in tokenizer.encode(f"{box} {first} ; {box}"):
            cursor.advance(token)
        assert cursor.allowed().ids == (tokenizer.encode(f"{box} {second}")[4],)


def test_threads_may_compile_grammars_and_old_ones_are_dropped() -> None:
    tokenizer, errors = tiny(), []

    def work(start: int) -> None:
        try:
            for number in range(150):
                TokenGrammar.compile(tokenizer, AnswerForm("detect", (f"h{start} {number}",)))
        except Exception as error:  # noqa: BLE001  (a thread's error would be lost)
            errors.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(_COMPILED[tokenizer]) == 256
    form = AnswerForm("detect", ("h3 149",))
    assert TokenGrammar.compile(tokenizer, form) is TokenGrammar.compile(tokenizer, form)


def test_the_last_label_is_the_guess_at_the_next() -> None:
    form = AnswerForm("detect", ("safety helmet", "safety", "head"))
    tokenizer, _, grammar = bound("gemma", form)
    boxes = [f"<loc0001><loc0002><loc0003><loc{bottom:04d}>" for bottom in (4, 5)]
    cursor = TokenCursor(grammar)
    for token in tokenizer.encode(f"{boxes[0]} safety helmet ; {boxes[1]}"):
        cursor.advance(token)
    first, second = tokenizer.encode(f"{boxes[0]} safety helmet")[4:]
    assert cursor.likely_next() == first
    other = cursor.fork()
    cursor.advance(first)
    assert cursor.likely_next() == second
    # After another name the last one is no guess: a separator is.
    other.advance(tokenizer.encode(f"{boxes[0]} head")[4])
    assert other.likely_next() == grammar.separator[0]


def test_what_may_come_at_the_start_and_behind_the_last_object() -> None:
    _, table, grammar = bound("tiny", AnswerForm("detect", ("helmet",), max_objects=1))
    start = TokenCursor(grammar)
    assert start.allowed().ids == (table.eos,)
    assert start.allowed().span == (table.first_loc, table.first_loc + 1023)
    assert start.starts_object
    assert table.first_loc + 1023 not in start.allowed(), "no room for a bottom edge"
    start.advance(table.first_loc)
    assert not start.starts_object
    assert start.allowed().ids == (), "inside a box nothing ends"
    cursor = TokenCursor(grammar)
    for number in (1, 2, 3, 4):
        cursor.advance(table.first_loc + number)
    cursor.advance(cursor.forced_run()[0])
    assert cursor.allowed().ids == (table.eos,)


def test_edges_leave_room_for_an_area() -> None:
    _, table, grammar = bound("tiny", AnswerForm("detect", ("helmet",)))
    cursor, first = TokenCursor(grammar), table.first_loc
    cursor.advance(first + 1022)
    assert cursor.allowed().span == (first, first + 1023)
    cursor.advance(first + 7)
    assert cursor.forced_run()[:1] == (first + 1023,)
    cursor.advance(first + 1023)
    assert cursor.allowed().span == (first + 8, first + 1024)


def test_banned_tokens_never_come() -> None:
    _, table, grammar = bound("tiny", AnswerForm("detect", ("helmet",), bans=("<eos>",)))
    assert TokenCursor(grammar).allowed().ids == ()
    with pytest.raises(OptionError, match="no such|is no token"):
        bound("tiny", AnswerForm("detect", ("helmet",), bans=("<noise>",)))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_decoy_leaves_a_single_label_a_choice(name: str) -> None:
    """It shares the mass at the token where it leaves every label, and may not come itself."""
    form = AnswerForm(task="detect", labels=("safety",), max_objects=1, decoy="safe")
    tokenizer, table, grammar = bound(name, form)
    cursor = TokenCursor(grammar)
    for bin_ in (1, 2, 3, 4):
        cursor.advance(table.first_loc + bin_)
    box = "<loc0001><loc0002><loc0003><loc0004>"
    yes = [*tokenizer.encode(box + " safety")][4:]
    no = [*tokenizer.encode(box + " safe ; ")][4:]
    same = next(at for at, (one, other) in enumerate(zip(yes, no, strict=False)) if one != other)
    for token in yes[:same]:
        cursor.advance(token)
    allowed = cursor.allowed()
    assert allowed.ids == (yes[same],) and allowed.weighed == (no[same],)
    assert cursor.forced_run() == () and no[same] not in allowed
    cursor.advance(yes[same])
    with pytest.raises(OptionError, match="some others"):
        AnswerForm(task="detect", labels=("safe",), decoy="safe")


def test_a_fork_goes_its_own_way() -> None:
    _, table, grammar = bound("tiny", AnswerForm("detect", ("helmet",)))
    cursor = TokenCursor(grammar)
    fork = cursor.fork()
    for number in (1, 2, 3, 4):
        fork.advance(table.first_loc + number)
    assert cursor.starts_object and cursor.spans == ()  # noqa: PT018
    assert len(fork.spans) == 1
