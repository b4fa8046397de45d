"""What happens beside the loop: validation, the best weights, an average, the curve, SIGTERM."""

import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypedDict, Unpack

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.integrations import TensorBoardCallback, is_tensorboard_available

from pgvision.files import replaced_path
from pgvision.training.finetuning.binding import is_first, is_sharded, num_processes
from pgvision.training.finetuning.curve import append_to_curve, read_curve, write_curve
from pgvision.training.finetuning.saving import mark_whole, saving, set_weights, trained_weights
from pgvision.training.finetuning.settings import FinetuneSettings
from pgvision.training.finetuning.sharding import gathered, put, share_told

_LOG = logging.getLogger(__name__)
BEST_NAME: Final = "best.safetensors"
_AVERAGE_NAME: Final = "average.safetensors"


class _Told(TypedDict, total=False):
    """What callbacks are told beside state and control, as far as it is used here."""

    model: Any
    logs: dict[str, Any]


class Watch(TrainerCallback):  # type: ignore[misc]
    """Validates, keeps the best weights and an average of all, notes the curve, minds SIGTERM.

    Args:
        settings: The run.
        folder: For ``curve.jsonl`` and the best weights.
        every: Steps between validations.
        shown: The model that is validated: the one that is trained, or a whole one beside it.
        validate: Returns figures of it; the first is the main one.

    Attributes:
        progress: Is told each step, how many there will be, and the last loss.
        best: The best main figure and its step.
        writers: What writes losses and figures elsewhere: TensorBoard's, if that is installed.
        is_stopped: Whether SIGTERM came.
    """

    def __init__(
        self,
        settings: FinetuneSettings,
        folder: Path,
        *,
        every: int,
        shown: Any,
        validate: Callable[[], dict[str, float]],
    ) -> None:
        self.settings, self.folder, self.every = settings, folder, every
        self.shown, self._validate = shown, validate
        self.progress: Callable[[int, int, float | None], None] = lambda step, steps, loss: None
        self.writers = _tensorboard(folder)
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
        if is_sharded():
            _LOG.info(share_told(trained_weights(kwargs["model"])))
        if self.settings.ema:
            self._begin_average(kwargs["model"], state)
        self._before = signal.signal(signal.SIGTERM, self._on_signal)

    @torch.no_grad()
    def _begin_average(self, model: Any, state: TrainerState) -> None:
        path = self.folder / f"checkpoint-{state.global_step}" / _AVERAGE_NAME
        stored = load_file(path) if path.exists() else {}
        self.average = _copies(trained_weights(model))
        for name, weight in stored.items():
            put(self.average[name], weight)

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
        if state.global_step % self.every == 0 and state.global_step < state.max_steps:
            self.note(state, model)
            patience = self.settings.patience
            if patience is not None:  # what the first has found holds for all
                tired = is_first() and self._worse >= patience
                control.should_training_stop |= _anywhere(tired)
        self.is_stopped = _anywhere(self.is_stopped)
        if self.is_stopped:
            control.should_save = control.should_training_stop = True

    def note(self, state: TrainerState, model: Any) -> dict[str, float]:
        """Validate (the averaged weights, where there are some) and keep the best weights.

        Every process calls it, since weights may have to be put together; the first validates, and
        the others wait for it in the next step.
        """
        weights = gathered(self.average or trained_weights(model))
        if not is_first():
            return {}
        own = _copies(trained_weights(model)) if self.average and self.shown is model else {}
        set_weights(self.shown, weights)
        figures = self._validate()
        line = {"step": state.global_step, "figures": figures}
        if self._weigh(line):
            path = self.folder / BEST_NAME
            with saving(path), replaced_path(path) as aside:
                save_file(weights, aside)
        set_weights(self.shown, own)
        self._append(line)
        # Not through the trainer's own log: it would forget that a loss is due at this step.
        for writer in self.writers:
            logs = {f"eval_{name}": value for name, value in figures.items()}
            writer.on_log(None, state, None, logs=logs)
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
        average = gathered(self.average)
        if not is_first():
            return
        if average:
            with saving(folder):
                save_file(average, folder / _AVERAGE_NAME)
        mark_whole(folder)

    def _append(self, line: dict[str, Any]) -> None:
        if not is_first():
            return
        append_to_curve(self.folder, line)


def _copies(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in weights.items()}


def _tensorboard(folder: Path) -> list[TrainerCallback]:
    if not is_tensorboard_available():
        if is_first():
            _LOG.info("no TensorBoard here, curve.csv only: pip install tensorboard")
        return []
    callback = TensorBoardCallback()
    callback.logging_dir = callback.logging_dir or str(folder / "tensorboard")
    return [callback]


def _anywhere(flag: bool) -> bool:
    """Return whether any process says so: they must stop at the same step."""
    if num_processes() == 1:
        return flag
    said = torch.tensor([flag], dtype=torch.float32)
    said = said.cuda() if torch.distributed.get_backend() == "nccl" else said
    torch.distributed.all_reduce(said, op=torch.distributed.ReduceOp.MAX)
    return bool(said.item())
