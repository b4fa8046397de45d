"""Calibration recovers known maps, keeps order, and survives a round trip exactly."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgvision.errors import EvaluationError, OptionError
from pgvision.evaluation import Calibration, fit_calibration
from pgvision.evaluation.metrics import reliability


def drawn(temperature, count=20000, seed=0):
    """Scores whose true precision is a known temperature map."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, count)
    precision = 1 / (1 + np.exp(-logits / temperature))
    return 1 / (1 + np.exp(-logits)), rng.random(count) < precision


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_temperature_is_recovered(temperature):
    fitted = fit_calibration(*drawn(temperature), method="temperature")
    assert fitted.temperature == pytest.approx(temperature, rel=0.06)
    assert fitted.num_fitted == 20000


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_calibration_lowers_the_error_on_other_data(method):
    fitted = fit_calibration(*drawn(3.0), method=method)
    scores, correct = drawn(3.0, seed=1)
    before, after = reliability(scores, correct).ece, reliability(fitted.apply(scores), correct).ece
    assert before > 0.1
    assert after < 0.02


def test_temperature_keeps_to_its_range():
    assert fit_calibration(np.array([0.9]), np.array([True]), "temperature").temperature == 0.01
    assert fit_calibration(np.array([0.9]), np.array([False]), "temperature").temperature == 100
    sure = fit_calibration(np.array([1.0, 0.0]), np.array([True, False]), "temperature")
    assert np.isfinite(sure.apply(np.array([0.0, 0.5, 1.0]))).all()


def least_squares(levels, weights, means):
    """The isotonic fit by its min-max formula."""
    n = len(levels)
    average = lambda i, j: np.average(means[i : j + 1], weights=weights[i : j + 1])  # noqa: E731
    return [max(min(average(i, j) for j in range(k, n)) for i in range(k + 1)) for k in range(n)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=25))
def test_isotonic_is_the_least_squares_fit(pairs):
    scores = np.array([place / 6 for place, _ in pairs])
    correct = np.array([right for _, right in pairs])
    fitted = fit_calibration(scores, correct)
    levels, place = np.unique(scores, return_inverse=True)
    weights = np.bincount(place)
    expected = least_squares(levels, weights, np.bincount(place, weights=correct) / weights)
    assert fitted.apply(levels) == pytest.approx(np.array(expected))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["temperature", "isotonic"]))
def test_order_range_shape_and_round_trip(seed, method):
    import tempfile
    from pathlib import Path

    fitted = fit_calibration(*drawn(2.0, count=50, seed=seed), method=method)
    scores = np.linspace(0, 1, 201, dtype=np.float32).reshape(3, 67)
    mapped = fitted.apply(scores)
    assert (mapped.shape, mapped.dtype) == (scores.shape, scores.dtype)
    assert (np.diff(mapped.ravel()) >= 0).all()
    assert ((mapped >= 0) & (mapped <= 1)).all()
    with tempfile.TemporaryDirectory() as folder:
        fitted.save(Path(folder) / "calibration.json")
        assert Calibration.load(Path(folder) / "calibration.json") == fitted


def test_refusals(tmp_path):
    good, right = np.array([0.5]), np.array([True])
    for scores, correct in (
        (np.array([]), np.array([], bool)),
        (np.array([0.5, 0.6]), right),
        (np.array([np.nan]), right),
        (np.array([1.2]), right),
        (good, np.array([1])),
    ):
        with pytest.raises(EvaluationError, match="Fix:"):
            fit_calibration(scores, correct)
    with pytest.raises(OptionError, match="platt"):
        fit_calibration(good, right, "platt")
    with pytest.raises(EvaluationError, match=r"in \[0, 1\]"):
        Calibration(method="temperature").apply(np.array([np.nan]))
    path = tmp_path / "c.json"
    fit_calibration(good, right).save(path)
    content = json.loads(path.read_text())
    for change in (
        {"format": "other"}, {"method": "x"}, {"temperature": 0},
        {"temperature": -1}, {"temperature": None},
        {"knots": [[0.5, 0.2], [0.4, 0.3]]}, {"knots": [[0.1, 0.5], [0.4, 0.3]]}, {"knots": []},
        {"knots": [[0.1]]}, {"knots": [[0.1, float("nan")]]}, {"knots": 3},
    ):  # fmt: skip
        path.write_text(json.dumps(content | change))
        with pytest.raises(EvaluationError, match="Fix:"):
            Calibration.load(path)
    path.write_text(json.dumps(content)[:-9])
    with pytest.raises(EvaluationError, match="not complete JSON"):
        Calibration.load(path)
