"""What the carried checkpoint says that it knows, against what it was trained on."""

import pytest

from pgvision.errors import PromptError
from pgvision.runtime.checkpoints import CheckpointCard, find_checkpoint
from pgvision.runtime.knowledge import known_classes, known_question
from recipes.scenes import render_scene
from recipes.scenes.vocabulary import CLASSES

TINY = find_checkpoint("tiny")
OPEN = CheckpointCard("a/b", "a/b", "mix", "google", False, None, "any phrase")


def test_the_carried_card_lists_what_the_rendered_world_teaches() -> None:
    assert set(TINY.classes) == set(CLASSES)
    # Later editions of the renderer ask more than this checkpoint was taught; never less.
    asked = {one.question for seed in range(150) for one in render_scene(seed).questions}
    assert set(TINY.questions) <= asked
    assert all(known_question(question, TINY) == (question, None) for question in TINY.questions)


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (["helmet"], ("helmet",)),
        (["Helmet", "HEADS"], ("helmet", "head")),
        (["helmet, head"], ("helmet", "head")),
        (["helmet,"], ("helmet",)),
        (["helmets", "helmet"], ("helmet",)),
    ],
)
def test_what_means_a_known_class_is_asked_by_its_name(
    asked: list[str], names: tuple[str, ...]
) -> None:
    found, notes = known_classes(asked, TINY)
    assert found == names
    changed = [phrase for phrase in asked if phrase not in CLASSES]
    assert [note.partition(" is asked for")[0] for note in notes] == [repr(c) for c in changed]


@pytest.mark.parametrize(
    ("asked", "hint"),
    [("helmt", "mean helmet"), ("hard hat", "barrel"), ("helmet, hed", "'hed'.*mean head")],
)
def test_what_it_does_not_know_is_refused_with_the_nearest(asked: str, hint: str) -> None:
    with pytest.raises(PromptError, match=hint):
        known_classes(["cone", asked], TINY)


def test_a_checkpoint_without_lists_takes_any_words() -> None:
    assert known_classes(["Hard hat, yellow", "dog"], OPEN) == (("Hard hat, yellow", "dog"), ())
    assert known_question("Why?", OPEN) == ("Why?", None)


@pytest.mark.parametrize(
    ("question", "sent"),
    [
        ("How many workers wear a helmet", "how many workers wear a helmet?"),
        ("  is there a  Truck ? ", "is there a truck?"),
        ("how many cones are there?", "how many cones are there?"),
    ],
)
def test_case_and_marks_of_a_known_question_are_mended(question: str, sent: str) -> None:
    assert known_question(question, TINY) == (sent, None)


@pytest.mark.parametrize(
    "question",
    ["are there any people without helmets?", "does everyone wear a helmet?", "is there a dog?"],
)
def test_another_question_is_sent_as_it_is_with_a_warning(question: str) -> None:
    sent, warning = known_question(question, TINY)
    assert sent == question
    assert warning is not None
    assert sorted(warning.splitlines()[1:]) == sorted(f"  {form}" for form in TINY.questions)


def test_a_card_without_wordings_takes_any_question() -> None:
    """An empty list had ended in a ValueError of difflib's (found by fuzzing)."""
    from dataclasses import replace

    assert known_question("is it?", replace(OPEN, questions=())) == ("is it?", None)


def test_a_card_nested_beyond_reason_is_refused(tmp_path) -> None:
    """It had ended in a RecursionError (found by fuzzing)."""
    from pgvision.errors import CheckpointError

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pgvision.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        find_checkpoint(tmp_path)
