"""The loss of an answer's tokens; a coordinate's neighbouring bins share its target."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the name everybody uses)


def suffix_loss(logits: Tensor, targets: Tensor, *, first_loc: int, sigma: float = 4.0) -> Tensor:
    """Cross-entropy over suffix tokens; a coordinate's neighbouring bins share its target.

    Args:
        logits: ``(t, v)``, at the positions that predict suffix tokens.
        targets: ``(t,)`` token ids.
        first_loc: Id of ``<loc0000>``; the 1,024 bins follow it.
        sigma: Spread of the target over bins.

    Returns:
        Scalar mean over tokens.
    """
    return token_losses(logits, targets, first_loc=first_loc, sigma=sigma).mean()


def token_losses(
    logits: Tensor, targets: Tensor, *, first_loc: int, sigma: float, smoothing: float = 0.0
) -> Tensor:
    """Return the cross-entropy ``(t,)`` of each token, as `suffix_loss` takes its mean.

    Args:
        logits: ``(t, v)``.
        targets: ``(t,)``.
        first_loc: Id of ``<loc0000>``.
        sigma: Spread of a coordinate's target over bins; 0: none.
        smoothing: Share of other tokens' targets that is spread over the vocabulary.
    """
    logits = logits.float()
    loss = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    if sigma == 0:
        return loss
    is_loc = (targets >= first_loc) & (targets < first_loc + 1024)
    spread = soft_bins(targets[is_loc] - first_loc, sigma=sigma)
    log_probs = logits[is_loc].log_softmax(-1)[:, first_loc : first_loc + 1024]
    return loss.masked_scatter(is_loc, -(spread * log_probs).sum(1))


def soft_bins(bins: Tensor, *, sigma: float = 4.0) -> Tensor:
    """Return ``(..., 1024)`` chances: a bell over the bins around each of ``bins`` ``(...)``."""
    distance = torch.arange(1024, device=bins.device) - bins[..., None]
    spread = torch.exp(-0.5 * (distance / sigma) ** 2)
    return spread / spread.sum(-1, keepdim=True)
