"""Messages and progress on stderr (stdout is for results), results of checks, exit codes."""

import logging
import sys
import time
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console


_SECONDS_BETWEEN_LINES = 10.0


def stderr() -> "Console":
    """Give a console on the present stderr (not on the one at import: tests replace it).

    Returns:
        A rich console that colours only for a terminal.
    """
    from rich.console import Console

    return Console(file=sys.stderr, soft_wrap=True, highlight=False, emoji=False)


def say(line: str, *, style: str | None = None) -> None:
    """Print one line for people on stderr; ``[`` in it is text, not markup."""
    stderr().print(line, style=style, markup=False)


def pace(count: int, seconds: float) -> str:
    """Return a rate, or below one a second the time of each.

    Example:
        >>> pace(30, 10.0), pace(1, 4.0)
        ('3.0/s', '4.0 s/image')
    """
    rate = count / max(seconds, 1e-9)
    return f"{rate:.1f}/s" if rate >= 1.0 else f"{1.0 / max(rate, 1e-9):.1f} s/image"


class _StderrHandler(logging.Handler):
    """Log lines through `say`, so that a progress bar does not overwrite them."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record), style="yellow" if record.levelno >= logging.WARNING else "dim")


def log_to_stderr() -> None:
    """Show pgvision's own log lines, warnings of others, and nothing below."""
    handler = _StderrHandler()
    for name in ("pgvision", "vqvae"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False


class Meter:
    """Progress with rate and time left: a bar on a terminal, a line now and then elsewhere.

    Args:
        label: What is counted, in the plural: ``"pictures"``.
        total: How many there will be; None if that is unknown (a camera).

    Example:
        >>> with Meter("pictures", total=2) as meter:
        ...     for _ in range(2):
        ...         meter.advance()
        >>> meter.done
        2
    """

    def __init__(self, label: str, total: int | None = None) -> None:
        """Prepare; the clock starts with the ``with`` block."""
        self.label = label
        self.total = total
        self.done = 0
        from rich import progress as rich

        console = stderr()
        self._bar = rich.Progress(
            rich.SpinnerColumn(),
            rich.TextColumn("{task.description}"),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TextColumn("{task.fields[rate]}"),
            rich.TimeElapsedColumn(),
            rich.TimeRemainingColumn(),
            console=console,
            transient=True,
            # A bar on stderr would take stdout with it, and JSON lines would end in the wrong pipe;
            # only where both are the same screen must the bar be redrawn around them.
            redirect_stdout=sys.stdout.isatty(),
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(label, total=total, rate="")
        self._start = self._last_line = 0.0

    def __enter__(self) -> "Meter":
        """Start the clock and the bar."""
        self._start = self._last_line = time.monotonic()
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        self._bar.stop()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def advance(self, count: int = 1) -> None:
        """Count ``count`` more."""
        self.done += count
        rate = pace(self.done, self.seconds)
        self._bar.update(self._task, advance=count, rate=rate)
        # Off a terminal there is no bar: print a line now and then.
        now = time.monotonic()
        if not self._bar.disable or now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        if self.total is None:
            say(f"{self.done} {self.label}, {rate}")
        else:
            left = max(self.total - self.done, 0) * self.seconds / max(self.done, 1)
            say(f"{self.done}/{self.total} {self.label}, {rate}, {left:.0f} s left")


Status = Literal["ok", "note", "fail"]


class Finding(NamedTuple):
    """Result of one check.

    Attributes:
        status: ``"ok"``, ``"note"`` (works, but worth knowing) or ``"fail"``.
        found: What is there.
        fix: What to do about it; empty if nothing.
    """

    status: Status
    found: str
    fix: str = ""


DONE = 0
FAILED = 1
USAGE = 2
INTERRUPTED = 130


def end(code: int) -> NoReturn:
    """End a command.

    Args:
        code: 0 done, 1 some inputs failed or something was found wanting, 2 usage, 130 Ctrl-C.

    Raises:
        typer.Exit: Always.
    """
    raise typer.Exit(code)
