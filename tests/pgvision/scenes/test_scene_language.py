"""Captions, questions and readings agree with the objects they are about."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgvision.scenes import CLASSES, caption_counts, render_scene
from pgvision.scenes.language import EMPTY_CAPTION

SCENES = [render_scene(seed, image_hw=(120, 160)) for seed in range(910_000, 910_120)]


def test_captions_name_exactly_the_objects():
    for scene in SCENES:
        assert caption_counts(scene.caption) == dict(Counter(o.label for o in scene.objects))


def test_captions_are_one_short_lower_case_line():
    for scene in SCENES:
        assert re.fullmatch(r"[a-z ,]+", scene.caption)
        assert len(scene.caption.split()) <= 32


def _answer(question: str, objects: list) -> str:
    """Answer a question from the objects, by a second reading of what it means."""
    workers = [o for o in objects if o.label == "worker"]
    named = {label: [o for o in objects if o.label == label] for label in CLASSES}
    if question == "how many workers wear a helmet?":
        return str(len([w for w in workers if w.wears_helmet]))
    if question == "how many workers wear no helmet?":
        return str(len([w for w in workers if w.wears_helmet is False]))
    if found := re.fullmatch(r"how many (\w+)s are there\?", question):
        return str(len(named[found[1]]))
    if found := re.fullmatch(r"is there a (\w+)\?", question):
        return "yes" if named[found[1]] else "no"
    if found := re.fullmatch(r"does the worker wear a (helmet|vest)\?", question):
        (worker,) = workers
        worn = {o.label for o in objects if o.worn_by == worker.track_id}
        return "yes" if found[1] in worn else "no"
    if found := re.fullmatch(r"what color is the (\w+)\?", question):
        (thing,) = named[found[1]]
        return thing.colour
    if question == "what does the sign say?":
        (sign,) = named["sign"]
        return sign.text.lower()
    pytest.fail(f"a question of no known kind: {question}")


def test_answers_are_true():
    kinds = Counter()
    for scene in SCENES:
        assert len(scene.questions) >= 4
        assert len({item.question for item in scene.questions}) == len(scene.questions)
        for item in scene.questions:
            assert item.answer == _answer(item.question, list(scene.objects))
            assert item.answer == item.answer.lower()
            kinds[item.question.split()[0] + " " + item.question.split()[1]] += 1
    assert {"how many", "is there", "does the", "what color", "what does"} <= set(kinds)


def test_yes_and_no_are_about_as_frequent():
    answers = Counter(item.answer for scene in SCENES for item in scene.questions)
    assert 0.5 < answers["yes"] / answers["no"] < 2.0


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("a truck", {"truck": 1}),
        ("Three cones and a Barrel", {"cone": 3, "barrel": 1}),
        ("one worker with helmet", {"worker": 1, "helmet": 1}),
        ("one worker with a helmet and one worker", {"worker": 2, "helmet": 1}),
        ("twelve workers without helmets", {"worker": 12, "head": 12}),
        ("2 ladders, no trucks", {"ladder": 2}),
        ("two helmets, two workers with helmets", {"helmet": 4, "worker": 2}),
        (EMPTY_CAPTION, {}),
        ("", {}),
        ("a cat sat on a mat", {}),
        ("a conehead by two trucking firms", {}),
    ],
)
def test_captions_are_read_back(text, counts):
    assert caption_counts(text) == counts


@given(st.text(max_size=80))
def test_reading_a_caption_never_fails(text):
    assert set(caption_counts(text)) <= set(CLASSES)
