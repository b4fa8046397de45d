"""Scores of objects from token probabilities.

An object's score asks four things: did the model want to go on at all (the probability that the
answer did not end here), does it know where the edges are (probability mass near the chosen bins),
what the thing is called, and, for masks, which codes draw it. PaliGemma gives no confidence of its
own; readers that report 1.0 make every mAP meaningless.
"""

from collections.abc import Sequence
from typing import Final, Literal, get_args

import numpy as np

from pgvision.arrays import FloatArray, IntArray
from pgvision.errors import ShapeError
from pgvision.tokens.bins import NUM_BINS

ScoreRule = Literal["product", "geometric", "window", "presence", "spread"]
SCORE_RULES: Final[tuple[ScoreRule, ...]] = get_args(ScoreRule)
DEFAULT_SCORE: Final[ScoreRule] = "window"
"""The rule with the best AP on held-out rendered scenes; the model card has the figures."""

_WINDOW: Final = 0.25


def object_score(
    *,
    presence: float,
    loc_probs: FloatArray,
    loc_yxyx: Sequence[int] | IntArray,
    label_logprobs: FloatArray,
    seg_logprobs: FloatArray | None = None,
    rule: ScoreRule = DEFAULT_SCORE,
) -> float:
    """Combine the probabilities of one object's tokens into a score.

    Rules, for coordinates ``c``, label tokens ``l`` and presence ``p``:

    - ``"product"``: p x prod P(c) x prod P(l): the answer's likelihood; tiny when bins share mass.
    - ``"geometric"``: p x (prod P(c))^(1/4) x (prod P(l))^(1/l).
    - ``"window"``: p x mean mass near each edge x (prod P(l))^(1/l). "Near" is a quarter of the
      box's side, which is about what still counts as a hit.
    - ``"presence"``: p x (prod P(l))^(1/l), blind to the place.
    - ``"spread"``: p x label x exp(-2 x mean standard deviation of the edges / side).

    With ``seg_logprobs`` the result is multiplied by the square root of the geometric mean of the
    mask codes' probabilities, since a mask may be right with other codes.

    Args:
        presence: 1 - P(end of answer) where the object began.
        loc_probs: ``(4, 1024)`` over bins: top, left, bottom, right.
        loc_yxyx: The 4 chosen bins.
        label_logprobs: ``(l,)``, natural logs; empty if the object has no label.
        seg_logprobs: ``(16,)`` of the written codes, or None.
        rule: One of ``SCORE_RULES``.

    Returns:
        Score in [0, 1].

    Raises:
        ShapeError: If ``loc_probs`` is not ``(4, 1024)``.

    Example:
        >>> sure = np.zeros((4, 1024)); bins = [100, 200, 300, 400]
        >>> sure[range(4), bins] = 1.0
        >>> object_score(presence=0.5, loc_probs=sure, loc_yxyx=bins, label_logprobs=np.zeros(1))
        0.5
    """
    if loc_probs.shape != (4, NUM_BINS):
        raise ShapeError(f"loc_probs: expected (4, {NUM_BINS}), got {loc_probs.shape}")
    bins = np.asarray(loc_yxyx)
    # 1. Probabilities of label and bins.
    label = float(np.exp(np.mean(label_logprobs))) if len(label_logprobs) else 1.0
    chosen = loc_probs[np.arange(4), bins]
    # 2. Combine them.
    if rule == "product":
        score = presence * float(np.prod(chosen)) * float(np.exp(np.sum(label_logprobs)))
    elif rule == "geometric":
        score = presence * float(np.prod(chosen) ** 0.25) * label
    elif rule == "window":
        score = presence * float(np.mean(_mass_near(loc_probs, bins))) * label
    elif rule == "spread":
        sides = np.maximum(_sides(bins), 1)
        relative = edge_spread(loc_probs)[1] / sides
        score = presence * label * float(np.exp(-2.0 * np.mean(relative)))
    else:
        score = presence * label
    # 3. A mask may be right with other codes: the square root weighs them less.
    if seg_logprobs is not None and len(seg_logprobs):
        score *= float(np.exp(np.mean(seg_logprobs) / 2))
    return float(np.clip(score, 0.0, 1.0))


def edge_spread(loc_probs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of each coordinate, in bins.

    The soft coordinates of All in Tokens (arXiv 2301.02229): the probability-weighted average
    instead of the most probable bin.

    Args:
        loc_probs: ``(n, 1024)``; rows need not sum to one.

    Returns:
        Two ``(n,)`` float64 arrays.

    Example:
        >>> probs = np.zeros((1, 1024)); probs[0, [10, 12]] = 0.5
        >>> [part.tolist() for part in edge_spread(probs)]
        [[11.0], [1.0]]
    """
    # Rows of a server list the most probable tokens only, so they are normalised first.
    weights = loc_probs / np.maximum(loc_probs.sum(-1, keepdims=True), 1e-12)
    bins = np.arange(NUM_BINS)
    mean = weights @ bins
    variance = (weights * (bins - mean[:, None]) ** 2).sum(-1)
    return mean, np.sqrt(variance)


def _sides(bins: IntArray) -> IntArray:
    height, width = bins[2] - bins[0], bins[3] - bins[1]
    return np.array([height, width, height, width])


def _mass_near(loc_probs: FloatArray, bins: IntArray) -> FloatArray:
    # At least two bins to each side, and sums of a window by differences of running sums.
    reach = np.maximum(_WINDOW * _sides(bins) / 2, 2).astype(int)
    total = np.concatenate([np.zeros((4, 1)), loc_probs.cumsum(1)], 1)
    rows = np.arange(4)
    low, high = np.maximum(bins - reach, 0), np.minimum(bins + reach + 1, NUM_BINS)
    mass: FloatArray = total[rows, high] - total[rows, low]
    return mass
