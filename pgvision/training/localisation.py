"""Losses that see where things are: boxes and masks as shapes, not as words.

Cross-entropy charges a coordinate that is one bin off as much as one on the other side of the
picture, and a mask code that draws nearly the same shape as much as one that draws another. These
take the model's own distribution over bins, or over codes, and compare what it means on average
with what is true. An average says little while a distribution has two peaks: add them to
cross-entropy, do not replace it.
"""

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody uses)

from pgvision.errors import ShapeError
from pgvision.tokens import CODES_PER_MASK, NUM_BINS, NUM_CODES
from vqvae.model import SHARPNESS

if TYPE_CHECKING:
    from vqvae import MaskCodec


def box_loss(
    logits: Tensor, targets: Tensor, *, first_loc: int, l1: float = 5.0, giou: float = 2.0
) -> Tensor:
    """Return how far expected boxes are from true ones: L1 and generalised IoU.

    Args:
        logits: ``(..., t, v)``, at the positions that predict ``targets``.
        targets: ``(..., t)`` token ids; runs of four ``<loc>`` are the boxes.
        first_loc: Id of ``<loc0000>``; the 1,024 bins follow it.
        l1: Weight of the sum of four distances, in shares of the picture's side.
        giou: Weight of ``1 - GIoU``.

    Returns:
        ``(n,)`` float32, one a box in reading order; empty if there is none.

    Source:
        DETR (arXiv 2005.12872): the two losses and their weights. GIoU: arXiv 1902.09630.

    Example:
        >>> targets = torch.tensor([[10, 20, 30, 40]])
        >>> box_loss(100.0 * F.one_hot(targets, 1024), targets, first_loc=0).tolist()
        [0.0]
    """
    places = _runs((targets >= first_loc) & (targets < first_loc + NUM_BINS), 4)
    true = (targets.flatten()[places] - first_loc).float()
    found = expected_bins(
        logits.flatten(0, -2)[places][..., first_loc : first_loc + NUM_BINS].float()
    )
    distance = (found - true).abs().sum(1) / NUM_BINS
    return l1 * distance + giou * (1 - generalised_iou(found, true))


def expected_bins(logits: Tensor) -> Tensor:
    """Return the mean bin ``(...)`` of ``(..., 1024)`` logits over bins."""
    return logits.softmax(-1) @ torch.arange(NUM_BINS, dtype=logits.dtype, device=logits.device)


def generalised_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the generalised IoU ``(n,)`` in [-1, 1] of boxes ``(n, 4)``, pair by pair.

    Both hold the two near edges and then the two far ones. A box whose far edge lies before the
    near one has no area, and still a gradient towards the other box.

    Example:
        >>> generalised_iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 1, 2, 3]]))
        tensor([0.3333])
    """
    near, far = (
        torch.maximum(boxes[:, :2], others[:, :2]),
        torch.minimum(boxes[:, 2:], others[:, 2:]),
    )
    shared = (far - near).clamp(min=0).prod(1)
    areas = [(one[:, 2:] - one[:, :2]).clamp(min=0).prod(1) for one in (boxes, others)]
    together = areas[0] + areas[1] - shared
    low = torch.minimum(boxes[:, :2], others[:, :2])
    hull = (torch.maximum(boxes[:, 2:], others[:, 2:]) - low).clamp(min=0).prod(1)
    # Two boxes without any area are one point: IoU 0, and no hull to fill.
    least = torch.finfo(boxes.dtype).eps
    return shared / together.clamp(min=least) - (hull - together) / hull.clamp(min=least)


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
