"""Tasks on the command line that ask a served model, by ``--engine`` or as ``--model``."""

import sys
from pathlib import Path

import cv2
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
from served import Answering, Desk, serving_model

from recipes.scenes import render_scene


@pytest.fixture(scope="module")
def address():
    with serving_model(Desk(Answering())) as found:
        yield found


def test_a_served_model_prints_what_the_model_here_prints(run, tmp_path, address):
    picture = tmp_path / "site.png"
    cv2.imwrite(str(picture), render_scene(20_000_000, image_hw=(240, 400)).image)
    words = ["detect", "worker", picture, "--json"]
    there = run(*words, "--engine", address)
    here = run(*words, "--model", "tiny")
    assert (there.code, here.code) == (0, 0), there.err
    (found,), (wanted,) = there.lines, here.lines
    assert found["xyxy"] == wanted["xyxy"] != []
    assert found["labels"] == wanted["labels"]
    asked = run("ask", "how many workers are there?", picture, "--model", address)
    assert asked.out.startswith(str(picture))


def test_nobody_there_is_one_line(run, picture):
    ran = run("detect", "helmet", picture, "--engine", "http://127.0.0.1:9")
    assert ran.code == 1
    assert "is the server running there?" in ran.err
    assert "Traceback" not in ran.err
