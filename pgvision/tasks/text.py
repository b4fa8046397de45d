"""`Captioner`, `Answerer` and `Reader`: images in, text out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Unpack

import numpy as np

from pgvision.errors import OptionError, check_options
from pgvision.images import Frame
from pgvision.results import TextResult
from pgvision.runtime import CheckpointCard
from pgvision.tasks.options import AnswerOptions, ImageOptions, ModelOptions, ReadOptions
from pgvision.tasks.run import Answered, Ask, Predictor, Runner, card_of, provenance
from pgvision.tasks.trained_on import is_photograph, known_question
from pgvision.tokens import (
    Reject,
    answer_prefix,
    caption_prefix,
    free_prefix,
    ocr_prefix,
)


@dataclass(frozen=True)
class TextTask:
    """One prompt for every image of a call, and how its answer is read; needs no model.

    Attributes:
        prefix: The prompt.
        card: The checkpoint's card.
        language: Of the answer, where the prompt names one.
        insists: Whether to ask about images that the checkpoint was not trained on.
    """

    prefix: str
    card: CheckpointCard
    language: str | None = None
    insists: bool = False

    def plan(self, frame: Frame) -> list[Ask]:
        """Return the one prompt, or none where the checkpoint was not trained on such images."""
        return [] if not self.insists and self._refusal(frame) else [Ask(self.prefix)]

    def read(self, frame: Frame, answers: Sequence[Answered]) -> TextResult:
        """Return the answer; its score is the probability of the whole text.

        A refused frame gives an empty text without a score, with the reason among the rejects. An
        empty answer has no score either: that nothing was read is not evidence of nothing there.
        """
        fields = provenance(frame, answers)
        # 1. Refused images get an empty text with the reason.
        if not answers:
            fields["prefix"] = self.prefix
            rejects = (Reject("", self._refusal(frame) or "not asked", 0, 0),)
            return TextResult(**fields, text="", rejects=rejects, language=self.language)
        # 2. Others the model's words, and the probability of all of them.
        answer = answers[0][1]
        text, score = answer.text.strip(), None
        if text and answer.logprobs is not None and len(answer.logprobs):
            score = float(np.clip(np.exp(answer.logprobs.sum()), 0.0, 1.0))
        return TextResult(**fields, text=text, score=score, language=self.language)

    def _refusal(self, frame: Frame) -> str | None:
        """Return why the checkpoint is not asked about a frame; None: it may be."""
        if self.card.text_domain != "drawings" or not is_photograph(frame.bgr):
            return None
        return (
            f"{self.card.name} was trained to caption, answer and read on drawings only, and this "
            "image looks like a photograph (or another kind of drawing); use another model, or "
            'insist with unknown="ask"'
        )


def _open(
    options: ModelOptions, write: Callable[..., str], language: str | None = None
) -> tuple[TextTask, Runner]:
    """Return the task whose prompt ``write`` makes for a kind of checkpoint, and its engine."""
    # Refused before the weights are read, where the kind is known already.
    if kind := card_of(options).sure_kind:
        write(kind=kind)
    runner = Runner(options)
    insists = options.get("unknown") == "ask"
    prefix = write(kind=runner.card.kind)
    return TextTask(prefix, runner.card, language, insists=insists), runner


class Captioner(Predictor[TextResult]):
    """Describes images.

    Args:
        language: One of the 35 languages that PaliGemma was trained on, such as "en".
        style: "caption", "describe" (longer) or "cap" (alt text); kinds of checkpoint differ in
            the styles they were trained on.
        options: ``model``, ``device`` and the others of `pgvision.tasks.options.ModelOptions`.

    Raises:
        PromptError: If the checkpoint was not trained on the language or style.
        OptionError: If an option is unknown, of another type or outside its range.

    Example:
        >>> from pgvision import samples
        >>> isinstance(Captioner()(samples.load("site-01")).text, str)
        True
    """

    def __init__(
        self, language: str = "en", style: str = "caption", **options: Unpack[ModelOptions]
    ) -> None:
        check_options(options, ModelOptions, "Captioner")
        task, runner = _open(options, partial(caption_prefix, language, style), language)
        super().__init__(task, runner, language, style)
        self.language = language

    def __repr__(self) -> str:
        return f"Captioner({self.language!r}, {self._runner})"


class Reader(Predictor[TextResult]):
    """Reads the text in images (``ocr``).

    Args:
        options: ``model``, ``device`` and the others of `pgvision.tasks.options.ModelOptions`.

    Example:
        >>> from pgvision import samples
        >>> isinstance(Reader()(samples.load("site-01")).text, str)
        True
    """

    def __init__(self, **options: Unpack[ModelOptions]) -> None:
        check_options(options, ModelOptions, "Reader")
        super().__init__(*_open(options, ocr_prefix))

    def __repr__(self) -> str:
        return f"Reader({self._runner})"


class Answerer:
    """Answers questions about images.

    Args:
        language: Of question and answer.
        options: ``free_text``, ``model``, ``device`` and the others of
            `pgvision.tasks.options.AnswerOptions`.

    Example:
        >>> from pgvision import samples
        >>> answer = Answerer()(samples.load("site-01"), "is there a truck?")
        >>> answer.text in ("yes", "no")
        True
    """

    def __init__(self, language: str = "en", **options: Unpack[AnswerOptions]) -> None:
        check_options(options, AnswerOptions, "Answerer")
        ask = partial(answer_prefix, "?", language=language)
        (self._task, self._runner), self._options = _open(options, ask, language), options
        self.generator, self.kind = self._runner.generator, self._runner.card.kind
        self.language = language

    def __repr__(self) -> str:
        return f"Answerer({self.language!r}, {self._runner})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments of the constructor, not the model."""
        return partial(Answerer, self.language, **self._options), ()

    def task(self, question: str, choices: Sequence[str] | None = None) -> Predictor[TextResult]:
        """Return one question as a `Predictor`.

        Raises:
            UnknownNameError: If the checkpoint's card lists its questions and this is not one of
                them; ``unknown="ask"`` insists.
            OptionError: If choices are given with ``free_text=True``.
        """
        options, language = self._options, self.language
        # 1. The prompt. Free text bypasses the checks of trained questions.
        if not options.get("free_text"):
            unknown = options.get("unknown") or "refuse"
            known = known_question(question, self._runner.card, unknown=unknown)
            prefix = answer_prefix(known, language=language, choices=choices, kind=self.kind)
        elif choices is not None:
            raise OptionError(
                "choices: expected None with free_text=True, which sends the question as it "
                "is; write the choices into the question, or leave free_text out"
            )
        else:
            prefix = free_prefix(question, kind=self.kind)
        # 2. A task of its own, over the same engine.
        task = replace(
            self._task,
            prefix=prefix,
            language=None if options.get("free_text") else language,
        )
        return Predictor(task, self._runner, make=partial(Answerer.task, self, question, choices))

    def __call__(
        self,
        image: Any,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        **how: Unpack[ImageOptions],
    ) -> TextResult:
        """Answer a question about one image, freely or from ``choices``."""
        return self.task(question, choices)(image, **how)

    def predict(
        self,
        frames: Any,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        **how: Unpack[ReadOptions],
    ) -> list[TextResult]:
        """Return one answer per image, in order; arguments as for `pgvision.Detector.stream`.

        For ``on_error="record"`` use ``task(question).predict(...)``.
        """
        return self.task(question, choices).predict(frames, on_error=on_error, **how)

    def stream(
        self,
        frames: Any,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        **how: Unpack[ReadOptions],
    ) -> Iterator[TextResult]:
        """Yield one answer per image, lazily; as `predict`."""
        return self.task(question, choices).stream(frames, on_error=on_error, **how)
