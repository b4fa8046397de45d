"""The output layer in float32, over the rows that are asked for.

bfloat16 has eight bits of precision: its logits tie at 38% of location steps, arg-max then takes
the lowest bin, and boxes drift up and left. The weights may stay small; the sums may not.
"""

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from pgvision.runtime.layers import is_plain
from pgvision.runtime.products import linear

if TYPE_CHECKING:
    from transformers import PaliGemmaForConditionalGeneration

# Numbers converted at a time by each thread: 4 MB of float32 stay in the cache. (In small parts
# conversion costs three times as much, and busy cores wait for each other thousands of times.)
_CHUNK: Final = 2**20
_KEPT_ROWS: Final = 2048  # a run as short as <loc> or <seg> is kept converted
_KEPT_RUNS: Final = 4

Rows = slice | Tensor | None


class OutputHead:
    """Logits of a checkpoint, as big_vision computes them.

    PaliGemma 2 gets no soft cap on its final logits: big_vision sets none, transformers keeps
    Gemma 2's 30, which changes no order and makes every probability flatter. Weights tied to the
    embedding are read where they lie; LoRA and quantised layers answer for themselves.

    Args:
        model: The loaded checkpoint. Build a new head after training it further.
    """

    def __init__(self, model: "PaliGemmaForConditionalGeneration") -> None:
        self._module = model.lm_head
        self._weight: Tensor | None = None
        if is_plain(self._module) and self._module.bias is None:
            self._weight = self._module.weight.detach()
        self._kept: dict[tuple[int, int], Tensor] = {}
        self.size = int(model.config.text_config.vocab_size)

    @torch.inference_mode()
    def logits(self, hidden: Tensor, rows: Rows = None) -> Tensor:
        """Return ``(b, r)`` float32 logits of ``(b, d)`` hidden states.

        Args:
            hidden: Of `LanguageModel.run`, in the model's own type.
            rows: Token ids: a run (a slice without step), a tensor of them, or None for all.
        """
        weight = self._weight
        if weight is None:
            whole: Tensor = self._module(hidden).float()
            return whole if rows is None else whole[:, rows]
        hidden = hidden.to(weight.device)
        if isinstance(rows, Tensor):
            return _product(hidden, weight[rows.to(weight.device)])
        if rows is None:
            return _product(hidden, weight)
        return _product(hidden, self._run(rows, weight))

    def _run(self, rows: slice, weight: Tensor) -> Tensor:
        first, last, _ = rows.indices(len(weight))
        if weight.dtype == torch.float32 or last - first > _KEPT_ROWS:
            return weight[first:last]
        kept = self._kept.get((first, last))
        if kept is None:
            kept = weight[first:last].float()
            if len(self._kept) < _KEPT_RUNS:
                self._kept[first, last] = kept
        return kept


def _product(hidden: Tensor, weight: Tensor) -> Tensor:
    if weight.dtype == torch.float32:
        return linear(hidden.float(), weight)
    if weight.is_cuda and hidden.dtype == weight.dtype:
        try:
            return torch.mm(hidden, weight.t(), out_dtype=torch.float32)
        except (TypeError, RuntimeError):  # an older PyTorch, or a card that cannot
            pass
    hidden = hidden.float()
    count = max(1, _CHUNK * min(4, torch.get_num_threads()) // weight.shape[1])
    logits = hidden.new_empty(len(hidden), len(weight))
    for first in range(0, len(weight), count):
        part = weight[first : first + count]
        logits[:, first : first + count] = linear(hidden, part.float())
    return logits
