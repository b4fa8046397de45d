"""Bulk jobs: memory over many pictures, and pictures a second against a plain loop.

    python tests/benchmarks/bench_bulk.py memory 20000
    python tests/benchmarks/bench_bulk.py speed 200 [MODEL]
    python tests/benchmarks/bench_bulk.py ray 120 [MODEL]    (after make ray)

Memory is asked of the system at the start, in the middle and at the end, with answers from a
script, so that what grows is ours. Speed is that of a carried checkpoint; the model is idle while
the engine waits for its next request.
"""

import os
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
from recipes.scenes import render_scene


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


def scenes_in(base: Path, count: int) -> Path:
    """JPEGs of 1280 x 960 in ``base / "in"``."""
    (base / "in").mkdir()
    for number in range(count):
        scene = cv2.resize(render_scene(20_000_000 + number % 40).image, (1280, 960))
        scene[0, :4] = number % 251, number // 251, 0
        cv2.imwrite(str(base / "in" / f"{number}.jpg"), scene)
    return base


def speed(count: int, model: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = scenes_in(Path(name), count)
        detector = Detector("helmet", model=model)
        detector(np.zeros((64, 64, 3), np.uint8))
        started = time.perf_counter()
        for file in sorted((base / "in").iterdir()):
            detector(read_image(file))
        plain = count / (time.perf_counter() - started)
        detector.generator.forget_images()
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


def on_ray(count: int, model: str) -> None:
    """One process, one worker and two, in turns, twice."""
    import ray

    from pgvision.batch.ray import run_on_ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    place = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ray.init(
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 << 20,
        runtime_env={"env_vars": place},
    )
    with tempfile.TemporaryDirectory() as name:
        base = scenes_in(Path(name), count)
        for turn in range(2):
            for workers in (0, 1, 2):
                job = Job(
                    Recipe("detect", {"classes": "helmet", "model": model}),
                    [base / "in"],
                    base / f"{turn}-{workers}",
                )
                started, first, held = time.perf_counter(), 0.0, 0.0
                for _ in run_on_ray(job, num_actors=workers) if workers else job.stream():
                    first = first or time.perf_counter() - started
                    held = held or workers_mb()
                seconds = time.perf_counter() - started
                print(
                    f"{workers or 'no'} workers: {count / seconds:.2f} pictures/s, the first "
                    f"answers after {first:.1f} s; workers hold {held:.0f} MB"
                )
                job.write_json_lines(base / f"{turn}-{workers}.jsonl")
        files = {file.read_bytes() for file in base.glob("*.jsonl")}
        print(f"all runs gave {len(files)} file(s) of the same bytes")


def workers_mb() -> float:
    """What Ray's workers that hold a model hold, together."""
    held = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if b"MapWorker" in command or b"ray::Map" in command:
            held += int(text.partition("VmRSS:")[2].split()[0])
    return held / 1024


if __name__ == "__main__":
    what, number, *rest = sys.argv[1:]
    if what == "memory":
        memory(int(number))
    elif what == "ray":
        on_ray(int(number), rest[0] if rest else "tiny")
    else:
        speed(int(number), rest[0] if rest else "tiny")
