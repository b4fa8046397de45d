"""Runs tasks: frames in, prompts through an engine, one result per frame out, in order.

`Task` is what runs: two functions without a model, which write prompts and read the answers.
"""

from collections import Counter, deque
from collections.abc import Generator as Coroutine
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import (
    Any,
    Final,
    Generic,
    Literal,
    Protocol,
    TypeAlias,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from pgvision.errors import OptionError, SourceError, check_options
from pgvision.images import Frame, FrameFailure, Live, OnError, is_live, iter_frames
from pgvision.images.sources import read_ahead
from pgvision.results import Failure
from pgvision.runtime import (
    CheckpointCard,
    Drafts,
    Generation,
    Generator,
    Picture,
    Request,
    find_checkpoint,
    open_engine,
)
from pgvision.tasks.options import Conf, ImageOptions, ModelOptions, ReadOptions
from pgvision.tokens import AnswerForm

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)
Window: TypeAlias = tuple[int, int, int, int]

BETWEEN_ANSWERS = "\n"
"""Joins the answers to several prompts in ``raw_text``."""

_ENGINE_OPTIONS: Final = tuple("model revision device dtype kind threads engine".split())
_FRAMES_AHEAD: Final = 4  # read in a thread while the model runs
_PATIENCE: Final = 0.01
"""Seconds; how long answers in flight wait for the next frame of a slow iterable to join them."""


@dataclass(frozen=True)
class Ask:
    """One prompt about one part of a frame.

    Attributes:
        prefix: The prompt.
        classes: The names in it, as the model was trained on them; empty where a task has none.
        window: Left, top, right, bottom of the part in whole pixels; None: the whole frame.
        form: The grammar of its answer; None: any text.
        constrained: Whether the answer follows ``form`` while it is written, or is only read by it.
        max_new_tokens: Where it is cut off; None: the longest answer of the checkpoint's training.
    """

    prefix: str
    classes: tuple[str, ...] = ()
    window: Window | None = None
    form: AnswerForm | None = None
    constrained: bool = True
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
    timings: Counter[str] = Counter()
    for _, answer in answers:
        timings.update(cast("Any", answer.timings))
    return {
        "image_hw": frame.image_hw,
        "prefix": BETWEEN_ANSWERS.join(ask.prefix for ask, _ in answers),
        "raw_text": BETWEEN_ANSWERS.join(answer.text for _, answer in answers),
        "truncated": any(not answer.finished for _, answer in answers),
        "timings": dict(timings),
        "passes": sum(answer.passes for _, answer in answers) or None,  # servers do not count
        "source": frame.source,
        "frame_index": frame.index,
        "time": frame.time,
        "image": frame.bgr,
    }


def card_of(options: ModelOptions) -> CheckpointCard:
    """Find the checkpoint that the options name, without loading it.

    Raises:
        CheckpointError, OptionError: See `pgvision.runtime.find_checkpoint`.
    """
    generator, kind = options.get("generator"), options.get("kind")
    if generator is None:
        return find_checkpoint(options.get("model"), revision=options.get("revision"), kind=kind)
    return replace(generator.card, kind=kind or generator.card.kind)


