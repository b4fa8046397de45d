"""Every Python block of the README runs, in order, in one namespace; so do the notebooks."""

import json
import re
from pathlib import Path

import cv2
import pytest

from pgvision.images import VideoWriter
from pgvision.scenes import render_scene

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


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


def test_readme_blocks_run(site):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = BLOCK.findall(text)
    assert blocks
    namespace = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path, site):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    namespace = {"__name__": "notebook"}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), path.name, "exec"), namespace)


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_inside_the_repository_lead_somewhere(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (ROOT / target).exists(), target
