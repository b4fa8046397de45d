import pytest

from pgvision.errors import OptionError, PromptError
from pgvision.tokens import (
    KINDS,
    LANGUAGES,
    AnswerForm,
    answer_prefix,
    caption_prefix,
    classes_per_prompt,
    detect_prefix,
    free_prefix,
    ocr_prefix,
    require_classes,
    require_phrase,
    segment_prefix,
)

TASK_WORDS = ("pt", "mix", "ft", "tiny")
BAD_PHRASES = [
    "",
    "   ",
    "helmet\n",
    "a\r\nb",
    "a\u2028b",
    "a\x00b",
    "a\tb",
    "\ud800",
    "helmet ; head",
    "; head",
    "a;b",
    "helmet ;",
    "<loc0001> x",
    "x <SEG001>",
    "<image>",
    "<eos>",
]


@pytest.mark.parametrize("phrase", BAD_PHRASES)
def test_bad_phrases_are_refused_and_quoted(phrase: str) -> None:
    with pytest.raises(PromptError, match="phrase: expected"):
        require_phrase(phrase)
    with pytest.raises(PromptError, match=r"classes\[1\]"):
        detect_prefix(["cat", phrase], kind="mix")


@pytest.mark.parametrize("phrase", ["driver's helmet", "安全帽", "3 < 4", "A/C (left)", "👷"])
def test_phrases_of_any_script_pass_unchanged(phrase: str) -> None:
    assert require_phrase(f" {phrase} ") == phrase


@pytest.mark.parametrize("phrase", [None, 3, b"cat", ["cat"]])
def test_what_is_not_text_is_refused(phrase: object) -> None:
    with pytest.raises(PromptError, match="expected text"):
        require_phrase(phrase)  # type: ignore[arg-type]


def test_classes() -> None:
    assert require_classes("helmet") == ("helmet",)
    assert require_classes(name for name in ("a", "B")) == ("a", "B")
    for classes in ([], (), 3, None, ["a", "b", "a"]):
        with pytest.raises(PromptError, match="classes: expected"):
            require_classes(classes)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="got 'b' twice"):
        require_classes(["a", "b", "b"])


@pytest.mark.parametrize("kind", TASK_WORDS)
def test_detect_is_the_same_for_all_kinds(kind: str) -> None:
    assert detect_prefix(["helmet", "hard hat"], kind=kind) == "detect helmet ; hard hat"


def test_three_hundred_classes() -> None:
    names = [f"thing {number}" for number in range(300)]
    assert detect_prefix(names, kind="pt") == "detect " + " ; ".join(names)


def test_segment() -> None:
    assert segment_prefix(["a", "b"], kind="mix") == "segment a ; b"
    assert segment_prefix("cat", kind="ft") == "segment cat"
    # big_vision, configs/proj/paligemma/transfers/refcoco_seg.py: the phrase is the prefix.
    assert segment_prefix("the left man", kind="refcoco-seg") == "the left man"
    with pytest.raises(PromptError, match="one phrase a prompt"):
        segment_prefix(["a", "b"], kind="refcoco-seg")
    with pytest.raises(PromptError, match=r"not taught 'detect'.*knows segment\.$"):
        detect_prefix("cat", kind="refcoco-seg")


def test_captions_by_kind_and_language() -> None:
    assert caption_prefix(kind="tiny") == "caption en"
    assert caption_prefix("fil", "cap", kind="pt") == "cap fil"
    assert caption_prefix("en", "describe", kind="mix") == "describe en"
    with pytest.raises(PromptError, match="not taught 'cap'; pt know it"):
        caption_prefix(style="cap", kind="mix")
    with pytest.raises(PromptError, match="style"):
        caption_prefix(style="poem", kind="mix")
    with pytest.raises(PromptError, match="language: expected one of en for"):
        caption_prefix("de", kind="tiny")


def test_there_are_35_languages() -> None:
    assert len(set(LANGUAGES)) == len(LANGUAGES) == 35
    for language in ("xx", "EN", "", None):
        with pytest.raises(PromptError, match="language"):
            caption_prefix(language, kind="pt")  # type: ignore[arg-type]


def test_answers() -> None:
    assert answer_prefix("how many?", kind="mix") == "answer en how many?"
    assert answer_prefix("wie viele?", language="de", kind="pt") == "answer de wie viele?"
    # big_vision's ai2d.py joins "answer en " + " {question} choose from: " + " \t ".join(...).
    assert answer_prefix("which?", choices=["red", "dark blue"], kind="ft") == (
        "answer en  which? choose from: red \t dark blue"
    )
    for choices in ([], ["red"], "red", 2, iter(["red", "blue"])):
        with pytest.raises(PromptError, match="choices"):
            answer_prefix("which?", choices=choices, kind="mix")
    with pytest.raises(PromptError, match=r"choices\[1\]"):
        answer_prefix("which?", choices=["red", "a\tb"], kind="mix")
    with pytest.raises(PromptError, match="not taught 'multiple choice'"):
        answer_prefix("which?", choices=["red", "blue"], kind="tiny")
    with pytest.raises(PromptError, match="question"):
        answer_prefix("which\none?", kind="mix")


def test_the_others() -> None:
    assert {ocr_prefix(kind) for kind in TASK_WORDS} == {"ocr"}
    assert free_prefix("what is this ; there?") == "what is this ; there?"
    with pytest.raises(PromptError, match="not taught 'free text'"):
        free_prefix("what is this?", kind="tiny")
    assert [classes_per_prompt(kind) for kind in KINDS] == [1, 10, 1, 1, 1]


def test_an_unknown_kind_is_refused() -> None:
    for ask in (classes_per_prompt, ocr_prefix):
        with pytest.raises(
            PromptError, match="kind: expected one of pt, mix, ft, refcoco-seg, tiny"
        ):
            ask("pretrained")


def test_one_object_is_the_least_limit() -> None:
    assert AnswerForm("detect", ("cat",), max_objects=1).max_objects == 1
    with pytest.raises(OptionError, match="max_objects: expected at least 1, got 0"):
        AnswerForm("detect", ("cat",), max_objects=0)
