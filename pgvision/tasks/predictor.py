"""The three ways to ask: one image, many, or a stream; the same for every task."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Literal, TypeVar, Unpack, overload

from pgvision.images import Color, Frame, OnError
from pgvision.results import Failure
from pgvision.tasks.asking import Answered, Ask
from pgvision.tasks.options import ModelOptions, ReadOptions
from pgvision.tasks.running import Runner

Result = TypeVar("Result")


class Predictor(ABC, Generic[Result]):
    """A task over a model.

    ``plan`` and ``read`` are the task itself and run without the model, for whoever wants to ask in
    another way: a service that gathers batches, an evaluation that reads one answer by many rules.
    """

    def __init__(self, options: ModelOptions) -> None:
        self._runner = Runner(options)
        self.generator, self.kind = self._runner.generator, self._runner.card.kind

    @abstractmethod
    def plan(self, frame: Frame) -> Sequence[Ask]:
        """Say what to ask about a frame."""

    @abstractmethod
    def read(self, frame: Frame, answers: Sequence[Answered]) -> Result:
        """Make a result of the answers to all that was asked, in the order of the plan."""

    def __call__(self, image: Any, *, color: Color = "bgr") -> Result:
        """Return the result of one image: an array (BGR unless ``color`` says), PIL or a path."""
        return self._runner.one(self, image, color)

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

        Every result holds its picture. For a long video use `stream`, which keeps none.
        """
        return list(self._runner.stream(self, frames, on_error, how))

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

        Args:
            frames: Whatever `pgvision.images.iter_frames` takes: arrays, PIL images, paths,
                folders, videos, cameras, and iterables of these. Of what is live (a camera, an
                address, a capture of one) you get the newest frame each time, and those that came
                meanwhile are dropped: see `pgvision.images.Live`, which can also reconnect.
            on_error: "raise", "skip" (logged) or "record" (a `Failure` takes the place).
            how: ``color``, ``recursive``, ``stride``: see `pgvision.tasks.options.ReadOptions`.

        Returns:
            Results as they come, with the image attached, for ``result.plot()``. If ``frames``
            raises midway, what it gave before is answered first, and then its exception comes.
        """
        return self._runner.stream(self, frames, on_error, how)
