"""Models of a service: loading, a queue and a thread for each, and their counts."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from pgvision.errors import CheckpointError, PgvisionError
from pgvision.images import Frame
from pgvision.runtime import (
    CheckpointCard,
    Generation,
    Generator,
    Request,
    find_checkpoint,
    open_engine,
)
from pgvision.server.errors import ApiError
from pgvision.server.settings import ServeSettings
from pgvision.tasks.run import Answered, Ask, requests_of

_LOG = logging.getLogger(__name__)
Load = Callable[[str | None], Generator]
_MAX_FAILURES: Final = 3
"""Jobs that fail in a row before a model counts as broken."""
_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counts for Prometheus; each service has its own registry.

    Example:
        >>> metrics = Metrics()
        >>> metrics.requests.labels("/v1/detect", "200").inc()
        >>> b'pgvision_requests_total{route="/v1/detect",status="200"} 1.0' in metrics.text()
        True
    """

    def __init__(self) -> None:
        self._registry = to = CollectorRegistry()
        ProcessCollector(registry=to)
        self.requests = Counter(
            "pgvision_requests", "Requests answered.", ["route", "status"], registry=to
        )
        self.seconds = Histogram(
            "pgvision_request_seconds", "Time to answer.", ["route"], registry=to, buckets=_SECONDS
        )
        self.inside = Gauge("pgvision_requests_inside", "Requests in progress.", registry=to)
        self.rows = Histogram(
            "pgvision_rows_together", "Prompts per pass.", ["model"], registry=to, buckets=_ROWS
        )
        self.late = Counter("pgvision_deadlines_passed", "Requests answered 504.", registry=to)

    def text(self) -> bytes:
        """Return all counts in Prometheus's text form."""
        return generate_latest(self._registry)


@dataclass(eq=False)
class Job:
    """All prompts of one request about one image.

    Attributes:
        frame: The image.
        asks: The prompts of a task's ``plan``.
        deadline: `time.monotonic` after which it is dropped.
        future: Its answers, in the order of ``asks``.
        waited: Seconds in the queue, once it has left it.
        is_abandoned: Client gone or deadline passed; remaining prompts are skipped.
    """

    frame: Frame
    asks: Sequence[Ask]
    deadline: float
    future: "Future[list[Answered]]" = field(default_factory=Future)
    entered: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    is_abandoned: bool = False
    answers: dict[int, Generation] = field(default_factory=dict)

    def requests(self) -> Iterator[Request]:
        """Return the engine's requests; prompts about one part share its `Picture`."""
        return requests_of(self.frame, self.asks)

    def put(self, place: int, answer: Generation) -> bool:
        """Store one answer; complete the future with the last. Returns whether it was the last."""
        self.answers[place] = answer
        if len(self.answers) < len(self.asks):
            return False
        if not self.future.done():
            self.future.set_result([(ask, self.answers[at]) for at, ask in enumerate(self.asks)])
        return True

    def fail(self, error: Exception) -> None:
        """Complete the future with an error."""
        if not self.future.done():
            self.future.set_exception(error)


