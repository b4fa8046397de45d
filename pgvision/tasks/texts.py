"""`Captioner`, `Answerer` and `Reader`: pictures in, text out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike

from pgvision.errors import OptionError
from pgvision.images import Color, Frame, OnError
from pgvision.results import Failure, TextResult
from pgvision.runtime.knowledge import known_question
from pgvision.tasks.asking import Answered, Ask
from pgvision.tasks.notices import warn_once
from pgvision.tasks.objects import provenance
from pgvision.tasks.options import ModelOptions, ReadOptions, require_known
from pgvision.tasks.predictor import Predictor
from pgvision.tasks.running import Runner, card_of
from pgvision.tokens import (
    answer_prefix,
    caption_prefix,
    encode_boxes,
    free_prefix,
    ocr_prefix,
    region_caption_prefix,
)


@dataclass(frozen=True)
class TextTask:
    """One question for every picture of a call, and the reading of its answer.

    Attributes:
        prefix: The prompt; for a region it is written per picture.
        language: Of the answer, where the prompt names one.
        num_alternatives: How many best answers to return.
        region: ``(4,)`` pixels to describe instead: left, top, right, bottom.
        kind: Which prompts the model knows; for ``region``.
    """

    prefix: str
    language: str | None = None
    num_alternatives: int = 1
    region: ArrayLike | None = None
    kind: str = "tiny"

    def plan(self, frame: Frame) -> list[Ask]:
        """Ask the one question."""
        if self.region is None:
            return [Ask(self.prefix, num_alternatives=self.num_alternatives)]
        box = np.asarray(self.region, np.float32).reshape(1, 4)
        bins = encode_boxes(box, image_hw=frame.image_hw)[0]
        return [Ask(region_caption_prefix(bins.tolist(), kind=self.kind))]

    def read(self, frame: Frame, answers: Sequence[Answered]) -> TextResult:
        """Take the answer as it is; its score is the probability of the whole text."""
        answer = answers[0][1]
        logprobs = answer.logprobs
        chance = None if logprobs is None or not len(logprobs) else _chance(float(logprobs.sum()))
        best = tuple((text.strip(), _chance(logprob)) for text, logprob in answer.alternatives)
        return TextResult(
            **provenance(frame, answers),
            text=answer.text.strip(),
            score=chance,
            alternatives=best,
            language=self.language,
        )


def _chance(logprob: float) -> float:
    return float(np.clip(np.exp(logprob), 0.0, 1.0))


class Captioner(Predictor[TextResult]):
    """Describes pictures, or a region of one.

    Args:
        language: One of the 35 languages that PaliGemma was trained on, such as "en".
        style: "caption", "describe" (longer) or "cap" (alt text); kinds of checkpoint differ in
            what they know.
        options: ``model``, ``device`` and the others of `pgvision.tasks.options.ModelOptions`.

    Raises:
        PromptError: If the language or style is unknown to this kind of checkpoint.

    Example:
        >>> from pgvision import samples
        >>> isinstance(Captioner()(samples.load("site-01")).text, str)
        True
    """

    def __init__(
        self, language: str = "en", *, style: str = "caption", **options: Unpack[ModelOptions]
    ) -> None:
        require_known(options, ModelOptions, "Captioner")
        if kind := card_of(options).sure_kind:
            caption_prefix(language, style, kind=kind)  # refused before weights are read
        super().__init__(options)
        self.language = language
        self._task = TextTask(caption_prefix(language, style, kind=self.kind), language)

    def __repr__(self) -> str:
        return f"Captioner({self.language!r}, {self._runner})"

    def __call__(
        self, image: Any, *, region: ArrayLike | None = None, color: Color = "bgr"
    ) -> TextResult:
        """Describe one image, or the ``region`` (left, top, right, bottom, in pixels) of it.

        Raises:
            OptionError: If ``region`` is not 4 numbers.
        """
        if region is None:
            return self._runner.one(self._task, image, color)
        if np.shape(region) != (4,):
            raise OptionError(f"region: expected 4 pixels (left, top, right, bottom), got {region}")
        return self._runner.one(TextTask("", region=region, kind=self.kind), image, color)

    def plan(self, frame: Frame) -> list[Ask]:
        """Ask for a caption."""
        return self._task.plan(frame)

    def read(self, frame: Frame, answers: Sequence[Answered]) -> TextResult:
        """Make a result of the answer."""
        return self._task.read(frame, answers)


class Reader(Predictor[TextResult]):
    """Reads the text in pictures (``ocr``).

    Args:
        options: ``model``, ``device`` and the others of `pgvision.tasks.options.ModelOptions`.

    Example:
        >>> from pgvision import samples
        >>> isinstance(Reader()(samples.load("site-01")).text, str)
        True
    """

    def __init__(self, **options: Unpack[ModelOptions]) -> None:
        require_known(options, ModelOptions, "Reader")
        super().__init__(options)
        self._task = TextTask(ocr_prefix(self.kind))

    def __repr__(self) -> str:
        return f"Reader({self._runner})"

    def plan(self, frame: Frame) -> list[Ask]:
        """Ask for the text."""
        return self._task.plan(frame)

    def read(self, frame: Frame, answers: Sequence[Answered]) -> TextResult:
        """Make a result of the answer."""
        return self._task.read(frame, answers)


class Answerer:
    """Answers questions about pictures.

    Args:
        language: Of question and answer.
        free_text: Send the question as it is, without the "answer {language}" in front; mix
            checkpoints take that.
        num_alternatives: How many best answers to return in ``.alternatives``, the answer first.
        options: ``model``, ``device`` and the others of `pgvision.tasks.options.ModelOptions`.

    Example:
        >>> from pgvision import samples
        >>> answer = Answerer()(samples.load("site-01"), "is there a truck?")
        >>> 0.0 <= answer.score <= 1.0
        True
    """

    def __init__(
        self,
        language: str = "en",
        *,
        free_text: bool = False,
        num_alternatives: int = 1,
        **options: Unpack[ModelOptions],
    ) -> None:
        if num_alternatives < 1:
            raise OptionError(f"num_alternatives: expected at least 1, got {num_alternatives}")
        require_known(options, ModelOptions, "Answerer")
        if kind := card_of(options).sure_kind:
            answer_prefix("?", language=language, kind=kind)  # refused before weights are read
        self._runner = Runner(options)
        self.generator, self.kind = self._runner.generator, self._runner.card.kind
        self.language, self._free, self._count = language, free_text, num_alternatives

    def __repr__(self) -> str:
        return f"Answerer({self.language!r}, {self._runner})"

    def task(self, question: str, choices: Sequence[str] | None = None) -> TextTask:
        """Return the question as a task: its plan and its reading, without the model.

        A checkpoint that lists its questions is asked as it was taught (case and marks), and a
        question that it was not taught is logged once as a warning.

        Raises:
            OptionError: If choices are given with ``free_text=True``.
        """
        if not self._free:
            if choices is None:
                question, warning = known_question(question, self._runner.card)
                warn_once(warning)
            prefix = answer_prefix(
                question, language=self.language, choices=choices, kind=self.kind
            )
            return TextTask(prefix, self.language, self._count)
        if choices is not None:
            raise OptionError(
                "choices: expected None with free_text=True, which sends the question as it "
                "is; write the choices into the question, or leave free_text out"
            )
        return TextTask(free_prefix(question, kind=self.kind), None, self._count)

    def __call__(
        self,
        image: Any,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        color: Color = "bgr",
    ) -> TextResult:
        """Answer a question about one image, freely or from ``choices``."""
        return self._runner.one(self.task(question, choices), image, color)

    @overload
    def predict(
        self,
        frames: Any,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        **how: Unpack[ReadOptions],
    ) -> list[TextResult]: ...
    @overload
    def predict(
        self,
        frames: Any,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        on_error: OnError,
        **how: Unpack[ReadOptions],
    ) -> list[TextResult | Failure]: ...
    def predict(
        self,
        frames: Any,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        on_error: OnError = "raise",
        **how: Unpack[ReadOptions],
    ) -> list[TextResult] | list[TextResult | Failure]:
        """Return one answer per image, in order; arguments as for `pgvision.Detector.stream`."""
        return list(self._runner.stream(self.task(question, choices), frames, on_error, how))

    @overload
    def stream(
        self,
        frames: Any,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        **how: Unpack[ReadOptions],
    ) -> Iterator[TextResult]: ...
    @overload
    def stream(
        self,
        frames: Any,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        on_error: OnError,
        **how: Unpack[ReadOptions],
    ) -> Iterator[TextResult | Failure]: ...
    def stream(
        self,
        frames: Any,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        on_error: OnError = "raise",
        **how: Unpack[ReadOptions],
    ) -> Iterator[TextResult] | Iterator[TextResult | Failure]:
        """Yield one answer per image, lazily; arguments as for `pgvision.Detector.stream`."""
        return self._runner.stream(self.task(question, choices), frames, on_error, how)
