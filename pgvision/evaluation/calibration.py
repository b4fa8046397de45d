"""Calibration of scores: a monotone map to precision, fitted on a validation set."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from pgvision.arrays import BoolArray, FloatArray
from pgvision.coco.checks import parse_json, read_bytes
from pgvision.errors import EvaluationError, require_choice
from pgvision.files import write_text

Method = Literal["temperature", "isotonic"]
_FORMAT = "pgvision-calibration-1"
_EDGE = 1e-12  # a score of exactly 0 or 1 has no finite logit


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A monotone map from scores to precision, which keeps the order of scores.

    Attributes:
        method: ``"temperature"``: sigmoid(logit(score) / temperature). ``"isotonic"``: linear
            between knots (flat steps may make scores equal, never swap them).
        temperature: Above 1 softens scores, below 1 sharpens them; 1.0 for isotonic maps.
        knots: ``(score, precision)`` pairs, both rising; empty for temperature.
        num_fitted: Predictions used to fit it.
    """

    method: Method
    temperature: float = 1.0
    knots: tuple[tuple[float, float], ...] = ()
    num_fitted: int = 0

    def __post_init__(self) -> None:
        """Refuse a map that is not one.

        Raises:
            EvaluationError: If the method, the temperature or the knots make no monotone map.
        """
        # Knots must rise: otherwise the order of scores would change.
        if self.method not in get_args(Method):
            fault = f"method: expected temperature or isotonic, got {self.method!r}"
        elif not (np.isfinite(self.temperature) and self.temperature > 0):
            fault = f"temperature: expected a positive number, got {self.temperature}"
        elif self.method == "isotonic" and not _are_rising(self.knots):
            fault = "knots: expected rising pairs in [0, 1]"
        else:
            return
        raise EvaluationError(f"calibration {fault}. Fix: fit it again.")

    def apply(self, scores: FloatArray) -> FloatArray:
        """Map scores to precision.

        Args:
            scores: Scores in [0, 1], any shape.

        Returns:
            Calibrated scores of the same shape and dtype.

        Raises:
            EvaluationError: If a score is NaN or outside [0, 1].

        Example:
            >>> Calibration(method="temperature", temperature=2.0).apply(np.array([0.5])).tolist()
            [0.5]
        """
        # Float64 inside: the logit of a float32 near 1 loses most of its digits.
        given = np.asarray(scores)
        wide = _require_scores(given.astype(np.float64))
        if self.method == "temperature":
            from scipy.special import expit

            mapped: FloatArray = expit(_logit(wide) / self.temperature)
        else:
            xs, ys = np.array(self.knots).T
            mapped = np.interp(wide, xs, ys)
        dtype = given.dtype if given.dtype.kind == "f" else np.dtype(np.float64)
        return mapped.astype(dtype)

    def save(self, path: str | Path) -> None:
        """Write JSON atomically; :meth:`load` returns exactly the same map."""
        write_text(path, json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Read a file of :meth:`save`.

        Raises:
            EvaluationError: If the file is missing, broken, or no calibration.
        """
        try:
            content = parse_json(read_bytes(Path(path)), "the file")
            if content["format"] == _FORMAT:
                return cls(
                    method=content["method"],
                    temperature=float(content["temperature"]),
                    knots=tuple((float(x), float(y)) for x, y in content["knots"]),
                    num_fitted=int(content["num_fitted"]),
                )
            fault = f"expected a file of format {_FORMAT!r}"
        except (KeyError, TypeError, ValueError) as error:  # those of pgvision are ValueErrors
            fault = f"{error!s:.120}"
        raise EvaluationError(
            f"calibration {path}: {fault}. Fix: pass a file written by Calibration.save."
        )


def _are_rising(knots: Sequence[tuple[float, float]]) -> bool:
    points = np.array(knots, np.float64).reshape(-1, 2)
    steps = np.diff(points, axis=0)
    inside = bool(((points >= 0) & (points <= 1)).all())
    return len(points) > 0 and inside and bool((steps[:, 0] > 0).all() and (steps >= 0).all())


def fit_calibration(
    scores: FloatArray, is_correct: BoolArray, method: Method = "isotonic"
) -> Calibration:
    """Fit a map from scores to the share that is right.

    Args:
        scores: ``(n,)`` scores in [0, 1] of predictions on a validation set.
        is_correct: ``(n,)`` whether each is right (``match_scores`` gives both).
        method: ``"isotonic"`` follows any monotone shape and wants some hundred predictions;
            ``"temperature"`` has one parameter and does with few.

    Returns:
        The map. A temperature keeps to [0.01, 100] when all predictions are right or all wrong.

    Raises:
        EvaluationError: If there are no predictions, the lengths differ, or a score is NaN or
            outside [0, 1].
        OptionError: If ``method`` is unknown.

    Source:
        Guo et al. 2017 (arXiv 1706.04599) for the temperature; pool adjacent violators (Ayer et
        al. 1955; Zadrozny and Elkan 2002) for the isotonic map.

    Example:
        >>> fitted = fit_calibration(np.array([0.9, 0.9]), np.array([True, False]))
        >>> fitted.apply(np.array([0.9])).tolist()
        [0.5]
    """
    require_choice("method", method, get_args(Method))
    # 1. Check the pairs.
    x = _require_scores(np.asarray(scores, np.float64))
    y = np.asarray(is_correct)
    if x.ndim != 1 or x.shape != y.shape or not len(x) or y.dtype != np.bool_:
        raise EvaluationError(
            f"calibration: expected (n,) scores and (n,) bool with n > 0, got {x.shape} and "
            f"{y.shape} {y.dtype}. Fix: take both from match_scores."
        )
    # 2. Fit.
    if method == "temperature":
        return Calibration(method=method, temperature=_fit_temperature(x, y), num_fitted=len(x))
    return Calibration(method=method, knots=_fit_isotonic(x, y), num_fitted=len(x))


def _require_scores(scores: FloatArray) -> FloatArray:
    if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
        raise EvaluationError(
            "calibration scores: expected numbers in [0, 1], got "
            f"{float(scores.min())} to {float(scores.max())}. Fix: pass probabilities."
        )
    return scores


def _logit(scores: FloatArray) -> FloatArray:
    from scipy.special import logit

    odds: FloatArray = logit(np.clip(scores, _EDGE, 1 - _EDGE))
    return odds


def _fit_temperature(scores: FloatArray, correct: BoolArray) -> float:
    """Minimise the negative log-likelihood, which is convex in 1 / temperature."""
    from scipy.optimize import brentq
    from scipy.special import expit

    # 1. The derivative of the loss by the inverse temperature.
    logits = _logit(scores)

    def slope(inverse: float) -> float:
        return float(np.sum((expit(inverse * logits) - correct) * logits))

    # 2. Find its root.
    # The root of the slope is the minimum; it is bounded for perfectly separated scores.
    low, high = 0.01, 100.0
    if slope(low) >= 0:
        return 1 / low
    if slope(high) <= 0:
        return 1 / high
    return 1 / float(brentq(slope, low, high))


def _fit_isotonic(scores: FloatArray, correct: BoolArray) -> tuple[tuple[float, float], ...]:
    """Pool adjacent violators; each block becomes a flat piece between its outer scores."""
    from scipy.optimize import isotonic_regression

    levels, place = np.unique(scores, return_inverse=True)
    weights = np.bincount(place)
    shares = np.bincount(place, weights=correct) / weights
    fitted = isotonic_regression(shares, weights=weights)
    values = np.clip(fitted.x, 0, 1)  # a mean of shares may be off by a rounding
    ends = np.unique([*fitted.blocks[:-1], *(fitted.blocks[1:] - 1)])
    return tuple(zip(levels[ends].tolist(), values[ends].tolist(), strict=True))
