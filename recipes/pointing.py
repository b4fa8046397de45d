"""Losses that teach the language model to read places: where to look, and what to find there."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pgvision.training.losses import soft_bins

_BINS = 1024
_SAMPLES = 2  # tokens of an object that are asked for its coordinates


@dataclass(frozen=True)
class Written:
    """The boxes that answers write, and the picture tokens that show them.

    Attributes:
        rows: ``(n,)`` row of each object.
        columns: ``(n, 4)`` positions, counted from the first after the picture, that predict its
            four coordinates.
        bins: ``(n, 4)`` top, left, bottom, right.
        cells: ``(n, p)`` bool: the picture tokens whose middle it covers, or holds its own middle.
    """

    rows: Tensor
    columns: Tensor
    bins: Tensor
    cells: Tensor

    @classmethod
    def of(
        cls, ids: Tensor, is_target: Tensor, *, first_loc: int, kept: Tensor, grid: int
    ) -> "Written":
        """Find them in rows ``(b, t)``; an answer writes whole boxes of four coordinates.

        The first columns are the picture tokens ``kept``, ``(b, p)``, of a ``grid`` by ``grid``.
        """
        is_loc = is_target & (ids >= first_loc) & (ids < first_loc + _BINS)
        places = is_loc.nonzero().reshape(-1, 4, 2)
        rows, columns = places[:, 0, 0], places[..., 1]
        bins = ids[rows[:, None], columns] - first_loc
        cells = _cells(bins, grid).gather(1, kept[rows])
        visible = cells.any(1)  # an object may have lost all its tokens
        columns = columns - 1 - kept.shape[1]
        return cls(rows[visible], columns[visible], bins[visible], cells[visible])

    def goal_and_sides(self) -> tuple[Tensor, Tensor]:
        """Return the four edges as shares ``(n, 4)``, and for each the side that it ends."""
        goal = self.bins.float() / _BINS
        return goal, (goal[:, 2:] - goal[:, :2]).clamp(min=0.02).repeat(1, 2)

    def missed(self, looks: Tensor) -> Tensor:
        """Return the mean of -log of the attention that falls on the object being written.

        Args:
            looks: ``(b, t, c)`` attention logits, of which the first ``p`` columns are the picture.
        """
        if len(self.rows) == 0:
            return looks[:0].sum()  # not a product: hidden columns would make it NaN
        shares = looks[self.rows[:, None], self.columns].log_softmax(-1)[..., : self.cells.shape[1]]
        hit = shares.masked_fill(~self.cells[:, None], -torch.inf).logsumexp(-1)
        return -hit.mean()


def _cells(bins: Tensor, grid: int) -> Tensor:
    edges = bins.float() / _BINS
    middle = (torch.arange(grid, device=bins.device) + 0.5) / grid
    inside = []
    for low, high in ((edges[:, 0], edges[:, 2]), (edges[:, 1], edges[:, 3])):
        covered = (middle >= low[:, None]) & (middle <= high[:, None])
        own = (((low + high) / 2 * grid).long().clamp(max=grid - 1))[:, None]
        own_cell = torch.arange(grid, device=bins.device) == own
        inside.append(torch.where(covered.any(1, keepdim=True), covered, own_cell))
    return (inside[0][:, :, None] & inside[1][:, None, :]).flatten(1)


class ToldHead(nn.Module):
    """Reads an object's coordinates off its picture tokens; training only.

    Twice: as four shares of the side, and in the words of the answer, which are compared with the
    rows of the ``<loc>`` tokens themselves. So what an answer has to say lies ready where it looks.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.words, self.edges = nn.Linear(width, 4 * width), nn.Linear(width, 4)
        self.carried = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))

    def arrived(self, hidden: Tensor, written: Written, num_tokens: int) -> Tensor:
        """Return the loss of the positions that write coordinates, ``(b, t, d)``.

        What they looked up should be there as a number: its error is a share of the object's side.
        """
        if len(written.rows) == 0:
            return hidden[:0].sum()
        states = hidden[written.rows[:, None], written.columns + num_tokens]
        goal, sides = written.goal_and_sides()
        error: Tensor = (self.carried(states)[..., 0].float() - goal).abs() / sides
        return error.mean()

    def forward(self, hidden: Tensor, written: Written, table: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of ``(b, t, d)``: of the words, and of the edges.

        The latter is a share of the object's side, since that is what IoU sees. ``table`` is
        ``(1024, d)``.
        """
        if len(written.rows) == 0:
            return hidden[:0].sum(), hidden[:0].sum()
        picked = torch.multinomial(written.cells.float(), _SAMPLES, replacement=True)
        normed = self.norm(hidden[written.rows[:, None], picked])
        chances = (
            self.words(normed).unflatten(-1, (4, -1)).float() @ table.float().mT
        ).log_softmax(-1)
        words: Tensor = -(soft_bins(written.bins)[:, None] * chances).sum(-1).mean()
        goal, sides = written.goal_and_sides()
        error = (self.edges(normed).float() - goal[:, None]).abs() / sides[:, None]
        return words, error.mean()


class PlaceHead(nn.Module):
    """Reads off every picture token where it lies; training only.

    An answer adds what a token knows of its object ("so far to the left edge") to where the token
    is. A tower with real eyes forgets the latter by its last block: without this head the place
    could be read off its tokens to 0.12 of the picture's side only, and the language model, looking
    at the right object, still could not say where it was.
    """

    def __init__(self, width: int, *, grid: int) -> None:
        super().__init__()
        self.layers = nn.Linear(width, 14)
        self.register_buffer("goal", _place_code(grid), persistent=False)

    def forward(self, tokens: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return the loss of ``(b, p, d)`` tokens: 0 where all know their place, 1 for none.

        ``kept``, ``(b, p)``, says which tokens of the grid they are; None: all.
        """
        goal = torch.as_tensor(self.goal)
        goal = goal if kept is None else goal[kept]
        error: Tensor = (self.layers(tokens).float() - goal).square().mean()
        return error


def _place_code(grid: int) -> Tensor:
    """Return ``(grid * grid, 14)``: each token's height and width, plain and as waves."""
    line = (torch.arange(grid) + 0.5) / grid
    waves = 2 * torch.pi * line[:, None] * torch.tensor([1.0, 2.0, 4.0])
    code = torch.cat(
        [(line[:, None] - 0.5) * 12**0.5, 2**0.5 * waves.cos(), 2**0.5 * waves.sin()], 1
    )
    down, across = code[:, None].expand(-1, grid, -1), code[None].expand(grid, -1, -1)
    return torch.cat([down, across], -1).flatten(0, 1)
