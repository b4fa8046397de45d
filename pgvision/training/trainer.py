"""transformers' Trainer with our batches and losses, and validation by generation."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypedDict, Unpack

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler, SequentialSampler
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from pgvision.errors import CheckpointError, DataError, OptionError
from pgvision.training.config import TrainConfig
from pgvision.training.model import TrainedModel, arithmetic_dtype
from pgvision.training.report import write_results
from pgvision.training.samples import Samples

MAIN: Final = "eval_score"
"""Metric that selects the best weights: the main one, then the lower loss."""
ENDLESS: Final = 10**7  # steps of a run that ends by the clock
_AVERAGE_NAME: Final = "average.safetensors"
_WEIGHTS_NAME: Final = "trained.safetensors"
_CLOCK_NAME: Final = "clock.txt"
_SAVE_EVERY: Final = 600.0  # seconds between two checkpoints at most
_EVALS: Final = 5


class _Extra(TypedDict, total=False):
    """Keyword arguments that transformers gives its callbacks."""

    model: Any
    logs: dict[str, Any]
    metrics: dict[str, float]


class RunClock(TrainerCallback):  # type: ignore[misc]
    """Decides when to validate, save and stop: by steps, by the clock, or on a signal.

    Args:
        config: The run.

    Attributes:
        is_stopped: Whether a signal asked to stop.
        spent: Seconds of the run in earlier calls.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.is_stopped = config, False
        self.spent = 0.0
        self.limit = None if config.minutes is None else max(1.0, 60 * config.minutes)
        self._started = self._saved = time.monotonic()
        self._evals = 0
        self._share = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of the run, earlier calls included."""
        return self.spent + time.monotonic() - self._started

    def share(self, step: int, steps: int) -> float:
        """Return how much of the run is done, in [0, 1]; the same on every process."""
        return self._share if self.limit is not None else step / max(1, steps)

    def restore(self, checkpoint: Path | None, already: float) -> None:
        """Set the clock.

        Args:
            checkpoint: What the run resumes from.
            already: Seconds that this call has spent before the first step.
        """
        self.spent = already
        if checkpoint is not None and (checkpoint / _CLOCK_NAME).exists():
            self.spent = float((checkpoint / _CLOCK_NAME).read_text(encoding="utf-8"))
        self._started = self._saved = time.monotonic()
        if self.limit is not None:
            self._share = min(1.0, self.seconds / self.limit)
            self._evals = int(self._share * _EVALS)

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Unpack[_Extra]
    ) -> None:
        """Set what happens after a step; all processes agree."""
        stopped, share, is_due = _agreed([
            float(self.is_stopped),
            self.seconds / self.limit if self.limit is not None else 0.0,
            float(time.monotonic() - self._saved > _SAVE_EVERY),
        ])  # fmt: skip
        if self.limit is not None:
            self._share = min(1.0, share)
            if int(self._share * _EVALS) > self._evals and self.config.eval_every is None:
                self._evals = int(self._share * _EVALS)
                control.should_evaluate = True
        if stopped:
            self.is_stopped = control.should_save = control.should_training_stop = True
            control.should_evaluate = False
        elif self._share >= 1.0 or state.global_step >= state.max_steps:
            control.should_evaluate = control.should_training_stop = True
        control.should_save |= control.should_evaluate or bool(is_due)

    def on_save(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Unpack[_Extra]
    ) -> None:
        """Note the time in the checkpoint."""
        self._saved = time.monotonic()
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (folder / _CLOCK_NAME).write_text(f"{self.seconds:.3f}", encoding="utf-8")


class FineTuner(Trainer):  # type: ignore[misc]
    """The stock loop; samples come in the order of their numbers, so that it resumes exactly.

    Args:
        config: The run.
        rate: Peak learning rate.
        embedding_rate: The embeddings' share of it.
        model: The model of the run.
        args: Of `make_arguments`.
        samples: What is trained on.
        collator: Makes batches of samples.
        clock: Ends the run.
        callbacks: Further ones.
        evaluator: Measures the present weights.

    Attributes:
        unread: Images that could not be read while training, with the reason.
        average: Averaged weights, where there are some.
        before: Figures of the starting weights, for the curves.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        rate: float,
        embedding_rate: float,
        model: TrainedModel,
        args: TrainingArguments,
        samples: Samples,
        collator: Any,
        clock: RunClock,
        callbacks: Sequence[TrainerCallback],
        evaluator: Callable[[], dict[str, float]],
    ) -> None:
        self.config, self.clock, self.evaluator = config, clock, evaluator
        self.rate, self.embedding_rate = rate, embedding_rate
        self.unread: dict[str, str] = {}
        self.average: dict[str, Tensor] = {}
        self.before: dict[str, float] = {}
        # 1. Learning rates.
        self._vision_rate = config.vision_rate
        if self._vision_rate is None:
            self._vision_rate = 0.05 if model.card.kind == "tiny" else 1.0
        # 2. Base class and callbacks.
        early = [] if config.patience is None else [EarlyStoppingCallback(config.patience)]
        super().__init__(
            model=model.trained,
            args=args,
            train_dataset=samples,
            eval_dataset=samples,  # unused; evaluate() has its own
            data_collator=collator,
            callbacks=[clock, *early, *callbacks],
        )
        if config.ema:
            self.add_callback(_AverageCallback(self))
        self.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
        self.remove_callback(ProgressCallback)
        # The loss is a mean over samples: the trainer divides it by the accumulated batches.
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of a batch of `Collator`.

        Raises:
            DataError: If it is not finite; the message names the batch's images.
        """
        inputs = dict(inputs)
        names = inputs.pop("names")
        self.unread |= dict(inputs.pop("unread"))
        loss = model(**inputs)["loss"]
        if not torch.isfinite(loss):
            raise DataError(
                f"step {self.state.global_step}: the loss is {float(loss.detach())}; lower "
                f"learning_rate, or look at {', '.join(names)}"
            )
        return (loss, {}) if return_outputs else loss

    def training_step(  # noqa: D102 (the Trainer's)
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        with memory_advice(self.config):
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def create_optimizer(self, model: Any = None) -> Any:
        """Give the vision tower and the embeddings their shares of the rate."""
        if getattr(self, "optimizer", None) is None:
            groups: dict[float, list[Tensor]] = {}
            for name, weight in self.model.named_parameters():
                if weight.requires_grad:
                    is_embedding = "embed_tokens" in name or "lm_head" in name
                    share = self.embedding_rate if is_embedding else 1.0
                    share = float(self._vision_rate or 0) if "vision_tower" in name else share
                    groups.setdefault(share, []).append(weight)
            self.optimizer = torch.optim.AdamW(
                [{"params": some, "lr": self.rate * share} for share, some in groups.items()],
                weight_decay=0.0,
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return a warm-up and a cosine over the run, which may end by the clock."""
        if getattr(self, "lr_scheduler", None) is None:
            warmup = self.config.warmup

            def factor(step: int) -> float:
                done = self.clock.share(step, num_training_steps)
                if done < warmup:
                    return done / warmup
                return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))

            self.lr_scheduler = LambdaLR(self.optimizer if optimizer is None else optimizer, factor)
        return self.lr_scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the seconds of the run to each entry of the log history."""
        super().log({**logs, "seconds": round(self.clock.seconds, 1)}, None)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measure the present weights (their average, where there is one) by generation."""
        # 1. Validate the average of the weights, if there is one.
        own = self._exchange(self.average)
        try:
            with memory_advice(self.config):
                found = self.evaluator()
        finally:
            self._exchange(own)
        # 2. The loss only breaks ties between equal scores.
        main = next(iter(found.values()))
        found["score"] = main - 1e-6 * found.get("loss", 0.0)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        # 3. Update the table and the curves.
        if self.is_world_process_zero() and self.state.global_step:
            start = {"step": 0, **{f"eval_{name}": value for name, value in self.before.items()}}
            write_results([start, *self.state.log_history], Path(self.args.output_dir))
        return metrics

    @torch.no_grad()
    def _exchange(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put weights into the model and return those that were there."""
        own = dict(self.model.named_parameters())
        was = {name: own[name].detach().clone() for name in weights}
        for name, weight in weights.items():
            own[name].copy_(weight)
        return was

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the average towards the present weights, with which it begins."""
        trained = self._trainable()
        if not self.average:
            self.average = {name: weight.clone() for name, weight in trained.items()}
            return
        step = self.state.global_step
        keep = min(self.config.ema, (1 + step) / (10 + step))
        for name, weight in trained.items():
            self.average[name].lerp_(weight, 1 - keep)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with saving(folder):
            if self.average and self.is_world_process_zero():
                folder.mkdir(parents=True, exist_ok=True)
                save_file(self.average, folder / _AVERAGE_NAME)
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()

    # transformers writes a PaliGemma under other names than its own and reads none of them back, so
    # checkpoints contain the trainable weights as they are called.
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trainable weights."""
        if self.is_world_process_zero():
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(self._trainable(), folder / _WEIGHTS_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        stored = load_file(Path(resume_from_checkpoint) / _WEIGHTS_NAME)
        own = self._trainable()
        if {k: w.shape for k, w in own.items()} != {k: w.shape for k, w in stored.items()}:
            raise CheckpointError(f"{resume_from_checkpoint}: contains other weights; start anew")
        self._exchange(stored)
        averaged = Path(resume_from_checkpoint) / _AVERAGE_NAME
        if self.config.ema and averaged.exists():
            self.average = {k: v.to(own[k].device) for k, v in load_file(averaged).items()}

    def _load_best_model(self) -> None:
        folder = Path(self.state.best_model_checkpoint or "")
        averaged = folder / _AVERAGE_NAME
        self._exchange(load_file(averaged if averaged.exists() else folder / _WEIGHTS_NAME))

    def _trainable(self) -> dict[str, Tensor]:
        """Return the trainable weights by name; of tied ones the first."""
        return {n: w.detach() for n, w in self.model.named_parameters() if w.requires_grad}


class _AverageCallback(TrainerCallback):  # type: ignore[misc]
    """Updates the averaged weights after each step."""

    def __init__(self, trainer: FineTuner) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Unpack[_Extra]
    ) -> None:
        """Start with the weights, unless a checkpoint had an average."""
        if not self.trainer.average:
            self.trainer.update_average()

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Unpack[_Extra]
    ) -> None:
        """Update."""
        self.trainer.update_average()


def _agreed(values: list[float]) -> list[float]:
    """Return the largest of each value over all processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    found = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return [float(one) for one in found]


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Raise the errors of safetensors, torch and the system as CheckpointError.

    Raises:
        CheckpointError: If what is written in the block cannot be.

    Yields:
        None.
    """
    try:
        yield
    except (SafetensorError, RuntimeError, OSError) as error:  # torch's archives, on a full disk
        raise CheckpointError(
            f"{path}: cannot be written: {str(error).splitlines()[0]}. The previous checkpoint is "
            "intact: make room, and give the same command again"
        ) from error


@contextlib.contextmanager
def memory_advice(config: TrainConfig) -> Iterator[None]:
    """Name the settings to change when memory runs out.

    Raises:
        OptionError: If it runs out in the block.
        RuntimeError: Any other error of torch, as it is.

    Yields:
        None.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        is_memory = isinstance(error, torch.OutOfMemoryError)
        if not is_memory and "not enough memory" not in text and "can't allocate" not in text:
            raise
        size = config.batch_size
        # Suggest first what does not change the result.
        ways = []
        if size > 1:
            ways.append(
                f"batch_size={max(1, size // 2)} with accumulation={2 * config.accumulation} (the "
                "same steps)"
            )
        if not config.checkpointing:
            ways.append("checkpointing")
        ways += ["lora=8"] if config.lora is None else [] if config.four_bit else ["four_bit"]
        raise OptionError(
            f"out of memory with batch_size={size}"
            + (f" at resolution={config.resolution}" if config.resolution else "")
            + f": use {', '.join(ways)}, or a lower resolution. The same folder resumes"
        ) from error


def make_arguments(config: TrainConfig, out: Path, device: torch.device) -> TrainingArguments:
    """Return transformers' arguments for a run; the number of steps is set later.

    Args:
        config: The run.
        out: Its folder.
        device: Where to train.

    Raises:
        OptionError: If the launcher splits weights (FSDP, DeepSpeed).
    """
    # 1. Refuse sharding that validation cannot use.
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        if os.environ.get(name, "false").lower() in ("1", "true"):
            raise OptionError(
                f"{name}: validation by generation needs whole weights on each process. Launch "
                "without it; where memory is short use lora, four_bit or checkpointing"
            )
    # 2. Defaults that depend on the device.
    dtype = config.dtype or arithmetic_dtype(device)
    workers = config.workers
    if workers is None:
        workers = min(4, (os.cpu_count() or 1) - 1) if device.type == "cuda" else 0
    # 3. Steps and intervals are endless here; the run clock and `set_length` end the run.
    args = TrainingArguments(
        output_dir=str(out),
        max_steps=ENDLESS,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=ENDLESS,
        save_strategy="steps",
        save_steps=ENDLESS,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=MAIN,
        greater_is_better=True,
        seed=config.seed,
        use_cpu=device.type == "cpu",
        dataloader_num_workers=workers,
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        report_to=list(config.report_to) or "none",
        disable_tqdm=True,
        label_names=["labels"],
        ddp_find_unused_parameters=False,
    )
    args.device  # noqa: B018 (sets up the devices, which counts them)
    args._n_gpu = min(1, args.n_gpu)  # never DataParallel, which scatters what is no batch
    return args


def set_length(args: TrainingArguments, config: TrainConfig, num_samples: int) -> None:
    """Set the number of steps, of validations and of log entries.

    Args:
        args: Of `make_arguments`.
        config: The run.
        num_samples: Samples of an epoch.
    """
    size = config.batch_size * config.accumulation * args.world_size
    if config.steps is not None:
        args.max_steps = config.steps
    elif config.epochs is not None:
        args.max_steps = max(1, round(config.epochs * num_samples / size))
    by_steps = config.minutes is None
    every = config.eval_every or (max(1, args.max_steps // _EVALS) if by_steps else ENDLESS)
    args.eval_steps = args.save_steps = every
    args.logging_steps = max(1, min(10, args.max_steps // 20)) if by_steps else 10
