"""The command ``pgvision``: lazily loaded subcommands, and exit codes of errors."""

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperGroup

from pgvision import __version__
from pgvision.cli.console import log_to_stderr, say
from pgvision.cli.exit_codes import FAILED, USAGE
from pgvision.cli.options import build_command
from pgvision.errors import OptionError, PgvisionError, PromptError

_CLASS: Final = re.compile(r"\bclasses\[(\d+)\]")


class _Entry(NamedTuple):
    """A command: ``module:function``, its line in the help, the options that ``--help`` lists."""

    place: str
    about: str
    first: str = ""


_TEXTS: Final = "out json_lines language recursive model device unknown batch_size"
_BOXES: Final = (
    "out conf tile track model device coco json_lines recursive max_objects unknown stride"
)
_BULK: Final = "coco out journal shard retry_unread ray ray_actors recursive model device"
_SECTIONS: Final[dict[str, dict[str, _Entry]]] = {
    "Ask a model": {
        "detect": _Entry("tasks:detect", "find objects: boxes and scores", _BOXES),
        "segment": _Entry("tasks:segment", "find objects: boxes, masks and scores", _BOXES),
        "caption": _Entry("tasks:caption", "describe images", f"{_TEXTS} style"),
        "ask": _Entry("tasks:ask", "answer a question", f"{_TEXTS} choice num_alternatives"),
        "read": _Entry("tasks:read", "read what is written", _TEXTS),
        "live": _Entry(
            "live:live",
            "watch a camera: tracks, zones, events",
            "source conf zone line events post save show json_lines model device patience",
        ),
    },
    "Very many images": {
        "batch": _Entry("batch:", "any task as a job that resumes: batch detect ..."),
        "merge": _Entry("batch:merge", "one file of the journals of several shards"),
    },
    "Your own data": {
        "train": _Entry(
            "train:train",
            "fine-tune on your data; ends in AP",
            "out task model minutes epochs lora images split valid rename batch_size device "
            "as_json",
        ),
        "eval": _Entry(
            "evaluate:evaluate",
            "predict and score a data set",
            "data task out split images rename conf calibrate worst limit as_json model device",
        ),
        "convert": _Entry(
            "convert:convert",
            "COCO, YOLO, VOC, LabelMe, JSONL: convert or check",
            "check as_json source_format target_format split images image_files val rename "
            "skip_broken task",
        ),
    },
    "Elsewhere": {
        "serve": _Entry(
            "serve:serve",
            "HTTP service with a page",
            "host port model api_key no_key allow_host allow_origin device threads deadline",
        ),
        "export": _Entry("export:export", "write a checkpoint as ONNX"),
    },
    "This machine": {
        "demo": _Entry("demo:demo", "results on sample photographs and a video"),
        "doctor": _Entry("doctor:doctor", "check the installation and a model"),
        "bench": _Entry("bench:bench", "measure the speed on this machine"),
    },
}
COMMANDS: Final = {name: entry for group in _SECTIONS.values() for name, entry in group.items()}
BATCH: Final = ("detect", "segment", "caption", "ask", "read")


_NEARLY: Any = object()  # placeholder for a command that was not imported; only names are compared


class _Commands(TyperGroup):
    """The top level. A command's module is imported when the command is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command and build it."""
        if cmd_name in COMMANDS and self.commands.get(cmd_name, _NEARLY) is _NEARLY:
            self.commands[cmd_name] = load_command(cmd_name)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command, or suggest one."""
        if args and args[0] not in COMMANDS:
            self.commands.update({name: _NEARLY for name in COMMANDS if name not in self.commands})
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands by section."""
        formatter.write("\n  pgvision demo\n  pgvision detect helmet site.jpg --out found\n")
        width = max(map(len, COMMANDS))
        for title, group in _SECTIONS.items():
            formatter.write(f"\n{title}\n")
            for name, entry in group.items():
                formatter.write(f"  {name:<{width}}  {entry.about}\n")
        formatter.write("\npgvision COMMAND --help has the usual options, --help-all has all.\n")


class _Batch(TyperGroup):
    """``pgvision batch TASK``."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the tasks."""
        formatter.write(
            "\n  pgvision batch detect helmet photos/ --coco out.json"
            "\n  pgvision batch detect helmet photos/ --coco out.json --shard 3/16"
            "\n  pgvision merge out.json.*.journal --coco out.json"
            f"\n\nTASK: {', '.join(BATCH)}; pgvision batch TASK --help\n"
        )


def load_command(name: str) -> Any:
    """Import the module of a command and build it."""
    entry = COMMANDS[name]
    module, _, function = entry.place.partition(":")
    home = import_module(f"pgvision.cli.{module}")
    if name != "batch":
        return build_command(getattr(home, function), name=name, first=entry.first.split())
    group = typer.Typer(cls=_Batch, no_args_is_help=True, rich_markup_mode=None)
    group.callback()(home.batch)
    built: Any = typer.main.get_command(group)
    built.name, built.params = "batch", []
    for task in BATCH:
        command = build_command(getattr(home, task), name=task, first=_BULK.split())
        built.add_command(command, task)
    return built


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pgvision {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="pgvision",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def top(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """PaliGemma as a vision tool: boxes, masks, captions, answers and text of images.

    Results go to stdout, logs and progress to stderr. Exit codes: 0 done, 1 some inputs failed, 2
    usage, 130 stopped.
    """
    log_to_stderr()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    The package's own errors and those of the file system become one line on stderr, without a
    traceback: exit code 2 if the command is wrong, 1 if it could not be done.

    Args:
        arguments: What follows ``pgvision``; None: from the process.

    Raises:
        SystemExit: Always, with the exit code.
    """
    # File names need not be UTF-8; a terminal is no reason to fail.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=None if arguments is None else list(arguments), prog_name="pgvision")
    except PgvisionError as error:
        say(f"pgvision: {_in_words_of_the_shell(error)}", style="bold red")
        sys.exit(USAGE if isinstance(error, OptionError | PromptError) else FAILED)
    except OSError as error:  # a full disk, a folder without permission
        where = f"{error.filename}: " if error.filename else ""
        say(f"pgvision: {where}{error.strerror or error}", style="bold red")
        sys.exit(FAILED)


def _in_words_of_the_shell(error: PgvisionError) -> str:
    # The library names its arguments; on the command line they are phrases between semicolons.
    return _CLASS.sub(lambda found: f"PHRASE, class {int(found[1]) + 1}", str(error))


if __name__ == "__main__":
    main()
