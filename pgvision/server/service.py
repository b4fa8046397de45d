"""What all routes share: from a form to an answer, within a deadline."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from pgvision.images import Frame
from pgvision.results import Answer
from pgvision.runtime import Generator
from pgvision.server.batcher import Batcher, Job
from pgvision.server.fields import Fields
from pgvision.server.forms import Form
from pgvision.server.metrics import Metrics
from pgvision.server.models import Load, Models, Served
from pgvision.server.pictures import read_text_picture, to_frame
from pgvision.server.refusals import Refusal
from pgvision.server.settings import ServeSettings
from pgvision.server.tasks import Kind, Prepared
from pgvision.tasks.asking import Answered, Ask, Task

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """One request, answered.

    Attributes:
        result: What came.
        served: Who answered.
        notes: What the caller should know.
        timings: Seconds by phase outside of the model.
    """

    result: Answer
    served: Served
    notes: tuple[str, ...]
    timings: dict[str, float]


class Service:
    """The models, their queues and the limits.

    Args:
        settings: The limits.
        load: Makes an engine of a checkpoint's name.
    """

    def __init__(self, settings: ServeSettings, load: Load) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.models = Models(
            settings.models, load, batch_size=settings.batch_size, metrics=self.metrics
        )

    async def answer(self, request: Request, kind: Kind, form: Form, fields: Fields) -> Outcome:
        """Answer one request.

        Raises:
            Refusal: If it cannot be: the picture, the words, the deadline.
        """
        started = time.perf_counter()
        served = self.models.pick(fields.model)
        batcher = served.require()
        # In one visit to the threads: on a busy machine every hand-over waits for its turn.
        frame, prepared, asks = await run_in_threadpool(
            self._prepared, kind, form, fields, batcher.generator
        )
        decoded = time.perf_counter()
        job = Job(frame, asks, deadline_of(request, self.settings))
        # No prompts: the task refuses the image.
        answers = await self._wait(request, batcher, job) if asks else []
        result = await run_in_threadpool(_read, prepared.task, frame, answers)
        timings = {
            "picture": decoded - started,
            "queue": job.waited,
            "total": time.perf_counter() - started,
        }
        return Outcome(result, served, prepared.notes, timings)

    def _prepared(
        self, kind: Kind, form: Form, fields: Fields, generator: Generator
    ) -> tuple[Frame, Prepared, Sequence[Ask]]:
        frame = self._frame(form)
        prepared = kind.prepare(fields, generator)
        return frame, prepared, self._require_few(prepared.task.plan(frame))

    def _frame(self, form: Form) -> Frame:
        picture = form.picture
        data = read_text_picture(picture, self.settings) if isinstance(picture, str) else picture
        return to_frame(data, form.name, self.settings)

    def _require_few(self, asks: Sequence[Ask]) -> Sequence[Ask]:
        most = self.settings.max_prompts
        if len(asks) > most:
            raise Refusal(
                422,
                "too_many_prompts",
                f"expected at most {most} prompts, got {len(asks)} (classes times tiles): ask for "
                "fewer classes at once, or take a larger tile",
            )
        return asks

    async def _wait(self, request: Request, batcher: Batcher, job: Job) -> list[Answered]:
        """Wait for the answers, for the deadline, or for the caller to hang up."""
        batcher.submit(job)
        answered = asyncio.wrap_future(job.future)
        gone = asyncio.create_task(_hung_up(request))
        try:
            left = max(job.deadline - time.monotonic(), 0.0)
            waiting: set[asyncio.Future[Any]] = {answered, gone}
            await asyncio.wait(waiting, timeout=left, return_when="FIRST_COMPLETED")
            if answered.done() and not answered.cancelled():
                return _answers_of(job)
            if gone.done():
                raise Refusal(499, "hung_up", "the caller hung up")
            self.metrics.late.inc()
            raise Refusal(
                504,
                "deadline_passed",
                f"not answered within {self.settings.deadline:g} s; ask again when fewer ask, or "
                "start the service with a longer --deadline",
            )
        finally:
            gone.cancel()
            job.abandoned = True
            job.future.cancel()


def deadline_of(request: Request, settings: ServeSettings) -> float:
    """Return the `time.monotonic` at which nobody waits for a request any more."""
    return float(request.scope["pgvision.started"]) + settings.deadline


def _read(task: Task[Answer], frame: Frame, answers: Sequence[Answered]) -> Answer:
    return task.read(frame, answers)


def _answers_of(job: Job) -> list[Answered]:
    error = job.future.exception()
    if error is None:
        return job.future.result()
    _LOG.error("the engine failed", exc_info=error)
    raise Refusal(500, "engine_failed", f"{type(error).__name__}: {error}") from error


async def _hung_up(request: Request) -> None:
    message: Any = {}
    while message.get("type") != "http.disconnect":
        message = await request.receive()