class Runner:
    """An engine and how it is used; tasks of one model share it.

    Args:
        options: See `pgvision.tasks.options.ModelOptions`; already checked.

    Raises:
        CheckpointError: If the model cannot be loaded.
    """

    def __init__(self, options: ModelOptions) -> None:
        self.options = options
        self.batch_size = options.get("batch_size")
        self.drafts: Drafts = options.get("drafts") or "exact"
        self.generator: Generator = options.get("generator") or open_engine(
            **cast("Any", {name: options.get(name) for name in _ENGINE_OPTIONS})
        )
        self.card = card_of({**options, "generator": self.generator})

    def __str__(self) -> str:
        given = {name: value for name, value in self.options.items() if value is not None}
        given = {"model": self.card.name, **given}
        given.pop("generator", None)
        return ", ".join(f"{key}={value!r}" for key, value in given.items())

    def one(self, task: Task[Result], image: Any, how: ImageOptions) -> Result:
        """Return the result of one image.

        Raises:
            SourceError: If ``image`` is no image, or several.
        """
        # 1. Read one frame, and look for a second one.
        frames = iter_frames(image, color=how.get("color", "bgr"), prefetch=0)
        with closing(cast("Coroutine[Frame | FrameFailure]", frames)):
            first = list(islice(frames, 2))
        if len(first) != 1:
            raise SourceError(
                f"image: expected one image, got {'several' if first else 'none'}; use predict() "
                "for a list of results or stream() for a video"
            )
        # 2. A stream of one frame; errors are raised.
        if isinstance(first[0], FrameFailure):
            raise first[0].error
        (result,) = _Stream(task, self, self.batch_size).results(frame for frame in first)
        if isinstance(result, Failure):
            raise result.error
        return result

    def stream(
        self, task: Task[Result], frames: Any, on_error: OnError, how: ReadOptions
    ) -> Iterator[Result | Failure]:
        """Return an iterator over a result per frame, in order, lazy and in constant memory.

        Raises:
            OptionError: If ``stride`` is given together with a `Live`, which has its own.
        """
        # 1. Of a live source the newest frame, without batches: latency counts.
        if isinstance(frames, Live) and "stride" in how:
            raise OptionError("stride: a Live has its own; write Live(source, stride=...)")
        if is_live(frames):
            frames = Live(frames, stride=how.get("stride", 1))
        is_live_source = isinstance(frames, Live)
        # 2. An iterator may wait for the last result (a robot, a request queue).
        may_be_slow = isinstance(frames, Iterable) and not isinstance(frames, Sized | Live)
        source = iter_frames(
            frames,
            color=how.get("color", "bgr"),
            recursive=how.get("recursive", False),
            stride=how.get("stride", 1),
            on_error=on_error,
            # Frames of a live source that were read ahead would not be the newest any more.
            prefetch=0 if is_live_source or may_be_slow else _FRAMES_AHEAD,
        )
        # 3. Everything else is read ahead.
        if may_be_slow:
            waiting = read_ahead(source, depth=_FRAMES_AHEAD, patience=_PATIENCE)
            return _Stream(task, self, self.batch_size).results(waiting)
        size = self.batch_size or (1 if is_live_source else None)
        return _Stream(task, self, size).results(source)


@dataclass
class _Pending(Generic[Result]):
    """A frame (or its failure) with answers still outstanding."""

    frame: Frame | FrameFailure
    asks: Sequence[Ask] = ()
    answers: dict[int, Generation] = field(default_factory=dict)


