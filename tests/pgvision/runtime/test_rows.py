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
FORM = AnswerForm("detect", ("helmet",))


def settled(chances: TokenDistribution, *, held: bool = True) -> Row:
    """A row after its first pass."""
    request = Request(picture=Picture(np.zeros((2, 2, 3), np.uint8)), prefix="x", form=FORM)
    grammar = TokenGrammar.compile(TOKENIZER, FORM) if held else None
    row = Row(0, request, [1, 2], limit=9, vocabulary=TABLE, grammar=grammar)
    row.plan()
    row.settle([chances])
    return row


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
            read_distributions(logits, row.queries, TABLE, "mine (float16)")
