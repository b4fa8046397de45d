"""A head on the vision tokens that says where things are; it is thrown away after training.

With the sequence loss alone a small model does not find objects within hours, nor does any that
begins from scratch on few pictures: this teaches the tower where things are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody uses)

from pgvision.arrays import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Truth:
    """What is in one picture.

    Attributes:
        boxes: ``(n, 4)`` top, left, bottom, right as shares of the picture.
        classes: ``(n,)`` numbers of their classes.
        known: ``(c,)`` bool: whether the annotations say where class ``c`` is.
        colours: ``(n,)``, -1 for unknown; None: all are.
        texts: The same for what is written on them.
    """

    boxes: FloatArray
    classes: IntArray
    known: BoolArray
    colours: IntArray | None = None
    texts: IntArray | None = None

    @classmethod
    def nothing(cls, num_classes: int) -> "Truth":
        """Return what a picture tells of which nothing is known."""
        none = np.empty((0, 4), np.float32), np.empty(0, np.int64)
        return cls(*none, np.zeros(num_classes, np.bool_))


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


def dense_targets(pictures: Sequence[Truth], grid: int) -> DenseTargets:
    """Spread objects over the ``grid * grid`` tokens whose centre they cover.

    Small objects always own the token under their middle; where objects of one class overlap,
    the smaller one wins, since the larger has other tokens left.
    """
    shape = (len(pictures), grid, grid, len(pictures[0].known))
    present, edges = np.zeros(shape, np.float32), np.zeros((*shape, 4), np.float32)
    sides, weights = np.ones((*shape, 2), np.float32), np.zeros(shape, np.float32)
    colours, texts = np.full(shape[:3], -100), np.full(shape[:3], -100)
    for index, one in enumerate(pictures):
        for row in np.argsort(-(one.boxes[:, 2:] - one.boxes[:, :2]).prod(1)):
            top, left, bottom, right = one.boxes[row]
            rows, columns = _cells(top, bottom, grid)[:, None], _cells(left, right, grid)
            y, x = (rows + 0.5) / grid, (columns + 0.5) / grid
            where = (index, rows, columns)
            mine = (*where, one.classes[row])
            present[mine] = 1.0
            edges[mine] = np.stack(
                np.broadcast_arrays(top - y, left - x, bottom - y, right - x), -1
            )
            sides[mine] = (bottom - top, right - left)
            weights[mine] = (len(rows) * len(columns)) ** -0.5
            for labels, given in ((colours, one.colours), (texts, one.texts)):
                if given is not None and given[row] >= 0:
                    labels[where] = given[row]
    parts = (present, edges, colours, texts, sides, weights)
    flat = [torch.from_numpy(one).flatten(1, 2) for one in parts]
    return DenseTargets(*[*flat, torch.from_numpy(np.stack([one.known for one in pictures]))])


def _cells(start: float, end: float, grid: int) -> IntArray:
    first, last = int(np.ceil(start * grid - 0.5)), int(np.floor(end * grid - 0.5))
    if last < first:
        first = last = min(grid - 1, int((start + end) / 2 * grid))
    return np.arange(max(first, 0), min(last, grid - 1) + 1)


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

    def forward(
        self,
        hidden: Tensor,
        dense: DenseTargets,
        asked: Tensor,
        rows: Tensor,
        kept: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of image positions ``(r, p, d)`` of the batch's ``rows`` ``(r,)``.

        ``asked`` ``(b * k,)`` is -1 for rows of other tasks; ``kept`` ``(r, p)`` says which image
        tokens the positions are; None: all.
        """
        if kept is None:
            kept = torch.arange(hidden.shape[1], device=hidden.device).expand(len(rows), -1)
        some = asked[rows] >= 0
        hidden, rows, kept = hidden[some], rows[some], kept[some]
        if len(rows) == 0:
            return hidden.sum() * 0.0
        picture = rows // (len(asked) // len(dense.present))
        own = picture[:, None], kept, asked[rows][:, None]
        present, edges = dense.present[own], dense.edges[own]
        out = self.layers(hidden).float()
        loss = 2.0 * _focal(out[..., 0], present, torch.ones_like(present))
        here = present > 0
        if here.any():
            sides, weights = dense.sides[own][here], dense.weights[own][here]
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
