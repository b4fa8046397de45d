"""The words on the command line: the same options everywhere, help that teaches, exit codes."""

import os
import subprocess
import sys
from typing import get_args

import pytest
import typer.main

from pgvision.cli.app import app
from pgvision.cli.model_options import Quantize
from pgvision.cli.options import BoxOptions, Drafts, RunOptions, takes
from pgvision.runtime import DRAFTS
from pgvision.runtime.weights import QUANTIZATIONS

TASKS = ("detect", "segment", "caption", "ask", "read")
COMMANDS = (
    *TASKS,
    "merge",
    "live",
    "eval",
    "train",
    "convert",
    "export",
    "doctor",
    "bench",
    "serve",
)
MODEL = {
    "--model",
    "--revision",
    "--kind",
    "--device",
    "--dtype",
    "--quantize",
    "--threads",
    "--compile",
}
SHARED = {
    *MODEL,
    *("--batch-size", "--drafts"),
    *("--recursive", "--stride", "--on-error"),
    *("--out", "--json", "--save-overlay"),
}


def command(name):
    return typer.main.get_command(app).commands[name]


def options_of(name):
    return {word for each in command(name).params for word in each.opts if word.startswith("--")}


def test_all_commands_are_there():
    visible = {
        name for name, each in typer.main.get_command(app).commands.items() if not each.hidden
    }
    assert visible == {*COMMANDS, "demo"}


@pytest.mark.parametrize("name", TASKS)
def test_tasks_share_their_options(name):
    assert options_of(name) >= SHARED


@pytest.mark.parametrize("name", ["detect", "segment"])
def test_tasks_with_boxes_share_theirs(name):
    assert options_of(name) >= {"--conf", "--track", "--coco", "--coco-ids"}
    assert options_of(name) >= {"--classes-per-prompt", "--tile", "--nms", "--max-objects"}
    assert options_of("detect") == options_of("segment")


@pytest.mark.parametrize("name", TASKS)
def test_shared_options_have_one_meaning(name):
    detect = {tuple(each.opts): each.help for each in command("detect").params}
    for each in command(name).params:
        if each.opts[0] in SHARED:
            assert each.help == detect[tuple(each.opts)]


@pytest.mark.parametrize("name", ["eval", "doctor", "bench"])
def test_a_model_is_named_alike_everywhere(name):
    detect = {each.opts[0]: each.help for each in command("detect").params}
    helps = {each.opts[0]: each.help for each in command(name).params}
    asked = {"--batch-size", "--classes-per-prompt", "--extra-objects"}
    wanted = MODEL | (asked if name == "eval" else set())
    assert {word: helps.get(word) for word in wanted} == {word: detect[word] for word in wanted}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "serve"])
def test_every_command_speaks_to_machines(name):
    assert "--json" in options_of(name)


@pytest.mark.parametrize("words", [[name] for name in COMMANDS])
def test_help_teaches_by_examples(run, words):
    ran = run(*words, "--help")
    assert ran.code == 0
    assert "Examples" in ran.out
    assert f"pgvision {' '.join(words)}" in ran.out


@pytest.mark.parametrize(
    "words",
    [
        ["detect"],
        ["detect", "helmet"],
        ["detect", "helmet", "a.jpg", "--conf", "2"],
        ["detect", "helmet", "a.jpg", "--stride", "0"],
        ["read", "a.jpg", "--batch-size", "0"],
        ["segment", "helmet", "a.jpg", "--classes-per-prompt", "0"],
        ["segment", "helmet", "a.jpg", "--extra-objects", "-1"],
        ["read", "a.jpg", "--quantize", "nf4"],
        ["read", "a.jpg", "--drafts", "on"],
        ["read", "a.jpg", "--threads", "0"],
        ["detect", "helmet", "a.jpg", "--on-error", "ignore"],
        ["detect", "helmet", "a.jpg", "--no-such-option"],
        ["no-such-command"],
        ["convert", "somewhere"],
    ],
)
def test_usage_errors_exit_with_2(run, words):
    ran = run(*words)
    assert ran.code == 2
    assert ran.out == ""
    assert "Traceback" not in ran.err


def test_version(run):
    ran = run("--version")
    assert (ran.code, ran.out.split()[0]) == (0, "pgvision")


def test_completion_is_offered():
    done = subprocess.run(
        [sys.executable, "-m", "pgvision.cli.app", "--show-completion", "bash"],
        capture_output=True,
        text=True,
        check=False,
        # Typer looks for the shell among the parent processes; under CI there is none.
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )
    assert done.returncode == 0
    assert "_COMPLETE" in done.stdout


def test_help_needs_no_model():
    code = (
        "import sys\n"
        "from pgvision.cli.app import main\n"
        "try: main(['detect', '--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'transformers', 'cv2', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()"


def test_takes_keeps_a_commands_own_words_first():
    seen = []

    @takes(RunOptions)
    def example(*, phrase: str, options: RunOptions) -> None:
        seen.append((phrase, options))

    example(phrase="helmet", sources=["a.jpg"], **_defaults(RunOptions))
    assert seen == [("helmet", RunOptions(sources=["a.jpg"]))]


def _defaults(options):
    blank = options(sources=[])
    return {
        name: getattr(blank, name) for name in options.__dataclass_fields__ if name != "sources"
    }


def test_box_options_are_run_options():
    assert issubclass(BoxOptions, RunOptions)


def test_words_written_twice_to_start_quickly_are_the_library_s():
    assert get_args(Drafts) == DRAFTS
    assert get_args(Quantize) == QUANTIZATIONS
