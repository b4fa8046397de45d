"""Names and questions: mapped to those of the checkpoint's card, or refused, for every caller."""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from scripted import CARD, Scripted

from pgvision.errors import PromptError, UnknownNameError
from pgvision.runtime.checkpoints import CheckpointCard, find_checkpoint
from pgvision.tasks import Answerer, Captioner, Detector, Segmenter
from pgvision.tasks.trained_on import known_classes, known_question
from recipes.scenes import render_scene
from recipes.scenes.vocabulary import CLASSES

TINY = find_checkpoint("tiny")
OPEN = CheckpointCard("a/b", "a/b", "mix", "google", False, None, "any phrase")
TAUGHT = replace(
    CARD,
    classes=("helmet", "head", "person"),
    synonyms={"helmet": ("hard hat",), "person": ("man",)},
    questions=("how many heads?", "is anyone there?", "which color is it?", "is it day?"),
)
IMAGE = np.zeros((480, 640, 3), np.uint8)
BOX = "<loc0256><loc0128><loc0512><loc0384>"


def engine(card: CheckpointCard = TAUGHT) -> Scripted:
    """Find one object of each class asked for."""

    def answer(request: object) -> str:
        task, _, names = request.prefix.partition(" ")
        if task not in ("detect", "segment"):
            return request.prefix
        codes = "<seg001>" * 16 if task == "segment" else ""
        return " ; ".join(f"{BOX}{codes} {name}" for name in names.split(" ; "))

    return Scripted(answer, card=card)


def test_the_bundled_card_lists_what_the_rendered_scenes_contain() -> None:
    assert set(TINY.classes) == set(CLASSES)
    # Later editions of the renderer ask more than this checkpoint was trained on; never less.
    asked = {one.question for seed in range(150) for one in render_scene(seed).questions}
    assert set(TINY.questions) <= asked
    assert all(known_question(question, TINY) == question for question in TINY.questions)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (["helmet"], ["helmet"]),
        (["Helmet", "HEADS"], ["helmet", "head"]),
        (["Hard-hats", "people"], ["helmet", "person"]),
        (["men", "helmets"], ["person", "helmet"]),
    ],
)
@pytest.mark.parametrize("task", [Detector, Segmenter])
def test_a_name_is_sent_as_trained_and_returned_as_given(
    task: type[Detector | Segmenter],
    asked: list[str],
    sent: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pgvision.tasks")
    model = engine()
    found = task(asked, generator=model)
    result = found(IMAGE)
    assert model.requests[0].prefix.partition(" ")[2] == " ; ".join(sent)
    assert result.classes == result.labels == found.classes == tuple(asked)
    assert result.texts == tuple(sent)
    assert result.class_ids.tolist() == list(range(len(asked)))
    changed = [name for name, other in zip(asked, sent, strict=True) if name != other]
    assert [note.partition(" is asked for")[0] for note in found.notes] == list(map(repr, changed))
    assert set(found.notes) <= set(caplog.messages)


def test_presence_and_thresholds_have_the_users_names() -> None:
    card = replace(TAUGHT, thresholds={"helmet": 0.99}, kind="pt")
    both = Detector(["hard hat", "man"], generator=engine(card))
    assert both(IMAGE).labels == ("man",)
    result = Detector("hard hat", model="tiny", conf=0)(render_scene(20_000_000).image)
    assert list(result.presence) == ["hard hat"]
    assert set(result.labels) == {"hard hat"} and set(result.texts) == {"helmet"}


def test_an_object_of_just_the_threshold_is_kept() -> None:
    """Scores are compared as results have them, in float32; half of them are rounded up."""
    num_found = 0
    for seed in range(6):
        image = render_scene(20_000_000 + seed).image
        scores = Detector(["helmet", "head"], model="tiny", conf=0)(image).scores
        num_found += len(scores)
        for score in scores:
            kept = Detector(["helmet", "head"], model="tiny", conf=float(score))(image)
            assert len(kept) == (scores >= score).sum()
    assert num_found >= 12


def test_an_object_of_just_the_cards_threshold_is_kept() -> None:
    image = render_scene(20_000_000).image
    scores = Detector("helmet", model="tiny", conf=0)(image).scores
    for more, num_left in ((0.0, 1), (1e-6, 0)):
        card = replace(TINY, thresholds={"helmet": float(scores.max()) + more})
        task = Detector("helmet", model="tiny")
        task._task = replace(task._task, card=card)
        assert len(task(image)) == num_left


def test_a_comma_between_known_names_separates_them() -> None:
    assert [name.given for name in known_classes(["helmet, man"], TAUGHT)] == ["helmet", "man"]
    assert known_classes(["helmet,"], TAUGHT)[0].trained == "helmet"


@pytest.mark.parametrize("task", [Detector, Segmenter])
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("helmt", "class 'helmt'; the nearest are 'helmet', "),
        ("purple giraffe", "not trained on the class 'purple giraffe'; the nearest are "),
        ("helmet, hed", "'hed'; the nearest are 'head', "),
    ],
)
def test_an_unknown_class_is_refused_with_three_names(
    task: type[Detector | Segmenter], asked: str, message: str
) -> None:
    model = engine()
    with pytest.raises(UnknownNameError, match=message) as caught:
        task(["person", asked], generator=model)
    assert sum(str(caught.value).count(repr(name)) for name in TAUGHT.classes) == 3
    assert 'unknown="ask"' in str(caught.value)
    insisting = task(["person", asked], generator=model, unknown="ask")
    insisting.plan  # noqa: B018  (made without an error)
    assert insisting.classes == ("person", asked)


