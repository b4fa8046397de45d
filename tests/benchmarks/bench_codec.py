"""Masks a second that the carried codec encodes and decodes on one core, single and in batches.

Run ``python tests/benchmarks/bench_codec.py``. All cases take turns; the medians are printed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from vqvae import MaskCodec


def make_masks(count: int) -> np.ndarray:
    """Draw ``count`` discs and stars, ``(count, 64, 64)`` float32."""
    dice = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    waves = dice.uniform(0, 0.3, (count, 1, 1)) * np.sin(5 * np.arctan2(y, x))
    return (np.hypot(x, y) < 0.8 + waves).astype(np.float32)


def cases(codec: MaskCodec, batch: int) -> dict[tuple[str, int], Callable[[], object]]:
    """Name what is timed: (direction, masks a call)."""
    many = make_masks(batch)
    codes = codec.encode(many)
    return {
        ("encode", 1): lambda: codec.encode(many[:1]),
        ("encode", batch): lambda: codec.encode(many),
        ("decode", 1): lambda: codec.decode(codes[:1]),
        ("decode", batch): lambda: codec.decode(codes),
    }


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    timed = cases(MaskCodec.load("tiny"), options.batch)
    seconds: dict[tuple[str, int], list[float]] = {case: [] for case in timed}
    for _ in range(options.repeats):
        for case, call in timed.items():
            start = time.perf_counter()
            call()
            seconds[case].append(time.perf_counter() - start)
    for (direction, size), taken in seconds.items():
        middle = statistics.median(taken)
        rate = size / middle
        sys.stdout.write(
            f"{direction} {size:3d} a call: {rate:7.0f} masks/s, {1e3 * middle:.2f} ms\n"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
