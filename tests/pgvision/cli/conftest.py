"""Runs of the real command line, in this process, on real files."""

import json
import logging
import signal
from dataclasses import dataclass

import cv2
import pytest

from pgvision.cli.app import main
from pgvision.images import VideoWriter
from recipes.scenes import render_scene, render_video


@pytest.fixture(autouse=True)
def untouched_process():
    """The command line sets up logging and SIGTERM of its process; give them back afterwards."""
    on_end = signal.getsignal(signal.SIGTERM)
    loggers = [logging.getLogger(name) for name in ("pgvision", "vqvae")]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    signal.signal(signal.SIGTERM, on_end)
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@dataclass
class Ran:
    """What a run printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self):
        """The JSON lines on stdout; whatever is no JSON fails here."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(capsys):
    """Run ``pgvision`` with these words."""

    def call(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        return Ran(ended.value.code or 0, printed.out, printed.err)

    return call


@pytest.fixture
def picture(tmp_path):
    """A rendered picture as a file."""
    path = tmp_path / "in" / "site.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), render_scene(20_000_001, image_hw=(240, 320)).image)
    return path


@pytest.fixture
def film(tmp_path):
    """A rendered video of 6 frames at 10 frames per second, without sound."""
    path = tmp_path / "site.mp4"
    with VideoWriter(path, 10.0, (240, 320)) as writer:
        for scene in render_video(20_000_002, num_frames=6, image_hw=(240, 320)):
            writer.write(scene.image)
    return path
