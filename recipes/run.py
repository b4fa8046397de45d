"""The carried checkpoints' recipes on transformers' Trainer: batches by step, several losses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainingArguments

from pgvision.errors import DataError
from pgvision.training.folder import saving
from pgvision.training.trainer import require_whole_weights
from recipes.state import (
    WEIGHTS_NAME,
    append_to_curve,
    bind,
    checkpoint_step,
    is_first,
    last_checkpoint,
    load_trained,
    mark_complete,
    num_processes,
    read_curve,
    save_trained,
    write_curve,
)

_EVERY: Final = 20  # steps between two lines of the curve, and between two states


class Recipe(Protocol):
    """A module of the model and the heads that only training needs.

    Attributes:
        model: What is exported.
    """

    model: Any

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """Return the losses of a batch, by name, each with its weight in it."""
        ...

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Return what moves its weights."""
        ...

    def rate(self, step: int, group: Mapping[str, Any]) -> float:
        """Return the learning rate of a group of weights at a step."""
        ...


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a recipe.

    Attributes:
        draw: Returns the batch of a step and of one of the processes that train together.
        identity: What the run is; a resumed one is held to it.
        steps: How many in all.
        out: Folder for its states and its curve.
        seed: Of what is drawn while a step is taken; states keep how far that went.
        free: Names in ``identity`` that may differ from those of the run that is resumed.
        until: Stop after this step and save; the same run without it goes on.
        device: Where to train.
    """

    draw: Callable[[int, int], Any]
    identity: Mapping[str, Any]
    steps: int
    out: Path
    seed: int
    free: Sequence[str] = ()
    until: int | None = None
    device: str = "cpu"


class Together(torch.optim.Optimizer):
    """Several optimisers as one, for loops that know one.

    Args:
        parts: The optimisers, of different weights.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = tuple(parts)
        super().__init__([group for one in parts for group in one.param_groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Let each take its step."""
        for one in self.parts:
            one.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all."""
        return {"parts": [one.state_dict() for one in self.parts]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        for one, held in zip(self.parts, state_dict["parts"], strict=True):
            one.load_state_dict(held)
        # Each has made its groups anew; a schedule looks for them here.
        self.param_groups = [group for one in self.parts for group in one.param_groups]


class _Steps(Dataset):  # type: ignore[type-arg]
    """Batches by number; processes take turns."""

    def __init__(self, run: Run) -> None:
        self.run, self.turns = run, num_processes()

    def __len__(self) -> int:
        return self.run.steps * self.turns

    def __getitem__(self, number: int) -> Any:
        return self.run.draw(*divmod(number, self.turns))


class RecipeTrainer(Trainer):  # type: ignore[misc]
    """The stock loop; a batch is one step's, and its losses are noted by name.

    Args:
        recipe: What learns.
        run: The run.
    """

    def __init__(self, recipe: Recipe, run: Run) -> None:
        self.recipe, self.run = recipe, run
        self._recent: list[dict[str, float]] = []
        super().__init__(
            model=recipe,
            args=_arguments(run),
            train_dataset=_Steps(run),
            data_collator=lambda batches: {"batch": batches[0]},
            callbacks=[],
        )
        self.remove_callback(PrinterCallback)  # it prints to stdout
        # The loss is a mean over samples: the trainer divides it by the accumulated batches.
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        # Batches in the order of their numbers, so that a run resumes exactly.
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trainable weights."""
        if is_first():
            model = self.accelerator.unwrap_model(self.model)
            save_trained(model, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.model, Path(resume_from_checkpoint) / WEIGHTS_NAME)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the sum of the losses of a batch.

        Raises:
            DataError: If it is not a number; the message names the losses.
        """
        losses = model(**inputs)
        self._recent.append({name: float(one.detach()) for name, one in losses.items()})
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            step = self.state.global_step
            raise DataError(
                f"step {step}: the loss is no number: {self._recent[-1]}; lower the rate"
            )
        return total

    def create_optimizer(self, model: Any = None) -> Any:
        """Put the recipe's optimisers together."""
        if getattr(self, "optimizer", None) is None:
            self.optimizer = Together(self.recipe.optimisers())
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Give each group of weights the rate that the recipe says."""
        if getattr(self, "lr_scheduler", None) is None:
            groups = self.optimizer.param_groups
            for group in groups:
                group["lr"] = 1.0  # what the shares below are of
            told = [{k: one for k, one in group.items() if k != "params"} for group in groups]
            rates: list[Callable[[int], float]] = [
                partial(self.recipe.rate, group=group) for group in told
            ]
            self.lr_scheduler = LambdaLR(self.optimizer, rates)
        return self.lr_scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Note the mean of each loss since the last line."""
        super().log(logs, start_time)
        recent, self._recent = self._recent, []
        if recent and is_first():
            names = sorted({name for one in recent for name in one})
            means = {
                name: round(float(np.mean([one[name] for one in recent if name in one])), 4)
                for name in names
            }
            append_to_curve(self.run.out, {"step": self.state.global_step, **means})

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        # The heads are thrown away: however far off they are, the model learns at its own pace.
        return super()._clip_grad_norm(self.recipe.model)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = self.run.out / f"checkpoint-{self.state.global_step}"
        with saving(folder):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each writes its random state before it is complete
        if is_first():
            mark_complete(folder)


def _arguments(run: Run) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(run.out),
        max_steps=run.until or run.steps,  # rates are functions of the step alone
        per_device_train_batch_size=1,
        max_grad_norm=1.0,
        logging_steps=_EVERY,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=_EVERY,
        save_total_limit=2,
        seed=run.seed,
        use_cpu=run.device == "cpu",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        report_to=[],
        disable_tqdm=True,
        label_names=[],
        # While the tower learns alone, the others have no gradients.
        ddp_find_unused_parameters=True,
    )


def carry_out(recipe: Recipe, run: Run, *, begin: Callable[[], None]) -> int:
    """Train a recipe to the end of a run, or on from where it was left.

    Args:
        recipe: What learns; a `torch.nn.Module`.
        run: The run.
        begin: Gives the recipe its starting weights.

    Returns:
        The steps that are done.

    Raises:
        OptionError: If ``run.out`` contains a run with other settings, or the launcher splits
            weights (FSDP, DeepSpeed), which states and exports need whole.
        CheckpointError: If a state cannot be written.
    """
    require_whole_weights()
    bind(run.out, run.identity, free=run.free)
    held = last_checkpoint(run.out)
    begin()  # a state holds only what learns
    if is_first():
        done = 0 if held is None else checkpoint_step(held)
        write_curve(run.out, [one for one in read_curve(run.out) if one["step"] <= done])
    trainer = RecipeTrainer(recipe, run)
    trainer.train(resume_from_checkpoint=None if held is None else str(held))
    return int(trainer.state.global_step)