class _Stream(Generic[Result]):
    """One call: frames that wait for their answers, and the last answers of a video."""

    def __init__(self, task: Task[Result], runner: Runner, batch_size: int | None) -> None:
        self._task, self._runner, self._batch_size = task, runner, batch_size
        self._pending: deque[_Pending[Result]] = deque()
        self._owners: dict[int, tuple[_Pending[Result], int]] = {}
        self._last: dict[int, Generation] = {}
        self._last_of: tuple[str, tuple[int, int]] | None = None
        self._is_over = False
        self._error: Exception | None = None

    def results(self, source: Iterator[Frame | FrameFailure | None]) -> Iterator[Result | Failure]:
        """Yield results; ``source`` yields None while it has no frame yet."""
        generator = self._runner.generator
        with closing(cast("Coroutine[None]", source)):
            # The engine is called again whenever `_requests` ended early.
            while not self._is_over:
                self._owners.clear()
                # Answers come in the order in which they end; results in that of the frames.
                for number, generation in generator.generate(
                    self._requests(source), batch_size=self._batch_size
                ):
                    pending, place = self._owners.pop(number)
                    pending.answers[place] = generation
                    yield from self._ready()
                yield from self._ready()
        if self._error is not None:
            raise self._error

    def _requests(self, source: Iterator[Frame | FrameFailure | None]) -> Iterator[Request]:
        """Yield the prompts of frames; end early when finished results should not wait longer."""
        # Number of the next request: the engine returns it with the answer.
        number = 0
        while True:
            try:
                # 1. Read a frame, and plan its prompts. Errors wait for the earlier results.
                frame = next(source)
                asks = self._task.plan(frame) if isinstance(frame, Frame) else ()
            except StopIteration:
                self._is_over = True
                return
            except Exception as error:  # noqa: BLE001  (raised by `results`, after the frames before)
                self._is_over, self._error = True, error
                return
            if frame is None:
                if self._owners:
                    return
                continue
            pending: _Pending[Result] = _Pending(frame, asks)
            self._pending.append(pending)
            if isinstance(frame, FrameFailure) or not asks:  # a result without an answer
                return
            # 2. Yield one request for each prompt; prompts of one window share an image.
            drafts = self._drafts(frame)
            for place, request in enumerate(
                requests_of(frame, asks, drafts=self._runner.drafts, last=drafts)
            ):
                self._owners[number] = (pending, place)
                number += 1
                yield request

    def _drafts(self, frame: Frame) -> dict[int, Generation]:
        """Return the last answers of this video, for a frame of the same size."""
        if frame.time is None or self._runner.drafts == "off":
            return {}
        return self._last if self._last_of == (frame.source, frame.image_hw) else {}

    def _ready(self) -> Iterator[Result | Failure]:
        while self._pending and len(self._pending[0].answers) == len(self._pending[0].asks):
            pending = self._pending.popleft()
            frame = pending.frame
            # Failures keep their place among the results.
            if isinstance(frame, FrameFailure):
                yield Failure(source=frame.source, index=frame.index, error=frame.error)
                continue
            # The drafts of the next frame.
            self._last, self._last_of = pending.answers, (frame.source, frame.image_hw)
            answers = [(ask, pending.answers[at]) for at, ask in enumerate(pending.asks)]
            yield self._task.read(frame, answers)


def requests_of(
    frame: Frame,
    asks: Sequence[Ask],
    *,
    drafts: Drafts = "exact",
    last: Mapping[int, Generation] = MappingProxyType({}),
) -> Iterator[Request]:
    """Yield what an engine takes for the prompts about a frame; those of one window share an image.

    Args:
        frame: The frame.
        asks: The prompts.
        drafts: See `pgvision.runtime.Request`.
        last: Earlier answers by the number of their prompt: guesses at the next ones.
    """
    pictures: dict[Window | None, Picture] = {}
    for place, ask in enumerate(asks):
        if ask.window not in pictures:
            left, top, right, bottom = ask.window or (0, 0, *frame.image_hw[::-1])
            pictures[ask.window] = Picture(frame.bgr[top:bottom, left:right])
        yield Request(
            picture=pictures[ask.window],
            prefix=ask.prefix,
            form=ask.form,
            constrained=ask.constrained,
            draft=last[place].token_ids if place in last else (),
            drafts=drafts,
            max_new_tokens=ask.max_new_tokens,
        )


