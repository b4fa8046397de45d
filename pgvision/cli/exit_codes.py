"""Exit codes, the same for all commands."""

from typing import NoReturn

import typer

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
