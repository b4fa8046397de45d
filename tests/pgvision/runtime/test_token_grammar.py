"""The grammar of token ids: whatever walks through it is read back as exactly what was walked."""

import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parent))
from gemma import gemma

from pgvision.errors import OptionError
from pgvision.runtime import find_checkpoint
from pgvision.runtime.label_trie import Allowed
from pgvision.runtime.token_grammar import TokenCursor, TokenGrammar
from pgvision.runtime.vocabulary import Vocabulary, read_vocabulary
from pgvision.tokens import AnswerForm, parse_suffix

NAMES = ("helmet", "safety helmet", "safety", "head")


@cache
def tiny() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(find_checkpoint("tiny").location)


TOKENIZERS = {"tiny": tiny, "gemma": gemma}


def bound(name: str, form: AnswerForm) -> tuple[PreTrainedTokenizerFast, Vocabulary, TokenGrammar]:
    tokenizer = TOKENIZERS[name]()
    table = read_vocabulary(tokenizer, name)
    return tokenizer, table, TokenGrammar.compile(tokenizer, table, form)


def choices(allowed: Allowed, size: int) -> list[int]:
    """Some of what may come: both ends of the run, all single ids, a few of any text."""
    found = [one for one in range(*allowed.span) if one not in allowed.banned]
    found = [*found[:3], *found[-3:], *found[len(found) // 2 : len(found) // 2 + 2], *allowed.ids]
    if allowed.shut is not None:
        found += [one for one in range(3, size, max(7, size // 40)) if allowed.holds(one)]
    return found


def walk(data: st.DataObject, cursor: TokenCursor, size: int, most: int) -> list[int]:
    ids: list[int] = []
    while not cursor.is_done and len(ids) < most:
        run = cursor.forced_run()
        options = choices(cursor.allowed(), size)
        if run:
            assert run[0] in cursor.allowed().ids or cursor.allowed().holds(run[0])
        token = run[0] if run else data.draw(st.sampled_from(options))
        cursor.advance(token)
        ids.append(token)
    return ids


@settings(max_examples=120, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(TOKENIZERS)))
def test_whatever_is_walked_is_read_back(data: st.DataObject, name: str) -> None:
    labels = data.draw(st.one_of(st.none(), st.permutations(NAMES).map(lambda p: tuple(p[:2]))))
    task = data.draw(st.sampled_from(["detect", "segment"]))
    label = data.draw(st.sampled_from(["required", "none"]))
    form = AnswerForm(task, labels, label, max_objects=data.draw(st.integers(1, 4)))
    tokenizer, table, grammar = bound(name, form)
    cursor = grammar.start()
    ids = walk(data, cursor, len(tokenizer), 140)
    if not cursor.is_done:
        return  # open labels may go on for ever
    guard = table.first_loc
    text = tokenizer.decode([guard, *ids[:-1]], clean_up_tokenization_spaces=False)[9:]
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
        if labels and label == "required":
            assert one.label in labels
    if label == "required" and labels is not None:
        assert [span[:6] for span in grammar.walk(ids)] == [span[:6] for span in cursor.spans]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_labels_are_the_tokenizers_own_pieces(name: str) -> None:
    """No forced token where a longer label has another piece; the shorter one may still end."""
    tokenizer, table, grammar = bound(name, AnswerForm("detect", ("safety", "safety helmet")))
    box = [table.first_loc + n for n in (10, 20, 30, 40)]
    short = tokenizer("<loc0001> safety ; <loc0001>", add_special_tokens=False)["input_ids"][1:-1]
    long = tokenizer("<loc0001> safety helmet", add_special_tokens=False)["input_ids"][1:]
    for path in (short, long):
        cursor = grammar.start()
        for token in [*box, *path]:
            assert cursor.allowed().holds(token)
            cursor.advance(token)
    at_fork = grammar.start()
    for token in [*box, *long[:1]]:
        at_fork.advance(token)
    assert at_fork.forced_run() == ()
    assert {long[1], table.eos} < {*at_fork.allowed().ids}


def test_the_separator_is_as_the_tokenizer_writes_it() -> None:
    assert len(bound("tiny", AnswerForm("detect", ("helmet",)))[2].trie.separator) == 1
    tokenizer, _, grammar = bound("gemma", AnswerForm("detect", ("helmet",)))
    assert tokenizer.convert_ids_to_tokens(list(grammar.trie.separator)) == ["▁;", "▁"]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_box_is_not_written_twice(name: str) -> None:
    tokenizer, table, grammar = bound(name, AnswerForm("detect", ("helmet",)))
    ids = tokenizer(
        "<loc0001><loc0002><loc0003><loc0004> helmet ; <loc0001><loc0002><loc0003>",
        add_special_tokens=False,
    )["input_ids"]
    cursor = grammar.start()
    for token in ids:
        cursor.advance(token)
    assert not cursor.allowed().holds(table.first_loc + 4)
    assert cursor.allowed().holds(table.first_loc + 3)
    with pytest.raises(OptionError):
        cursor.advance(table.first_loc + 4)


def test_what_may_come_at_the_start_and_behind_the_last_object() -> None:
    _, table, grammar = bound("tiny", AnswerForm("detect", ("helmet",), max_objects=1))
    start = grammar.start()
    assert start.allowed().ids == (table.eos,)
    assert start.allowed().span == (table.first_loc, table.first_loc + 1023)
    assert start.starts_object
    assert not start.allowed().holds(table.first_loc + 1023), "no room for a bottom edge"
    start.advance(table.first_loc)
    assert not start.starts_object
    assert start.allowed().ids == (), "inside a box nothing ends"
    cursor = grammar.start()
    for number in (1, 2, 3, 4):
        cursor.advance(table.first_loc + number)
    cursor.advance(cursor.forced_run()[0])
    assert cursor.allowed().ids == (table.eos,)


def test_edges_leave_room_for_an_area() -> None:
    _, table, grammar = bound("tiny", AnswerForm("detect", ("helmet",)))
    cursor, first = grammar.start(), table.first_loc
    cursor.advance(first + 1022)
    assert cursor.allowed().span == (first, first + 1023)
    cursor.advance(first + 7)
    assert cursor.forced_run()[:1] == (first + 1023,)
    cursor.advance(first + 1023)
    assert cursor.allowed().span == (first + 8, first + 1024)


def test_banned_tokens_never_come() -> None:
    _, table, grammar = bound("tiny", AnswerForm("detect", ("helmet",), bans=("<eos>",)))
    assert grammar.start().allowed().ids == ()
    with pytest.raises(OptionError, match="no such|is no token"):
        bound("tiny", AnswerForm("detect", ("helmet",), bans=("<noise>",)))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_decoy_leaves_a_single_label_a_choice(name: str) -> None:
    """It shares the mass at the token where it leaves every label, and may not come itself."""
    form = AnswerForm(task="detect", labels=("safety",), max_objects=1, decoy="safe")
    tokenizer, table, grammar = bound(name, form)
    cursor = grammar.start()
    for bin_ in (1, 2, 3, 4):
        cursor.advance(table.first_loc + bin_)
    box = "<loc0001><loc0002><loc0003><loc0004>"
    yes = tokenizer(box + " safety", add_special_tokens=False)["input_ids"][4:]
    no = tokenizer(box + " safe ; ", add_special_tokens=False)["input_ids"][4:]
    same = next(at for at, (one, other) in enumerate(zip(yes, no, strict=False)) if one != other)
    for token in yes[:same]:
        cursor.advance(token)
    allowed = cursor.allowed()
    assert allowed.ids == (yes[same],) and allowed.weighed == (no[same],)
    assert cursor.forced_run() == () and not allowed.holds(no[same])
    cursor.advance(yes[same])
    with pytest.raises(OptionError, match="some others"):
        AnswerForm(task="detect", decoy="safe")


def test_a_fork_goes_its_own_way() -> None:
    _, table, grammar = bound("tiny", AnswerForm("detect", ("helmet",)))
    cursor = grammar.start()
    fork = cursor.fork()
    for number in (1, 2, 3, 4):
        fork.advance(table.first_loc + number)
    assert cursor.starts_object and cursor.spans == []  # noqa: PT018
    assert len(fork.spans) == 1
