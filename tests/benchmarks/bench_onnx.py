"""Exports against torch: size, the same tokens, seconds a prompt, memory.

    python tests/benchmarks/bench_onnx.py tiny
    python tests/benchmarks/bench_onnx.py FOLDER --prompts 40 --weights bfloat16 int8

Both answer the same pictures and prompts in turns, on as many threads, nothing remembered.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

from pgvision.runtime import Picture, Request, load, open_generator
from pgvision.runtime.onnx_export import export_onnx
from pgvision.tokens import AnswerForm
from recipes.scenes import render_scene

FIRST_SEED = 40_000_000
PROMPTS = (
    ("detect helmet", AnswerForm("detect", ("helmet",))),
    ("segment worker", AnswerForm("segment", ("worker",))),
    ("caption en", None),
    ("answer en how many workers are there?", None),
)


def requests(count: int, most: int | None) -> list[Request]:
    return [
        Request(
            picture=Picture(render_scene(FIRST_SEED + number).image),
            prefix=PROMPTS[number % 4][0],
            form=PROMPTS[number % 4][1],
            max_new_tokens=most,
        )
        for number in range(count)
    ]


def megabytes(folder: Path) -> float:
    endings = (".safetensors", ".onnx", ".data", ".npy")
    return sum(f.stat().st_size for f in folder.iterdir() if f.suffix in endings) / 1e6


def compare(model: str, weights: str | None, count: int, threads: int, most: int | None) -> None:
    torch_engine = load(model, device="cpu", dtype="float32", threads=threads)
    with tempfile.TemporaryDirectory() as name:
        started = time.perf_counter()
        folder = export_onnx(model, Path(name) / "out", weights=weights)  # type: ignore[arg-type]
        exporting = time.perf_counter() - started
        engine = open_generator(folder, threads=threads)
        equal = tokens = same = 0
        spent: tuple[list[float], list[float]] = [], []
        for number, request in enumerate(requests(count, most)):
            found = []
            for side in (number % 2, 1 - number % 2):
                torch_engine.eyes.forget()
                started = time.perf_counter()
                ((_, answer),) = (engine, torch_engine)[side].generate([request])
                spent[side].append(time.perf_counter() - started)
                found.append(answer.token_ids.tolist())
            equal += found[0] == found[1]
            pairs = list(zip(*found, strict=False))
            tokens += max(map(len, found))
            same += sum(one == other for one, other in pairs)
        mine, theirs = (1e3 * statistics.median(times) for times in spent)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{model} {weights or 'as it is'}: {megabytes(folder):.1f} MB of a checkpoint's "
            f"{megabytes(Path(torch_engine.card.location)):.1f}; {equal} of {count} answers equal "
            f"({same} of {tokens} tokens); {mine:.0f} ms a prompt against torch's {theirs:.0f}; "
            f"exported in {exporting:.0f} s, peak {peak:.1f} GB",
            flush=True,
        )


if __name__ == "__main__":
    words = argparse.ArgumentParser()
    words.add_argument("model", nargs="?", default="tiny")
    words.add_argument("--weights", nargs="*", default=["own", "float32", "int8"])
    words.add_argument("--prompts", type=int, default=40)
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--most", type=int, default=None, help="tokens of an answer")
    given = words.parse_args()
    for form in given.weights:
        kind = None if form == "own" else form
        compare(given.model, kind, given.prompts, given.threads, given.most)
