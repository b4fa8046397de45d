"""`pgvision bench`: our detection against transformers' generate, same weights, same images."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgvision.cli.model_options import ModelOptions
from pgvision.cli.options import takes

if TYPE_CHECKING:
    from pgvision.arrays import ByteArray
    from pgvision.runtime import Engine


@takes(ModelOptions)
def bench(
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Photographs or folders.", show_default="the package's samples"),
    ] = None,
    *,
    name: Annotated[str, typer.Option("--class", help="Name to detect.")] = "helmet",
    repeat: Annotated[int, typer.Option(min=3, help="Rounds; medians are reported.")] = 9,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Also write JSON here.")
    ] = None,
    options: ModelOptions,
) -> None:
    """Measure detection against transformers' processor, generate and supervision's parser.

    Both use the same weights and images, in turns, with nothing kept between rounds: one image at
    a time and eight together; generate with PyTorch's default number of threads and with the
    number that pgvision uses. A ratio of 3 means three times as fast.

    [bold]Examples[/bold]

    pgvision bench
    pgvision bench photos/ --class person --model google/paligemma2-3b-mix-224 --repeat 5
    """
    from pgvision.files import write_text

    figures = measure(images or [], name, repeat, options)
    typer.echo(json.dumps(figures) if json_lines else _table(figures))
    if out is not None:
        write_text(out, json.dumps(figures, indent=1) + "\n")


def measure(images: Sequence[str], name: str, repeat: int, options: ModelOptions) -> dict[str, Any]:
    """Return the figures of all comparisons, with the machine that they are of."""
    import torch

    from pgvision import Detector
    from pgvision.runtime import load

    # 1. Load the checkpoint in both engines.
    how = options.for_load
    detector = Detector(name, **how, conf=0)  # generate keeps everything, too
    ours: Any = detector.generator
    theirs = load(
        how["model"],
        revision=how["revision"],
        kind=how["kind"],
        device=how["device"],
        dtype=how["dtype"],
    )
    photographs = _read(images)
    many = torch.get_num_threads()
    # 2. Describe the machine and the engines.
    figures: dict[str, Any] = {
        "machine": _machine(),
        "model": theirs.card.name,
        "engine": ours.backend.description,
        "generate": f"{theirs.backend.description}, transformers",
        "images": len(photographs),
        "rounds": repeat,
    }
    # 3. Measure each batch size; generate with all threads and with as many as ours.
    same = int(getattr(ours.backend, "threads", many))
    for size in (1, 8):
        for threads in dict.fromkeys((many, same)):
            torch.set_num_threads(threads)
            key = f"batch {size}, generate with {threads} threads"
            figures[key] = _compare(detector, ours, theirs, photographs, name, size, repeat)
    torch.set_num_threads(many)
    return figures


def _read(images: Sequence[str]) -> "list[ByteArray]":
    from pgvision.images import Frame, iter_frames
    from pgvision.samples import PHOTOGRAPHS, path

    sources: Sequence[Any] = images or [path(name) for name in PHOTOGRAPHS]
    return [frame.bgr for frame in iter_frames(list(sources)) if isinstance(frame, Frame)]


def _compare(
    detector: Any,
    ours: "Engine",
    theirs: "Engine",
    photographs: "Sequence[ByteArray]",
    name: str,
    size: int,
    repeat: int,
) -> dict[str, Any]:
    # 1. Time both sides on the same images.
    seconds: dict[str, list[float]] = {"ours": [], "generate": []}
    objects = {"ours": 0, "generate": 0}
    for round_ in range(repeat + 1):
        first = size * round_
        batch = [photographs[at % len(photographs)] for at in range(first, first + size)]
        calls: dict[str, Callable[[], int]] = {
            "ours": partial(_by_us, detector, batch),
            "generate": partial(_by_generate, theirs, batch, name),
        }
        # In turns, and in changing order: what heats the machine heats it for both.
        for side in sorted(calls, reverse=bool(round_ % 2)):
            ours.forget_images()
            started = time.perf_counter()
            found = calls[side]()
            if round_:  # the first round warms up
                seconds[side].append((time.perf_counter() - started) / size)
                objects[side] += found
    # 2. Report medians: the mean follows single slow calls.
    medians = {side: statistics.median(spent) for side, spent in seconds.items()}
    return {
        "ours ms an image": round(1e3 * medians["ours"], 2),
        "generate ms an image": round(1e3 * medians["generate"], 2),
        "ratio": round(medians["generate"] / medians["ours"], 2),
        "objects, ours": objects["ours"],
        "objects, generate": objects["generate"],
    }


def _by_us(detector: Any, batch: "Sequence[ByteArray]") -> int:
    if len(batch) == 1:
        return len(detector(batch[0]))
    return sum(map(len, detector.predict(batch)))


def _by_generate(engine: "Engine", batch: "Sequence[ByteArray]", name: str) -> int:
    """Detect with transformers' generate; return the number of objects."""
    import numpy as np
    import supervision as sv
    import torch
    from PIL import Image

    # 1. Preprocess.
    images = [Image.fromarray(np.ascontiguousarray(image[..., ::-1])) for image in batch]
    inputs = engine.processor(
        images=images, text=[f"<image>detect {name}"] * len(images), return_tensors="pt"
    )
    inputs.pop("labels", None)
    inputs = inputs.to(engine.model.device)
    inputs["pixel_values"] = inputs["pixel_values"].to(engine.model.dtype)
    with torch.inference_mode():
        out = engine.model.generate(**inputs, max_new_tokens=engine.max_new_tokens, do_sample=False)
    texts = engine.processor.tokenizer.batch_decode(
        out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return sum(
        len(
            sv.Detections.from_vlm(sv.VLM.PALIGEMMA, text, resolution_wh=image.size, classes=[name])
        )
        for text, image in zip(texts, images, strict=True)
    )


def _table(figures: dict[str, Any]) -> str:
    lines = [f"{key}: {value}" for key, value in figures.items() if not isinstance(value, dict)]
    for key, row in figures.items():
        if isinstance(row, dict):
            lines.append(
                f"{key}: {row['ours ms an image']} ms an image against "
                f"{row['generate ms an image']} ms: {row['ratio']}x "
                f"(objects: {row['objects, ours']} and {row['objects, generate']})"
            )
    return "\n".join(lines)


def _machine() -> str:
    import torch

    from pgvision import __version__

    name, path = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if path.exists():
        listed = [line for line in path.read_text().splitlines() if line.startswith("model name")]
        name = listed[0].partition(":")[2].strip() if listed else name
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__}, pgvision {__version__}"
