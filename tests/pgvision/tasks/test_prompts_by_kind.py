"""Which prompts go to which kind of checkpoint, through the adapters."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from scripted import Scripted

from pgvision.errors import OptionError, PromptError
from pgvision.tasks import Answerer, Captioner, Detector, Reader, Segmenter

IMAGE = np.zeros((480, 640, 3), np.uint8)
NAMES = ["helmet", "head", "vest"]


def echo() -> Scripted:
    return Scripted(lambda request: request.prefix)


@pytest.mark.parametrize(
    ("kind", "override", "prompts"),
    [
        ("pt", None, ["detect helmet", "detect head", "detect vest"]),
        ("tiny", None, ["detect helmet", "detect head", "detect vest"]),
        ("mix", None, ["detect helmet ; head ; vest"]),
        ("mix", 1, ["detect helmet", "detect head", "detect vest"]),
        ("pt", 2, ["detect helmet ; head", "detect vest"]),
        ("pt", 99, ["detect helmet ; head ; vest"]),
    ],
)
def test_classes_are_shared_out_by_kind_unless_said(
    kind: str, override: int | None, prompts: list[str]
) -> None:
    engine = Scripted(lambda request: "")
    Detector(NAMES, generator=engine, kind=kind, classes_per_prompt=override)(IMAGE)
    assert [prompt for batch in engine.batches for prompt in batch] == prompts


def test_segmentation_prompts() -> None:
    engine = Scripted(lambda request: "")
    Segmenter(["helmet"], generator=engine, kind="pt")(IMAGE)
    Segmenter(["the left man"], generator=engine, kind="refcoco-seg")(IMAGE)
    Segmenter(["cat"], generator=engine, kind="ft")(IMAGE)
    assert engine.batches == [["segment helmet"], ["the left man"], ["segment cat"]]


@pytest.mark.parametrize("kind", ["pt", "mix", "ft"])
def test_multiple_choice_where_it_is_known(kind: str) -> None:
    answer = Answerer(generator=echo(), kind=kind)(IMAGE, "which colour?", choices=["red", "blue"])
    assert answer.raw_text == "answer en  which colour? choose from: red \t blue"
    assert answer.prefix == answer.raw_text


def test_multiple_choice_is_refused_where_it_is_not_known() -> None:
    with pytest.raises(PromptError, match="multiple choice"):
        Answerer(generator=echo(), kind="tiny")(IMAGE, "which?", choices=["red", "blue"])
    with pytest.raises(PromptError, match="choices"):
        Answerer(generator=echo(), kind="mix")(IMAGE, "which?", choices=["red"])


@pytest.mark.parametrize("kind", ["mix", "ft"])
def test_free_text_is_sent_as_it_is(kind: str) -> None:
    answerer = Answerer(generator=echo(), kind=kind, free_text=True)
    assert answerer(IMAGE, "Describe the left man.").text == "Describe the left man."
    assert [r.text for r in answerer.predict([IMAGE], "read it")] == ["read it"]
    assert answerer(IMAGE, "read it").language is None, "of free text it is unknown"
    assert Answerer(generator=echo(), kind=kind, language="de")(IMAGE, "was?").language == "de"


@pytest.mark.parametrize("kind", ["pt", "tiny"])
def test_free_text_is_refused_where_a_task_word_is_needed(kind: str) -> None:
    with pytest.raises(PromptError, match="free text"):
        Answerer(generator=echo(), kind=kind, free_text=True)(IMAGE, "Describe the left man.")


def test_free_text_and_choices_do_not_go_together() -> None:
    with pytest.raises(OptionError, match="choices"):
        Answerer(generator=echo(), free_text=True)(IMAGE, "which?", choices=["red", "blue"])


@pytest.mark.parametrize(
    ("kind", "style", "language", "prompt"),
    [
        ("mix", "caption", "de", "caption de"),
        ("pt", "cap", "en", "cap en"),
        ("mix", "describe", "zh", "describe zh"),
        ("tiny", "caption", "en", "caption en"),
    ],
)
def test_styles_and_languages(kind: str, style: str, language: str, prompt: str) -> None:
    result = Captioner(language, style=style, generator=echo(), kind=kind)(IMAGE)
    assert result.prefix == prompt
    assert result.language == language


@pytest.mark.parametrize(
    ("kind", "style", "language"),
    [("mix", "cap", "en"), ("tiny", "caption", "de"), ("mix", "caption", "xx"), ("pt", "no", "en")],
)
def test_styles_and_languages_that_are_not_known(kind: str, style: str, language: str) -> None:
    with pytest.raises(PromptError):
        Captioner(language, style=style, generator=echo(), kind=kind)


def test_answers_in_another_language() -> None:
    assert Answerer("fr", generator=echo())(IMAGE, "combien?").prefix == "answer fr combien?"
    with pytest.raises(PromptError, match="language"):
        Answerer("xx", generator=echo())(IMAGE, "how many?")


def test_an_unknown_kind_is_refused() -> None:
    for make in (
        lambda: Captioner(generator=echo(), kind="large"),
        lambda: Reader(generator=echo(), kind="large")(IMAGE),
        lambda: Detector("helmet", generator=echo(), kind="large")(IMAGE),
    ):
        with pytest.raises(PromptError, match="kind"):
            make()
