import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgvision.tokens import match_label

MATCHING = [
    ("helmets", "helmet"),
    ("helmet", "helmets"),
    ("Helmet", "helmet"),
    ("HARD  HAT", "hard hat"),
    ("hard-hat", "hard hat"),
    ("hard_hats", "Hard Hat"),
    ("boxes", "box"),
    ("buses", "bus"),
    ("people", "person"),
    ("men", "man"),
    ("workmen", "workman"),
    ("women", "woman"),
    ("children", "child"),
    ("knives", "knife"),
    ("shelves", "shelf"),
    ("ladies", "lady"),
    ("horses", "horse"),
    ("mice", "mouse"),
    ("glasses", "glass"),
    ("people with helmets", "person with helmet"),
    ("cat.", "cat"),
    ("ｃａｔ", "cat"),
    ("Straße", "STRASSE"),
    ("cafe\u0301", "caf\u00e9"),
]


@pytest.mark.parametrize(("label", "name"), MATCHING)
def test_labels_that_mean_the_class(label: str, name: str) -> None:
    assert match_label(label, ["other", name]) == 1


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("cat", "car"),
        ("man", "woman"),
        ("helmet head", "helmet"),
        ("...", "..,"),
        ("as", "a"),
        ("猫", "犬"),
    ],
)
def test_labels_that_do_not(label: str, name: str) -> None:
    assert match_label(label, [name]) == -1


def test_the_nearer_match_wins_and_then_the_first() -> None:
    assert match_label("glasses", ["glass", "glasses"]) == 1
    assert match_label("Glasses", ["glass", "glasses"]) == 1
    assert match_label("CAT", ["Cat", "cat"]) == 0
    assert match_label("cat", ["Cat", "cat"]) == 1


def test_no_label() -> None:
    assert match_label(None, ["cat"]) == 0
    assert match_label(None, ["cat", "dog"]) == match_label(None, []) == -1


@given(classes=st.lists(st.text(min_size=1), min_size=1, unique=True), data=st.data())
def test_the_same_text_always_matches_itself(classes: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(classes) - 1))
    assert match_label(classes[at], classes) == at


@given(label=st.text(), classes=st.lists(st.text()))
def test_any_text_gives_an_index_or_minus_one(label: str, classes: list[str]) -> None:
    assert -1 <= match_label(label, classes) < len(classes)
