"""The interface between a task and whatever runs the model: prompts out, answers in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from pgvision.images import Frame
from pgvision.runtime import Generation
from pgvision.tokens import AnswerForm

Result_co = TypeVar("Result_co", covariant=True)
Window: TypeAlias = tuple[int, int, int, int]

BETWEEN_ANSWERS = "\n"
"""Joins the answers to several prompts in ``raw_text``."""


@dataclass(frozen=True)
class Ask:
    """One prompt about one part of a frame.

    Attributes:
        prefix: The prompt.
        classes: The names in it, as the model was trained on them; empty where a task has none.
        window: Left, top, right, bottom of the part in whole pixels; None: the whole frame.
        form: The grammar of its answer; None: any text.
        constrained: Whether the answer follows ``form`` while it is written, or is only read by it.
        num_alternatives: How many best answers are wanted.
        max_new_tokens: Where it is cut off; None: the longest answer of the checkpoint's training.
    """

    prefix: str
    classes: tuple[str, ...] = ()
    window: Window | None = None
    form: AnswerForm | None = None
    constrained: bool = True
    num_alternatives: int = 1
    max_new_tokens: int | None = None


Answered: TypeAlias = tuple[Ask, Generation]


class Task(Protocol[Result_co]):
    """Two functions without a model: any engine may answer between them, in any batches."""

    def plan(self, frame: Frame) -> Sequence[Ask]:
        """Return the prompts about a frame; none where the task refuses the frame."""
        ...

    def read(self, frame: Frame, answers: Sequence[Answered]) -> Result_co:
        """Return the result, from the answers to all prompts of the plan, in its order."""
        ...


def provenance(frame: Frame, answers: Sequence[Answered]) -> dict[str, Any]:
    """Return the fields that every result has, from a frame and its answers."""
    timings: dict[str, float] = {}
    for _, answer in answers:
        for phase, seconds in answer.timings.items():
            timings[phase] = timings.get(phase, 0.0) + seconds
    return {
        "image_hw": frame.image_hw,
        "prefix": BETWEEN_ANSWERS.join(ask.prefix for ask, _ in answers),
        "raw_text": BETWEEN_ANSWERS.join(answer.text for _, answer in answers),
        "truncated": any(not answer.finished for _, answer in answers),
        "timings": timings,
        "source": frame.source,
        "frame_index": frame.index,
        "time": frame.time,
        "image": frame.bgr,
    }
