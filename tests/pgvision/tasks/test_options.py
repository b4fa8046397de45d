"""Every option is checked by type and range, with its name, what was expected and what came."""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from scripted import Scripted

from pgvision.errors import OptionError
from pgvision.tasks import Answerer, Captioner, Detector, Reader, Segmenter
from recipes.scenes import render_scene

IMAGE = np.zeros((480, 640, 3), np.uint8)
HELMET = "<loc0256><loc0128><loc0512><loc0384> helmet"
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"conf": "0.3"}, r"conf: expected a number in \[0, 1\] or 'auto', got '0.3' \(str\)"),
    ({"conf": True}, r"conf: .* got True \(bool\)"),
    ({"conf": 2}, "conf: .* got 2"),
    ({"conf": float("nan")}, "conf: .* got nan"),
    ({"nms": "0.5"}, "nms: expected a number"),
    ({"nms": -0.1}, "nms: .* got -0.1"),
    ({"tile": "200"}, r"tile: expected a whole number of at least 32 or 'auto', got '200' \(str\)"),
    ({"tile": 100.5}, "tile: .* got 100.5"),
    ({"tile": 1}, "tile: .* got 1 "),
    ({"tile": 31}, "tile: .* got 31"),
    ({"max_objects": 2.5}, "max_objects: expected a whole number of at least 1, got 2.5"),
    ({"max_objects": 0}, "max_objects: .* got 0"),
    ({"classes_per_prompt": 1.5}, "classes_per_prompt: .* got 1.5"),
    ({"batch_size": "8"}, "batch_size: .* got '8'"),
    ({"batch_size": 2.5}, "batch_size: .* got 2.5"),
    ({"batch_size": -1}, "batch_size: .* got -1"),
    ({"threads": 1.5}, "threads: .* got 1.5"),
    ({"constrained": "no"}, "constrained: expected True or False"),
    ({"engine": "openvino"}, "engine: expected .auto. or .onnx. or .torch."),
    ({"closed_set": "yes"}, "closed_set: expected True or False"),
    ({"drafts": "on"}, "drafts: expected 'off' or 'exact', got 'on'"),
    ({"unknown": "yes"}, "unknown: expected 'refuse' or 'ask'"),
    ({"model": 7}, "model: expected text or a Path, got 7"),
    ({"calibrate": 7}, "calibrate: expected text or a Path"),
    ({"generator": "tiny"}, "generator: expected a Generator"),
    ({"iou": 0.5}, "iou: Detector has no such option; it has"),
    ({"con": 0.5}, "did you mean conf=?"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Detector("helmet", **{"generator": Scripted(lambda request: HELMET), **options})


@pytest.mark.parametrize(
    "options",
    [
        {"conf": np.float32(0.3), "tile": np.int64(64), "max_objects": np.uint8(3)},
        {"conf": 0, "nms": 1, "threads": None, "tile": "auto", "model": Path("tiny")},
    ],
)
def test_numbers_of_numpy_and_none_are_taken(options: dict[str, Any]) -> None:
    assert len(Detector("helmet", generator=Scripted(lambda request: HELMET), **options)(IMAGE))


def test_numbers_of_numpy_reach_the_engine() -> None:
    """They had passed the check of the task, and were refused by the engine at the first image."""
    options = {"batch_size": np.int64(2), "threads": np.int64(1), "model": "tiny"}
    assert len(Detector("helmet", **options).predict([IMAGE])) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda **o: Answerer(free_text="no", **o), "free_text: expected True or False"),
        (lambda **o: Captioner(conf=0.3, **o), "conf: Captioner has no such option"),
        (lambda **o: Reader(batch_size=True, **o), "batch_size: .* got True"),
        (lambda **o: Reader(**o)(IMAGE, conf=0.3), "conf: a Reader returns no objects"),
        (lambda **o: Detector("a", **o)(IMAGE, color="gray"), "color: expected 'bgr' or 'rgb'"),
        (lambda **o: Detector("a", **o).predict([IMAGE], conf="x"), "conf: expected a number"),
        (lambda **o: Detector("a", **o).stream([IMAGE], stride=0), "stride: .* got 0"),
        (lambda **o: Detector("a", **o).stream([IMAGE], iou=0.5), "iou: Detector has no such"),
        (lambda **o: Detector("a", **o)(IMAGE, stride=2), "stride: Detector of one image has no"),
        (lambda **o: Segmenter("a", closed_set=True, **o), "closed_set: .* use Detector"),
    ],
)
def test_wrong_options_of_the_other_tasks_and_of_calls(make: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make(generator=Scripted(lambda request: HELMET))


def test_too_many_tiles_are_refused_with_their_number() -> None:
    detector = Detector("helmet", generator=Scripted(lambda request: HELMET), tile=32)
    with pytest.raises(OptionError, match="tile: 32 pixels would cut 640x480 into 475 tiles"):
        detector(IMAGE)


def test_the_classes_phrase_must_be_text() -> None:
    for classes in (7, [7], None, [], ""):
        with pytest.raises((OptionError, ValueError)):
            Detector(classes, generator=Scripted(lambda request: HELMET))


# Made in the test: another test may unload what was loaded at collection.
@pytest.mark.parametrize(
    "make",
    [
        lambda: Detector(["hard hat", "head"], model="tiny", conf=0.4),
        lambda: Segmenter("helmet", model="tiny"),
        lambda: Captioner(model="tiny"),
        lambda: Reader(model="tiny"),
    ],
    ids=["Detector", "Segmenter", "Captioner", "Reader"],
)
def test_a_task_can_be_pickled(make: Callable[[], Any]) -> None:
    task = make()
    again = pickle.loads(pickle.dumps(task))
    assert repr(again) == repr(task)
    assert again.generator is task.generator  # loaded once per process
    image = render_scene(20_000_000).image
    assert again(image).raw_text == task(image).raw_text


def test_an_answerer_can_be_pickled() -> None:
    task = Answerer(model="tiny")
    image = render_scene(20_000_000).image
    again = pickle.loads(pickle.dumps(task))(image, "is there a truck?")
    assert again.text == task(image, "is there a truck?").text


def test_a_question_can_be_pickled() -> None:
    """It had been pickled as a `Predictor`, which could not be made again."""
    question = Answerer(model="tiny").task("Is there a truck")
    image = render_scene(20_000_000).image
    again = pickle.loads(pickle.dumps(question))(image)
    assert (again.prefix, again.text) == (question(image).prefix, question(image).text)
