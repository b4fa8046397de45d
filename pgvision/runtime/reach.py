"""Which slots the tokens of a pass see, and which rows are attended together."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """Rows that are attended together, and what they see."""

    start: int
    stop: int
    length: int
    end: int
    full: Tensor | None
    sliding: Tensor | None


@dataclass(frozen=True, eq=False)
class Reach:
    """Which slots each token of a pass sees, said in host numbers: asking a GPU would wait."""

    firsts: list[int]
    prefix: list[int]
    length: int
    lengths: list[int]

    @property
    def end(self) -> int:
        """Behind the last slot that any row sees."""
        return max(self.firsts) + self.length

    def parts(
        self, full: Tensor | None, sliding: Tensor | None, window: int, heads: int, *, apart: bool
    ) -> list[Part]:
        """Say which rows are attended together: with ``apart`` only those that see alike."""
        count = len(self.firsts)
        if not apart:
            masks = repeated(full, heads), repeated(sliding, heads)
            return [Part(0, count, self.length, self.end, *masks)]
        kinds = []
        for row, (first, prefix) in enumerate(zip(self.firsts, self.prefix, strict=True)):
            end = first + self.lengths[row]
            masks_needed = max(first + 1, prefix) < end
            kinds.append((self.lengths[row], end, masks_needed, masks_needed or 0 < window < end))
        starts = [row for row in range(count) if not row or kinds[row] != kinds[row - 1]]
        parts = []
        for start, stop in zip(starts, [*starts[1:], count], strict=True):
            length, end, is_masked, is_masked_sliding = kinds[start]
            seen = slice(start, stop), slice(None), slice(length), slice(end)
            masks = (
                repeated(full[seen], heads) if is_masked and full is not None else None,
                repeated(sliding[seen], heads)
                if is_masked_sliding and sliding is not None
                else None,
            )
            parts.append(Part(start, stop, length, end, *masks))
        return parts

    def slots(self, device: torch.device) -> Tensor:
        """``(b, t)``: where each token goes."""
        firsts = torch.tensor(self.firsts, device=device)
        return firsts[:, None] + torch.arange(self.length, device=device)

    def mask(self, slots: Tensor, window: int, like: Tensor) -> Tensor | None:
        """``(b, 1, t, end)``: 0 where a token sees a slot, else minus infinity; None: all see all.

        In a sliding layer the prefix still sees all of itself; only what follows loses sight.
        """
        sees_all = all(
            max(first + 1, prefix) >= self.end
            for first, prefix in zip(self.firsts, self.prefix, strict=True)
        )
        if sees_all and not window:
            return None
        prefix = torch.tensor(self.prefix, device=like.device)[:, None]
        keys = torch.arange(self.end, device=like.device)
        seen = keys < torch.maximum(slots + 1, prefix)[..., None]
        if window:
            seen &= (keys > slots[..., None] - window) | (slots < prefix)[..., None]
        return hiding(seen, like)


def hiding(seen: Tensor, like: Tensor) -> Tensor:
    """Return ``(b, 1, t, s)`` of ``(b, t, s)``: 0 where a slot is seen, else minus infinity."""
    return like.new_zeros(seen.shape).masked_fill_(~seen, float("-inf"))[:, None]


def repeated(mask: Tensor | None, heads: int) -> Tensor | None:
    """Give each of the heads of a row the row's mask."""
    return mask.repeat_interleave(heads, 0) if mask is not None and heads > 1 else mask
