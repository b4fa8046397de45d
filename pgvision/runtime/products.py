"""Products and attention in which a row hangs on nothing but itself, not on who shares its batch.

On the processor PyTorch's libraries choose their way of summing by how many rows there are, so that
the same row may differ in its last bit from batch to batch: scores would not repeat, nor would the
bytes of a file that was stopped and went on. MKL has a mode, "strict", in which they do not choose
by rows or threads; it is asked for here, and counts if nobody has multiplied in this process
before. Otherwise rows are padded to what is enough on one thread (PyTorch 2.13, MKL 2024.2: 4 on an
AMD EPYC with AVX-512, 16 on an Intel Xeon with AMX), and products of small models, whose sums
several threads may share out, are left to one. Attention hangs on the numbers of queries and keys.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

_ROWS: Final = 16
_QUERIES: Final = 4
_COLUMNS: Final = 16
_SMALL: Final = 2**22  # numbers of a weight; larger ones are worth several threads
_SCORES_AT_ONCE: Final = 2**24  # of capped attention, which is 64 MB in float32


def is_exact(hidden: Tensor) -> bool:
    """Whether rows are kept apart: in float32 on the processor, where nothing is compiled."""
    is_plain = hidden.dtype == torch.float32 and hidden.device.type == "cpu"
    return is_plain and not torch.compiler.is_compiling()


def linear(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply as `torch.nn.functional.linear` does; in float32 on the processor, row by row.

    Args:
        hidden: ``(..., k)``.
        weight: ``(n, k)``.
        bias: ``(n,)`` or None.

    Returns:
        ``(..., n)``.

    Example:
        >>> rows, weight = torch.randn(9, 64), torch.randn(32, 64)
        >>> alone = torch.cat([linear(row[None], weight) for row in rows])
        >>> torch.equal(alone, linear(rows, weight))
        True
    """
    if not is_exact(hidden):
        if _is_one_row(hidden) and bias is None:
            return torch.mv(weight, hidden.reshape(-1)).view(*hidden.shape[:-1], -1)
        return F.linear(hidden, weight, bias)
    count = len(weight)
    if count < _COLUMNS:
        weight = F.pad(weight, (0, 0, 0, _COLUMNS - count))
        bias = None if bias is None else F.pad(bias, (0, _COLUMNS - count))
        return linear(hidden, weight, bias)[..., :count]
    rows = hidden.numel() // hidden.shape[-1]
    if sums_alike():
        return F.linear(hidden, weight, bias)
    lacking = max(_ROWS - rows, 0)
    padded = F.pad(hidden.reshape(rows, -1), (0, 0, 0, lacking))
    with _on_one_thread(small=weight.numel() <= _SMALL):
        return F.linear(padded, weight, bias)[:rows].view(*hidden.shape[:-1], -1)


def _is_one_row(hidden: Tensor) -> bool:
    """Whether it is a step of one answer in bfloat16, for which `mv` reads weights 1.3x as fast."""
    on_processor = hidden.device.type == "cpu" and not torch.compiler.is_compiling()
    return on_processor and hidden.dtype == torch.bfloat16 and hidden.numel() == hidden.shape[-1]


@contextmanager
def _on_one_thread(*, small: bool) -> Iterator[None]:
    before = torch.get_num_threads()
    if before == 1 or not small:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=1)
def sums_alike() -> bool:
    """Whether MKL's strict mode holds: one row's product is the same alone and among others."""
    generator = torch.Generator().manual_seed(0)
    for width in (64, 192, 1152):
        rows = torch.randn(33, width, generator=generator)
        weight = torch.randn(64, width, generator=generator)
        whole = F.linear(rows, weight)
        if not all(torch.equal(F.linear(rows[:n], weight), whole[:n]) for n in (1, 2, 3, 7, 9, 17)):
            return False
    return True


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    *,
    scale: float,
    cap: float = 0.0,
) -> Tensor:
    """Attend as `torch.nn.functional.scaled_dot_product_attention` does; heads share keys.

    Args:
        queries: ``(b, heads, t, d)``.
        keys: ``(b, 1, s, d)``.
        values: ``(b, 1, s, d)``.
        mask: ``(b, 1, t, s)`` to be added, or None.
        scale: Of the products.
        cap: Gemma 2's soft cap, which PyTorch's fused attention cannot do; 0: none.

    Returns:
        ``(b, heads, t, d)``.
    """
    if cap:
        return _capped(queries, keys, values, mask, scale, cap)
    heads = queries.shape[1]
    count = queries.shape[2]
    if count < _QUERIES and is_exact(queries):  # which threads would share out another way
        lacking = (0, 0, 0, _QUERIES - count)
        mask = None if mask is None else F.pad(mask, lacking)
        return attend(F.pad(queries, lacking), keys, values, mask, scale=scale)[:, :, :count]
    return F.scaled_dot_product_attention(
        queries,
        keys.expand(-1, heads, -1, -1),
        values.expand(-1, heads, -1, -1),
        attn_mask=mask,
        scale=scale,
    )


def _capped(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float, cap: float
) -> Tensor:
    """Attend under a soft cap; long prompts in parts."""
    entries, heads, t, size = queries.shape
    part = max(1, _SCORES_AT_ONCE // (entries * heads * keys.shape[2]))
    found = torch.empty_like(queries)
    for first in range(0, t, part):
        some = queries[:, :, first : first + part]
        scores = torch.bmm(some.reshape(entries, -1, size), keys[:, 0].transpose(1, 2)).float()
        scores = scores.mul_(scale / cap).tanh_().mul_(cap)
        scores = scores.view(entries, heads, -1, keys.shape[2])
        if mask is not None:
            scores += mask[:, :, first : first + part]
        weights = scores.softmax(-1).to(values.dtype).flatten(1, 2)
        found[:, :, first : first + part] = torch.bmm(weights, values[:, 0]).view_as(some)
    return found
