"""Photograph or flat drawing: a pixel statistic, to refuse images unlike the training data.

Text tasks of the bundled models were trained on drawings only; on photographs they invent. The
statistic is a logistic regression on quantiles of gradients, Laplacians, chroma and lightness of a
small copy of the image, independent of any model's weights. Fit and ROC:
``tests/benchmarks/bench_text_domain.py``.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pgvision.arrays import ByteArray, FloatArray
from pgvision.images.opencv import cv2

_SIDE: Final = 128  # pixels of the small copy's longer side
_GRADIENT_QUANTILES: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97)
_LAPLACIAN_QUANTILES: Final = (0.25, 0.5, 0.75, 0.95)
_CHROMA_QUANTILES: Final = (0.1, 0.5, 0.9, 0.98)
_LIGHTNESS_QUANTILES: Final = (0.05, 0.5, 0.95)
_BIAS: Final = 3.845
# fmt: off
_WEIGHTS: Final = (  # one a feature
    0.104,     0.419,     1.1,     0.96,     -0.568,     -2.26,     -0.0439,     1.31,
    0.836,     0.777,     -1.56,     -3.97,     0.00227,     1.11,     3.86,     3.39,
    -3.39,     -2.2,     -0.867,     -0.64,     0.152,     0.792,     -2.33,     -1.23,
    1.96,     -0.0331,     0.344,     -0.0144,     -1.37,     -1.39,     -1.92,     0.948,
    0.353,     -0.48,     -1.04,     1.18,     0.192,     1.2,     -0.739,     -1.59,     1.29,
    2.93,     0.3,     -3.51,     1.41,     2.78,     -8.81,     7.8,     2.56,
)
# fmt: on
_THRESHOLD: Final = 0.5


def domain_features(bgr: ByteArray) -> FloatArray:
    """Return the ``(49,)`` features of an image that tell photographs from drawings.

    Args:
        bgr: ``(h, w, 3)`` uint8 BGR.
    """
    height, width = bgr.shape[:2]
    scale = _SIDE / max(height, width)
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(bgr, size, interpolation=interpolation).astype(np.float32) / 255
    lab = cv2.cvtColor(small, cv2.COLOR_BGR2Lab)
    lightness, green_red, blue_yellow = (np.ascontiguousarray(lab[..., c]) for c in range(3))
    parts = [_gradients(green_red), _gradients(blue_yellow)]
    # Three octaves of lightness: drawings stay flat between their edges at every scale.
    level = lightness
    for _ in range(3):
        laplacian = np.abs(cv2.Laplacian(level, cv2.CV_32F))
        parts += [_gradients(level), np.log(np.quantile(laplacian, _LAPLACIAN_QUANTILES) + 0.05)]
        level = cv2.pyrDown(level)
    chroma = np.hypot(green_red, blue_yellow)
    parts.append(np.quantile(chroma, _CHROMA_QUANTILES) / 50)
    parts.append(np.quantile(lightness, _LIGHTNESS_QUANTILES) / 100)
    features: FloatArray = np.concatenate(parts)
    return features


def _gradients(channel: NDArray[Any]) -> FloatArray:
    across = cv2.Sobel(channel, cv2.CV_32F, 1, 0)
    down = cv2.Sobel(channel, cv2.CV_32F, 0, 1)
    sizes: FloatArray = np.log(np.quantile(np.hypot(across, down) / 8, _GRADIENT_QUANTILES) + 0.05)
    return sizes


def photograph_score(bgr: ByteArray) -> float:
    """Return how likely an image is a photograph rather than a rendered scene, in [0, 1].

    Drawings of another kind (charts, cartoons, screenshots) may score as high as photographs: they
    are as far from what the bundled models were trained on.

    Args:
        bgr: ``(h, w, 3)`` uint8 BGR.

    Example:
        >>> from pgvision import samples
        >>> [photograph_score(samples.load(name)) > 0.5 for name in ("astronaut", "site-01")]
        [True, False]
    """
    logit = float(domain_features(bgr) @ np.array(_WEIGHTS)) + _BIAS
    return float(1.0 / (1.0 + np.exp(-np.clip(logit, -50.0, 50.0))))


def is_photograph(bgr: ByteArray) -> bool:
    """Whether an image is rather a photograph than a rendered scene."""
    return photograph_score(bgr) > _THRESHOLD
