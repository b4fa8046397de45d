"""Noise made once per process and cut to size afterwards."""

from functools import cache

import cv2
import numpy as np

from pgvision.arrays import ByteArray

_SIDE = 1024


@cache
def grain() -> ByteArray:
    """Return ``(1024, 1024, 3)`` uint8 sensor noise around 128, mostly gray."""
    source = np.random.RandomState(20261124)
    gray = source.normal(0.0, 26.0, (_SIDE, _SIDE, 1))
    tint = source.normal(0.0, 14.0, (_SIDE, _SIDE, 3))
    noise: ByteArray = np.clip(128.0 + gray + tint, 0, 255).astype(np.uint8)
    return noise


@cache
def cloud() -> ByteArray:
    """Return ``(1024, 1024)`` uint8 noise of several octaves around 128."""
    source = np.random.RandomState(20261125)
    total = np.zeros((_SIDE, _SIDE), np.float32)
    for octave in range(2, 9):
        cells = 2**octave
        layer = source.normal(0.0, 1.0, (cells, cells)).astype(np.float32)
        grown = cv2.resize(layer, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
        total += grown * (0.82 ** (octave - 2))
    total = (total - total.mean()) / total.std()
    noise: ByteArray = np.clip(128.0 + 42.0 * total, 0, 255).astype(np.uint8)
    return noise
