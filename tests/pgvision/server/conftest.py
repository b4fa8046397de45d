"""A service that runs, and what is sent to it."""

import sys
from pathlib import Path

import pytest

from pgvision.runtime import load
from recipes.scenes import render_scene

sys.path.insert(0, str(Path(__file__).parent))
from serving import as_png, running, until_ready


@pytest.fixture(scope="session")
def service():
    """Serve the carried drawings' checkpoint; its address."""
    load("tiny")
    with running() as address:
        until_ready(address)
        yield address


@pytest.fixture(scope="session")
def scene():
    return render_scene(30_000_006)


@pytest.fixture(scope="session")
def png(scene):
    return as_png(scene.image)
