import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgvision.errors import OptionError
from pgvision.tokens import AnswerForm, check_suffix, object_text, parse_suffix

BOX_TEXT = "<loc0100><loc0200><loc0300><loc0400>"
LINT = [
    (f"{BOX_TEXT} cat<eos>", "detect", "added by the processor"),
    (f"{BOX_TEXT} cat\n", "detect", "start or end"),
    (f" {BOX_TEXT} cat", "detect", "start or end"),
    (f"{BOX_TEXT} a\nb", "detect", "line break"),
    (f"{BOX_TEXT}cat", "detect", "one space"),
    (f"{BOX_TEXT} cat; {BOX_TEXT} dog", "detect", "expected"),
    (f"{BOX_TEXT} cat ;", "detect", "objects"),
    (f"{BOX_TEXT} a;b", "detect", "objects"),
    (BOX_TEXT, "detect", "expected text, got the end"),
    ("<loc0100><loc0200><loc0300> cat", "detect", "expected loc, got text"),
    ("<loc0100><loc0200><loc1024><loc0400> cat", "detect", "<loc1024> is no token"),
    ("<loc0400><loc0200><loc0300><loc0400> cat", "detect", "no area"),
    ("<loc100><loc0200><loc0300><loc0400> cat", "detect", "is no token"),
    (f"{BOX_TEXT} cat", "segment", "expected seg"),
    (f"{BOX_TEXT}{'<seg128>' * 16}", "segment", "<seg128> is no token"),
    (f"{BOX_TEXT} cat", "text", "expected"),
    ("", "text", "empty"),
    ("a cat", "detect", "expected end or loc, got text"),
]


@pytest.mark.parametrize(("text", "task", "problem"), LINT)
def test_targets_that_would_teach_mistakes(text: str, task: str, problem: str) -> None:
    assert any(problem in found for found in check_suffix(text, task)), check_suffix(text, task)


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("", "detect"),
        (f"{BOX_TEXT} driver's helmet ; {BOX_TEXT} a/b", "detect"),
        (object_text([1, 2, 3, 4], None, range(16)), "segment"),
        (object_text([1, 2, 3, 4], "cat", range(16)), "segment"),
        ("a man ; a dog, 3 < 4", "text"),
        (BOX_TEXT, "any"),
    ],
)
def test_targets_without_a_fault(text: str, task: str) -> None:
    assert check_suffix(text, task) == []


@given(
    objects=st.lists(st.tuples(st.booleans(), st.sampled_from(["", "word", "hard hat"]))),
    task=st.sampled_from(["detect", "segment", "any"]),
)
def test_targets_without_a_fault_are_read_back(objects: list[tuple[bool, str]], task: str) -> None:
    texts = [
        object_text(
            [0, 100, 200, 300],
            label or ("word" if task == "detect" else None),
            range(16) if task == "segment" or (has_mask and task == "any") else (),
        )
        for has_mask, label in objects
    ]
    text = " ; ".join(texts)
    assert check_suffix(text, task) == []
    parsed = parse_suffix(text, image_hw=(480, 640))
    assert not parsed.rejects
    assert len(parsed.objects) == len(objects)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(OptionError, match="task: expected one of detect, segment, text, any"):
        check_suffix("", "caption")


def test_one_object_is_the_least_limit():
    assert AnswerForm("detect", ("cat",), max_objects=1).max_objects == 1
    with pytest.raises(OptionError, match="max_objects: expected at least 1, got 0"):
        AnswerForm("detect", ("cat",), max_objects=0)
