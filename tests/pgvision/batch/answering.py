"""Cheap answers that depend on the picture, and jobs that ask for them."""

import sys
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
from scripted import Scripted

from pgvision.batch import Job, Recipe


def make_pictures(folder, count):
    """Small pictures, each of a colour and width of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture = np.full((8, 9 + number % 7, 3), number % 251, np.uint8)
        picture[0, 0] = number // 251
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    return folder


def engine(log=None, seconds=0.0):
    """Answers that say what was seen; each request is written down in ``log``."""

    def answer(request):
        shade, turn = int(request.picture.bgr[-1, -1, 0]), int(request.picture.bgr[0, 0, 0])
        if log is not None:
            with log.open("a") as file:
                file.write(f"{turn * 251 + shade}\n")
        time.sleep(seconds)
        top = 3 * (shade % 100)
        return f"<loc{top:04}><loc0128><loc{top + 300:04}><loc0384> helmet"

    return Scripted(answer)


def make_job(folder, journal, *, log=None, seconds=0.0, task="detect", **keywords):
    """A job over a folder, asked of `engine`."""
    words = {"classes": ["helmet"]} if task == "detect" else {}
    recipe = Recipe(task, {**words, "generator": engine(log, seconds)})
    return Job(recipe, [folder], journal, **keywords)
