"""supervision's PaliGemma parser as an oracle: what it reads, we read alike.

Where it deviates from the format (read in its source, detection/vlm.py, 0.31.2), and what the
strings here therefore leave out:

- its label is ``[\\w\\s\\-]+``: it ends at any of ``' , / . ( &``, so labels here hold word
  characters, spaces and hyphens only (this includes every script's letters and digits);
- ``\\s`` lets its label run over line breaks; a line break ends ours;
- it needs exactly four locs, one space, then a label: objects with masks, without a label or with
  spaces between tokens are dropped in silence; ours has more objects there, so only ours that
  have a label and no mask are compared;
- it does not clip nor check: ``<loc1024>`` and boxes without area come through; both are rejects
  of ours, so numbers here stay in range and corners in order;
- with ``classes`` it drops labels that are not exactly among them; ours keeps them with
  ``class_id`` -1 and matches more loosely, so ids are compared where it gives any;
- it scores nothing (0 or 1): only boxes and labels are compared.
"""

import numpy as np
import supervision as sv
from hypothesis import given
from hypothesis import strategies as st

from pgvision.tokens import object_text, parse_suffix

word = st.text(
    st.characters(categories=["L", "Nd"], include_characters="_-"), min_size=1, max_size=8
)
label = st.lists(word, min_size=1, max_size=3).map(" ".join)
box = st.tuples(*[st.integers(0, 511)] * 2, *[st.integers(512, 1023)] * 2)
labelled = st.builds(object_text, box, label)
ignored = st.one_of(
    st.builds(object_text, box, st.none()),
    st.builds(object_text, box, st.just("cat"), st.tuples(*[st.integers(0, 127)] * 16)),
    st.sampled_from(["<loc0001><loc0002><loc0003> cat", "prose", "", "<loc0001>" * 5 + " cat"]),
)
separator = st.sampled_from([" ; ", ";", "; ", " ;", " ;; "])
size = st.integers(1, 5000)


@st.composite
def answers(draw: st.DrawFn) -> str:
    parts = draw(st.lists(st.one_of(labelled, labelled, ignored), max_size=8))
    ends = [draw(separator) for _ in parts]
    text = "".join(part + end for part, end in zip(parts, ends, strict=True))
    return text + draw(st.sampled_from(["", "<eos>", "<eos><pad>"]))


def read_by_supervision(
    text: str, wh: tuple[int, int], classes: list[str] | None = None
) -> sv.Detections:
    return sv.Detections.from_vlm(
        sv.VLM.PALIGEMMA, text, resolution_wh=wh, **({"classes": classes} if classes else {})
    )


@given(text=answers(), height=size, width=size)
def test_boxes_and_labels_agree(text: str, height: int, width: int) -> None:
    theirs = read_by_supervision(text, (width, height))
    parsed = parse_suffix(text, image_hw=(height, width))
    ours = [one for one in parsed.objects if one.label is not None and one.codes is None]
    assert [one.label for one in ours] == list(theirs.data.get("class_name", []))
    xyxy = np.array([one.xyxy for one in ours]).reshape(-1, 4)
    np.testing.assert_allclose(xyxy, theirs.xyxy, rtol=1e-6, atol=1e-4)


@given(text=answers(), classes=st.lists(label, min_size=1, max_size=4, unique=True))
def test_class_ids_agree_where_supervision_gives_one(text: str, classes: list[str]) -> None:
    first = parse_suffix(text, image_hw=(480, 640)).objects
    # Half of the names asked for are names that were written, so that there is something to match.
    asked = list(dict.fromkeys([one.label for one in first[:2] if one.label] + classes))
    theirs = read_by_supervision(text, (640, 480), asked)
    objects = parse_suffix(text, image_hw=(480, 640), classes=asked).objects
    ours = [one for one in objects if one.label in asked and one.codes is None]
    assert [one.class_id for one in ours] == list(theirs.class_id)
    assert [one.label for one in ours] == list(theirs.data.get("class_name", []))


def test_the_oracle_reads_something() -> None:
    text = (
        "<loc0256><loc0000><loc0768><loc0512> hard-hat ; <loc0000><loc0000><loc0512><loc0512> a b"
    )
    theirs = read_by_supervision(text, (640, 480))
    assert theirs.data["class_name"].tolist() == ["hard-hat", "a b"]
