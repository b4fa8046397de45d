"""A checkpoint that is asked for all of its classes at once: answers of one length, and scores."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pgvision.errors import CheckpointError, OptionError
from pgvision.images import iter_frames
from pgvision.runtime import find_checkpoint, load
from pgvision.tasks import Detector
from pgvision.tasks.run import requests_of
from recipes.scenes import render_scene

CLOSED = {
    "prefix": "detect helmet",
    "classes": ["helmet", "head"],
    "num_objects": 6,
    "noise": "truck",
}
IMAGE = render_scene(20_000_000).image


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The carried checkpoint with a card that says it was trained so."""
    folder = tmp_path_factory.mktemp("checkpoints") / "closed"
    shutil.copytree(find_checkpoint("tiny").location, folder)
    _write(folder, CLOSED)
    return folder


def _write(folder: Path, closed_set: object) -> None:
    path = folder / "pgvision.json"
    card = json.loads(path.read_text(encoding="utf-8")) | {"closed_set": closed_set}
    path.write_text(json.dumps(card), encoding="utf-8")


def test_an_answer_has_its_number_of_boxes_and_the_classes_likelihood(closed: Path) -> None:
    both = Detector(["head", "helmet"], model=closed, nms=1.0)(IMAGE)
    assert len(both) == 6 and both.raw_text.count(" ; ") == 5
    assert both.classes == ("head", "helmet")
    assert (both.scores < 1).all()  # likelihoods, not the certainty of a label that has to come
    best = {name: both.scores[np.array(both.labels) == name].max() for name in set(both.labels)}
    for name, chance in best.items():
        assert both.presence[name] >= chance  # the score also has the mass near the edges
    assert set(both.presence) == {"head", "helmet"}


def test_names_that_were_not_asked_for_are_left_out(closed: Path) -> None:
    both = Detector(["helmet", "head"], model=closed, nms=1.0)(IMAGE)
    one = Detector("helmet", model=closed, nms=1.0)(IMAGE)
    assert one.raw_text == both.raw_text
    kept = [at for at, label in enumerate(both.labels) if label == "helmet"]
    np.testing.assert_array_equal(one.xyxy, both.xyxy[kept])
    np.testing.assert_array_equal(one.scores, both.scores[kept])


def test_a_second_box_for_one_object_goes(closed: Path) -> None:
    everything = Detector("helmet", model=closed, nms=1.0)(IMAGE)
    usual = Detector("helmet", model=closed)(IMAGE)
    assert 0 < len(usual) <= len(everything)


def test_without_probabilities_no_presence_is_known(closed: Path) -> None:
    detector = Detector("helmet", model=closed, conf=0)
    frame = next(iter_frames(IMAGE))
    (ask,) = detector.plan(frame)
    (_, answer), *_ = load(closed).generate(requests_of(frame, [ask]))
    assert detector.read(frame, [(ask, answer)]).presence is not None
    bare = replace(answer, logprobs=None)
    assert detector.read(frame, [(ask, bare)]).presence is None


def test_it_is_used_where_it_can_be(closed: Path) -> None:
    def forms(classes: str, **options: object) -> list[object]:
        detector = Detector(classes, model=closed, **options)
        return [ask.form.decoy for ask in detector.plan(next(iter_frames(IMAGE)))]

    assert forms("helmet") == ["truck"]
    assert forms("helmet", closed_set=False) == [None]
    assert forms("helmet", constrained=False) == [None]
    assert forms("ladder") == [None]
    with pytest.raises(OptionError, match="has no 'ladder'; it has helmet, head"):
        Detector("ladder", model=closed, closed_set=True)
    with pytest.raises(OptionError, match="leave constrained out"):
        Detector("helmet", model=closed, closed_set=True, constrained=False)
    with pytest.raises(OptionError, match="it has none"):
        Detector("helmet", model="tiny", closed_set=True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("all", "expected prefix, classes, num_objects, noise"),
        ({**CLOSED, "num_objects": 0}, "num_objects above 0"),
        ({**CLOSED, "classes": []}, "at least one class"),
        ({**CLOSED, "classes": "helmet"}, "expected a list of texts"),
    ],
)
def test_a_card_that_says_nonsense(tmp_path: Path, content: object, says: str) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "pgvision.json").write_text("{}", encoding="utf-8")
    _write(tmp_path, content)
    with pytest.raises(CheckpointError, match=says):
        find_checkpoint(tmp_path)
