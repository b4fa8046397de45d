"""transformers' Trainer with our batches, our losses, and figures by real generation."""

import logging
import math
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypedDict, Unpack

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from pgvision.errors import DataError
from pgvision.files import replaced_path
from pgvision.training.finetuning.binding import is_first, num_processes
from pgvision.training.finetuning.curve import append_to_curve, read_curve, write_curve
from pgvision.training.finetuning.objectives import TokenLoss
from pgvision.training.finetuning.saving import saving
from pgvision.training.finetuning.settings import FinetuneSettings
from pgvision.training.localisation import MaskLoss, box_loss

if TYPE_CHECKING:
    from vqvae import MaskCodec

_LOG = logging.getLogger(__name__)
BEST_NAME: Final = "best.safetensors"
WEIGHTS_NAME: Final = "trained.safetensors"
_WHOLE: Final = "whole"  # written last into a checkpoint: without it, it is half of one
_AVERAGE_NAME: Final = "average.safetensors"


class _TrainerOptions(TypedDict):
    """What is handed on to transformers' Trainer."""

    model: Any
    args: TrainingArguments
    train_dataset: Any
    data_collator: Any
    callbacks: list[TrainerCallback]


class _Told(TypedDict, total=False):
    """What callbacks are told beside state and control, as far as it is used here."""

    model: Any
    logs: dict[str, Any]


class FinetuneTrainer(Trainer):  # type: ignore[misc]
    """The stock loop; batches come in the order of their numbers, so that it resumes exactly.

    Args:
        settings: The weights of the losses.
        losses: From `losses_of`.
        options: As for ``transformers.Trainer``.
    """

    def __init__(
        self,
        settings: FinetuneSettings,
        losses: "list[tuple[float, Loss]]",
        **options: Unpack[_TrainerOptions],
    ) -> None:
        super().__init__(**options)
        self.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
        self.settings, self.losses = settings, losses
        # The loss is a mean over examples: the trainer divides it by the accumulated batches.
        self.model_accepts_loss_kwargs = False

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
        logits = model(**inputs, logits_to_keep=kept, use_cache=False).logits
        wanted = labels[:, kept + 1]
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

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained_weights(self.accelerator.unwrap_model(self.model)), folder / WEIGHTS_NAME)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with saving(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each writes its random state before it is whole

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.model, Path(resume_from_checkpoint) / WEIGHTS_NAME)


Loss: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def losses_of(
    settings: FinetuneSettings, first_loc: int, first_seg: int, codec: "MaskCodec | None"
) -> list[tuple[float, Loss]]:
    """Return the losses of logits, labels and masks that a run has, each with its weight.

    Args:
        settings: The run.
        first_loc: Id of ``<loc0000>``.
        first_seg: Id of ``<seg000>``.
        codec: Of the checkpoint, for masks.
    """
    tokens = TokenLoss(
        first_loc=first_loc,
        smoothing=settings.label_smoothing,
        loc_sigma=settings.loc_sigma,
        token_mean=settings.token_mean,
    )
    drawn = None if codec is None or not settings.mask_loss else MaskLoss(codec)

    def boxes(logits: Tensor, labels: Tensor, masks: Tensor | None) -> Tensor:
        each = box_loss(logits, labels, first_loc=first_loc)
        return each.mean() if len(each) else logits[:0].sum()

    def shapes(logits: Tensor, labels: Tensor, masks: Tensor | None) -> Tensor:
        if masks is None or drawn is None:
            return logits[:0].sum()
        each: Tensor = drawn.to(logits.device)(logits, labels, masks, first_seg=first_seg)
        return each.mean()

    return [
        (1.0, lambda logits, labels, masks: tokens(logits, labels)),
        (settings.box_loss, boxes),
        (settings.mask_loss, shapes),
    ]


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights that are trained, by name; of tied ones the first."""
    return {
        name: weight.detach().clone().contiguous()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


@torch.no_grad()
def load_trained(model: Any, path: Path) -> None:
    """Put weights of `trained_weights` back.

    Raises:
        DataError: If they are of other names or shapes.
    """
    own = {name: one for name, one in model.named_parameters() if one.requires_grad}
    stored = load_file(path)
    if {name: one.shape for name, one in own.items()} != {n: o.shape for n, o in stored.items()}:
        raise DataError(f"{path}: holds other weights than those that are trained; start anew")
    for name, weight in own.items():
        weight.copy_(stored[name])


def arguments(settings: FinetuneSettings, out: Path, *, steps: int, device: str, kind: str) -> Any:
    """Return transformers' arguments for a run of ``steps``."""
    on_cpu = device == "cpu"
    every = settings.eval_every or max(1, steps // 5)
    return TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.rate_for(kind),
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(settings.warmup * steps),
        max_grad_norm=1.0,
        weight_decay=0.0,
        bf16=settings.dtype == "bfloat16" or (settings.dtype is None and not on_cpu),
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
    )


