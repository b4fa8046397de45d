"""A run at the terminal: progress on stderr, and signals that end it with a checkpoint."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Unpack

import psutil
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState

from pgvision.training.trainer import ENDLESS, RunClock, _Extra

_LOG = logging.getLogger(__name__)


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

    def __enter__(self) -> None:
        """Start the bar."""
        self._bar.start()

    def __exit__(self, *error: object) -> None:
        """Take the bar away, also after an error: it has hidden the terminal's cursor."""
        self._bar.stop()

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
            main = next(name for name in logs if name.startswith("eval_"))
            self._figures[main.removeprefix("eval_")] = f"{logs[main]:.3f}"
        if self._bar.disable and state.global_step and {"loss", "eval_score"} & logs.keys():
            self._bar.console.print(self._line(state), markup=False)

    def _line(self, state: TrainerState) -> str:
        steps = "" if state.max_steps == ENDLESS else f"/{state.max_steps}"
        words = [f"{name} {text}" for name, text in self._figures.items()]
        return "  ".join([f"step {state.global_step}{steps}", *words, f"memory {_memory():.1f} GB"])


def _memory() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 2**30
    return float(psutil.Process().memory_info().rss) / 2**30


@contextmanager
def stop_on_signals(clock: RunClock) -> Iterator[None]:
    """Let SIGTERM and the first ^C end the run with a checkpoint; a second ^C aborts."""
    # Python allows signal handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    process = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() != process:  # ^C reaches forked DataLoader workers, too
            return
        if clock.is_stopped and number == signal.SIGINT:
            raise KeyboardInterrupt
        clock.is_stopped = True
        _LOG.warning("stopping after this step; ^C again aborts without saving")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
