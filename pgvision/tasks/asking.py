"""What a task is: what it asks about a frame, and what it makes of the answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

from pgvision.images import Frame
from pgvision.runtime import Generation
from pgvision.tokens import AnswerForm

Result_co = TypeVar("Result_co", covariant=True)
Window: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True)
class Ask:
    """One prompt about one part of a frame.

    Attributes:
        prefix: The prompt.
        classes: The names that it asks for; empty where a task has none.
        window: Left, top, right, bottom of the part in whole pixels; None: the whole frame.
        form: The grammar of its answer; None: any text.
        constrained: Whether the answer is held to ``form``, or only read by it.
        num_alternatives: How many best answers are wanted.
        max_new_tokens: Where it is cut off; None: what the checkpoint was trained to write.
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
    """Two functions without a model: between them anything may answer, in any batches."""

    def plan(self, frame: Frame) -> Sequence[Ask]:
        """Say what to ask about a frame."""
        ...

    def read(self, frame: Frame, answers: Sequence[Answered]) -> Result_co:
        """Make a result of the answers to all that was asked, in the order of the plan."""
        ...
