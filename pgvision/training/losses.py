"""Losses that make a small PaliGemma learn boxes: soft ``<loc>`` targets and a dense head.

With the sequence loss alone a model of this size does not find objects within hours; a head on
the vision tokens that is thrown away after training teaches the tower where things are.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
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


@dataclass(frozen=True)
class DenseTargets:
    """What each vision token should know.

    Attributes:
        present: ``(b, p, c)`` float: is an object of class ``c`` here.
        edges: ``(b, p, c, 4)`` float: its top, left, bottom, right less the token's centre.
        colours: ``(b, p)`` int, -100 for unknown.
        texts: ``(b, p)`` int, -100 for unknown.
        sides: ``(b, p, c, 2)`` float: height and width of that object, 1 where there is none.
        weights: ``(b, p, c)`` float: what a token's edges count; less where an object has many.
        known: ``(b, c)`` bool: whether the picture's annotations say where class ``c`` is.
    """

    present: Tensor
    edges: Tensor
    colours: Tensor
    texts: Tensor
    sides: Tensor
    weights: Tensor
    known: Tensor

    def to(self, device: str | torch.device) -> "DenseTargets":
        """Return the same on another device."""
        return DenseTargets(*(getattr(self, one.name).to(device) for one in fields(self)))


class DenseHead(nn.Module):
    """Reads class, box, colour and sign text off every vision token; training only.

    It is linear, so that what it finds lies ready for the language model, which begins with a
    linear projector too.
    """

    def __init__(self, width: int, *, num_classes: int, num_colours: int, num_texts: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.sizes = (num_classes, 4 * num_classes, num_colours, num_texts)
        self.layers = nn.Linear(width, sum(self.sizes))

    def outputs(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return presence logits ``(b, p, c)``, edges ``(b, p, c, 4)``, colours and texts."""
        present, edges, colours, texts = self.layers(features).float().split(self.sizes, -1)
        return present, edges.unflatten(-1, (self.num_classes, 4)), colours, texts

    def forward(self, features: Tensor, targets: DenseTargets) -> Tensor:
        """Return the loss of vision tokens ``(b, p, d)`` against ``targets``."""
        present, edges, colours, texts = self.outputs(features)
        loss = 2.0 * _focal(present, targets.present, targets.known[:, None])
        here = targets.present > 0
        if here.any():
            sides = targets.sides[here]
            loss = loss + 2.0 * _edge_loss(
                edges[here], targets.edges[here], sides, targets.weights[here]
            )
        # Letters are the last thing that a small tower learns; at full weight their noise would
        # drown what it could learn first.
        for logits, labels, weight in (
            (colours, targets.colours, 1.0),
            (texts, targets.texts, 0.25),
        ):
            if (labels >= 0).any():
                loss = loss + weight * F.cross_entropy(
                    logits.flatten(0, 1), labels.flatten(), ignore_index=-100
                )
        return loss


class AskedHead(nn.Module):
    """Reads off the language model's image positions where the asked class is; training only.

    Image positions attend to the prefix, so they can know what was asked. Teaching them to mark the
    places that answer it gives the suffix something to look up: without this the small model
    writes boxes from the prior for tens of thousands of scenes. It reads the middle layer, since
    what a position knows only after the last one cannot be looked up by any other.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 5))

    def forward(self, hidden: Tensor, dense: DenseTargets, asked: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of image positions ``(r, p, d)`` of the batch's ``rows`` ``(r,)``.

        ``asked`` ``(b * k,)`` is -1 for rows of other tasks.
        """
        some = asked[rows] >= 0
        hidden, rows = hidden[some], rows[some]
        if len(rows) == 0:
            return hidden.sum() * 0.0
        picture = rows // (len(asked) // len(dense.present))
        present = dense.present[picture, :, asked[rows]]
        edges = dense.edges[picture, :, asked[rows]]
        out = self.layers(hidden).float()
        loss = 2.0 * _focal(out[..., 0], present, torch.ones_like(present))
        here = present > 0
        if here.any():
            sides = dense.sides[picture, :, asked[rows]][here]
            weights = dense.weights[picture, :, asked[rows]][here]
            loss = loss + 2.0 * _edge_loss(out[..., 1:][here], edges[here], sides, weights)
        return loss


def _edge_loss(edges: Tensor, targets: Tensor, sides: Tensor, weights: Tensor) -> Tensor:
    """Return the error relative to the object's side, since that is what IoU sees."""
    error = (edges - targets).abs() / sides.repeat(1, 2).clamp(min=0.02)
    return (error.mean(1) * weights).sum() / weights.sum()


def _focal(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    error = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    chance = torch.sigmoid(logits)
    surprise = chance + targets - 2 * chance * targets
    weight = 0.25 + 0.25 * targets
    return (weight * surprise**2 * error * known).sum() / targets.sum().clamp(min=1.0)
