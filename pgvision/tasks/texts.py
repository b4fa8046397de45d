"""`Captioner`, `Answerer` and `Reader`: pictures in, text out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pgvision.errors import OptionError
from pgvision.images import Frame
from pgvision.results import Failure, TextResult
from pgvision.runtime import GenerateOptions, Generation, Generator
from pgvision.tasks.adapter import Adapter, Ask, Color, ModelChoice, OnError
from pgvision.tasks.detector import provenance
from pgvision.tokens import (
    answer_prefix,
    caption_prefix,
    encode_boxes,
    free_prefix,
    ocr_prefix,
    region_caption_prefix,
)


@dataclass(frozen=True)
class Query:
    """What is asked about every picture of a call.

    Attributes:
        prefix: The prompt; None: a caption of ``region``.
        region: ``(4,)`` pixels: left, top, right, bottom.
        language: Of the answer, where the prompt names one.
        num_alternatives: How many best answers to return.
    """

    prefix: str | None
    region: ArrayLike | None = None
    language: str | None = None
    num_alternatives: int = 1


class _TextAdapter(Adapter[TextResult]):
    """Asks one query about each frame; bound to a query for each call, so that calls never mix."""

    def __init__(self, choice: ModelChoice, query: Query) -> None:
        super().__init__(choice)
        self._query = query

    def _asks(self, frame: Frame) -> list[Ask]:
        if self._query.prefix is not None:
            return [Ask(self._query.prefix)]
        box = np.asarray(self._query.region, np.float32).reshape(1, 4)
        bins = encode_boxes(box, image_hw=frame.image_hw)[0]
        return [Ask(region_caption_prefix(bins.tolist(), kind=self.kind))]

    def _options(self) -> GenerateOptions:
        return GenerateOptions(num_alternatives=self._query.num_alternatives)

    def _result(self, frame: Frame, answered: Sequence[tuple[Ask, Generation]]) -> TextResult:
        answer = answered[0][1]
        score = float(np.exp(answer.logprobs.sum())) if len(answer.logprobs) else None
        best = tuple((text.strip(), _chance(logprob)) for text, logprob in answer.alternatives)
        return TextResult(
            **provenance(frame, answered),
            text=answer.text.strip(),
            score=score,
            alternatives=best,
            language=self._query.language,
        )


def _chance(logprob: float) -> float:
    return float(np.clip(np.exp(logprob), 0.0, 1.0))


class _TextTask:
    """What the three text tasks share: a model, and the three ways to ask it."""

    def __init__(
        self,
        *,
        model: str | Path | None = None,
        revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | None = None,
        generator: Generator | None = None,
        kind: str | None = None,
    ) -> None:
        self._choice = ModelChoice(
            model=model,
            revision=revision,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            generator=generator,
            kind=kind,
        )
        # Loaded now, so that a wrong name fails here and not at the first picture.
        self.kind = _TextAdapter(self._choice, Query("")).kind

    def _call(self, image: Any, query: Query, color: Color) -> TextResult:
        return _TextAdapter(self._choice, query)._one(image, color)

    def _stream(
        self,
        frames: Any,
        query: Query,
        color: Color,
        recursive: bool,
        stride: int,
        on_error: OnError,
    ) -> Iterator[TextResult | Failure]:
        adapter = _TextAdapter(self._choice, query)
        return adapter._stream(
            frames, color=color, recursive=recursive, stride=stride, on_error=on_error
        )


class Captioner(_TextTask):
    """Describes pictures, or a region of one.

    Args:
        language: One of the 35 languages that PaliGemma was trained on, such as "en".
        style: "caption", "describe" (longer) or "cap" (alt text); kinds of checkpoint differ in
            what they know.
        model, revision, device, dtype, batch_size, generator, kind: As for `pgvision.Detector`.

    Raises:
        PromptError: If the language or style is unknown to this kind of checkpoint.

    Example:
        >>> from pgvision.scenes import render_scene
        >>> isinstance(Captioner()(render_scene(20_000_000).image).text, str)
        True
    """

    def __init__(
        self,
        language: str = "en",
        *,
        style: str = "caption",
        model: str | Path | None = None,
        revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | None = None,
        generator: Generator | None = None,
        kind: str | None = None,
    ) -> None:
        super().__init__(
            model=model,
            revision=revision,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            generator=generator,
            kind=kind,
        )
        self.language = language
        self._prefix = caption_prefix(language, style, kind=self.kind)

    def _query(self, region: ArrayLike | None) -> Query:
        if region is None:
            return Query(self._prefix, language=self.language)
        if np.shape(region) != (4,):
            raise OptionError(f"region: expected 4 pixels (left, top, right, bottom), got {region}")
        return Query(None, region=region)

    def __call__(
        self,
        image: Any,
        *,
        region: ArrayLike | None = None,
        color: Color = "bgr",
    ) -> TextResult:
        """Describe one image, or the ``region`` (left, top, right, bottom, in pixels) of it."""
        return self._call(image, self._query(region), color)

    def predict(
        self,
        frames: Any,
        *,
        color: Color = "bgr",
        recursive: bool = False,
        stride: int = 1,
        on_error: OnError = "raise",
    ) -> list[TextResult | Failure]:
        """Return one caption per image, in order; arguments as for `pgvision.Detector.stream`."""
        return list(
            self.stream(frames, color=color, recursive=recursive, stride=stride, on_error=on_error)
        )

    def stream(
        self,
        frames: Any,
        *,
        color: Color = "bgr",
        recursive: bool = False,
        stride: int = 1,
        on_error: OnError = "raise",
    ) -> Iterator[TextResult | Failure]:
        """Yield one caption per image, lazily; arguments as for `pgvision.Detector.stream`."""
        return self._stream(frames, self._query(None), color, recursive, stride, on_error)


class Reader(_TextTask):
    """Reads the text in pictures (``ocr``). Arguments as for `Captioner`, without language.

    Example:
        >>> from pgvision.scenes import render_scene
        >>> isinstance(Reader()(render_scene(20_000_000).image).text, str)
        True
    """

    def __call__(self, image: Any, *, color: Color = "bgr") -> TextResult:
        """Read one image."""
        return self._call(image, Query(ocr_prefix(self.kind)), color)

    def predict(
        self,
        frames: Any,
        *,
        color: Color = "bgr",
        recursive: bool = False,
        stride: int = 1,
        on_error: OnError = "raise",
    ) -> list[TextResult | Failure]:
        """Return one reading per image, in order; arguments as for `pgvision.Detector.stream`."""
        return list(
            self.stream(frames, color=color, recursive=recursive, stride=stride, on_error=on_error)
        )

    def stream(
        self,
        frames: Any,
        *,
        color: Color = "bgr",
        recursive: bool = False,
        stride: int = 1,
        on_error: OnError = "raise",
    ) -> Iterator[TextResult | Failure]:
        """Yield one reading per image, lazily; arguments as for `pgvision.Detector.stream`."""
        query = Query(ocr_prefix(self.kind))
        return self._stream(frames, query, color, recursive, stride, on_error)


class Answerer(_TextTask):
    """Answers questions about pictures.

    Args:
        language: Of question and answer.
        free_text: Send the question as it is, without the "answer {language}" in front; mix
            checkpoints take that.
        num_alternatives: How many best answers to return in ``.alternatives``.
        model, revision, device, dtype, batch_size, generator, kind: As for `pgvision.Detector`.

    Example:
        >>> from pgvision.scenes import render_scene
        >>> answer = Answerer()(render_scene(20_000_000).image, "is there a truck?")
        >>> 0.0 <= answer.score <= 1.0
        True
    """

    def __init__(
        self,
        language: str = "en",
        *,
        free_text: bool = False,
        num_alternatives: int = 1,
        model: str | Path | None = None,
        revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | None = None,
        generator: Generator | None = None,
        kind: str | None = None,
    ) -> None:
        GenerateOptions(num_alternatives=num_alternatives)
        super().__init__(
            model=model,
            revision=revision,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            generator=generator,
            kind=kind,
        )
        self.language, self._free, self._count = language, free_text, num_alternatives

    def _query(self, question: str, choices: Sequence[str] | None) -> Query:
        if self._free:
            if choices is not None:
                raise OptionError(
                    "choices: expected None with free_text=True, which sends the question as it "
                    "is; write the choices into the question, or leave free_text out"
                )
            return Query(free_prefix(question, kind=self.kind), num_alternatives=self._count)
        prefix = answer_prefix(question, language=self.language, choices=choices, kind=self.kind)
        return Query(prefix, language=self.language, num_alternatives=self._count)

    def __call__(
        self,
        image: Any,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        color: Color = "bgr",
    ) -> TextResult:
        """Answer a question about one image, freely or from ``choices``."""
        return self._call(image, self._query(question, choices), color)

    def predict(
        self,
        frames: Any,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        color: Color = "bgr",
        recursive: bool = False,
        stride: int = 1,
        on_error: OnError = "raise",
    ) -> list[TextResult | Failure]:
        """Return one answer per image, in order; arguments as for `pgvision.Detector.stream`."""
        query = self._query(question, choices)
        return list(self._stream(frames, query, color, recursive, stride, on_error))

    def stream(
        self,
        frames: Any,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        color: Color = "bgr",
        recursive: bool = False,
        stride: int = 1,
        on_error: OnError = "raise",
    ) -> Iterator[TextResult | Failure]:
        """Yield one answer per image, lazily; arguments as for `pgvision.Detector.stream`."""
        query = self._query(question, choices)
        return self._stream(frames, query, color, recursive, stride, on_error)
