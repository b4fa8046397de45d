"""Losses of a run: tokens of the answer with soft location targets, and decoded masks.

Logits are computed in chunks of tokens, and again in the backward pass: those of 2,000 tokens over
Google's 257,152 pieces would take 2 GB in float32, several times.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody uses)
from torch.utils.checkpoint import checkpoint

from pgvision.errors import ShapeError
from pgvision.tokens import CODES_PER_MASK, NUM_BINS, NUM_CODES
from pgvision.training.collator import IGNORED, Collator
from pgvision.training.config import TrainConfig
from vqvae.model import SHARPNESS

if TYPE_CHECKING:
    from vqvae import MaskCodec

_LEAST: Final = 1e-6
_CHUNK: Final = 1 << 26  # logits in memory at a time: 256 MB of float32


def token_losses(
    logits: Tensor, targets: Tensor, *, first_loc: int, sigma: float, smoothing: float = 0.0
) -> Tensor:
    """Return the cross-entropy of each token; a coordinate's neighbouring bins share its target.

    Args:
        logits: ``(t, v)``, at the positions that predict ``targets``.
        targets: ``(t,)`` token ids.
        first_loc: Id of ``<loc0000>``; the 1,024 bins follow it.
        sigma: Spread of a coordinate's target over bins; 0: none.
        smoothing: Share of other tokens' targets that is spread over the vocabulary.

    Returns:
        ``(t,)`` float32.
    """
    logits = logits.float()
    loss = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    if sigma == 0:
        return loss
    is_loc = (targets >= first_loc) & (targets < first_loc + NUM_BINS)
    spread = soft_bins(targets[is_loc] - first_loc, sigma=sigma)
    log_probs = logits[is_loc].log_softmax(-1)[:, first_loc : first_loc + NUM_BINS]
    return loss.masked_scatter(is_loc, -(spread * log_probs).sum(1))


def soft_bins(bins: Tensor, *, sigma: float = 4.0) -> Tensor:
    """Return ``(..., 1024)`` probabilities: a bell over the bins around each of ``bins``."""
    distance = torch.arange(NUM_BINS, device=bins.device) - bins[..., None]
    spread = torch.exp(-0.5 * (distance / sigma) ** 2)
    return spread / spread.sum(-1, keepdim=True)


class MaskLoss(nn.Module):
    """Decoded masks against true ones: pixel-wise cross-entropy and Dice.

    The mean of the codebook under the model's distribution over codes is decoded by the frozen
    codec, and the gradient comes back through it. A mean is wrong while a distribution has two
    peaks: add this to cross-entropy, do not replace it.

    Args:
        codec: Of the checkpoint; it is copied, so that it may be moved to another device.

    Source:
        Mean of codebook rows: All in Tokens (arXiv 2301.02229). Dice: V-Net (arXiv 1606.04797).
    """

    def __init__(self, codec: "MaskCodec") -> None:
        super().__init__()
        self.network = deepcopy(codec.network)

    def forward(self, code_logits: Tensor, masks: Tensor) -> Tensor:
        """Return the loss of each mask, ``(n,)`` float32.

        Args:
            code_logits: ``(n, 16, 128)``.
            masks: ``(n, 64, 64)`` in [0, 1].

        Raises:
            ShapeError: If the numbers of masks differ.
        """
        if len(code_logits) != len(masks):
            raise ShapeError(
                f"masks: expected {len(code_logits)}, as answers have, got {len(masks)}"
            )
        mixed = self.network.quantizer.mix(code_logits.float().softmax(-1))
        drawn = SHARPNESS * self.network.decode(mixed).float().flatten(1)
        true = masks.to(drawn).flatten(1)
        pixels = F.binary_cross_entropy_with_logits(drawn, true, reduction="none").mean(1)
        probs = drawn.sigmoid()
        dice = (2 * (probs * true).sum(1) + 1) / (probs.sum(1) + true.sum(1) + 1)
        return pixels + 1 - dice


def runs_of(inside: Tensor, length: int) -> Tensor:
    """Return ``(n, length)`` flat positions of the runs of exactly that length in ``(..., t)``."""
    # Windows one wider on both sides; positions beyond a row's ends are outside.
    windows = F.pad(inside, (1, length)).unfold(-1, length + 2, 1)
    whole = windows[..., 1:-1].all(-1) & ~windows[..., 0] & ~windows[..., -1]
    return whole.flatten().nonzero() + torch.arange(length, device=inside.device)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of a batch, from the hidden states of the language model.

    Attributes:
        first_loc, first_seg: Ids of ``<loc0000>`` and ``<seg000>``.
        vocabulary_size: Number of logits of a token, which bounds the tokens of a chunk.
        smoothing: Share of the target that is spread over the vocabulary.
        sigma: Spread of a coordinate's target over neighbouring bins.
        mean_length: Tokens of a mean answer: every token has equal weight, also in a batch of long
            answers. 0: mean over tokens, then samples.
        kind_weights: Loss weight of the tokens of each kind: their ids, and the weight.
        default_weight: Loss weight of other tokens.
        mask_weight: Weight of ``mask_loss``.
        mask_loss: Loss of decoded masks; None: there is none.
    """

    first_loc: int
    first_seg: int = 0
    vocabulary_size: int = 1
    smoothing: float = 0.0
    sigma: float = 0.0
    mean_length: float = 0.0
    kind_weights: tuple[tuple[Tensor, float], ...] = field(default=())
    default_weight: float = 1.0
    mask_weight: float = 0.0
    mask_loss: MaskLoss | None = None

    def __call__(
        self,
        hidden: Tensor,
        head: Callable[[Tensor], Tensor],
        labels: Tensor,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            hidden: ``(b, t, d)`` states at all positions.
            head: Maps states ``(n, d)`` to logits ``(n, v)``.
            labels: ``(b, t)`` token ids, -100 where nothing is learnt.
            masks: ``(n, 64, 64)`` of all objects with codes.
        """
        states, targets = hidden[:, :-1], labels[:, 1:]
        learnt = targets != IGNORED
        each = self._token_losses(states[learnt], targets[learnt], head)
        # Weight by kind, then by row.
        weights = self._weights(targets).to(each.dtype)
        spread = torch.zeros_like(weights).masked_scatter(learnt, each) * weights
        in_row = weights.sum(1)
        shares = self.mean_length or in_row.clamp(min=_LEAST)
        loss = (spread.sum(1) / shares).sum() / (in_row > 0).sum().clamp(min=1)
        if masks is not None and self.mask_loss is not None:
            is_seg = (targets >= self.first_seg) & (targets < self.first_seg + NUM_CODES)
            places = runs_of(is_seg, CODES_PER_MASK)
            logits = head(states.flatten(0, 1)[places])
            codes = logits[..., self.first_seg : self.first_seg + NUM_CODES]
            loss = loss + self.mask_weight * self.mask_loss.to(hidden.device)(codes, masks).mean()
        return loss

    def _token_losses(
        self, states: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]
    ) -> Tensor:
        def chunk_loss(states: Tensor, targets: Tensor) -> Tensor:
            return token_losses(
                head(states), targets,
                first_loc=self.first_loc, sigma=self.sigma, smoothing=self.smoothing,
            )  # fmt: skip

        size = max(64, _CHUNK // self.vocabulary_size)
        if len(states) <= size:
            return chunk_loss(states, targets)
        parts = zip(torch.split(states, size), torch.split(targets, size), strict=True)
        return torch.cat([checkpoint(chunk_loss, *part, use_reentrant=False) for part in parts])

    def _weights(self, targets: Tensor) -> Tensor:
        """Return each token's weight; 0 where nothing is learnt."""
        weights = torch.full(targets.shape, self.default_weight, device=targets.device)
        for ids, weight in self.kind_weights:
            weights[torch.isin(targets, ids.to(targets.device))] = weight
        return weights.masked_fill(targets == IGNORED, 0.0)


def make_objective(
    config: TrainConfig, collator: Collator, codec: "MaskCodec | None", *, mean_length: float = 0.0
) -> Objective:
    """Return the objective of a run.

    Args:
        config: The run.
        collator: Of the run.
        codec: Of the checkpoint, for masks.
        mean_length: See `Objective`.
    """
    table, weights = collator.vocabulary, config.token_weights
    with_masks = codec is not None and config.mask_loss > 0
    kinds: Sequence[tuple[Tensor, str]] = (
        (torch.arange(table.first_loc, table.first_loc + NUM_BINS), "loc"),
        (torch.arange(table.first_seg, table.first_seg + NUM_CODES), "seg"),
        (torch.tensor([table.eos, *collator.separator.tolist()]), "end"),
    )
    return Objective(
        first_loc=table.first_loc,
        first_seg=table.first_seg,
        vocabulary_size=len(collator.processor.tokenizer),
        smoothing=config.label_smoothing,
        sigma=config.loc_sigma,
        mean_length=mean_length,
        kind_weights=tuple((ids, weights[kind]) for ids, kind in kinds if kind in weights),
        default_weight=weights.get("label", 1.0),
        mask_weight=config.mask_loss,
        mask_loss=MaskLoss(codec) if with_masks and codec is not None else None,
    )


def add_objective(model: Any, objective: Objective) -> None:
    """Let a PaliGemma's ``forward`` return a loss where it is given ``labels``.

    The loss is computed inside ``forward``, so that DDP and autocast see all of it; without labels
    ``forward`` is transformers' own.

    Args:
        model: A ``PaliGemmaForConditionalGeneration``, with or without adapters inside.
        objective: The loss.
    """
    plain = type(model).forward
    softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)

    # Logits are computed in parts by the objective: all at once would need gigabytes.
    def head(states: Tensor) -> Tensor:
        logits: Tensor = model.lm_head(states)
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    def _forward(
        *args: Any, labels: Tensor | None = None, masks: Tensor | None = None, **more: Any
    ) -> Any:
        # Generation uses the original forward.
        if labels is None:
            return plain(model, *args, **more)
        states = model.model(*args, **more, use_cache=False).last_hidden_state
        return {"loss": objective(states, head, labels, masks)}

    model.forward = _forward


def remove_objective(model: Any) -> None:
    """Give a model its own ``forward`` back."""
    model.__dict__.pop("forward", None)
