"""What all tasks do alike: frames in, prompts to the model in batches, one result per frame out."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pgvision.errors import OptionError, SourceError
from pgvision.images import Frame, FrameFailure, is_live, iter_frames
from pgvision.results import Failure
from pgvision.runtime import Engine, GenerateOptions, Generation, Generator, Request, load

Result = TypeVar("Result")
OnError = Literal["raise", "skip", "record"]
Color = Literal["bgr", "rgb"]
_BATCH_ROWS = 8


@dataclass(frozen=True)
class Ask:
    """One prompt about one part of a frame.

    Attributes:
        prefix: The prompt.
        classes: The names that it asks for; empty where a task has none.
        window: Left, top, right, bottom of the part in whole pixels; None: the whole frame.
    """

    prefix: str
    classes: tuple[str, ...] = ()
    window: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which model answers, and how it is run; the same for every task.

    Attributes:
        model, revision, device, dtype: See `pgvision.runtime.load`.
        batch_size: Prompts that go through the model together; None: 8, or 1 for what is live.
        generator: Another engine to ask instead, with the prompts of ``kind``.
        kind: One of `pgvision.tokens.KINDS`: which prompts the model knows; None: the checkpoint's.
    """

    model: str | Path | None = None
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None
    generator: Generator | None = None
    kind: str | None = None


class Adapter(ABC, Generic[Result]):
    """A task over a model; subclasses say what is asked and what is made of the answers."""

    def __init__(self, choice: ModelChoice) -> None:
        if choice.batch_size is not None and choice.batch_size < 1:
            raise OptionError(f"batch_size: expected at least 1, got {choice.batch_size}")
        self._batch_size = choice.batch_size
        self.generator: Generator = choice.generator or load(
            choice.model, revision=choice.revision, device=choice.device, dtype=choice.dtype
        )
        card = self.generator.card if isinstance(self.generator, Engine) else None
        self.kind = choice.kind or (card.kind if card else "mix")

    @abstractmethod
    def _asks(self, frame: Frame) -> list[Ask]:
        """Say what to ask about a frame."""

    @abstractmethod
    def _result(self, frame: Frame, answered: "Sequence[tuple[Ask, Generation]]") -> Result:
        """Make a result of a frame's answers."""

    def _options(self) -> GenerateOptions:
        return GenerateOptions()

    def _one(self, image: Any, color: Color) -> Result:
        frames = iter_frames(image, color=color, prefetch=0)
        with closing(frames):  # type: ignore[type-var]
            first = list(islice(frames, 2))
        if len(first) != 1 or isinstance(first[0], FrameFailure):
            raise SourceError(
                "image: expected one picture, got several; use predict() for a list of results "
                "or stream() for a video"
            )
        return self._answer(first)[0]  # type: ignore[arg-type]

    def _stream(
        self,
        frames: Any,
        *,
        color: Color,
        recursive: bool,
        stride: int,
        on_error: OnError,
    ) -> Iterator[Result | Failure]:
        live = is_live(frames)
        source = iter_frames(
            frames,
            color=color,
            recursive=recursive,
            stride=stride,
            on_error=on_error,
            prefetch=1 if live else 4,
        )
        rows = self._batch_size or (1 if live else _BATCH_ROWS)
        return self._batched(source, rows)

    def _batched(
        self, source: Iterator[Frame | FrameFailure], rows: int
    ) -> Iterator[Result | Failure]:
        with closing(source):  # type: ignore[type-var]
            ended: Exception | bool = False
            while ended is False:
                held: list[Frame | FrameFailure] = []
                ended = self._fill(held, source, rows)
                yield from self._in_order(held, rows)
            if isinstance(ended, Exception):
                raise ended

    def _fill(
        self,
        held: list[Frame | FrameFailure],
        source: Iterator[Frame | FrameFailure],
        rows: int,
    ) -> Exception | bool:
        """Read frames until they make a batch; return whether the source ended, or its error.

        The error, ours or one of the caller's own iterator, is kept for its turn: what was read
        before it is answered first.
        """
        asked = 0
        while asked < rows:
            try:
                item = next(source)
            except StopIteration:
                return True
            except Exception as error:  # noqa: BLE001  (kept, not swallowed: `_batched` raises it)
                return error
            held.append(item)
            asked += len(self._asks(item)) if isinstance(item, Frame) else 0
        return False

    def _in_order(
        self, items: Sequence[Frame | FrameFailure], rows: int
    ) -> Iterator[Result | Failure]:
        results = iter(self._answer([i for i in items if isinstance(i, Frame)], rows))
        for item in items:
            if isinstance(item, FrameFailure):
                yield Failure(source=item.source, index=item.index, error=item.error)
            else:
                yield next(results)

    def _answer(self, frames: Sequence[Frame], rows: int | None = None) -> list[Result]:
        asks = [self._asks(frame) for frame in frames]
        requests = [
            Request(_part(frame, ask), ask.prefix)
            for frame, own in zip(frames, asks, strict=True)
            for ask in own
        ]
        rows = rows or self._batch_size or _BATCH_ROWS
        answers: list[Generation] = []
        for start in range(0, len(requests), rows):
            answers += self.generator.generate(requests[start : start + rows], self._options())
        each = iter(answers)
        return [
            self._result(frame, [(ask, next(each)) for ask in own])
            for frame, own in zip(frames, asks, strict=True)
        ]


def _part(frame: Frame, ask: Ask) -> Any:
    if ask.window is None:
        return frame.bgr
    left, top, right, bottom = ask.window
    return frame.bgr[top:bottom, left:right]
