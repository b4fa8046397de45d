"""The losses of a run: of an answer's tokens, and of the boxes and masks that they draw."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import torch
from torch import Tensor

from pgvision.tokens import NUM_BINS, NUM_CODES
from pgvision.training.finetuning.collator import IGNORED, Collator
from pgvision.training.finetuning.samples import Samples
from pgvision.training.finetuning.settings import FinetuneSettings
from pgvision.training.localisation import MaskLoss
from pgvision.training.losses import token_losses

if TYPE_CHECKING:
    from vqvae import MaskCodec

_LEAST: Final = 1e-6
_SOME: Final = 32


@dataclass(frozen=True, kw_only=True)
class TokenLoss:
    """Cross-entropy of an answer's tokens.

    Attributes:
        first_loc: Id of ``<loc0000>``.
        smoothing: Share of the target that is spread over the vocabulary.
        loc_sigma: Spread of a coordinate's target over neighbouring bins; 0: none.
        usual: Tokens of a usual answer: every token counts alike, and no less in a batch of long
            answers. 0: mean over tokens, then examples.
        others: What a token counts that ``weights`` has not.
        weights: What the tokens of each kind count: their ids, and the weight.
    """

    first_loc: int
    smoothing: float = 0.0
    loc_sigma: float = 0.0
    usual: float = 0.0
    others: float = 1.0
    weights: tuple[tuple[Tensor, float], ...] = field(default=())

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
        counts = self._counts(labels).to(each.dtype)
        spread = torch.zeros_like(counts).masked_scatter(learnt, each) * counts
        of_rows = counts.sum(1)
        rows = of_rows > 0
        shares = of_rows.clamp(min=_LEAST) if not self.usual else self.usual
        return (spread.sum(1) / shares).sum() / rows.sum().clamp(min=1)

    def _counts(self, labels: Tensor) -> Tensor:
        """Return what each token counts; 0 where nothing is learnt."""
        counts = torch.full(labels.shape, self.others, device=labels.device)
        for ids, weight in self.weights:
            counts[torch.isin(labels, ids.to(labels.device))] = weight
        return counts.masked_fill(labels == IGNORED, 0.0)


Loss: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def usual_length(samples: Samples, collator: Collator) -> float:
    """Return the tokens of a usual answer, the same for every process of a run."""
    some = collator([samples[number] for number in range(min(_SOME, len(samples)))])
    return float((some["labels"] != IGNORED).sum(1).float().mean())


def losses_of(
    settings: FinetuneSettings,
    collator: Collator,
    codec: "MaskCodec | None",
    *,
    usual: float = 0.0,
) -> list[tuple[float, Loss]]:
    """Return the losses of logits, labels and masks that a run has, each with its weight.

    Args:
        settings: The run.
        collator: Of the run: it knows which tokens are of which kind.
        codec: Of the checkpoint, for masks.
        usual: See `TokenLoss`.
    """
    table = collator.vocabulary
    first_seg = table.first_seg
    tokens = _token_loss(settings, collator, usual)
    drawn = None if codec is None or not settings.mask_loss else MaskLoss(codec)

    def shapes(logits: Tensor, labels: Tensor, masks: Tensor | None) -> Tensor:
        if masks is None or drawn is None:
            return logits[:0].sum()
        each: Tensor = drawn.to(logits.device)(logits, labels, masks, first_seg=first_seg)
        return each.mean()

    return [
        (1.0, lambda logits, labels, masks: tokens(logits, labels)),
        (settings.mask_loss, shapes),
    ]


def _token_loss(settings: FinetuneSettings, collator: Collator, usual: float) -> TokenLoss:
    table = collator.vocabulary
    first_loc, first_seg = table.first_loc, table.first_seg
    return TokenLoss(
        first_loc=first_loc,
        smoothing=settings.label_smoothing,
        loc_sigma=settings.loc_sigma,
        usual=usual,
        others=settings.label_weight,
        weights=(
            (torch.arange(first_loc, first_loc + NUM_BINS), settings.loc_weight),
            (torch.arange(first_seg, first_seg + NUM_CODES), settings.seg_weight),
            (torch.tensor([table.eos, *collator.separator.tolist()]), settings.end_weight),
        ),
    )
