"""Bulk jobs: memory over many pictures, and pictures a second against a plain loop.

    python tests/benchmarks/bench_bulk.py memory 20000
    python tests/benchmarks/bench_bulk.py speed 200 [MODEL]

Memory is asked of the system at the start, in the middle and at the end, with answers from a
script, so that what grows is ours. Speed is that of a carried checkpoint; the model is idle while
the engine waits for its next request.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "pgvision" / "batch"))
from answering import engine, make_pictures

from pgvision import Detector
from pgvision.batch import Job, Recipe
from pgvision.images import read_image
from pgvision.runtime import Generation, Request, load
from pgvision.scenes import render_scene


def resident_mb() -> float:
    """What this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def memory(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        folder = make_pictures(base / "in", count)
        recipe = Recipe("detect", {"classes": "helmet", "generator": engine()})
        recipe.keywords["generator"].requests = Forgetful()
        recipe.keywords["generator"].batches = Forgetful()
        job = Job(recipe, [folder], base / "journal")
        started = time.perf_counter()
        for number, _ in enumerate(job.stream()):
            if number % (count // 4) == count // 20 or number == count - 1:
                print(f"{number:>6} pictures: {resident_mb():.1f} MB", flush=True)
        seconds = time.perf_counter() - started
        print(f"{count / seconds:.0f} pictures/s; journal {job.path.stat().st_size / 1e6:.1f} MB")
        job.write_coco(base / "out.json")
        print(f"after the COCO file: {resident_mb():.1f} MB")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak {peak:.1f} MB")


class Forgetful(list):
    """The script's own notes, which are not what is measured."""

    def append(self, one: object) -> None: ...

    def __iadd__(self, more: object) -> "Forgetful":
        return self


class Waiting:
    """An engine that notes how long it waits for requests."""

    def __init__(self, model: str) -> None:
        self._engine = load(model)
        self.card, self.idle = self._engine.card, 0.0

    def generate(
        self, requests: Iterable[Request], *, batch_size: int | None = None
    ) -> Iterator[tuple[int, Generation]]:
        return self._engine.generate(self._timed(requests), batch_size=batch_size)

    def _timed(self, requests: Iterable[Request]) -> Iterator[Request]:
        source = iter(requests)
        while True:
            started = time.perf_counter()
            request = next(source, None)
            self.idle += time.perf_counter() - started
            if request is None:
                return
            yield request


def speed(count: int, model: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "in").mkdir()
        for number in range(count):
            scene = cv2.resize(render_scene(20_000_000 + number % 40).image, (1280, 960))
            scene[0, :4] = number % 251, number // 251, 0
            cv2.imwrite(str(base / "in" / f"{number}.jpg"), scene)
        detector = Detector("helmet", model=model)
        detector(np.zeros((64, 64, 3), np.uint8))
        started = time.perf_counter()
        for file in sorted((base / "in").iterdir()):
            detector(read_image(file))
        plain = count / (time.perf_counter() - started)
        detector.generator.eyes.forget()
        engine = Waiting(model)
        recipe = Recipe("detect", {"classes": "helmet", "generator": engine})
        job = Job(recipe, [base / "in"], base / "journal")
        started = time.perf_counter()
        for _ in job.stream():
            pass
        seconds = time.perf_counter() - started
        job.write_coco(base / "out.json")
    print(f"plain loop {plain:.2f} pictures/s, job {count / seconds:.2f} pictures/s")
    print(f"the model was idle {100 * engine.idle / seconds:.2f}% of the time")


if __name__ == "__main__":
    what, number, *rest = sys.argv[1:]
    if what == "memory":
        memory(int(number))
    else:
        speed(int(number), rest[0] if rest else "tiny")
