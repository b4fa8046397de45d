"""What tasks ask of any engine: one method, plain arrays in, text with probabilities out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pgvision.arrays import ByteArray, FloatArray, IntArray
from pgvision.errors import OptionError


@dataclass(frozen=True)
class Request:
    """One picture and what is said to the model about it.

    Attributes:
        image: ``(h, w, 3)`` uint8 BGR.
        prefix: The prompt, without ``<image>`` and without the closing newline.
    """

    image: ByteArray
    prefix: str


@dataclass(frozen=True)
class GenerateOptions:
    """How answers are written.

    Attributes:
        max_new_tokens: Where an answer is cut off; None: what the checkpoint was trained to write.
        num_alternatives: How many best answers to return for each request, from a beam as wide.

    Raises:
        OptionError: If a number is below 1.
    """

    max_new_tokens: int | None = None
    num_alternatives: int = 1

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_alternatives"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name}: expected at least 1, got {value}; leave it out")


@dataclass(frozen=True, eq=False)
class Generation:
    """One answer, token by token.

    Attributes:
        text: The suffix as text, without ``<eos>``.
        token_ids: ``(t,)`` ids as written, ``<eos>`` included if it came.
        pieces: ``t`` texts; joined they are ``text`` (the piece of ``<eos>`` is "").
        logprobs: ``(t,)`` natural log-probability of each written token.
        eos_logprobs: ``(t,)`` log-probability that the answer ended at this token instead.
        loc_probs: ``(l, 1024)`` over location bins, one row for each ``<loc>`` written.
        seg_probs: ``(s, 128)`` over mask codes, one row for each ``<seg>`` written.
        finished: Whether ``<eos>`` came; False means that the answer was cut off.
        timings: Seconds for each phase, shared out over the batch.
        alternatives: Other answers, best first, as ``(text, log-probability)``; "best of k" only.
    """

    text: str
    token_ids: IntArray
    pieces: tuple[str, ...]
    logprobs: FloatArray
    eos_logprobs: FloatArray
    loc_probs: FloatArray
    seg_probs: FloatArray
    finished: bool
    timings: Mapping[str, float] = field(default_factory=dict)
    alternatives: tuple[tuple[str, float], ...] = ()


class Generator(Protocol):
    """Anything that answers requests: our engine, a scripted one in tests, a served one."""

    def generate(
        self, requests: Sequence[Request], options: GenerateOptions | None = None
    ) -> list[Generation]:
        """Answer each request, in order."""
        ...
