"""The question that the project began with, on the carried checkpoint, from picture to answers.

Does the man wear a helmet, which colour has it, where is it, and what does the sign say? The
truth is the renderer's, of a seed that training never saw.
"""

import numpy as np
import supervision as sv

from pgvision import Answerer, Detector, Reader
from recipes.scenes import render_scene

SEED = 30_000_013


def test_the_seed_example() -> None:
    scene = render_scene(SEED)
    (worker,) = (item for item in scene.objects if item.label == "worker")
    (helmet,) = (item for item in scene.objects if item.label == "helmet")
    assert worker.wears_helmet
    assert scene.reading

    answerer = Answerer()
    wears = answerer(scene.image, "does the worker wear a helmet?")
    colour = answerer(scene.image, "what color is the helmet?")
    assert (wears.text, colour.text) == ("yes", helmet.colour)
    assert wears.score is not None
    assert wears.score > 0.5

    found = Detector("helmet")(scene.image)
    assert found.labels == ("helmet",)
    assert sv.box_iou_batch(found.xyxy, helmet.xyxy[None]).min() > 0.5
    assert np.all((found.scores > 0) & (found.scores <= 1))

    assert Reader()(scene.image).text == scene.reading
