"""The command ``pgvision``: lazily loaded subcommands, and exit codes of errors."""

import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from pgvision import __version__
from pgvision.cli.console import FAILED, USAGE, log_to_stderr, say
from pgvision.cli.options import build_command
from pgvision.errors import OptionError, PgvisionError, PromptError

_SECTIONS: Final = {
    "Ask a model": {
        "detect": "find objects: boxes and scores",
        "segment": "find objects: boxes, masks and scores",
        "caption": "describe images",
        "ask": "answer a question",
        "read": "read what is written",
        "live": "watch a camera: tracks, zones, events",
    },
    "Very many images": {
        "batch": "any task as a job that resumes: batch detect ...",
        "merge": "one file of the journals of several shards",
    },
    "Your own data": {
        "train": "fine-tune on your data; ends in AP",
        "eval": "predict and score a data set",
        "convert": "COCO, YOLO, VOC, LabelMe, JSONL: convert or check",
    },
    "Elsewhere": {"serve": "HTTP service with a page", "export": "write a checkpoint as ONNX"},
    "This machine": {
        "demo": "results on sample photographs and a video",
        "doctor": "check the installation and a model",
        "bench": "measure the speed on this machine",
    },
}
COMMANDS: Final = {name: about for group in _SECTIONS.values() for name, about in group.items()}
BATCH: Final = ("detect", "segment", "caption", "ask", "read")
# Where a command is defined, if not in the module of its name.
_MODULES: Final = {
    **dict.fromkeys(BATCH, "tasks"),
    "batch": "tasks",
    "merge": "tasks",
    "eval": "evaluate",
    "export": "serve",
}
# Options that ``--help`` lists; for commands that are not here all of them.
_TEXTS: Final = "out json_lines language recursive model device unknown batch_size"
_BOXES: Final = (
    "out conf tile track model device coco json_lines recursive max_objects unknown stride"
)
_BULK: Final = "coco out journal shard retry_unread ray ray_actors recursive model device"
_FIRST: Final = {
    "detect": _BOXES,
    "segment": _BOXES,
    "caption": f"{_TEXTS} style",
    "ask": f"{_TEXTS} choices",
    "read": _TEXTS,
    "live": "source conf zone line events post save show json_lines model device patience",
    "train": "out task model minutes epochs lora images split valid rename batch_size device "
    "as_json",
    "eval": "data task out split images rename conf calibrate worst limit as_json model device",
    "convert": "check as_json source_format target_format split images image_files val rename "
    "skip_broken task",
    "serve": "host port models api_key no_key allow_hosts allow_origins device threads deadline",
}


class _Commands(TyperGroup):
    """The top level. A command's module is imported when the command is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command and build it."""
        # The names are there from the start, for suggestions.
        commands: Any = self.commands
        for name in COMMANDS:
            commands.setdefault(name, None)
        if cmd_name in COMMANDS and commands[cmd_name] is None:
            commands[cmd_name] = load_command(cmd_name)
        return commands.get(cmd_name)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands by section."""
        formatter.write("\n  pgvision demo\n  pgvision detect helmet site.jpg --out found\n")
        width = max(map(len, COMMANDS))
        for title, group in _SECTIONS.items():
            formatter.write(f"\n{title}\n")
            for name, about in group.items():
                formatter.write(f"  {name:<{width}}  {about}\n")
        formatter.write("\npgvision COMMAND --help has the usual options, --help-all has all.\n")


def load_command(name: str) -> Any:
    """Import the module of a command and build it."""
    module = import_module(f"pgvision.cli.{_MODULES.get(name, name)}")
    # 1. A command of its own.
    if name != "batch":
        function = getattr(module, "evaluate" if name == "eval" else name)
        return build_command(function, name=name, first=_FIRST.get(name, "").split())
    # 2. `batch`: a group with a command for each task.
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.callback()(module.batch)
    built: Any = typer.main.get_command(group)
    built.name, built.params = "batch", []
    for task in BATCH:
        bulk = module.in_bulk(getattr(module, task))
        command = build_command(bulk, name=task, first=_BULK.split())
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
    # A service manager's SIGTERM ends a command as Ctrl-C does: outputs are completed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # File names need not be UTF-8; a terminal is no reason to fail.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=None if arguments is None else list(arguments), prog_name="pgvision")
    except PgvisionError as error:
        say(f"pgvision: {error}", style="bold red")
        sys.exit(USAGE if isinstance(error, OptionError | PromptError) else FAILED)
    except OSError as error:  # a full disk, a folder without permission
        where = f"{error.filename}: " if error.filename else ""
        say(f"pgvision: {where}{error.strerror or error}", style="bold red")
        sys.exit(FAILED)
