"""Progress of a run on stderr: loss, rate, memory and the main validation figure."""

import resource
import sys
from typing import Any, Unpack

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState

from pgvision.training.report import plain_figures
from pgvision.training.trainer import ENDLESS, RunClock, _Extra


class ProgressBar(TrainerCallback):  # type: ignore[misc]
    """A bar on a terminal, a line at each log entry elsewhere.

    Args:
        clock: Of the run; the bar shows time where the run ends by the clock.
    """

    def __init__(self, clock: RunClock) -> None:
        self.clock = clock
        console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"),
            TimeElapsedColumn(), TimeRemainingColumn(),
            console=console, transient=True, redirect_stdout=sys.stdout.isatty(),
            disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("training", total=1.0)
        self._figures: dict[str, str] = {}

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Unpack[_Extra]
    ) -> None:
        """Start the bar."""
        self._bar.start()

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Unpack[_Extra]
    ) -> None:
        """Move the bar."""
        done = self.clock.share(state.global_step, state.max_steps)
        self._bar.update(self._task, completed=done, description=self._line(state))

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Unpack[_Extra]
    ) -> None:
        """Take loss and figures up."""
        logs = kwargs.get("logs") or {}
        if "loss" in logs:
            self._figures["loss"] = f"{logs['loss']:.3f}"
            self._figures["rate"] = f"{logs.get('learning_rate', 0.0):.1e}"
        if "eval_score" in logs:
            name, value = next(
                iter(plain_figures({k: v for k, v in logs.items() if "eval" in k}).items())
            )
            self._figures[name] = f"{value:.3f}"
        if self._bar.disable and state.global_step:
            self._bar.console.print(self._line(state), markup=False)

    def on_train_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Unpack[_Extra]
    ) -> None:
        """Take the bar away."""
        self._bar.stop()

    def _line(self, state: TrainerState) -> str:
        steps = "" if state.max_steps == ENDLESS else f"/{state.max_steps}"
        words = [f"{name} {text}" for name, text in self._figures.items()]
        return "  ".join([f"step {state.global_step}{steps}", *words, f"memory {_memory():.1f} GB"])


def _memory() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, bytes on macOS
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
