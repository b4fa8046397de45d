"""`Captioner`, `Answerer` and `Reader`: images in, text out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike

from pgvision.errors import OptionError
from pgvision.images import Frame
from pgvision.results import TextResult
from pgvision.runtime import CheckpointCard
from pgvision.tasks.domain import is_photograph
from pgvision.tasks.names import known_question
from pgvision.tasks.options import (
    AnswerOptions,
    ImageOptions,
    ModelOptions,
    ReadOptions,
    check_options,
)
from pgvision.tasks.run import Answered, Ask, Predictor, Runner, card_of, provenance
from pgvision.tokens import (
    Reject,
    answer_prefix,
    caption_prefix,
    encode_boxes,
    free_prefix,
    ocr_prefix,
    region_caption_prefix,
)


@dataclass(frozen=True)
class TextTask:
    """One prompt for every image of a call, and how its answer is read; needs no model.

    Attributes:
        prefix: The prompt; for a region it is written per image.
        card: The checkpoint's card.
        language: Of the answer, where the prompt names one.
        num_alternatives: How many best answers to return.
        region: ``(4,)`` pixels to describe instead: left, top, right, bottom.
        insists: Whether to ask about images that the checkpoint was not trained on.
    """

    prefix: str
    card: CheckpointCard
    language: str | None = None
    num_alternatives: int = 1
    region: ArrayLike | None = None
    insists: bool = False

    def plan(self, frame: Frame) -> list[Ask]:
        """Return the one prompt, or none where the checkpoint was not trained on such images."""
        if not self.insists and self._refusal(frame):
            return []
        if self.region is None:
            return [Ask(self.prefix, num_alternatives=self.num_alternatives)]
        box = np.asarray(self.region, np.float32).reshape(1, 4)
        bins = encode_boxes(box, image_hw=frame.image_hw)[0]
        return [Ask(region_caption_prefix(bins.tolist(), kind=self.card.kind))]

    def read(self, frame: Frame, answers: Sequence[Answered]) -> TextResult:
        """Return the answer; its score is the probability of the whole text.

        A refused frame gives an empty text without a score, with the reason among the rejects. An
        empty answer has no score either: that nothing was read is not evidence of nothing there.
        """
        fields = provenance(frame, answers)
        # Refused images get an empty text with the reason.
        if not answers:
            fields["prefix"] = self.prefix
            rejects = (Reject("", self._refusal(frame) or "not asked", 0, 0),)
            return TextResult(**fields, text="", rejects=rejects, language=self.language)
        answer = answers[0][1]
        text, score = answer.text.strip(), None
        if text and answer.logprobs is not None and len(answer.logprobs):
            score = _chance(float(answer.logprobs.sum()))
        others = tuple((text.strip(), _chance(logprob)) for text, logprob in answer.alternatives)
        return TextResult(
            **fields, text=text, score=score, alternatives=others, language=self.language
        )

    def _refusal(self, frame: Frame) -> str | None:
        """Return why the checkpoint is not asked about a frame; None: it may be."""
        if self.card.text_domain != "drawings" or not is_photograph(frame.bgr):
            return None
        return (
            f"{self.card.name} was trained to caption, answer and read on drawings only, and this "
            "image looks like a photograph (or another kind of drawing); use another model, or "
            'insist with unknown="ask"'
        )


def _chance(logprob: float) -> float:
    return float(np.clip(np.exp(logprob), 0.0, 1.0))


def _insists(options: ModelOptions) -> bool:
    return options.get("unknown") == "ask"


class Captioner(Predictor[TextResult]):
    """Describes images, or a region of one.

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
        if kind := card_of(options).sure_kind:
            caption_prefix(language, style, kind=kind)  # refused before weights are read
        runner = Runner(options)
        prefix = caption_prefix(language, style, kind=runner.card.kind)
        task = TextTask(prefix, runner.card, language, insists=_insists(options))
        super().__init__(task, runner, language, style)
        self.language = language

    def __repr__(self) -> str:
        return f"Captioner({self.language!r}, {self._runner})"

    def __call__(
        self, image: Any, *, region: ArrayLike | None = None, **how: Unpack[ImageOptions]
    ) -> TextResult:
        """Describe one image, or the ``region`` (left, top, right, bottom, in pixels) of it.

        Raises:
            OptionError: If ``region`` is not 4 numbers.
        """
        if region is None:
            return super().__call__(image, **how)
        if np.shape(region) != (4,):
            raise OptionError(f"region: expected 4 pixels (left, top, right, bottom), got {region}")
        insists = _insists(self._runner.options)
        task = TextTask("", self._runner.card, region=region, insists=insists)
        return self._runner.one(task, image, how)


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
        runner = Runner(options)
        task = TextTask(ocr_prefix(runner.card.kind), runner.card, insists=_insists(options))
        super().__init__(task, runner)

    def __repr__(self) -> str:
        return f"Reader({self._runner})"


class Answerer:
    """Answers questions about images.

    Args:
        language: Of question and answer.
        options: ``free_text``, ``num_alternatives``, ``model``, ``device`` and the others of
            `pgvision.tasks.options.AnswerOptions`.

    Example:
        >>> from pgvision import samples
        >>> answer = Answerer()(samples.load("site-01"), "is there a truck?")
        >>> answer.text in ("yes", "no")
        True
    """

    def __init__(self, language: str = "en", **options: Unpack[AnswerOptions]) -> None:
        check_options(options, AnswerOptions, "Answerer")
        if kind := card_of(options).sure_kind:
            answer_prefix("?", language=language, kind=kind)  # refused before weights are read
        self._runner, self._options = Runner(options), options
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
        card, language = self._runner.card, self.language
        # Free text bypasses the checks of trained questions.
        if not self._options.get("free_text"):
            unknown = self._options.get("unknown") or "refuse"
            question = known_question(question, card, unknown=unknown)
            prefix = answer_prefix(question, language=language, choices=choices, kind=self.kind)
        elif choices is not None:
            raise OptionError(
                "choices: expected None with free_text=True, which sends the question as it "
                "is; write the choices into the question, or leave free_text out"
            )
        else:
            prefix = free_prefix(question, kind=self.kind)
        task = TextTask(
            prefix,
            card,
            None if self._options.get("free_text") else language,
            self._options.get("num_alternatives") or 1,
            insists=_insists(self._options),
        )
        return Predictor(task, self._runner)

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
