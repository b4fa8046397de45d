"""Captions, questions and readings agree with the objects they are about."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.scenes import CLASSES, caption_counts, render_scene
from recipes.scenes.language import EMPTY_CAPTION, head_count_questions, wearers_caption
from recipes.scenes.wordings import all_words, first_forms, kept_back_forms, trained_forms

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
    if question == "are there any people without helmets?":
        return "yes" if False in [w.wears_helmet for w in workers] else "no"
    if question == "does everyone wear a helmet?":
        worn = [o.worn_by for o in named["helmet"]]
        return "yes" if all(w.track_id in worn for w in workers) else "no"
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


def test_whether_all_wear_helmets_is_asked_only_where_every_head_tells():
    asked = 0
    for scene in SCENES:
        wears = [o.wears_helmet for o in scene.objects if o.label == "worker"]
        told = bool(wears) and (False in wears or None not in wears)
        questions = {item.question for item in scene.questions}
        assert ("does everyone wear a helmet?" in questions) == told
        assert ("are there any people without helmets?" in questions) == told
        asked += told
    assert 20 < asked < len(SCENES)


@given(st.integers(0, 15), st.integers(0, 15))
def test_heads_alone_can_be_asked_about_and_named(worn, bare):
    named = caption_counts(wearers_caption(worn, bare))
    assert (named.get("helmet", 0), named.get("head", 0)) == (worn, bare)
    answers = {item.question: item.answer for item in head_count_questions(worn, bare)}
    assert answers.get("does everyone wear a helmet?", "no") == (
        "yes" if worn and not bare else "no"
    )
    assert answers["how many workers wear no helmet?"] == str(bare)


def test_a_wording_belongs_to_one_question_and_to_one_side():
    questions = {item.question for scene in SCENES for item in scene.questions}
    owner = {}
    for question in sorted(questions):
        forms, held = trained_forms(question), kept_back_forms(question)
        assert forms[0] == question
        assert held, question
        for form in (*forms, *held):
            assert owner.setdefault(form, question) == question
        assert not set(forms) & set(held)
    # What is kept back is said in words that training uses.
    told = {word for item in questions for form in trained_forms(item) for word in form.split()}
    held = {word for item in questions for form in kept_back_forms(item) for word in form.split()}
    assert {word.strip("?") for word in held} <= {word.strip("?") for word in told}
    assert all_words() <= {word.strip("?") for word in told | held}


def test_the_list_of_questions_is_what_scenes_ask():
    asked = {item.question for scene in SCENES for item in scene.questions}
    assert asked == set(first_forms())
    assert len(first_forms()) == len(set(first_forms()))
