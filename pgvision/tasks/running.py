"""Runs a task: frames in, its questions through a generator, one result per frame out in order."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Generic, TypeVar

from pgvision.errors import OptionError, SourceError
from pgvision.images import Color, Frame, FrameFailure, Live, OnError, is_live, iter_frames
from pgvision.results import Failure
from pgvision.runtime import (
    DRAFTS,
    CheckpointCard,
    Drafts,
    Generation,
    Generator,
    Picture,
    Request,
    find_revision,
    open_generator,
)
from pgvision.tasks.asking import Answered, Ask, Task, Window
from pgvision.tasks.options import ModelOptions, ReadOptions

Result = TypeVar("Result")


@dataclass
class _Pending(Generic[Result]):
    """A frame whose answers are on their way, or what stands in its place."""

    frame: Frame | FrameFailure
    asks: Sequence[Ask] = ()
    answers: dict[int, Generation] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return len(self.answers) == len(self.asks)

    def answered(self) -> list[Answered]:
        return [(ask, self.answers[at]) for at, ask in enumerate(self.asks)]


def card_of(options: ModelOptions) -> CheckpointCard:
    """Find the checkpoint that the options name, without loading it.

    Raises:
        CheckpointError, OptionError: See `pgvision.runtime.find_revision`.
    """
    generator: Generator | None = options.get("generator")
    kind = options.get("kind")
    if generator is None:
        return find_revision(options.get("model"), options.get("revision"), kind=kind)
    return replace(generator.card, kind=kind or generator.card.kind)


class Runner:
    """A generator and how it is asked; tasks of one model share it.

    Args:
        options: See `pgvision.tasks.options.ModelOptions`.

    Raises:
        OptionError: If an option is outside its range.
        CheckpointError: If the model cannot be loaded.
    """

    def __init__(self, options: ModelOptions) -> None:
        self.batch_size = options.get("batch_size")
        if self.batch_size is not None and self.batch_size < 1:
            raise OptionError(f"batch_size: expected at least 1, got {self.batch_size}")
        self.drafts: Drafts = options.get("drafts", "exact")
        if self.drafts not in DRAFTS:
            raise OptionError(f"drafts: expected one of {', '.join(DRAFTS)}, got {self.drafts!r}")
        self.generator: Generator = options.get("generator") or open_generator(
            options.get("model"),
            revision=options.get("revision"),
            device=options.get("device"),
            dtype=options.get("dtype"),
            kind=options.get("kind"),
            quantize=options.get("quantize"),
            threads=options.get("threads"),
            compiled=options.get("compiled", False),
        )
        self.card = card_of({**options, "generator": self.generator})
        self._told = {name: value for name, value in options.items() if value is not None}

    def __str__(self) -> str:
        told = {name: value for name, value in self._told.items() if name != "generator"}
        return ", ".join(
            f"{key}={value!r}" for key, value in {"model": self.card.name, **told}.items()
        )

    def one(self, task: Task[Result], image: Any, color: Color) -> Result:
        """Return the result of one image.

        Raises:
            SourceError: If it is none, or several.
        """
        frames = iter_frames(image, color=color, prefetch=0)
        with closing(frames):  # type: ignore[type-var]
            first = list(islice(frames, 2))
        if len(first) != 1:
            raise SourceError(
                f"image: expected one picture, got {'several' if first else 'none'}; use predict() "
                "for a list of results or stream() for a video"
            )
        (frame,) = first
        if isinstance(frame, FrameFailure):
            raise frame.error
        (result,) = _Stream(task, self, None).results(one for one in (frame,))
        if isinstance(result, Failure):
            raise result.error
        return result

    def stream(
        self, task: Task[Result], frames: Any, on_error: OnError, how: ReadOptions
    ) -> Iterator[Result | Failure]:
        """Yield a result per frame, in order, lazily and in constant memory.

        Raises:
            OptionError: If ``stride`` is given beside a `Live`, which has its own.
        """
        if isinstance(frames, Live) and "stride" in how:
            raise OptionError("stride: a Live has its own; write Live(source, stride=...)")
        if is_live(frames):
            frames = Live(frames, stride=how.get("stride", 1))
        live = isinstance(frames, Live)
        # A frame that was read ahead would not be the newest any more.
        source = iter_frames(frames, on_error=on_error, prefetch=0 if live else 4, **how)
        # Pictures of what is live should not wait for others to share a batch.
        size = self.batch_size or (1 if live else None)
        return _Stream(task, self, size).results(source)


class _Stream(Generic[Result]):
    """One call: frames that wait for their answers, and the last answers of a video."""

    def __init__(self, task: Task[Result], runner: Runner, batch_size: int | None) -> None:
        self._task, self._runner, self._batch_size = task, runner, batch_size
        self._pending: deque[_Pending[Result]] = deque()
        self._owners: dict[int, tuple[_Pending[Result], int]] = {}
        self._last: dict[int, Generation] = {}
        self._last_of: tuple[str, tuple[int, int]] | None = None

    def results(self, source: Iterator[Frame | FrameFailure]) -> Iterator[Result | Failure]:
        requests = self._requests(source)
        answers = self._runner.generator.generate(requests, batch_size=self._batch_size)
        with closing(source), closing(requests):  # type: ignore[type-var]
            try:
                for number, generation in answers:
                    waiting, place = self._owners.pop(number)
                    waiting.answers[place] = generation
                    yield from self._ready()
            except Exception:
                # Pictures that could not be read have no answer to come with.
                yield from self._ready()
                raise
            yield from self._ready()

    def _requests(self, source: Iterator[Frame | FrameFailure]) -> Iterator[Request]:
        number = 0
        for frame in source:
            if isinstance(frame, FrameFailure):
                self._pending.append(_Pending(frame))
                continue
            waiting: _Pending[Result] = _Pending(frame, self._task.plan(frame))
            self._pending.append(waiting)
            drafts = self._drafts(frame)
            pictures: dict[Window | None, Picture] = {}
            for place, ask in enumerate(waiting.asks):
                if ask.window not in pictures:
                    part = _part(frame, ask.window)
                    pictures[ask.window] = Picture(part, is_passing=frame.time is not None)
                self._owners[number] = (waiting, place)
                number += 1
                yield self._request(ask, pictures[ask.window], drafts.get(place))

    def _request(self, ask: Ask, picture: Picture, last: Generation | None) -> Request:
        return Request(
            picture=picture,
            prefix=ask.prefix,
            form=ask.form,
            constrained=ask.constrained,
            draft=() if last is None else last.token_ids,
            drafts=self._runner.drafts,
            num_alternatives=ask.num_alternatives,
            max_new_tokens=ask.max_new_tokens,
        )

    def _drafts(self, frame: Frame) -> dict[int, Generation]:
        """Return the last answers of this video, for a frame of the same size."""
        is_same = self._last_of == (frame.source, frame.image_hw) and frame.time is not None
        return self._last if is_same and self._runner.drafts != "off" else {}

    def _ready(self) -> Iterator[Result | Failure]:
        while self._pending and self._pending[0].is_complete:
            waiting = self._pending.popleft()
            frame = waiting.frame
            if isinstance(frame, FrameFailure):
                yield Failure(source=frame.source, index=frame.index, error=frame.error)
                continue
            self._last = waiting.answers
            self._last_of = (frame.source, frame.image_hw)
            yield self._task.read(frame, waiting.answered())


def _part(frame: Frame, window: Window | None) -> Any:
    if window is None:
        return frame.bgr
    left, top, right, bottom = window
    return frame.bgr[top:bottom, left:right]
