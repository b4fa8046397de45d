"""transformers' Trainer with our batches and losses, and validation by generation."""

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypedDict, Unpack

import torch
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
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer import TRAINER_STATE_NAME

from pgvision.errors import CheckpointError, DataError, DependencyError, OptionError
from pgvision.training.config import TrainConfig
from pgvision.training.folder import checkpoints, saving
from pgvision.training.model import TrainedModel, arithmetic_dtype
from pgvision.training.report import write_results
from pgvision.training.samples import Samples

MAIN: Final = "eval_score"
"""Metric that selects the best weights: the main one, then the lower loss."""
ENDLESS: Final = 10**7  # steps of a run that ends by the clock
_WEIGHTS_NAME: Final = "trained.safetensors"
_CLOCK_NAME: Final = "clock.txt"
_SAVE_EVERY: Final = 600.0  # seconds between two checkpoints at most
_EVALS: Final = 5
_MEMORY_WORDS: Final = ("not enough memory", "can't allocate", "CUBLAS_STATUS_ALLOC_FAILED")


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
        is_over: Whether the last step of the run is done.
        spent: Seconds of the run in earlier calls.
        saved: When the last checkpoint was written.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.is_stopped, self.is_over = config, False, False
        self.spent = 0.0
        self.limit = None if config.minutes is None else max(1.0, 60 * config.minutes)
        self._started = self.saved = time.monotonic()
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
        if checkpoint is not None:
            self.spent = float((checkpoint / _CLOCK_NAME).read_text(encoding="utf-8"))
        self._started = self.saved = time.monotonic()
        if self.limit is not None:
            # All processes need one learning rate: each has its own clock.
            (share,) = _agreed([self.seconds / self.limit])
            self._share = min(1.0, share)
            self._evals = int(self._share * _EVALS)

    def save(self, folder: Path) -> None:
        """Write the seconds of the run into a checkpoint."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _CLOCK_NAME).write_text(f"{self.seconds:.3f}", encoding="utf-8")

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Unpack[_Extra]
    ) -> None:
        """Set what happens after a step; all processes agree."""
        # 1. Signals and clocks differ between processes: take the largest value of each.
        stopped, share, is_due = _agreed([
            float(self.is_stopped),
            self.seconds / self.limit if self.limit is not None else 0.0,
            float(time.monotonic() - self.saved > _SAVE_EVERY),
        ])  # fmt: skip
        # 2. By the clock: validate at each fifth of the run.
        if self.limit is not None:
            self._share = min(1.0, share)
            if int(self._share * _EVALS) > self._evals and self.config.eval_every is None:
                self._evals = int(self._share * _EVALS)
                control.should_evaluate = True
        # 3. The end of the run comes before a signal: it validates in any case.
        self.is_over = self._share >= 1.0 or state.global_step >= state.max_steps
        self.is_stopped |= bool(stopped)
        if self.is_over or self.is_stopped:
            control.should_evaluate, control.should_training_stop = self.is_over, True
        # 4. Save with each validation, at a stop, and every ten minutes.
        control.should_save |= control.should_evaluate or self.is_stopped or bool(is_due)


class FineTuner(Trainer):  # type: ignore[misc]
    """The stock loop; samples come in the order of their numbers, so that it resumes exactly.

    Args:
        config: The run.
        rate: Peak learning rate.
        shares: By a part of weights' names, their share of it; others have all of it.
        model: The model of the run.
        args: Of `make_arguments`.
        samples: What is trained on.
        collator: Makes batches of samples.
        clock: Ends the run.
        callbacks: Further ones.
        evaluator: Measures the present weights.

    Attributes:
        unread: Images that could not be read while training, with the reason.
        before: Figures of the starting weights, for the curves.
        measured_at: Step of the weights that the last validation measured; -1 before the first.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        rate: float,
        shares: Mapping[str, float],
        model: TrainedModel,
        args: TrainingArguments,
        samples: Samples,
        collator: Any,
        clock: RunClock,
        callbacks: Sequence[TrainerCallback],
        evaluator: Callable[[], dict[str, float]],
    ) -> None:
        self.config, self.clock, self.evaluator = config, clock, evaluator
        self.rate, self.shares = rate, shares
        self.unread: dict[str, str] = {}
        self.before: dict[str, float] = {}
        self.measured_at = -1
        self.early = None if config.patience is None else EarlyStoppingCallback(config.patience)
        super().__init__(
            model=model.trained,
            args=args,
            train_dataset=samples,
            eval_dataset=samples,  # unused; evaluate() has its own
            data_collator=collator,
            callbacks=[clock, *([self.early] if self.early else []), *callbacks],
        )
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

    def create_optimizer(self, model: Any = None) -> Any:
        """Give the vision tower and the embeddings their shares of the rate."""
        if getattr(self, "optimizer", None) is None:
            groups: dict[float, list[Tensor]] = {}
            for name, weight in self.model.named_parameters():
                if weight.requires_grad:
                    share = next((s for part, s in self.shares.items() if part in name), 1.0)
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
        """Measure the present weights by generation."""
        # 1. Measure.
        found, self.measured_at = self.evaluator(), self.state.global_step
        # 2. The loss only breaks ties between equal scores.
        score = next(iter(found.values())) - 1e-6 * found.get("loss", 0.0)
        metrics = {f"{metric_key_prefix}_{k}": v for k, v in (found | {"score": score}).items()}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        # 3. Update the table and the curves.
        if self.is_world_process_zero() and self.state.global_step:
            start = {"step": 0, **{f"eval_{name}": value for name, value in self.before.items()}}
            write_results([start, *self.state.log_history], Path(self.args.output_dir))
        return metrics

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        self.clock.saved = time.monotonic()
        with saving(folder):
            # The trainer's state comes last: it marks a complete checkpoint.
            if self.is_world_process_zero():
                self.clock.save(folder)
            super()._save_checkpoint(model, trial)
        # Keep two: this one and the best, or the one before. transformers would count, and
        # remove, the user's copies too.
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            kept = (folder.name, Path(self.state.best_model_checkpoint or folder).name)
            others = [path for path in checkpoints(folder.parent) if path.name not in kept]
            for path in others[:-1] if kept[0] == kept[1] else others:
                shutil.rmtree(path)

    def restore(self, checkpoint: Path) -> bool:
        """Restore what transformers does not: the count of patience, and the end of a run.

        transformers takes one more step before it notices that a run has none left. Such a run was
        killed while its result was written: load its best weights instead.

        Args:
            checkpoint: What the run resumes from; its clock is restored.

        Returns:
            Whether the run is over.
        """
        # 1. The count of validations without improvement; its limit may be another one now.
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        saved = state.stateful_callbacks.get("EarlyStoppingCallback")
        if self.early is not None and isinstance(saved, dict):
            count = saved["attributes"]["early_stopping_patience_counter"]
            self.early.early_stopping_patience_counter = count
            self.clock.is_over = count >= self.early.early_stopping_patience
        # 2. The end by steps or by the clock.
        self.clock.is_over |= self.clock.share(state.global_step, self.args.max_steps) >= 1.0
        # 3. The best weights, in the folder where the run is now.
        if self.clock.is_over:
            self.state = state
            best = checkpoint.with_name(f"checkpoint-{state.best_global_step}")
            self._load_from_checkpoint(str(best if best.exists() else checkpoint))
        return self.clock.is_over

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
        for name, weight in own.items():
            weight.copy_(stored[name])

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    def _trainable(self) -> dict[str, Tensor]:
        """Return the trainable weights by name; of tied ones the first."""
        return {n: w.detach() for n, w in self.model.named_parameters() if w.requires_grad}


