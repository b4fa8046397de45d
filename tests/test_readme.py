"""Every Python block of README and pages runs, every command is one, and notebooks run."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import pytest
from typer.main import get_command

from pgvision.cli.app import app, load_command
from pgvision.images import VideoWriter
from pgvision.tasks.options import ModelOptions
from recipes.scenes import render_scene

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(?<!-->\n)^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
QUICK_NOTEBOOKS = [path for path in NOTEBOOKS if path.stem in {"tour", "codec"}]
LONG_NOTEBOOKS = [path for path in NOTEBOOKS if path not in QUICK_NOTEBOOKS]
# Other calls that users write, and the types that they get.
_EXPECTED = """
from pgvision.results import DetectionResult, Failure, SegmentationResult, TextResult

one: DetectionResult = Detector("helmet")("site.jpg")
mask: SegmentationResult = Segmenter("helmet")("site.jpg")
text: TextResult = Captioner()("site.jpg")
answers: list[TextResult] = Answerer().predict("site.jpg", "how many workers are there?")
for sure in Detector("helmet").stream("site.mp4"):
    sure.xyxy.shape
for segmented in Segmenter("helmet").stream("site.mp4", on_error="skip"):
    segmented.masks.shape
for either in Reader().stream("site.mp4", on_error="record"):
    wrong: TextResult = either  # type: ignore[assignment]
    if not isinstance(either, Failure):
        either.text.upper()
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder with the files that the README's examples name."""
    monkeypatch.chdir(tmp_path)
    image = render_scene(20_000_001).image
    cv2.imwrite("site.jpg", image)
    with VideoWriter("site.mp4", 5.0, image.shape[:2]) as video:
        for seed in range(3):
            video.write(render_scene(20_000_010 + seed).image)
    return tmp_path


def _pages():
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _blocks(path):
    return BLOCK.findall(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", [*filter(_blocks, _pages())], ids=lambda path: path.name)
def test_blocks_run(path, site, monkeypatch):
    if path.name.startswith("howto-"):  # classes of the default checkpoint only: persons
        monkeypatch.setenv("PGVISION_MODEL", "small")
    namespace = {"__name__": "readme"}
    for block in _blocks(path):
        exec(compile(block, path.name, "exec"), namespace)


def test_few_blocks_are_left_out():
    """A comment gives the reason: a database, a cluster, ten minutes of training."""
    texts = [path.read_text(encoding="utf-8") for path in _pages()]
    assert sum(text.count("<!-- not run") for text in texts) == 3
    # Blocks of another name ("py") would not run either.
    names = {name for text in texts for name in re.findall(r"^ *```(\w+)", text, re.MULTILINE)}
    assert names <= {"python", "sh", "json"}


@pytest.mark.parametrize("path", _pages(), ids=lambda path: path.name)
def test_commands_exist_with_their_options(path):
    """Every line of a shell block that calls pgvision is one that pgvision can read."""
    text = path.read_text(encoding="utf-8")
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            _, called, arguments = line.partition("pgvision ")
            if called and not arguments.startswith(("-m", "'")) and "make " not in line:
                _require_readable(shlex.split(arguments, comments=True))


def _require_readable(arguments):
    command = get_command(app)
    context = command.make_context("pgvision", ["--help"], resilient_parsing=True)
    while hasattr(command, "commands"):
        command = command.get_command(context, arguments.pop(0))
        context = type(context)(command, parent=context)
    # Raises for an option that is none, and not for a file that is not there.
    command.make_parser(context).parse_args(arguments)


@pytest.mark.parametrize("page, name", [("finetuning", "train"), ("live", "live")])
def test_a_page_has_every_flag_of_its_command(page, name):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    shared = {
        "help",
        "help_all",
        "json_lines",
        "as_json",
        *(ModelOptions.__annotations__.keys() - {"drafts"}),
    }
    for option in load_command(name).params:
        if option.param_type_name == "option" and option.name not in shared:
            flags = [*option.opts, *option.secondary_opts]
            assert any(f"`{flag}" in text for flag in flags), flags


# Half a minute without mypy's cache: it reads torch's types.
@pytest.mark.slow
def test_readme_blocks_have_types(tmp_path):
    blocks = _blocks(ROOT / "README.md")
    code = tmp_path / "user.py"
    code.write_text("\n".join([*blocks, _EXPECTED]), encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file",
            str(ROOT / "pyproject.toml"),
            str(code),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout


def _code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def _run_cells(path):
    namespace = {"__name__": "notebook"}
    try:
        for cell in _code_cells(path):
            exec(compile("".join(cell["source"]), path.name, "exec"), namespace)
    finally:
        plt.close("all")


@pytest.mark.parametrize("path", QUICK_NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path, site, monkeypatch):
    monkeypatch.delenv("PGVISION_MODEL")  # the default model, as for users
    _run_cells(path)


@pytest.mark.slow
@pytest.mark.parametrize("path", LONG_NOTEBOOKS, ids=lambda path: path.name)
def test_long_notebook_runs(path, site, monkeypatch):
    monkeypatch.delenv("PGVISION_MODEL")
    _run_cells(path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_needs_the_wheel_only(path):
    sources = ["".join(cell["source"]) for cell in _code_cells(path)]
    assert not [text for text in sources if re.search(r"^\s*(from|import) recipes", text, re.M)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_keeps_its_outputs(path):
    """A reader who runs nothing sees outputs: every cell was run, in order, without an error."""
    assert path.stat().st_size < 500_000
    cells = _code_cells(path)
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    assert all(output["output_type"] != "error" for output in outputs)
    assert all(output.get("name") != "stderr" for output in outputs), "no warnings"


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_inside_the_repository_lead_somewhere(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_the_pages_are_built_and_their_links_lead_somewhere(tmp_path):
    """Three seconds: mkdocs reads every public docstring."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "tasks" / "index.html").read_text(encoding="utf-8")
    assert 'id="pgvision.tasks.detect.Detector.stream"' in page
    assert page.count("&gt;&gt;&gt;") > 5, "examples are shown as code"
