"""The loss of an answer's tokens; `pgvision.training.localisation` has those of what they draw."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from pgvision.training.losses import token_losses

IGNORED: Final = -100
"""In place of a label: nothing is learnt here."""


@dataclass(frozen=True, kw_only=True)
class TokenLoss:
    """Cross-entropy of an answer's tokens.

    Attributes:
        first_loc: Id of ``<loc0000>``.
        smoothing: Share of the target that is spread over the vocabulary.
        loc_sigma: Spread of a coordinate's target over neighbouring bins; 0: none.
        token_mean: Mean over all tokens instead of over tokens, then examples.
    """

    first_loc: int
    smoothing: float = 0.0
    loc_sigma: float = 0.0
    token_mean: bool = False

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss.

        Args:
            logits: ``(b, k, v)``, at the positions that predict ``labels``.
            labels: ``(b, k)`` token ids, -100 where nothing is learnt.
        """
        learnt = labels != IGNORED
        each = token_losses(
            logits[learnt],
            labels[learnt],
            first_loc=self.first_loc,
            sigma=self.loc_sigma,
            smoothing=self.smoothing,
        )
        if self.token_mean:
            return each.mean()
        counts = learnt.sum(1)
        spread = torch.zeros_like(labels, dtype=each.dtype).masked_scatter(learnt, each)
        return (spread.sum(1) / counts.clamp(min=1))[counts > 0].mean()