def _agreed(values: list[float]) -> list[float]:
    """Return the largest of each value over all processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    found = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return [float(one) for one in found]


@contextlib.contextmanager
def memory_advice(config: TrainConfig) -> Iterator[None]:
    """Name the settings to change when memory runs out.

    Raises:
        OptionError: If it runs out in the block.
        RuntimeError: Any other error of torch, as it is.
        MemoryError: Never; it becomes an OptionError.

    Yields:
        None.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # Errors of the CPU's allocator, of a GPU, and of cuBLAS on a full GPU have no one class.
        is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not is_memory and not any(words in str(error) for words in _MEMORY_WORDS):
            raise
        # Suggest first what does not change the result.
        size = config.batch_size
        half = (
            f"batch_size={size // 2} with accumulation={2 * config.accumulation} (the same steps), "
        )
        raise OptionError(
            f"out of memory with batch_size={size}: use {half if size > 1 else ''}checkpointing, "
            "lora, four_bit or a lower resolution. The same folder resumes"
        ) from error


def require_whole_weights() -> None:
    """Refuse launchers that split weights, which validation, checkpoints and exports need whole.

    Raises:
        OptionError: If one does.
    """
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        if os.environ.get(name, "false").lower() in ("1", "true"):
            raise OptionError(
                f"{name}: validation by generation needs whole weights on each process. Launch "
                "without it; where memory is short use lora, four_bit or checkpointing"
            )


def make_arguments(config: TrainConfig, out: Path, device: torch.device) -> TrainingArguments:
    """Return transformers' arguments for a run; the number of steps is set later.

    Args:
        config: The run.
        out: Its folder.
        device: Where to train.

    Raises:
        OptionError: If the launcher splits weights (FSDP, DeepSpeed).
        DependencyError: If an integration of ``report_to`` is unknown or not installed.
    """
    # 1. Refuse what would fail later: sharding, and integrations that transformers refuses after
    # the data were read.
    require_whole_weights()
    known = get_available_reporting_integrations()
    if config.report_to not in (None, "all", *known):
        raise DependencyError(
            f"report_to: {config.report_to} is unknown or not installed; there are "
            f"{', '.join(known)}"
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
        load_best_model_at_end=True,
        metric_for_best_model=MAIN,
        greater_is_better=True,
        seed=config.seed,
        use_cpu=device.type == "cpu",
        dataloader_num_workers=workers,
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        report_to=config.report_to or "none",
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
