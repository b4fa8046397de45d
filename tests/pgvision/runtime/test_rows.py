"""A row under hand-made chances: which token is written, without a model."""

import numpy as np
import pytest

from pgvision.errors import CheckpointError
from pgvision.runtime import Picture, Request, find_checkpoint
from pgvision.runtime.checkpoint_files import read_tokenizer
from pgvision.runtime.decoding import Row, TokenDistribution, read_distributions
from pgvision.runtime.grammar import TokenGrammar
from pgvision.tokens import AnswerForm

TOKENIZER = read_tokenizer(find_checkpoint("tiny").location, None)
TABLE = TOKENIZER.vocabulary
BEST = 500
FORM = AnswerForm("detect", ("helmet",))


def first_bin(drafted: int, chance: float, *, drafts: str) -> int:
    """What a row writes first if bin 500 has 0.2, the drafted one ``chance``, the end 0.1."""
    form = AnswerForm("detect", ("helmet",))
    request = Request(
        picture=Picture(np.zeros((2, 2, 3), np.uint8)),
        prefix="detect helmet",
        form=form,
        draft=[TABLE.first_loc + drafted],
        drafts=drafts,
    )
    grammar = TokenGrammar.compile(TOKENIZER, form)
    row = Row(0, request, [1, 2], limit=9, vocabulary=TABLE, grammar=grammar)
    assert row.plan() == [TABLE.first_loc + drafted]
    run = np.zeros(1024, np.float32)
    run[BEST], run[drafted] = 0.2, chance
    chances = TokenDistribution({TABLE.eos: 0.1}, TABLE.first_loc, run)
    row.settle([chances] * len(row.queries))
    return row.transcript.ids[0] - TABLE.first_loc


@pytest.mark.parametrize(
    ("drafted", "chance", "written"),
    [
        (BEST + 8, 0.1, BEST + 8),  # half as probable, 8 bins off: just kept
        (BEST - 8, 0.11, BEST - 8),
        (BEST + 8, 0.09, BEST),  # less than half
        (BEST + 9, 0.19, BEST),  # too far
    ],
)
def test_steady_keeps_what_is_near_and_nearly_as_good(
    drafted: int, chance: float, written: int
) -> None:
    assert first_bin(drafted, chance, drafts="steady") == written
    assert first_bin(drafted, chance, drafts="exact") == BEST


def settled(chances: TokenDistribution, *, past_end: int = 0, held: bool = True) -> Row:
    """A row after its first pass."""
    form = AnswerForm("detect", ("helmet",), past_end=past_end)
    request = Request(picture=Picture(np.zeros((2, 2, 3), np.uint8)), prefix="x", form=form)
    grammar = TokenGrammar.compile(TOKENIZER, form) if held else None
    row = Row(0, request, [1, 2], limit=9, vocabulary=TABLE, grammar=grammar)
    row.plan()
    row.settle([chances])
    return row


def test_the_end_is_put_off_as_often_as_asked() -> None:
    chances = TokenDistribution(
        {TABLE.eos: 0.7}, TABLE.first_loc, np.full(1024, 0.3 / 1024, np.float32)
    )
    for past_end, written in ((0, TABLE.eos), (1, TABLE.first_loc)):
        row = settled(chances, past_end=past_end)
        assert row.transcript.ids == [written]
        assert row.transcript.eos[0] == pytest.approx(np.log(0.7))


@pytest.mark.parametrize(("end", "written"), [(0.51, TABLE.eos), (0.49, TABLE.first_loc)])
def test_an_answer_ends_if_that_is_more_probable_than_all_places(end: float, written: int) -> None:
    """Where many objects could come first each place has little; together they outweigh it."""
    run = np.full(1024, (1 - end) / 1024, np.float32)
    chances = TokenDistribution({TABLE.eos: end}, TABLE.first_loc, run)
    assert settled(chances).transcript.ids == [written]
    free = settled(chances, held=False)
    assert free.transcript.ids == [TABLE.eos], "without a grammar it is generate's own choice"


@pytest.mark.parametrize(
    ("median", "bins"), [(False, [500, 300, 600, 700]), (True, [500, 310, 590, 700])]
)
def test_a_card_with_median_locations_takes_the_middle_of_what_is_near(
    median: bool, bins: list[int]
) -> None:
    """The top stays at the mode: each object has a peak there. Peaks far away count nowhere."""
    shares = (
        {500: 0.3, 520: 0.25, 530: 0.25},  # three objects
        {300: 0.3, 310: 0.2, 320: 0.25, 365: 0.29},  # 365 is 65 bins off: not counted
        {536: 0.2, 590: 0.2, 600: 0.25, 610: 0.01},  # 536 is 64 bins off: counted
        {700: 1.0},
    )
    request = Request(picture=Picture(np.zeros((2, 2, 3), np.uint8)), prefix="x", form=FORM)
    grammar = TokenGrammar.compile(TOKENIZER, FORM)
    row = Row(0, request, [1], limit=9, vocabulary=TABLE, grammar=grammar, median=median)
    for number, share in enumerate(shares):
        run = np.zeros(1024, np.float32)
        run[list(share)] = list(share.values())
        row.plan()
        row.settle([TokenDistribution({}, TABLE.first_loc, run)])
        assert row.transcript.ids[number] - TABLE.first_loc == bins[number]
        assert row.transcript.logprobs[number] == pytest.approx(np.log(run[bins[number]]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("held", [True, False])
def test_logits_that_are_no_numbers_are_an_error(value: float, held: bool) -> None:
    """Not "nothing there, with presence 1.0"."""
    request = Request(picture=Picture(np.zeros((2, 2, 3), np.uint8)), prefix="x", form=FORM)
    grammar = TokenGrammar.compile(TOKENIZER, FORM) if held else None
    row = Row(0, request, [1, 2], limit=9, vocabulary=TABLE, grammar=grammar)
    row.plan()
    for at in (0, 3, TABLE.first_loc + 7):
        whole = np.zeros((1, 1742), np.float32)
        whole[0, at] = value

        def logits(positions: object, ids: object, whole: np.ndarray = whole) -> np.ndarray:
            return whole.copy() if ids is None else whole[:, ids].copy()

        with pytest.raises(CheckpointError, match=r"mine.*NaN or infinite.*bfloat16"):
            read_distributions(logits, row.queries, TABLE, 1742, "mine (float16)")


def test_past_its_end_an_unconstrained_answer_takes_the_second_best_whatever_is_drafted() -> None:
    form = AnswerForm("detect", ("helmet",), past_end=1)
    run = np.full(1742, 1e-4)
    run[TABLE.eos], run[TABLE.first_loc + 3], run[TABLE.first_loc + 900] = 0.6, 0.2, 0.1
    for draft in ((), [TABLE.first_loc + 900]):
        request = Request(
            picture=Picture(np.zeros((2, 2, 3), np.uint8)),
            prefix="x",
            form=form,
            constrained=False,
            draft=draft,
        )
        grammar = TokenGrammar.compile(TOKENIZER, form)
        row = Row(0, request, [1, 2], limit=9, vocabulary=TABLE, grammar=grammar)
        row.plan()
        row.settle([TokenDistribution({}, 0, run)] * len(row.queries))
        assert row.transcript.ids[0] == TABLE.first_loc + 3
