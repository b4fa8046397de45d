"""Many callers, one engine: a queue and the thread that feeds the engine from it."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from pgvision.errors import PgvisionError
from pgvision.images import Frame
from pgvision.runtime import Generation, Generator, Picture, Request
from pgvision.tasks.asking import Answered, Ask, Window

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """All that one request asks about one picture.

    Attributes:
        frame: The picture.
        asks: What is asked, as a task's ``plan`` gives it.
        deadline: `time.monotonic` after which nobody waits for it.
        future: Its answers, in the order of ``asks``.
        waited: Seconds in the queue, once it has left it.
        abandoned: Whether nobody waits any more; what was not asked yet is then not asked.
    """

    frame: Frame
    asks: Sequence[Ask]
    deadline: float
    future: "Future[list[Answered]]" = field(default_factory=Future)
    entered: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    abandoned: bool = False
    answers: dict[int, Generation] = field(default_factory=dict)

    def requests(self) -> Iterator[Request]:
        """Yield what to ask an engine; a part of a picture is one `Picture`."""
        pictures: dict[Window | None, Picture] = {}
        for ask in self.asks:
            if ask.window not in pictures:
                left, top, right, bottom = ask.window or (0, 0, *self.frame.image_hw[::-1])
                part = self.frame.bgr[top:bottom, left:right]
                pictures[ask.window] = Picture(part, is_passing=True)
            yield Request(
                picture=pictures[ask.window],
                prefix=ask.prefix,
                form=ask.form,
                constrained=ask.constrained,
                num_alternatives=ask.num_alternatives,
            )

    def take(self, place: int, answer: Generation) -> None:
        """Keep one answer, and settle the future with the last one."""
        self.answers[place] = answer
        if len(self.answers) == len(self.asks) and not self.future.done():
            self.future.set_result([(ask, self.answers[at]) for at, ask in enumerate(self.asks)])


class Batcher:
    """Feeds one generator from a queue, with one thread.

    While requests keep coming, the engine draws them into rows as others leave; when the queue runs
    empty the rows that are in flight end, and the thread waits.

    Args:
        generator: The engine.
        batch_size: Prompts that go through it together.
        observe: Called with the number of prompts in flight as each one ends.
    """

    def __init__(
        self, generator: Generator, batch_size: int, observe: Callable[[int], object]
    ) -> None:
        self.generator, self._batch_size, self._observe = generator, batch_size, observe
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._flying: dict[int, tuple[Job, int]] = {}
        self._open: dict[Job, None] = {}  # drawn and not answered
        self._thread = threading.Thread(target=self._work, name="pgvision-batcher", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job; its future gets the answers.

        Raises:
            PgvisionError: If the batcher was closed.
        """
        with self._changed:
            if self._closed:
                raise PgvisionError("the service is shutting down; ask again when it is back")
            self._waiting.append(job)
            self._changed.notify()

    @property
    def num_waiting(self) -> int:
        """Jobs that the engine has not drawn yet."""
        return len(self._waiting)

    def close(self) -> None:
        """Finish what was taken, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while self._wait():
            try:
                answers = self.generator.generate(self._requests(), batch_size=self._batch_size)
                for number, answer in answers:
                    self._observe(len(self._flying))
                    job, place = self._flying.pop(number)
                    job.take(place, answer)
                    if job.future.done():
                        self._open.pop(job, None)
            except Exception as error:  # noqa: BLE001  (told to whoever asked; the thread goes on)
                _LOG.warning("a batch failed, its pictures are tried one by one: %s", error)
                self._one_by_one()

    def _wait(self) -> bool:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            return bool(self._waiting)

    def _requests(self) -> Iterator[Request]:
        number = 0
        while (job := self._next()) is not None:
            self._open[job] = None
            for place, request in enumerate(job.requests()):
                if job.abandoned:
                    self._open.pop(job, None)
                    break
                self._flying[number] = (job, place)
                number += 1
                yield request

    def _next(self) -> Job | None:
        """Draw the next job that somebody still waits for."""
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

    def _one_by_one(self) -> None:
        """Ask again for what was in flight, so that one bad picture fails alone."""
        jobs = [job for job in self._open if not job.abandoned]
        self._flying.clear()
        self._open.clear()
        for job in jobs:
            try:
                for place, answer in self.generator.generate(job.requests(), batch_size=1):
                    job.take(place, answer)
            except Exception as error:  # noqa: BLE001  (as above)
                job.future.set_exception(error)
