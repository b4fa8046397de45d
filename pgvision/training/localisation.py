"""Mask loss: decoded masks against true ones, differentiable through the frozen codec.

Cross-entropy charges a mask code that draws nearly the same shape as much as one that draws
another. This loss decodes the mean of the model's distribution over codes. A mean says little while
a distribution has two peaks: add it to cross-entropy, do not replace it.
"""

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody uses)

from pgvision.errors import ShapeError
from pgvision.tokens import CODES_PER_MASK, NUM_CODES
from vqvae.model import SHARPNESS

if TYPE_CHECKING:
    from vqvae import MaskCodec


class MaskLoss(nn.Module):
    """Compares decoded masks with true ones: pixel-wise cross-entropy and Dice.

    The model's distribution over codes averages the rows of the codebook, and the frozen decoder
    draws the average; the gradient comes back through it.

    Args:
        codec: Of the checkpoint; it is copied, so that it may be moved to another device.

    Source:
        Average of rows: All in Tokens (arXiv 2301.02229). Dice: V-Net (arXiv 1606.04797).
    """

    def __init__(self, codec: "MaskCodec") -> None:
        super().__init__()
        self.network = deepcopy(codec.network)

    def forward(self, logits: Tensor, targets: Tensor, masks: Tensor, *, first_seg: int) -> Tensor:
        """Return the loss of each mask.

        Args:
            logits: ``(..., t, v)``, at the positions that predict ``targets``.
            targets: ``(..., t)`` token ids; runs of sixteen ``<seg>`` are the masks.
            masks: ``(n, 64, 64)`` in [0, 1]: what is true, in the same order.
            first_seg: Id of ``<seg000>``; the 128 codes follow it.

        Returns:
            ``(n,)`` float32; empty if there is none.

        Raises:
            ShapeError: If ``targets`` hold another number of masks.
        """
        is_seg = (targets >= first_seg) & (targets < first_seg + NUM_CODES)
        places = _runs(is_seg, CODES_PER_MASK)
        if len(places) != len(masks):
            raise ShapeError(f"masks: expected {len(places)}, as targets hold, got {len(masks)}")
        codes = logits.flatten(0, -2)[places][..., first_seg : first_seg + NUM_CODES].float()
        drawn = self.network.decode(self.network.quantizer.mix(codes.softmax(-1))).float()
        drawn = SHARPNESS * drawn.flatten(1)
        true = masks.to(drawn).flatten(1)
        pixels = F.binary_cross_entropy_with_logits(drawn, true, reduction="none").mean(1)
        chances = drawn.sigmoid()
        dice = (2 * (chances * true).sum(1) + 1) / (chances.sum(1) + true.sum(1) + 1)
        return pixels + 1 - dice


def _runs(inside: Tensor, length: int) -> Tensor:
    """Return ``(n, length)`` flat positions of the runs in ``(..., t)`` of just that length."""
    # Windows one wider on both sides; what lies beyond a row's ends is outside.
    windows = F.pad(inside, (1, length)).unfold(-1, length + 2, 1)
    whole = windows[..., 1:-1].all(-1) & ~windows[..., 0] & ~windows[..., -1]
    return whole.flatten().nonzero() + torch.arange(length, device=inside.device)
