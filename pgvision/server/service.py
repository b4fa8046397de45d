"""One request's way from an image and fields to a result, within its deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np
from fastapi import Request

from pgvision.images import Frame
from pgvision.results import Answer, DetectionResult
from pgvision.server.engine import Batcher, Job, Load, Metrics, Models, ServedModel
from pgvision.server.errors import ApiError, api_error_of, deadline_error
from pgvision.server.fields import AskFields, CaptionFields, Fields, ObjectFields, SegmentFields
from pgvision.server.settings import ServeSettings
from pgvision.server.uploads import Upload, Uploads
from pgvision.tasks import Answered, Answerer, Ask, Captioner, Detector, Reader, Segmenter, Task

_Value = TypeVar("_Value")
_AT_ONCE: Final = 8
"""Images of one request in the queue at once; bounded, so that other requests are served."""


@dataclass(frozen=True)
class Outcome:
    """The answer to one request about one image.

    Attributes:
        result: The task's result.
        model: The model that answered.
        answers: What it wrote, prompt by prompt.
        notes: What the caller should know.
        timings: Seconds by phase outside of the model.
    """

    result: Answer
    model: ServedModel
    answers: Sequence[Answered]
    notes: tuple[str, ...]
    timings: dict[str, float]

    @property
    def refusals(self) -> list[str]:
        """Reasons why the image, or a class, was not asked about."""
        return [reject.reason for reject in self.result.rejects if not reject.text]


class Service:
    """Models, queues and limits that all routes share.

    Args:
        settings: The limits.
        load: Returns an engine for a checkpoint; None: `pgvision.runtime.open_engine`.
    """

    def __init__(self, settings: ServeSettings, load: Load | None = None) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.models = Models(settings, load, self.metrics)
        self.uploads = Uploads(settings)

    async def answer(self, request: Request, upload: Upload, fields: Fields) -> Outcome:
        """Answer about one image.

        Raises:
            ApiError: For the image, a field, or the deadline.
        """
        started = time.perf_counter()
        deadline: float = request.scope["pgvision"].deadline
        model = self.models.pick(fields.model)
        batcher = model.require()
        if time.monotonic() >= deadline:  # earlier images of the request are not lost for this one
            raise self._late()
        # 1. Check the words before the image is decoded.
        task, notes = await self.uploads.run(lambda: _prepare(fields, model))
        # 2. Decode. Tiles need all pixels.
        full_size = getattr(fields, "tile", None) is not None
        async with self.uploads.decoded(upload, deadline, full_size=full_size) as (frame, image_hw):
            spent = time.perf_counter() - started
            # 3. Put the prompts into the queue, and wait for the answers.
            asks = await self.uploads.run(lambda: self._plan(task, frame, fields))
            job = Job(frame, asks, deadline)
            # No prompts: the task refuses the image, and its result has the reason.
            answers = await self._wait(request, batcher, job) if asks else []
            # 4. Read them; sizes are those of the image that was sent.
            result = await self.uploads.run(lambda: _read(task, frame, image_hw, answers))
        timings = {"picture": spent, "queue": job.waited, "total": time.perf_counter() - started}
        return Outcome(result, model, answers, notes, timings)

    def _late(self) -> ApiError:
        self.metrics.late.inc()
        return deadline_error(self.settings.deadline)

    def _plan(self, task: Task[Answer], frame: Frame, fields: Fields) -> Sequence[Ask]:
        """Return the prompts, cut off at ``max_new_tokens``; refuse too many of them."""
        asks, most = task.plan(frame), self.settings.max_prompts
        if len(asks) > most:
            raise ApiError(
                "too_many_prompts",
                f"expected at most {most} prompts, got {len(asks)} (classes times tiles): ask for "
                "fewer classes at once, or use a larger tile",
            )
        if fields.max_new_tokens is None:
            return asks
        return [replace(ask, max_new_tokens=fields.max_new_tokens) for ask in asks]

    async def _wait(self, request: Request, batcher: Batcher, job: Job) -> list[Answered]:
        """Wait for the answers, for the deadline, or for the client to hang up."""
        batcher.submit(job)
        answered = asyncio.wrap_future(job.future)
        gone = asyncio.create_task(_hang_up(request))
        try:
            # Whichever comes first: the answers, a disconnect, or the deadline.
            waiting: set[asyncio.Future[Any]] = {answered, gone}
            left = max(job.deadline - time.monotonic(), 0.0)
            await asyncio.wait(waiting, timeout=left, return_when="FIRST_COMPLETED")
            if answered.done() and not answered.cancelled():
                return answered.result()
            if gone.done():
                raise ApiError("hung_up", "the client hung up")
            raise self._late()
        finally:
            gone.cancel()
            # The engine skips the remaining prompts of an abandoned job.
            job.is_abandoned = True
            job.future.cancel()
            with suppress(asyncio.CancelledError):
                answered.cancel()


async def gather_few(calls: Iterable[Callable[[], Awaitable[_Value]]]) -> list[_Value | ApiError]:
    """Make calls, a few at a time; an error of one is in its place."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(call: Callable[[], Awaitable[_Value]]) -> _Value | ApiError:
        try:
            async with limit:
                return await call()
        except Exception as error:  # noqa: BLE001  (returned in its place)
            return api_error_of(error)

    return list(await asyncio.gather(*map(one, calls)))


def _prepare(fields: Fields, model: ServedModel) -> tuple[Task[Answer], tuple[str, ...]]:
    """Return the task of a request, and notes on what was changed."""
    # The task classes check the fields as in Python, and add notes on what they changed.
    more: Any = {"generator": model, "unknown": fields.unknown}
    if isinstance(fields, ObjectFields):
        names = ("conf", "nms", "max_objects", "tile")
        make = Segmenter if isinstance(fields, SegmentFields) else Detector
        finder = make(fields.classes, **{name: getattr(fields, name) for name in names}, **more)
        return finder, finder.notes
    if isinstance(fields, CaptionFields):
        return Captioner(fields.language, fields.style, **more), ()
    if isinstance(fields, AskFields):
        answerer = Answerer(fields.language, **more)
        return answerer.task(fields.question, fields.choices), ()
    return Reader(**more), ()


def _read(
    task: Task[Answer], frame: Frame, image_hw: tuple[int, int], answers: Sequence[Answered]
) -> Answer:
    """Read the answers about a frame; the result is in pixels of ``image_hw``."""
    result = task.read(frame, answers)
    if result.image_hw == image_hw:
        return result
    changes: dict[str, Any] = {"image_hw": image_hw, "image": None}
    if isinstance(result, DetectionResult):
        size = np.tile(image_hw[::-1], 2)
        scale = (size / np.tile(result.image_hw[::-1], 2)).astype(np.float32)
        changes["xyxy"] = np.clip(result.xyxy * scale, 0, size)
        if result.edge_std is not None:
            changes["edge_std"] = result.edge_std * scale
    return replace(result, **changes)


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
