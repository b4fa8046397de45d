"""Conformance test of a served engine: does it run PaliGemma as trained? Uses a bundled model.

A port's faults raise nothing: boxes come out a little wrong, or none at all. So the answers of the
bundled checkpoint are recorded (``conformance.json``), correct ones and those of each known fault;
an engine that serves it gets the same requests, and its answers identify the fault.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

from pgvision import samples
from pgvision.boxes import box_iou
from pgvision.cli.console import Finding
from pgvision.errors import PgvisionError
from pgvision.runtime import Generation, Picture, Remote, Request
from pgvision.runtime.checkpoints import TINY_FOLDER
from pgvision.tokens import parse_suffix

ANSWERS: Final = Path(__file__).with_name("conformance.json")
SAMPLES: Final = ("site-04", "site-05", "site-06")
IMAGE_HW: Final = (240, 400)
PROMPTS: Final = (
    "detect helmet",
    "detect worker",
    "detect vest",
    "answer en how many workers wear a helmet?",
    "answer en what color is the vest?",
    "ocr",
    "caption en",
)
MAX_NEW_TOKENS: Final = 60
RIGHT: Final = "none"
_SAME: Final = 0.98
"""From here on answers agree: half-precision weights move an edge by a bin or two."""
_LIKE: Final = 0.9
_FIXES: Final = {
    "image-only mask": "the prompt must see all of itself and the picture must see the prompt: "
    "bidirectional over picture and prompt, causal over the answer alone",
    "causal mask": "bidirectional over picture and prompt, causal over the answer alone",
    "BGR": "the vision tower reads RGB; swap the channels",
    "letterbox": "squeeze the picture to the square, without keeping its proportions or padding",
    "double newline": "the prompt ends with one newline; a chat template may add a second",
    "no newline": "put one newline after the prompt, as a separate token",
    "missing bos": "put <bos> between the image tokens and the prompt",
    "dropped loc tokens": "keep <locNNNN> in the text: no skipping of special tokens, and the "
    "checkpoint's own tokenizer",
    "half-precision output": "compute the output layer in float32: in bfloat16 bins tie, and the "
    "lowest wins, so that boxes move to the left and up",
}


def requests() -> list[Request]:
    """Return what is asked: each prompt about each picture."""
    asked = product((Picture(samples.load(name)) for name in SAMPLES), PROMPTS)
    return [
        Request(picture=picture, prefix=prompt, max_new_tokens=MAX_NEW_TOKENS)
        for picture, prompt in asked
    ]


def check_engine(address: str) -> Iterator[tuple[str, Finding]]:
    """Ask a served engine and judge it.

    Args:
        address: See `pgvision.runtime.Remote`.

    Yields:
        Whether it can be reached, computes correctly, and returns probabilities.
    """
    # 1. Ask everything.
    try:
        engine = Remote(address)
        about = f"{engine.card.about}; asked as the checkpoint {TINY_FOLDER}"
        yield "engine", Finding("ok", about)
        found = dict(engine.generate(requests(), batch_size=4))
    except PgvisionError as error:
        yield "engine", Finding("fail", str(error), f"serve the folder {TINY_FOLDER} there")
        return
    # 2. Judge tokens, answers and probabilities.
    answers = [found[number] for number in range(len(found))]
    yield "location tokens", _check_tokens(answers)
    yield "answers", _check_answers([answer.text for answer in answers])
    given = Finding("ok", "given: objects have scores")
    if all(answer.logprobs is None for answer in answers):
        fix = "let it answer logprobs and top_logprobs=20"
        given = Finding("note", "not given, or not fitting the text: scores are None", fix)
    yield "log-probabilities", given


def _check_answers(texts: Sequence[str]) -> Finding:
    """Compare answers with those of each fault; a failure names the likeliest."""
    # 1. Find the recorded answers that these are most like.
    known: dict[str, list[str]] = json.loads(ANSWERS.read_text(encoding="utf-8"))["answers"]
    likeness = {fault: _likeness(texts, expected) for fault, expected in known.items()}
    fault = max(likeness, key=lambda name: (likeness[name], name == RIGHT))
    like = f"{likeness[RIGHT]:.0%} like the checkpoint's own"
    # 2. Report it.
    if likeness[fault] < _LIKE:
        found = f"{like}; nearest: {fault} ({likeness[fault]:.0%}), which explains it not"
        return Finding("fail", found, f"serve the folder {TINY_FOLDER}, and nothing else")
    if fault != RIGHT:
        found = f"{fault}: {likeness[fault]:.0%} like that fault's answers, {like}"
        status: Any = "note" if fault == "half-precision output" else "fail"
        return Finding(status, found, _FIXES[fault])
    if likeness[RIGHT] >= _SAME:
        return Finding("ok", like)
    fix = "the weights may be in half precision or quantised; serve float32 to be sure"
    return Finding("note", like, fix)


def _check_tokens(answers: Sequence[Generation]) -> Finding:
    """Look whether a location is one token."""
    if not any("<loc" in answer.text for answer in answers):
        return Finding("note", "no answer has one")
    written = [answer for answer in answers if answer.logprobs is not None]
    for answer in written:
        # Each location in the text needs a distribution, which only whole tokens have.
        if answer.loc_probs is None or len(answer.loc_probs) != answer.text.count("<loc"):
            fix = "use the checkpoint's tokenizer: <loc0000> to <loc1023> are single tokens"
            parts = " ".join(repr(piece) for piece in answer.pieces[:6])
            return Finding("fail", f"split: {parts} ...", fix)
    return Finding("ok", "one token each" if written else "in the text; no tokens are sent")


def _likeness(texts: Sequence[str], expected: Sequence[str]) -> float:
    return float(np.mean([_alike(*pair) for pair in zip(texts, expected, strict=True)]))


def _alike(one: str, other: str) -> float:
    """1 for the same; objects by how well their boxes agree, in order."""
    if one.strip() == other.strip():
        return 1.0
    a, b = (parse_suffix(text, image_hw=IMAGE_HW).objects for text in (one, other))
    # Boxes in the order of the answers, as far as their labels agree.
    pairs = [(x.xyxy, y.xyxy) for x, y in zip(a, b, strict=False) if x.label == y.label]
    if not pairs:
        return 0.0
    mine, others = np.array(pairs, np.float32).swapaxes(0, 1)
    return float(np.diag(box_iou(mine, others)).sum()) / max(len(a), len(b))
