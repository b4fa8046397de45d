"""Answer forms: the grammar that a request expects of its answer."""

from dataclasses import dataclass
from typing import Literal

from pgvision.errors import OptionError


@dataclass(frozen=True)
class AnswerForm:
    """The form of an answer that names objects. Plain data: it travels with a request.

    Attributes:
        task: "detect" (boxes) or "segment" (boxes with masks).
        labels: The names that may be written; None: any text.
        label: "required", or "none" for checkpoints that write no label (refcoco-seg).
        max_objects: After so many the answer ends; None: when the model ends it.
        past_end: So many objects more than the model wants to name.
        bans: Texts of tokens that may never be written, such as "<eos>".
        decoy: A name that is weighed against the labels and never written: what a checkpoint
            calls boxes that show nothing.

    Raises:
        OptionError: If a number is below what makes sense, or there is nothing to write.

    Example:
        >>> AnswerForm("detect", ("helmet", "head")).label
        'required'
    """

    task: Literal["detect", "segment"]
    labels: tuple[str, ...] | None = None
    label: Literal["required", "none"] = "required"
    max_objects: int | None = None
    past_end: int = 0
    bans: tuple[str, ...] = ()
    decoy: str | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.max_objects is not None and self.max_objects < 1:
            raise OptionError(f"max_objects: expected at least 1, got {self.max_objects}")
        if self.past_end < 0:
            raise OptionError(f"past_end: expected 0 or more, got {self.past_end}")
        if self.labels == ():
            raise OptionError("labels: expected names, or None for any text; got none")
        if self.decoy is not None and (self.labels is None or self.decoy in self.labels):
            raise OptionError(f"decoy: {self.decoy!r} is weighed against labels; name some others")
