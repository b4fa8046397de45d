"""`pgvision`: the commands, and how errors end them."""

import re
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from pgvision import __version__
from pgvision.cli import objects, texts
from pgvision.cli.bench import bench
from pgvision.cli.bulk import merge
from pgvision.cli.console import log_to_stderr, say
from pgvision.cli.convert import convert
from pgvision.cli.demo import demo
from pgvision.cli.doctor import doctor
from pgvision.cli.evaluate import evaluate
from pgvision.cli.exit_codes import FAILED, USAGE
from pgvision.cli.export import export
from pgvision.cli.live import live
from pgvision.cli.serve import serve
from pgvision.cli.train import train
from pgvision.errors import OptionError, PgvisionError, PromptError

_CLASS = re.compile(r"\bclasses\[(\d+)\]")

app = typer.Typer(
    name="pgvision",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(objects.detect)
app.command()(objects.segment)
app.command()(texts.caption)
app.command()(texts.ask)
app.command()(texts.read)
app.command()(live)
app.command("eval")(evaluate)
app.command()(merge)
app.command()(train)
app.command()(convert)
app.command()(export)
app.command()(doctor)
app.command()(serve)
app.command()(bench)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pgvision {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """PaliGemma as a vision tool: boxes, masks, captions, answers and reading, in COCO terms.

    Results go to stdout, logs and progress to stderr. Exit codes: 0 done, 1 some inputs failed,
    2 usage.

    [bold]Start here[/bold]

    pgvision demo
    pgvision detect helmet site.jpg --out found
    pgvision doctor
    """
    log_to_stderr()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    An error of ours, or of the system's files, becomes one line on stderr, without a traceback: 2
    if what was typed cannot be, 1 if it could not be done.

    Args:
        arguments: What follows ``pgvision``; None takes it from the process.

    Raises:
        SystemExit: Always, with the exit code.
    """
    try:
        app(args=None if arguments is None else list(arguments))
    except PgvisionError as error:
        say(f"pgvision: {_in_words_of_the_shell(error)}", style="bold red")
        sys.exit(USAGE if isinstance(error, OptionError | PromptError) else FAILED)
    except OSError as error:  # a full disk, a folder without rights: nothing that code could mend
        where = f"{error.filename}: " if error.filename else ""
        say(f"pgvision: {where}{error.strerror or error}", style="bold red")
        sys.exit(FAILED)


def _in_words_of_the_shell(error: PgvisionError) -> str:
    # The library speaks of its arguments; here they are words between semicolons.
    return _CLASS.sub(lambda found: f"PHRASE, class {int(found[1]) + 1}", str(error))


if __name__ == "__main__":
    main()
