"""Scores: bounds, order, and closed forms worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgvision.errors import ShapeError
from pgvision.tokens.scoring import edge_spread, object_score

BINS = [100, 200, 300, 400]


def peaked(mass: float, *, spread_to: int = 0) -> np.ndarray:
    """``mass`` on the chosen bins, the rest ``spread_to`` bins away."""
    probs = np.zeros((4, 1024))
    probs[np.arange(4), BINS] = mass
    probs[np.arange(4), np.array(BINS) + spread_to] += 1 - mass
    return probs


def score(probs: np.ndarray, presence: float = 1.0, label: float = 1.0) -> float:
    return object_score(
        presence=presence,
        loc_probs=probs,
        loc_yxyx=BINS,
        label_logprobs=np.log([label]),
    )


def test_a_sure_object_scores_its_presence() -> None:
    assert score(peaked(1.0), presence=0.75) == pytest.approx(0.75)


def test_an_unsure_label_lowers_the_score() -> None:
    assert score(peaked(1.0), label=0.5) == pytest.approx(0.5)


def test_an_object_without_a_label_is_scored_by_the_rest() -> None:
    found = object_score(
        presence=0.4, loc_probs=peaked(1.0), loc_yxyx=BINS, label_logprobs=np.zeros(0)
    )
    assert found == pytest.approx(0.4)


def test_window_forgives_neighbours_and_nothing_else() -> None:
    # The box is 200 bins each way, so a quarter of its side reaches 25 bins to each side.
    for side in (1, -1):
        assert score(peaked(0.4, spread_to=25 * side)) == pytest.approx(1.0)
        assert score(peaked(0.4, spread_to=26 * side)) == pytest.approx(0.4)


def test_mask_tokens_count_by_the_root_of_their_mean() -> None:
    value = object_score(
        presence=1.0,
        loc_probs=peaked(1.0),
        loc_yxyx=BINS,
        label_logprobs=np.zeros(1),
        seg_logprobs=np.log(np.full(16, 0.25)),
    )
    assert value == pytest.approx(0.5)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_scores_stay_in_range(seed: int, presence: float) -> None:
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(1024, 0.02), 4)
    bins = np.sort(rng.integers(0, 1024, (2, 2)), 0).ravel()
    value = object_score(
        presence=presence,
        loc_probs=probs,
        loc_yxyx=bins,
        label_logprobs=np.log(rng.uniform(0.01, 1, 3)),
    )
    assert 0.0 <= value <= 1.0


@given(st.integers(0, 2**32 - 1))
def test_edge_spread_is_numpys_weighted_deviation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(1024, 0.05), 3)
    draws = np.arange(1024)
    deviation = edge_spread(probs * rng.uniform(0.1, 1))
    for row in range(3):
        expected = np.average(draws, weights=probs[row])
        variance = np.average((draws - expected) ** 2, weights=probs[row])
        assert deviation[row] == pytest.approx(np.sqrt(variance), abs=1e-6)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ShapeError, match="loc_probs"):
        score(np.zeros((3, 1024)))
