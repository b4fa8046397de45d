"""FSDP: each process holds a piece of every weight; how they are spread, and put together again."""

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.trainer import SCHEDULER_NAME

from pgvision.errors import OptionError
from pgvision.training.finetuning.binding import is_first, is_sharded, is_switched_on, num_processes
from pgvision.training.finetuning.settings import FinetuneSettings

_NOT_OFFERED: Final = {
    "FSDP_OFFLOAD_PARAMS": "leave out --fsdp_offload_params: weights stay where they are used",
    "FSDP_ACTIVATION_CHECKPOINTING": "leave out --fsdp_activation_checkpointing: here it is "
    "--checkpointing",
}


def require_shardable(settings: FinetuneSettings) -> None:
    """Refuse launchers and options that do not go together.

    Raises:
        OptionError: If DeepSpeed is switched on, or FSDP for what cannot be split; it says why.
    """
    if is_switched_on("ACCELERATE_USE_DEEPSPEED"):
        raise OptionError(
            "DeepSpeed: its pieces of the weights can neither be validated nor averaged (ema) "
            "here; launch with --use_fsdp instead, and where memory is short use --lora, "
            "--checkpointing or --accumulation"
        )
    if not is_sharded():
        return
    reasons = [why for name, why in _NOT_OFFERED.items() if is_switched_on(name)]
    if num_processes() == 1:
        reasons.append("one process has none to share with: launch more, or without --use_fsdp")
    if settings.method == "qlora":
        reasons.append("leave out --four-bit: weights of 4 bits are not split, --lora alone is")
    if reasons:
        raise OptionError(f"FSDP: {'; '.join(reasons)}")


def to_be_trained(model: nn.Module) -> nn.Module:
    """Return the model to train: of the first process a copy, where the weights are to be split.

    Its own then stays whole: that one answers when it is validated, and is written at the end.
    """
    return copy.deepcopy(model) if is_sharded() and is_first() else model


def shard_options(model: nn.Module) -> dict[str, Any]:
    """Return the arguments by which transformers' Trainer splits a model, layer by layer."""
    if not is_sharded():
        return {}
    layers = {
        type(m).__name__ for m in model.modules() if isinstance(m, GradientCheckpointingLayer)
    }
    config = {
        "version": 2,  # the launcher's default is 1, which loses the weights' names
        "transformer_layer_cls_to_wrap": sorted(layers),
        "state_dict_type": "SHARDED_STATE_DICT",
    }
    return {"fsdp": True, "fsdp_config": config}


def share_out(accelerator: Any, args: Any) -> None:
    """Have accelerate split the weights on processors, too, and add up gradients in float32.

    Args:
        accelerator: The trainer's.
        args: The trainer's, made with `shard_options`.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    state = accelerator.state
    if state.distributed_type != DistributedType.FSDP:
        # It knows FSDP on GPUs alone; torch's works over gloo as well.
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**args.fsdp_plugin_args)
        PartialState().distributed_type = state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if args.bf16 else None, reduce_dtype=torch.float32
    )
    # Of views in what a model returns; nothing here changes them in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)


def gathered(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put weights together: every process calls it, and the first gets those that were split."""
    found = {}
    for name, weight in weights.items():
        whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
        if whole is weight or is_first():
            found[name] = whole.contiguous()
    return found


def put(weight: Tensor, whole: Tensor) -> None:
    """Put a value into a weight: of one that is split, this process's piece of it."""
    if isinstance(weight, DTensor) and not isinstance(whole, DTensor):
        whole = distribute_tensor(
            whole.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None
        )
    weight.copy_(whole)


def share_told(weights: Mapping[str, Tensor]) -> str:
    """Return how much of the weights this process holds."""
    own = sum(
        w.to_local().numel() if isinstance(w, DTensor) else w.numel() for w in weights.values()
    )
    whole = sum(weight.numel() for weight in weights.values())
    return f"FSDP: this process holds {own} of {whole} trained parameters"


def save_optimiser(trainer: Any, folder: str) -> None:
    """Write the optimiser's state, each process its piece, and the schedule's.

    The trainer reads them; its own writing would add every weight, those that are frozen, too.

    Args:
        trainer: A `transformers.Trainer` of a model in pieces.
        folder: Where to.

    Raises:
        OSError: If a process could not write its piece.
    """
    from accelerate.utils import save_fsdp_optimizer
    from torch.distributed.checkpoint.api import CheckpointException

    plugin = trainer.accelerator.state.fsdp_plugin
    try:
        save_fsdp_optimizer(plugin, trainer.accelerator, trainer.optimizer, trainer.model, folder)
    except CheckpointException as error:  # what went wrong in any process; no Exception, in torch
        raise OSError(str(error).strip().splitlines()[-1]) from error
    if is_first():
        torch.save(trainer.lr_scheduler.state_dict(), Path(folder) / SCHEDULER_NAME)
