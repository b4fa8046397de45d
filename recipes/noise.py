"""Noise boxes: Google's detection recipe, which the second edition of ``small`` was trained with.

Source:
    Pix2seq (arXiv 2109.10852); PaliGemma 2 (arXiv 2412.03555), appendix C.
"""

from typing import Final

import numpy as np
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from pgvision.arrays import FloatArray
from pgvision.boxes import box_iou

NOISE: Final = "<noise>"
"""Class of noise boxes."""
CLOSED_PREFIX: Final = "detect all classes"
"""Prompt of answers padded with noise boxes."""
_AGAIN: Final = 0.4  # share of the boxes that show a true object a second time
_FREE: Final = 0.15  # the others overlap no object by more
_TRIES: Final = 8
_LEAST: Final = 0.01  # side, as a share of the picture


def noise_boxes(
    boxes: FloatArray,
    count: int,
    rng: np.random.Generator,
    *,
    avoid: FloatArray | None = None,
) -> FloatArray:
    """Draw boxes that are no objects.

    Some overlap a true one or are next to it, like a duplicate answer; the others are where
    nothing is, with the sizes of true ones, or, where all is covered, where least is.

    Args:
        boxes: ``(n, 4)`` true boxes as shares of the picture, opposite corners in either order of
            axes.
        count: How many to draw.
        rng: Source of randomness.
        avoid: ``(m, 4)`` regions of unknown content (crowds), where no box is placed if possible.

    Returns:
        ``(count, 4)`` float32, same order of axes.

    Source:
        Answers that are filled with noise boxes never end too early, and the likelihood of the
        class token is a score: Pix2seq (arXiv 2109.10852); PaliGemma 2 (arXiv 2412.03555),
        appendix C.

    Example:
        >>> some = noise_boxes(np.array([[0.1, 0.1, 0.3, 0.3]]), 5, np.random.default_rng(0))
        >>> some.shape, bool((some[:, 2:] > some[:, :2]).all())
        ((5, 4), True)
    """
    crowds = np.empty((0, 4)) if avoid is None else avoid
    found = np.empty((count, 4), np.float32)
    for row in range(count):
        is_beside = len(boxes) > 0 and rng.random() < _AGAIN
        true = boxes[rng.integers(len(boxes))] if is_beside else None
        tries = np.stack(
            [_elsewhere(boxes, rng) if true is None else _beside(true, rng) for _ in range(_TRIES)]
        )
        taken = crowds if is_beside else np.concatenate([boxes.reshape(-1, 4), crowds])
        overlap = box_iou(tries, taken).max(1) if len(taken) else np.zeros(_TRIES)
        free = np.flatnonzero(overlap < _FREE)
        found[row] = tries[free[0] if len(free) else overlap.argmin()]
    return found


def add_noise(tokenizer: PreTrainedTokenizerBase) -> int:
    """Make ``<noise>`` one token, which takes the space before it along; return its id.

    The model's table needs a row more: ``resize_token_embeddings(len(tokenizer))``.
    """
    tokenizer.add_tokens([AddedToken(NOISE, lstrip=True, special=False, normalized=False)])
    number = tokenizer.convert_tokens_to_ids(NOISE)
    return int(number) if isinstance(number, int) else int(number[0])


def _beside(box: FloatArray, rng: np.random.Generator) -> FloatArray:
    sides = np.tile(box[2:] - box[:2], 2)
    return _clipped(box + rng.normal(0, 0.2, 4) * sides)


def _elsewhere(boxes: FloatArray, rng: np.random.Generator) -> FloatArray:
    if len(boxes):
        box = boxes[rng.integers(len(boxes))]
        sides = (box[2:] - box[:2]) * np.exp(rng.normal(0, 0.3, 2))
    else:
        sides = np.exp(rng.uniform(np.log(0.03), np.log(0.6), 2))
    sides = np.clip(sides, _LEAST, 1)
    corner = rng.random(2) * (1 - sides)
    return _clipped(np.concatenate([corner, corner + sides]))


def _clipped(box: FloatArray) -> FloatArray:
    """Return the box inside the picture, with an area."""
    low = np.clip(np.minimum(box[:2], box[2:]), 0, 1 - _LEAST)
    high = np.clip(np.maximum(box[:2], box[2:]), low + _LEAST, 1)
    clipped: FloatArray = np.concatenate([low, high]).astype(np.float32)
    return clipped
