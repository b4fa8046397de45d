"""transformers' Trainer with our batches and our losses."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from pgvision.errors import DataError
from pgvision.training.finetuning.binding import is_first
from pgvision.training.finetuning.objectives import Loss
from pgvision.training.finetuning.saving import WEIGHTS_NAME, load_trained, saving, trained_weights
from pgvision.training.finetuning.settings import FinetuneSettings
from pgvision.training.finetuning.sharding import gathered, save_optimiser, share_out


class _TrainerOptions(TypedDict):
    """What is handed on to transformers' Trainer."""

    model: Any
    args: TrainingArguments
    train_dataset: Any
    data_collator: Any
    callbacks: list[TrainerCallback]


class OrderedTrainer(Trainer):  # type: ignore[misc]
    """The stock loop; batches come in the order of their numbers, so that it resumes exactly.

    Its states hold what is trained, and none is taken for whole that is not.

    Args:
        options: As for ``transformers.Trainer``.
    """

    def __init__(self, **options: Unpack[_TrainerOptions]) -> None:
        super().__init__(**options)
        self.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
        # The loss is a mean over examples: the trainer divides it by the accumulated batches.
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def create_accelerator_and_postprocess(self) -> None:
        """Let weights be split on processors as on GPUs."""
        super().create_accelerator_and_postprocess()
        if self.args.fsdp:
            share_out(self.accelerator, self.args)
            self.is_fsdp_enabled = True

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is trained; every process calls it, and the first writes."""
        folder = Path(output_dir or self.args.output_dir)
        weights = gathered(trained_weights(self.accelerator.unwrap_model(self.model)))
        if is_first():
            folder.mkdir(parents=True, exist_ok=True)
            save_file(weights, folder / WEIGHTS_NAME)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_fsdp_enabled:
            save_optimiser(self, output_dir)
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with saving(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each writes its random state before it is whole

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.model, Path(resume_from_checkpoint) / WEIGHTS_NAME)


class FinetuneTrainer(OrderedTrainer):
    """The loop with the losses of a fine-tuning.

    Args:
        settings: The weights of the losses.
        losses: From `losses_of`.
        options: As for ``transformers.Trainer``.
    """

    def __init__(
        self,
        settings: FinetuneSettings,
        losses: list[tuple[float, Loss]],
        **options: Unpack[_TrainerOptions],
    ) -> None:
        super().__init__(**options)
        self.settings, self.losses = settings, losses

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the weighted sum of the losses of a batch of `Collator`.

        Raises:
            DataError: If it is not a number; the message names the batch's pictures.
        """
        inputs = dict(inputs)
        names, kept, labels = inputs.pop("names"), inputs.pop("kept"), inputs.pop("labels")
        masks = inputs.pop("masks", None)
        found = model(**inputs, logits_to_keep=kept, use_cache=False)
        logits, wanted = found.logits.float(), labels[:, kept + 1]
        parts = [weight * loss(logits, wanted, masks) for weight, loss in self.losses if weight > 0]
        total = torch.stack(parts).sum()
        if not torch.isfinite(total):
            raise DataError(
                f"step {self.state.global_step}: the loss is {float(total.detach())}; lower "
                f"learning_rate, or look at {', '.join(names)}"
            )
        return (total, logits) if return_outputs else total

    def create_optimizer(self, model: Any = None) -> Any:
        """Give the vision tower its share of the rate; the schedule scales both alike."""
        if getattr(self, "optimizer", None) is None:
            named = [(n, w) for n, w in self.model.named_parameters() if w.requires_grad]
            sees = [weight for name, weight in named if "vision_tower" in name]
            others = [weight for name, weight in named if "vision_tower" not in name]
            rate = self.args.learning_rate
            groups = [
                {"params": others, "lr": rate},
                {"params": sees, "lr": rate * self.settings.vision_share},
            ]
            kept = [group for group in groups if group["params"]]
            self.optimizer = torch.optim.AdamW(kept, weight_decay=0.0)
        return self.optimizer


def _natural_dtype(*, on_cpu: bool) -> str:
    multiplies = not on_cpu or torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if multiplies else "float32"


def arguments(
    settings: FinetuneSettings,
    out: Path,
    *,
    steps: int,
    device: str,
    rate: float,
    pieces: Mapping[str, Any] | None = None,
) -> Any:
    """Return transformers' arguments for a run of ``steps``.

    Args:
        settings: The run.
        out: Its folder.
        steps: How many it has.
        device: Where it computes.
        rate: Of learning, at its highest.
        pieces: Of `shard_options`.
    """
    on_cpu = device == "cpu"
    every = settings.eval_every or max(1, steps // 5)
    return TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(settings.warmup * steps),
        max_grad_norm=1.0,
        weight_decay=0.0,
        bf16=(settings.dtype or _natural_dtype(on_cpu=on_cpu)) == "bfloat16",
        logging_steps=max(1, min(10, steps // 20)),
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=min(every, 200),
        save_total_limit=2,
        seed=settings.seed,
        use_cpu=on_cpu,
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
        report_to=[],
        disable_tqdm=True,
        label_names=["labels"],
        ddp_find_unused_parameters=False,
        **(pieces or {}),
    )
