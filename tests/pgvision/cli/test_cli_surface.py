"""The words on the command line: the same options everywhere, help in two tiers, exit codes."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, TypedDict

import pytest

from pgvision.cli.app import BATCH, COMMANDS, load_command
from pgvision.cli.options import build_command, field_help
from pgvision.cli.outputs import BoxOutput
from pgvision.tasks.options import ModelOptions, ObjectOptions, ReadOptions

TASKS = ("detect", "segment", "caption", "ask", "read")
GROUPS = ("batch",)
SINGLE = [name for name in COMMANDS if name not in GROUPS]


def options_of(command):
    return {word: param for param in command.params for word in param.opts if word[:2] == "--"}


def flag(name):
    return {"engine": "--backend"}.get(name, "--" + name.replace("_", "-"))


@pytest.mark.parametrize("name", TASKS)
def test_every_option_of_the_library_is_one_of_the_command_line(name):
    """Names and help come from the typed settings; nothing is written twice."""
    settings = ObjectOptions if name in ("detect", "segment") else ModelOptions
    options, texts = options_of(load_command(name)), field_help(settings)
    for field in settings.__annotations__.keys() - {"generator"}:
        assert options[flag(field)].help == texts[field], field
        assert texts[field], field
    assert set(options) >= {"--recursive", "--stride", "--out", "--json"}
    bulk = options_of(load_command("batch").get_command(None, name))
    assert {flag(field) for field in settings.__annotations__.keys() - {"generator"}} <= set(bulk)
    for word in ("--journal", "--shard", "--retry-unread", "--ray", "--ray-actors"):
        assert word in bulk and word not in options


def test_settings_that_only_python_can_give_are_left_out():
    names = set(options_of(load_command("detect")))
    assert not names & {"--generator", "--color"}
    assert {field for field in ReadOptions.__annotations__ if f"--{field}" in names} >= {"stride"}


JSON = [name for name in SINGLE if name not in ("serve", "demo", "merge")]


@pytest.mark.parametrize("name", JSON)
def test_every_command_speaks_to_machines(name):
    assert "--json" in options_of(load_command(name))


def lines_of(run, *words):
    ran = run(*words)
    assert ran.code == 0
    assert ran.err == ""
    return ran.out.splitlines()


@pytest.mark.parametrize("words", [[], *([n] for n in COMMANDS), *(["batch", n] for n in BATCH)])
def test_help_is_at_most_40_lines_of_80_columns(run, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = lines_of(run, *words, "--help")
    assert len(lines) <= 40
    if words and words != ["demo"]:
        assert any(line.strip().startswith(f"pgvision {' '.join(words)} ") for line in lines)


def test_help_lists_options_by_use_and_help_all_lists_all(run):
    short, full = lines_of(run, "detect", "--help"), lines_of(run, "detect", "--help-all")

    def options(lines):
        found = [re.match(r"  (?:-\w, )?(--[\w-]+)", line) for line in lines]
        return [match[1] for match in found if match]

    assert options(short)[:6] == ["--out", "--conf", "--tile", "--track", "--model", "--device"]
    assert options(full)[: len(options(short))] == options(short)
    assert set(options(full)) == set(options_of(load_command("detect"))) - {
        "--help",
        "--help-all",
        "--engine",
    }
    assert short[-1] == f"pgvision detect --help-all lists all {len(options(full))} options."


def test_the_top_help_names_every_command_without_importing_one():
    code = (
        "import sys\n"
        "from pgvision.cli.app import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'cv2', 'numpy', 'rich.progress'}\n"
        "print(heavy & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr.strip() == "set()"
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("name", ["detect", "batch"])
def test_help_needs_no_model(name):
    code = (
        "import sys\n"
        "from pgvision.cli.app import main\n"
        f"try: main([{name!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'transformers'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr.strip() == "set()"


def test_python_m_pgvision():
    words = [sys.executable, "-m", "pgvision", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith("pgvision ")


@pytest.mark.parametrize(
    "words",
    [
        ["detect"],
        ["detect", "helmet"],
        ["detect", "helmet", "a.jpg", "--conf", "2"],
        ["detect", "helmet", "a.jpg", "--conf", "high"],
        ["detect", "helmet", "a.jpg", "--stride", "0"],
        ["read", "a.jpg", "--batch-size", "0"],
        ["segment", "helmet", "a.jpg", "--classes-per-prompt", "0"],
        ["read", "a.jpg", "--drafts", "on"],
        ["detect", "helmet", "a.jpg", "--no-such-option"],
        ["no-such-command"],
        ["batch", "no-such-task"],
        ["convert", "somewhere"],
    ],
)
def test_usage_errors_exit_with_2(run, picture, words):
    ran = run(*(picture if word == "a.jpg" else word for word in words))
    assert ran.code == 2
    assert ran.out == ""
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("task", [["detect"], ["batch", "detect", "--out", "o"], ["ask"]])
def test_swapped_arguments_are_noticed(run, picture, task, tmp_path, monkeypatch):
    """`detect site.jpg helmet` was told that small does not know 'site.jpg'."""
    monkeypatch.chdir(tmp_path)
    ran = run(*task, picture, "helmet")
    assert ran.code == 2
    assert "site.png is a file, and helmet is not" in ran.err


def test_version(run):
    ran = run("--version")
    assert (ran.code, ran.out.split()[0]) == (0, "pgvision")


def test_a_command_that_is_nearly_one(run):
    ran = run("detec")
    assert ran.code == 2
    assert "'detect'" in ran.err


def test_completion_is_offered():
    done = subprocess.run(
        [sys.executable, "-m", "pgvision", "--show-completion", "bash"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        # Typer looks for the shell among the parent processes; under CI there is none.
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )
    assert done.returncode == 0
    assert "_COMPLETE" in done.stdout


class Span(NamedTuple):
    low: float
    high: float


class Given(TypedDict, total=False):
    """Settings.

    Attributes:
        conf: A number, or a word. "auto" (default): the card's.
        size: A count.
        exact: Yes, no or unknown.
        quick: A switch.
    """

    conf: Annotated[float, Span(0, 1)] | Literal["auto"] | None
    size: Annotated[int, Span(1, 9)] | None
    exact: bool | None
    quick: bool


@dataclass(frozen=True, kw_only=True)
class Made:
    """Settings.

    Attributes:
        name: A text; None: none.
        conf: Comes from the first settings that have it.
    """

    name: str | None = None
    conf: float = 0.5


def called(words):
    seen = []

    def example(word: str, *, given: Given, made: Made) -> None:
        seen.append((word, given, made))

    build_command(example, name="example")([*words], standalone_mode=False)
    return seen[0]


def test_a_typed_dict_has_what_was_given_and_a_dataclass_its_defaults():
    assert called(["a"])[:2] == ("a", {})
    word, given, made = called(["a", "--conf", "auto", "--size", "3", "--no-exact", "--quick"])
    assert given == {"conf": "auto", "size": 3, "exact": False, "quick": True}
    assert made.name is None
    assert called(["a", "--conf", "0.25", "--name", "x"])[1] == {"conf": 0.25}


def test_help_texts_come_from_docstrings_with_their_bases():
    assert field_help(Made)["name"] == "A text; default: none."
    assert field_help(BoxOutput).keys() >= {"out", "track", "coco"}
    assert field_help(ObjectOptions)["model"] == field_help(ModelOptions)["model"]


def test_serve_reads_options_and_variables(run, monkeypatch):
    seen = []
    monkeypatch.setattr("pgvision.server.app.serve", seen.append)
    for name, value in {
        "PGVISION_PORT": "8123",
        "PGVISION_ALLOW_ORIGINS": "https://app.example.org",
        "PGVISION_MODEL": "tiny",  # the default checkpoint, and no list of models to serve
        "PGVISION_THREADS": "7",
    }.items():
        monkeypatch.setenv(name, value)
    words = [
        "--max-mb",
        "0.5",
        "--max-megapixels",
        "2.5",
        "--model",
        "a=tiny",
        "--model",
        "small",
        "--allow-host",
        "h:80",
    ]
    assert run("serve", *words, "--deadline", "3", "--no-key").code == 0
    (found,) = seen
    assert (found.port, found.max_bytes, found.max_pixels) == (8123, 500_000, 2_500_000)
    assert (found.named_models, found.threads) == ({"a": "tiny", "small": "small"}, None)
    assert (found.host_rules, found.deadline, found.no_key) == ((("h", 80),), 3.0, True)
    assert (list(found.allow_origins), found.host) == (["https://app.example.org"], "127.0.0.1")
    assert run("serve").code == 0
    assert seen[1].named_models == {}
    assert run("serve", "--max-mb", "much").code == 2
