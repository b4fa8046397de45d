"""`pgvision bench`: our decoder against `generate` and a parser, on the same weights."""

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgvision.cli.model_options import ModelOptions
from pgvision.cli.options import takes

if TYPE_CHECKING:
    from pgvision.arrays import ByteArray
    from pgvision.runtime import Engine

_CLASSES = ("helmet", "head", "worker", "vest", "cone", "barrel", "ladder", "truck", "sign")


@takes(ModelOptions)
def bench(
    *,
    repeat: Annotated[int, typer.Option(min=3, help="Rounds; medians are reported.")] = 15,
    batch: Annotated[int, typer.Option(min=1, help="Pictures in the batched comparison.")] = 8,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Also write JSON here.")
    ] = None,
    options: ModelOptions,
) -> None:
    """Measure detection against transformers' generate and a parser, interleaved, on this machine.

    Both see the same pictures and write float32 answers of their own; nothing is remembered
    between rounds. A ratio of 3 means three times as fast.

    [bold]Examples[/bold]

    pgvision bench
    pgvision bench --model google/paligemma2-3b-mix-224 --repeat 5 --json
    """
    from pgvision.files import write_text
    from pgvision.runtime import load

    engine = load(**options.for_load)
    figures = {
        "machine": _machine(engine),
        "model": engine.card.name,
        "rounds": repeat,
        "one picture": _compare(engine, 1, ("helmet",), repeat),
        f"{batch} pictures": _compare(engine, batch, ("helmet",), repeat),
        "nine classes on one picture": _compare(engine, 1, _CLASSES, repeat),
    }
    typer.echo(json.dumps(figures) if json_lines else _table(figures))
    if out is not None:
        write_text(out, json.dumps(figures, indent=1) + "\n")


def _table(figures: dict[str, Any]) -> str:
    lines = [f"{figures['model']}, medians of {figures['rounds']} rounds", figures["machine"]]
    for name, row in figures.items():
        if isinstance(row, dict):
            phases = ", ".join(f"{phase} {spent}" for phase, spent in row["phases ms"].items())
            lines.append(
                f"{name}: {row['ours ms']} ms against {row['generate + parser ms']} ms: "
                f"{row['ratio']}x ({phases}; {row['objects a round']} objects)"
            )
    return "\n".join(lines)


def _compare(
    engine: "Engine", num_pictures: int, classes: tuple[str, ...], repeat: int
) -> dict[str, Any]:
    from pgvision import Detector
    from pgvision.samples import RENDERED, load

    detector = Detector(
        classes, generator=engine, conf=0.0, batch_size=max(num_pictures, len(classes))
    )
    plain = Detector(
        classes, generator=engine, batch_size=max(num_pictures, len(classes)), constrained=False
    )
    ours: list[float] = []
    free: list[float] = []
    theirs: list[float] = []
    phases: dict[str, list[float]] = {}
    objects = 0
    for round_ in range(repeat + 1):
        seeds = range(num_pictures * round_, num_pictures * (round_ + 1))
        pictures = [load(RENDERED[seed % len(RENDERED)]) for seed in seeds]
        engine.eyes.forget()
        seconds, results = _timed(partial(detector.predict, pictures))
        engine.eyes.forget()
        unheld, _ = _timed(partial(plain.predict, pictures))
        other, _ = _timed(partial(_by_generate, engine, pictures, classes))
        if round_ == 0:
            continue  # the first round warms up
        ours.append(seconds)
        free.append(unheld)
        theirs.append(other)
        objects += sum(len(result) for result in results)
        for name in results[0].timings:
            spent = sum(result.timings.get(name, 0.0) for result in results)
            phases.setdefault(name, []).append(spent)
    return {
        "ours ms": _ms(ours),
        "generate + parser ms": _ms(theirs),
        "ratio": round(statistics.median(theirs) / statistics.median(ours), 2),
        "ratio without grammar": round(statistics.median(theirs) / statistics.median(free), 2),
        "phases ms": {name: _ms(spent) for name, spent in phases.items()},
        "objects a round": round(objects / repeat, 2),
    }


def _by_generate(
    engine: "Engine", pictures: "list[ByteArray]", classes: tuple[str, ...]
) -> list[Any]:
    """Do what a user of transformers does: processor, generate, decode, parse; class by class."""
    import numpy as np
    import torch
    from PIL import Image

    from pgvision.tokens import parse_suffix

    images = [Image.fromarray(np.ascontiguousarray(one[..., ::-1])) for one in pictures]
    found: list[Any] = []
    for name in classes:
        inputs = engine.processor(
            images=images, text=[f"<image>detect {name}"] * len(images), return_tensors="pt"
        )
        inputs.pop("labels", None)
        inputs = inputs.to(engine.model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(engine.model.dtype)
        with torch.inference_mode(), engine.machine.threads:
            out: Any = engine.model.generate(
                **inputs, max_new_tokens=engine.max_new_tokens, do_sample=False
            )
        written = out[:, inputs["input_ids"].shape[1] :]
        texts = engine.processor.tokenizer.batch_decode(written, skip_special_tokens=True)
        found += [
            parse_suffix(text, image_hw=one.shape[:2], classes=[name])
            for text, one in zip(texts, pictures, strict=True)
        ]
    return found


def _timed(call: Callable[[], list[Any]]) -> tuple[float, list[Any]]:
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def _ms(seconds: list[float]) -> float:
    return round(1e3 * statistics.median(seconds), 2)


def _machine(engine: "Engine") -> str:
    import os
    import platform

    import torch

    from pgvision import __version__

    name = platform.processor() or platform.machine()
    for line in _cpu_lines():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return (
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{engine.model.device}, {str(engine.model.dtype).removeprefix('torch.')}, "
        f"torch {torch.__version__}, pgvision {__version__}"
    )


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