def test_an_unknown_class_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")  # loading this would be another error
    (tmp_path / "pgvision.json").write_text('{"classes": ["helmet"]}')
    with pytest.raises(UnknownNameError, match="'dog'; the nearest are 'helmet': ask"):
        Detector("dog", model=tmp_path)


def test_two_names_of_one_class_are_refused() -> None:
    with pytest.raises(PromptError, match="'helmet' and 'hard hat' both mean 'helmet'"):
        known_classes(["helmet", "hard hat"], TAUGHT)


@pytest.mark.parametrize(
    ("question", "sent"),
    [
        ("How many heads", "how many heads?"),
        ("  is  anybody There ? ", "is anyone there?"),
        ("Which colour is it?", "which color is it?"),
    ],
)
def test_a_question_is_sent_in_its_trained_wording(question: str, sent: str) -> None:
    assert Answerer(generator=engine())(IMAGE, question).text == f"answer en {sent}"


@pytest.mark.parametrize("question", [None, 7, b"is there a truck?", ["is there a truck?"]])
def test_a_question_is_text(question: object) -> None:
    with pytest.raises(PromptError, match="question: expected text"):
        known_question(question, find_checkpoint("tiny"))


@pytest.mark.parametrize("choices", [None, ["yes", "no"]])
def test_an_unknown_question_is_refused_with_three_wordings(choices: list[str] | None) -> None:
    ask = Answerer(generator=engine())
    with pytest.raises(
        UnknownNameError, match=r"question 'is it night\?'; the nearest are"
    ) as caught:
        ask(IMAGE, "is it night?", choices=choices)
    assert sum(form in str(caught.value) for form in TAUGHT.questions) == 3
    assert "'is it day?'" in str(caught.value)
    insisting = Answerer(generator=engine(), unknown="ask")
    assert insisting(IMAGE, "is it night?").text == "answer en is it night?"


def test_a_checkpoint_without_lists_takes_any_words() -> None:
    assert [name.trained for name in known_classes(["Hats, red", "dog"], OPEN)] == [
        "Hats, red",
        "dog",
    ]
    assert known_question("Why?", OPEN) == "Why?"
    assert known_question("is it?", replace(OPEN, questions=())) == "is it?"


@pytest.mark.parametrize("task", [Captioner, Answerer])
def test_a_language_is_refused_before_weights_are_read(
    task: type[Captioner | Answerer], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")  # loading this would be another error
    with pytest.raises(PromptError, match="language: expected one of ar, "):
        task("xx", model=tmp_path)