class Batcher:
    """Request queue of one engine, and the thread that feeds it.

    While jobs keep coming, the engine takes prompts into its rows as others end; when the queue is
    empty, the thread waits.

    Args:
        generator: The engine.
        batch_size: Prompts that go through it together.
        observe: Called with the number of prompts in flight as each one ends.
    """

    def __init__(
        self, generator: Generator, batch_size: int, observe: Callable[[int], object]
    ) -> None:
        self.generator, self._batch_size, self._observe = generator, batch_size, observe
        self.num_failures = 0  # in a row
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._in_flight: dict[int, tuple[Job, int]] = {}
        self._open: dict[Job, None] = {}  # taken by the engine and not answered
        self._thread = threading.Thread(target=self._work, name="pgvision-batcher", daemon=True)
        self._thread.start()

    @property
    def is_healthy(self) -> bool:
        """Whether the thread runs and the last jobs did not all fail."""
        return self._thread.is_alive() and self.num_failures < _MAX_FAILURES

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            ApiError: If the service is shutting down.
        """
        with self._changed:
            if self._is_closed:
                raise ApiError("closing", "the service is shutting down; ask again later")
            self._waiting.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Finish the jobs in the queue, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while self._wait():
            # 1. The engine draws prompts while others end, until the queue is empty.
            try:
                answers = self.generator.generate(self._requests(), batch_size=self._batch_size)
                for number, answer in answers:
                    self._observe(len(self._in_flight))
                    job, place = self._in_flight.pop(number)
                    if job.put(place, answer):
                        self._open.pop(job, None)
                        self.num_failures = 0
            # 2. One image may have broken a batch of many.
            except Exception as error:  # noqa: BLE001  (each job gets its own error below)
                _LOG.warning("a batch failed (%s); its images are asked one by one", error)
                self._ask_one_by_one()

    def _wait(self) -> bool:
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            return bool(self._waiting)

    def _requests(self) -> Iterator[Request]:
        number = 0
        while (job := self._next()) is not None:
            self._open[job] = None
            for place, request in enumerate(job.requests()):
                if job.is_abandoned:
                    self._open.pop(job, None)
                    break
                self._in_flight[number] = (job, place)
                number += 1
                yield request

    def _next(self) -> Job | None:
        """Take the next job that is still wanted; None when the queue is empty."""
        while True:
            with self._changed:
                if not self._waiting:
                    return None
                job = self._waiting.popleft()
            now = time.monotonic()
            job.waited = now - job.entered
            if now > job.deadline:
                job.future.cancel()
            elif job.future.set_running_or_notify_cancel():
                return job

    def _ask_one_by_one(self) -> None:
        """Repeat each image of a failed batch separately, so that one bad image fails alone."""
        jobs = [job for job in self._open if not job.is_abandoned]
        # An engine that fails before it takes a prompt would fail on the same job for ever.
        if not self._open and (job := self._next()) is not None:
            jobs.append(job)
        self._in_flight.clear()
        self._open.clear()
        # A failure here is the image's own, or the engine's if it happens again and again.
        for job in jobs:
            try:
                for place, answer in self.generator.generate(job.requests(), batch_size=1):
                    job.put(place, answer)
                self.num_failures = 0
            except Exception as error:  # noqa: BLE001  (the caller gets it)
                self.num_failures += 1
                job.fail(error)


class ServedModel:
    """One checkpoint: loading, ready or failed.

    Args:
        name: The name that requests use.
        checkpoint: As `pgvision.runtime.load` takes it.
    """

    def __init__(self, name: str, checkpoint: str) -> None:
        self.name, self.checkpoint = name, checkpoint
        self.card: CheckpointCard = replace(find_checkpoint(checkpoint), name=name)
        self.resolution = 224  # pixels a side that the model sees; tasks choose tiles by it
        self.since = time.time()
        self.error: PgvisionError | None = None
        self.batcher: Batcher | None = None

    def start(self, generator: Generator, batch_size: int, metrics: Metrics) -> None:
        """Begin to answer with a loaded engine."""
        self.card = replace(generator.card, name=self.name)
        self.resolution = int(getattr(generator, "resolution", self.resolution))
        self.batcher = Batcher(generator, batch_size, metrics.rows.labels(self.name).observe)

    @property
    def is_ready(self) -> bool:
        """Whether it answers."""
        return self.batcher is not None and self.batcher.is_healthy

    def generate(
        self, requests: Iterable[Request], *, batch_size: int | None = None
    ) -> Iterator[tuple[int, Generation]]:
        """Answer requests in order, as `pgvision.runtime.Generator` does: tasks need an engine.

        Raises:
            ApiError: If it is not loaded.
        """
        return self.require().generator.generate(requests, batch_size=batch_size)

    def require(self) -> Batcher:
        """Return the queue.

        Raises:
            ApiError: 503 while the model loads, or if it could not be loaded.
        """
        if self.batcher is not None:
            return self.batcher
        if self.error is not None:
            raise ApiError("not_loaded", f"{self.name} could not be loaded: {self.error}")
        raise ApiError(
            "loading", f"{self.name} is still loading; ask again soon", {"Retry-After": "2"}
        )

    def require_healthy(self) -> None:
        """Check that the model answers.

        Raises:
            ApiError: 503 if it is not loaded, or if its last jobs all failed.
        """
        if not self.require().is_healthy:
            raise ApiError("engine_failed", f"{self.name}: the engine fails; restart the service")

    @property
    def entry(self) -> dict[str, object]:
        """Its entry in /v1/models."""
        card = self.card
        names = ("kind", "about", "classes", "questions", "trained_on", "text_domain")
        known = {name: getattr(card, name) for name in names}
        return {
            "id": self.name,
            "object": "model",
            "created": int(self.since),
            "owned_by": "pgvision",
            "ready": self.is_ready,
            **known,
            "notes": card.notes,
        }


class Models:
    """All models of a service; they load one after the other, in a thread.

    Args:
        settings: Names and options.
        load: Returns an engine for a checkpoint; None: `pgvision.runtime.open_engine`.
        metrics: Batch sizes are counted there.

    Raises:
        CheckpointError: If there is no such checkpoint.
    """

    def __init__(self, settings: ServeSettings, load: Load | None, metrics: Metrics) -> None:
        # The default may be a path, too (PGVISION_MODEL).
        named = replace(settings, models=settings.models or (find_checkpoint(None).name,))
        self.all = [ServedModel(*each) for each in named.named_models.items()]
        self._settings, self._metrics = settings, metrics
        self._load: Load = load or partial(
            open_engine, device=settings.device, dtype=settings.dtype, threads=settings.threads
        )
        self._thread = threading.Thread(target=self._load_all, name="pgvision-load", daemon=True)

    def start(self, on_failure: Callable[[], object]) -> None:
        """Load in the background; ``on_failure`` is called if a model cannot be loaded."""
        self._on_failure = on_failure
        self._thread.start()

    def close(self) -> None:
        """Finish the jobs in the queues."""
        for model in self.all:
            if model.batcher is not None:
                model.batcher.close()

    def pick(self, name: str | None) -> ServedModel:
        """Return the model of a name; None: the first.

        Raises:
            ApiError: 404 if there is none.
        """
        for model in self.all:
            if name in (None, model.name):
                return model
        names = ", ".join(model.name for model in self.all)
        raise ApiError(
            "unknown_model", f"model: {str(name)[:80]!r} is not served here; it has {names}"
        )

    def _load_all(self) -> None:
        for model in self.all:
            try:
                model.start(self._load(model.checkpoint), self._settings.batch_size, self._metrics)
            except Exception as error:  # noqa: BLE001  (torch's too: no memory, no such device)
                if not isinstance(error, PgvisionError):
                    _LOG.exception("the reason why %s could not be loaded:", model.name)
                    error = CheckpointError(f"{type(error).__name__}: {error}")
                model.error = error
                _LOG.error("%s could not be loaded: %s", model.name, error)
                self._on_failure()
                return
