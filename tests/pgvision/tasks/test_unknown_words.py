"""Words that a checkpoint was not taught are said, once, whoever asks."""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from scripted import CARD, Scripted

from pgvision.errors import PromptError
from pgvision.runtime import Generator
from pgvision.tasks import Answerer, Captioner, Detector, Segmenter, notices

IMAGE = np.zeros((48, 64, 3), np.uint8)


TAUGHT = replace(CARD, classes=("helmet", "head"), questions=("how many heads?", "is it day?"))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Generator:
    monkeypatch.setattr(notices, "_SAID", set())
    return Scripted(lambda request: request.prefix, card=TAUGHT)


@pytest.mark.parametrize("task", [Detector, Segmenter])
def test_an_unknown_class_is_said_once_with_the_nearest_name(
    task: type[Detector | Segmenter], engine: Generator, caplog: pytest.LogCaptureFixture
) -> None:
    asked = ["helmat", "Heads", "helmet", "dog"]
    assert task(asked, generator=engine).classes == tuple(asked)
    task(asked, generator=engine)
    task(["helmet"], generator=engine)
    (said,) = caplog.records
    assert said.levelno == logging.WARNING
    named = "'helmat' (did you mean helmet or head?), 'Heads' (did you mean head?), 'dog' and"
    assert named in said.getMessage()


def test_a_question_is_asked_as_it_was_taught_and_another_is_said_once(
    engine: Generator, caplog: pytest.LogCaptureFixture
) -> None:
    ask = Answerer(generator=engine)
    assert ask(IMAGE, "How many heads").text == "answer en how many heads?"
    assert not caplog.records
    for _ in range(2):
        assert ask(IMAGE, "is it night?").text == "answer en is it night?"
    (said,) = caplog.records
    assert "do not trust its answer" in said.getMessage()
    assert said.getMessage().splitlines()[1:] == ["  is it day?", "  how many heads?"]


def test_a_data_set_of_unknown_questions_does_not_fill_the_log(
    engine: Generator, caplog: pytest.LogCaptureFixture
) -> None:
    ask = Answerer(generator=engine)
    for number in range(100):
        ask.task(f"question {number}?")
    assert len(caplog.records) == 21
    assert caplog.messages[-1] == "further unknown words are not named"


def test_a_checkpoint_without_lists_is_asked_anything_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = Scripted(lambda request: request.prefix)
    Detector("helmat", generator=engine)
    assert Answerer(generator=engine)(IMAGE, "Why").text == "answer en Why"
    assert not caplog.records


@pytest.mark.parametrize("task", [Captioner, Answerer])
def test_a_language_is_refused_before_weights_are_read(
    task: type[Captioner | Answerer], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")  # loading this would be another error
    with pytest.raises(PromptError, match="language: expected one of ar, "):
        task("xx", model=tmp_path)