class Predictor(Generic[Result]):
    """A task over a model, for one image, many, or a stream.

    ``plan`` and ``read`` are the task without the model, for other ways to run it: a service that
    gathers batches, an evaluation that reads one answer by many rules. Predictors can be pickled:
    what they were made of is written, and the model is loaded again.

    Args:
        task: The prompts and how their answers are read.
        runner: The engine.
        made_of: Arguments of the class, without options, to make it again from a pickle.
        make: Another function that makes it again; None: the class.
    """

    def __init__(
        self,
        task: Task[Result],
        runner: Runner,
        *made_of: object,
        make: "partial[Predictor[Result]] | None" = None,
    ) -> None:
        self._task, self._runner, self._made_of, self._make = task, runner, made_of, make
        self.generator, self.kind = runner.generator, runner.card.kind

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments of the constructor, not the model."""
        made = partial(cast("Any", type(self)), *self._made_of, **self._runner.options)
        return self._make or made, ()

    def plan(self, frame: Frame) -> Sequence[Ask]:
        """Return the prompts about a frame; none where the task refuses the frame."""
        return self._task.plan(frame)

    def read(self, frame: Frame, answers: Sequence[Answered]) -> Result:
        """Return the result, from the answers to all prompts of the plan, in its order."""
        return self._task.read(frame, answers)

    def __call__(self, image: Any, **how: Unpack[ImageOptions]) -> Result:
        """Return the result of one image: an array, a PIL image or a path.

        Args:
            image: One image; arrays are BGR unless ``color="rgb"``.
            how: ``color``, ``conf``: see `pgvision.tasks.options.ImageOptions`.
        """
        return self._runner.one(self._for_call(how, ImageOptions), image, how)

    @overload
    def predict(
        self,
        frames: Any,
        *,
        on_error: Literal["raise", "skip"] = "raise",
        **how: Unpack[ReadOptions],
    ) -> list[Result]: ...
    @overload
    def predict(
        self, frames: Any, *, on_error: OnError, **how: Unpack[ReadOptions]
    ) -> list[Result | Failure]: ...
    def predict(
        self, frames: Any, *, on_error: OnError = "raise", **how: Unpack[ReadOptions]
    ) -> list[Result] | list[Result | Failure]:
        """Return one result per image, in order; see `stream` for the arguments.

        Every result contains its image. For a long video use `stream`, which keeps none.
        """
        return list(self.stream(frames, on_error=on_error, **how))

    @overload
    def stream(
        self,
        frames: Any,
        *,
        on_error: Literal["raise", "skip"] = "raise",
        **how: Unpack[ReadOptions],
    ) -> Iterator[Result]: ...
    @overload
    def stream(
        self, frames: Any, *, on_error: OnError, **how: Unpack[ReadOptions]
    ) -> Iterator[Result | Failure]: ...
    def stream(
        self, frames: Any, *, on_error: OnError = "raise", **how: Unpack[ReadOptions]
    ) -> Iterator[Result] | Iterator[Result | Failure]:
        """Yield one result per image, lazily and in constant memory.

        Latency: images of a list, folder or video file share batches of ``batch_size`` prompts. An
        iterator of yours that is slower than the model gets each result as soon as it is finished.

        Args:
            frames: Anything that `pgvision.images.iter_frames` takes: arrays, PIL images, paths,
                folders, videos, cameras, and iterables of these. Of a live source (a camera, an
                address) you get the newest frame each time, and those that came
                meanwhile are dropped: see `pgvision.images.Live`, which can also reconnect.
            on_error: "raise", "skip" (logged) or "record" (a `Failure` takes the place).
            how: ``color``, ``recursive``, ``stride``, ``conf``: see
                `pgvision.tasks.options.ReadOptions`.

        Returns:
            Results as they come, with the image attached, for ``result.plot()``. If ``frames``
            raises midway, the results of the frames before come first, and then its exception.
        """
        return self._runner.stream(self._for_call(how, ReadOptions), frames, on_error, how)

    def _for_call(self, how: ImageOptions, options: type) -> Task[Result]:
        """Return the task of one call, with the options that may change by call."""
        if not how:
            return self
        of = " of one image" if options is ImageOptions else ""
        check_options(how, options, f"{type(self).__name__}{of}")
        conf = how.get("conf")
        return self if conf is None else self._with_conf(conf)

    def _with_conf(self, conf: Conf) -> Task[Result]:
        raise OptionError(f"conf: a {type(self).__name__} returns no objects; leave conf out")
