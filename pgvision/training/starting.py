"""Starting weights that spare a small model from learning that coordinates are ordered."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


@torch.no_grad()
def set_location_start(embedding: Tensor, location_ids: Sequence[int], *, seed: int = 0) -> None:
    """Make the rows of ``<loc>`` tokens Fourier features of their bin, as large as other rows.

    Args:
        embedding: ``(v, d)``, tied or not.
        location_ids: Ids of ``<loc0000>`` to ``<loc1023>``.
        seed: Of the directions in which the features lie.
    """
    width = embedding.shape[1]
    count = width // 3
    cycles = np.geomspace(0.5, 48.0, count)
    angles = 2 * np.pi * np.arange(len(location_ids))[:, None] / len(location_ids) * cycles
    # The slow waves carry most of the weight: far bins differ much, near ones little.
    weights = cycles**-0.35
    features = np.concatenate([np.cos(angles) * weights, np.sin(angles) * weights], 1)
    mixing = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]
    rows = features @ mixing[: 2 * count]
    rows *= float(embedding.std()) / rows.std()
    embedding[list(location_ids)] = torch.from_numpy(rows.astype(np.float32))
