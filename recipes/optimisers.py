"""Who moves which weight, and how fast."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PaliGemmaForConditionalGeneration

from pgvision.training.model import arithmetic_dtype


def has_bfloat16(device: str | torch.device) -> bool:
    """Return whether a device multiplies bfloat16 itself; emulated, it is 20 times slower."""
    return arithmetic_dtype(torch.device(device)) == "bfloat16"


def muon_and_adamw(
    matrices: list[dict[str, Any]], rest: list[dict[str, Any]], *, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Return Muon for groups of matrices and AdamW for the rest, at rate 0.

    AdamW alone on a CPU without bfloat16, in which torch's Muon multiplies. Side by side from the
    same start, 120 steps of the second edition's vision phase brought the dense loss to 3.35 with
    Muon and to 3.73 with AdamW alone.
    """
    adamw = partial(torch.optim.AdamW, lr=0.0, betas=(0.9, 0.98), weight_decay=weight_decay)
    if not has_bfloat16(rest[0]["params"][0].device):
        return [adamw([*matrices, *rest])]
    muon = partial(torch.optim.Muon, lr=0.0, weight_decay=weight_decay)
    return [muon(matrices, adjust_lr_fn="match_rms_adamw"), adamw(rest)]


def build_optimisers(
    model: PaliGemmaForConditionalGeneration,
    heads: Sequence[nn.Module],
    *,
    readers: Sequence[nn.Module] = (),
    vision_steps: int,
    weight_decay: float,
) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the blocks and AdamW for the rest; see `muon_and_adamw`.

    Args:
        model: The model.
        heads: Training-only heads on picture tokens; they learn from the first step. Their
            groups, the tower's and the projector's are marked ``group["sees"]``.
        readers: Training-only heads on the language model.
        vision_steps: Step at which what is not the vision tower starts to learn. Each group knows
            its own, as ``group["start"]``, for its own warm-up.
        weight_decay: For all.
    """
    inner: list[dict[str, Any]] = []
    outer: list[dict[str, Any]] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        sees = "vision_tower" in name or "projector" in name
        group = {
            "params": [parameter],
            "start": 0 if "vision_tower" in name else vision_steps,
            "sees": sees,
            "lr": 0.0,
        }
        (inner if parameter.ndim == 2 and ".layers." in name else outer).append(group)
    outer += [
        {"params": list(head.parameters()), "start": 0, "sees": head in heads, "lr": 0.0}
        for head in (*heads, *readers)
    ]
    return muon_and_adamw(inner, outer, weight_decay=weight_decay)


def rate_share(done: int, *, left: int, warmup: int, decay_steps: float) -> float:
    """Return the share of the learning rate: a rise, a plateau, a straight fall to nothing.

    Args:
        done: Steps that the weights have learned for.
        left: Steps that are left of the run.
        warmup: Steps of the rise.
        decay_steps: Steps of the fall.

    Example:
        >>> [rate_share(k, left=10 - k, warmup=2, decay_steps=5.0) for k in (0, 3, 9)]
        [0.5, 1.0, 0.2]
    """
    rise = (done + 1) / warmup
    fall = left / max(1.0, decay_steps)
    return max(0.0, min(rise, fall, 1.0))