def last_checkpoint(out: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, and take away what is half of one."""
    found = sorted(out.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in reversed(found):
        if (path / _WHOLE).exists():
            return path
        if is_first():
            shutil.rmtree(path)
    return None


class Watch(TrainerCallback):  # type: ignore[misc]
    """Validates, keeps the best weights and an average of all, notes the curve, minds SIGTERM.

    Args:
        settings: The run.
        folder: For ``curve.jsonl`` and the best weights.
        every: Steps between validations.
        validate: Returns figures; the first is the main one.

    Attributes:
        progress: Is told each step, how many there will be, and the last loss.
        best: The best main figure and its step.
        is_stopped: Whether SIGTERM came.
    """

    def __init__(
        self,
        settings: FinetuneSettings,
        folder: Path,
        *,
        every: int,
        validate: Callable[[], dict[str, float]],
    ) -> None:
        self.settings, self.folder, self.every = settings, folder, every
        self._validate = validate
        self.progress: Callable[[int, int, float | None], None] = lambda step, steps, loss: None
        self.average: dict[str, Tensor] = {}
        self.best: tuple[float, int] | None = None
        self.is_stopped = False
        self._worse = 0
        self._loss: float | None = None
        self._before: Any = None
        self._started = time.monotonic()

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Unpack[_Told]
    ) -> None:
        """Take up the curve and the average where a resumed run left them."""
        lines = read_curve(self.folder)
        kept = [line for line in lines if line["step"] <= state.global_step]
        if is_first():
            write_curve(self.folder, kept)
        for line in kept:
            self._weigh(line)
        path = self.folder / f"checkpoint-{state.global_step}" / _AVERAGE_NAME
        if self.settings.ema:
            own = trained_weights(kwargs["model"])
            self.average = load_file(path) if path.exists() else own
        self._before = signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.is_stopped = True

    def on_train_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Unpack[_Told]
    ) -> None:
        """Give the signal back."""
        signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Unpack[_Told]
    ) -> None:
        """Average; validate now and then; save and stop where that was asked for."""
        model = kwargs["model"]
        if self.settings.ema:
            share = min(self.settings.ema, (1 + state.global_step) / (10 + state.global_step))
            for name, weight in trained_weights(model).items():
                self.average[name].lerp_(weight, 1 - share)
        self.progress(state.global_step, state.max_steps, self._loss)
        patience = self.settings.patience
        if state.global_step % self.every == 0 and state.global_step < state.max_steps:
            # The others wait for the first in the next step, but all must agree on when to end.
            if is_first() or patience is not None:
                self.note(state, model)
            control.should_training_stop |= patience is not None and self._worse >= patience
        self.is_stopped = _anywhere(self.is_stopped)
        if self.is_stopped:
            control.should_save = control.should_training_stop = True

    def note(self, state: TrainerState, model: Any) -> dict[str, float]:
        """Validate (the averaged weights, where there are some) and keep the best weights."""
        own = trained_weights(model) if self.average else {}
        _set_weights(model, self.average)
        figures = self._validate()
        line = {"step": state.global_step, "figures": figures}
        if self._weigh(line) and is_first():
            path = self.folder / BEST_NAME
            with saving(path), replaced_path(path) as aside:
                save_file(trained_weights(model), aside)
        _set_weights(model, own)
        self._append(line)
        _LOG.info("step %d: %s", state.global_step, figures)
        return figures

    def _weigh(self, line: dict[str, Any]) -> bool:
        figures = line.get("figures")
        if not figures:
            return False
        main = next(iter(figures.values()))
        is_best = self.best is None or main >= self.best[0]  # of equals the longer trained
        self.best = (main, line["step"]) if is_best or self.best is None else self.best
        self._worse = 0 if is_best else self._worse + 1
        return is_best

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Unpack[_Told]
    ) -> None:
        """Note loss and rate."""
        logs = kwargs.get("logs") or {}
        if "loss" in logs:
            self._loss = float(logs["loss"])
            seconds = round(time.monotonic() - self._started, 1)
            line = {"step": state.global_step, "loss": self._loss, "seconds": seconds}
            self._append({**line, "rate": logs.get("learning_rate")})

    def on_save(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Unpack[_Told]
    ) -> None:
        """Mark a checkpoint as whole, once all of it is there."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if not is_first():
            return
        if self.average:
            with saving(folder):
                save_file(self.average, folder / _AVERAGE_NAME)
        (folder / _WHOLE).touch()

    def _append(self, line: dict[str, Any]) -> None:
        if not is_first():
            return
        append_to_curve(self.folder, line)


def _anywhere(flag: bool) -> bool:
    """Return whether any process says so: they must stop at the same step."""
    if num_processes() == 1:
        return flag
    said = torch.tensor([flag], dtype=torch.float32)
    said = said.cuda() if torch.distributed.get_backend() == "nccl" else said
    torch.distributed.all_reduce(said, op=torch.distributed.ReduceOp.MAX)
    return bool(said.item())


@torch.no_grad()
def _set_weights(model: Any, weights: dict[str, Tensor]) -> None:
    own = dict(model.named_parameters())
    for name, weight in weights.items():
        own[name].copy_(weight)
