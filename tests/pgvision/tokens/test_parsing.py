import dataclasses
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgvision.errors import OptionError, PromptError, ShapeError
from pgvision.tokens import ParsedSuffix, object_text, parse_suffix

HW = (480, 640)
BOX = "<loc0100><loc0200><loc0300><loc0400>"
GAP = re.compile(r"(?:[\s;]|<(?:eos|pad|bos)>)*")

# Pieces from which broken answers are made: the tokens, their ruins, and what stands around them.
number = st.one_of(st.integers(0, 1300), st.sampled_from([1023, 1024, 99999, 10**50]))
fragments = st.one_of(
    number.map(lambda n: f"<loc{n:04d}>"),
    number.map(lambda n: f"<seg{n % 200:03d}>"),
    st.just(BOX),
    st.just("".join(f"<seg{n:03d}>" for n in range(16))),
    st.sampled_from([" ; ", ";", " ", "\n", "<eos>", "<pad>", "<loc", "<seg01", "<", ">", "a;b"]),
    st.sampled_from(["cat", " driver's helmet", "<image>", "\u0663", "\u2028", "\x1c", "\r"]),
    st.text(max_size=5),
)
answers = st.lists(fragments, max_size=40).map("".join)


def spans(parsed: ParsedSuffix) -> list[tuple[int, int]]:
    return sorted((one.start, one.end) for one in (*parsed.objects, *parsed.rejects))


@given(text=st.one_of(answers, st.text()))
@example(text=BOX + "<loc")
@example(text=BOX + " cat;\u00a0x")
@example(text="<loc" + "1" * 5000 + ">")
def test_nothing_is_lost_and_nothing_raises(text: str) -> None:
    parsed = parse_suffix(text, image_hw=HW, classes=["cat", "dog"])
    at = 0
    for start, end in spans(parsed):
        assert at <= start < end
        assert GAP.fullmatch(text, at, start), text[at:start]
        at = end
    assert GAP.fullmatch(text, at), text[at:]


@given(text=answers)
def test_fragments_and_boxes_are_what_the_text_says(text: str) -> None:
    parsed = parse_suffix(text, image_hw=HW)
    for reject in parsed.rejects:
        assert reject.text == text[reject.start : reject.end] != ""
        assert reject.reason
    for one in parsed.objects:
        source = text[one.start : one.end]
        assert [int(n) for n in re.findall(r"<loc(\d+)>", source)] == list(one.loc_yxyx)
        assert [int(n) for n in re.findall(r"<seg(\d+)>", source)] == list(one.codes or ())
        label = re.sub(r"<(?:loc|seg)\d+>", "", source).strip()
        assert (one.label or "") == label
        left, top, right, bottom = one.xyxy
        assert 0 <= left < right <= 640
        assert 0 <= top < bottom <= 480


names = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="<;")).filter(bool)
boxes = st.tuples(*[st.integers(0, 511)] * 2, *[st.integers(512, 1023)] * 2)
masks = st.one_of(st.just(()), st.tuples(*[st.integers(0, 127)] * 16))


@given(
    objects=st.lists(st.tuples(boxes, st.none() | names, masks)),
    separator=st.sampled_from([" ; ", "; ", " ;", ";", "\n", " ; ; "]),
)
def test_what_is_written_is_read_back(
    objects: list[tuple[tuple[int, ...], str | None, tuple[int, ...]]], separator: str
) -> None:
    text = separator.join(object_text(box, label, codes) for box, label, codes in objects)
    parsed = parse_suffix(text, image_hw=HW)
    assert not parsed.rejects
    assert [(one.loc_yxyx, one.label, one.codes or ()) for one in parsed.objects] == objects


@pytest.mark.parametrize("count", [1, 15, 17])
def test_a_mask_has_sixteen_codes(count: int) -> None:
    codes = "".join(f"<seg{number:03}>" for number in range(count))
    parsed = parse_suffix(f"{BOX}{codes} cat ; {BOX} dog", image_hw=HW)
    assert [one.label for one in parsed.objects] == ["dog"]
    assert [one.reason for one in parsed.rejects] == ["wrong number of mask tokens"]


def test_pixels_follow_the_convention() -> None:
    text = "<loc0000><loc0256><loc0512><loc1023> cat"
    (one,) = parse_suffix(text, image_hw=(100, 1024)).objects
    assert one.xyxy == (256.0, 0.0, 1023.0, 50.0)
    (other,) = parse_suffix(text, image_hw=(1023, 2046), convention="1023").objects
    assert other.xyxy == (512.0, 0.0, 2046.0, 512.0)


def test_class_ids() -> None:
    text = f"{BOX} dog ; {BOX} Cats ; {BOX} bird ; {BOX}"
    ids = [one.class_id for one in parse_suffix(text, image_hw=HW, classes=["cat", "dog"]).objects]
    assert ids == [1, 0, -1, -1]
    assert {one.class_id for one in parse_suffix(text, image_hw=HW).objects} == {-1}


def test_an_object_without_label_is_of_the_only_class() -> None:
    (one,) = parse_suffix(BOX, image_hw=HW, classes="cat").objects
    assert (one.label, one.class_id) == (None, 0)
    assert parse_suffix(BOX, image_hw=HW, classes=[]).objects[0].class_id == -1


def test_results_cannot_be_changed() -> None:
    parsed = parse_suffix(f"{BOX} cat ; oh", image_hw=HW)
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.objects[0].label = "dog"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.rejects[0].reason = "none"  # type: ignore[misc]


@pytest.mark.parametrize("image_hw", [(0, 640), (480, -1), (480,), 480, None, (480.5, 640), "ab"])
def test_image_size_is_a_contract_even_for_an_empty_answer(image_hw: object) -> None:
    with pytest.raises(ShapeError, match="image_hw"):
        parse_suffix("", image_hw=image_hw)  # type: ignore[arg-type]


def test_other_arguments_are_a_contract() -> None:
    with pytest.raises(OptionError, match="convention"):
        parse_suffix("", image_hw=HW, convention="1000")
    with pytest.raises(PromptError, match="classes"):
        parse_suffix("", image_hw=HW, classes=["cat", 3])  # type: ignore[list-item]
    with pytest.raises(PromptError, match="classes"):
        parse_suffix("", image_hw=HW, classes=3)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="text"):
        parse_suffix(None, image_hw=HW)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "unit", ["<loc0001>", "<loc0001>;", "<seg001>", "<", ";", "<loc", "<loc0001> ", "a;", " ", "1"]
)
def test_time_grows_with_the_length_only(unit: str) -> None:
    # 200,000 characters: a quadratic step would take minutes, a linear one well under a second.
    text = (unit * 200_000)[:200_000]
    start = time.thread_time()
    parse_suffix(text, image_hw=HW)
    assert time.thread_time() - start < 10


def test_boxes_without_labels_survive_a_cut_one() -> None:
    bare = BOX * 20
    for cut, text in ((1, "<loc0001>"), (3, "<loc0001><loc0002><loc0003>"), (1, "<loc00")):
        parsed = parse_suffix(bare + text, image_hw=HW)
        assert len(parsed.objects) == 20, cut
        assert [(one.text, one.reason) for one in parsed.rejects] == [(text, "truncated")]
        assert parsed.truncated
    # In the middle nobody knows which location is too many.
    middle = parse_suffix(f"{BOX}<loc0001> cat ; {BOX} dog", image_hw=HW)
    assert [one.label for one in middle.objects] == ["dog"]
    assert len(middle.rejects) == 1
