"""`pgvision bench`: our detection against transformers' generate, same weights, same images."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgvision.cli.doctor import LoadOptions
from pgvision.errors import Range

if TYPE_CHECKING:
    from pgvision.arrays import ByteArray
    from pgvision.runtime import Engine

    Side = Callable[[Sequence[ByteArray]], int]


def bench(
    images: list[str] | None = None,
    *,
    class_: str = "helmet",
    repeat: Annotated[int, Range(3)] = 9,
    json_lines: bool = False,
    model: LoadOptions,
) -> None:
    """Measure detection against transformers' processor, generate and supervision's parser.

    Both use the same weights and images, in turns, with nothing kept between rounds: one image at
    a time and eight together; generate with PyTorch's default number of threads and with the
    number that pgvision uses. A ratio of 3 means three times as fast.

    Examples:
    pgvision bench
    pgvision bench photos/ --class person --model google/paligemma2-3b-mix-224 --repeat 5

    Args:
        images: Photographs or folders; None: the package's samples.
        class_: Name to detect.
        repeat: Rounds; medians are reported.
        json_lines: Print JSON instead of a table.
        model: The checkpoint, and how it is run.
    """
    figures = measure(images or [], class_, repeat, model)
    typer.echo(json.dumps(figures) if json_lines else _table(figures))


def measure(
    images: Sequence[str], name: str, repeat: int, model: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the figures of all comparisons, with the machine that they are of.

    Args:
        images: Photographs or folders; none: the package's samples.
        name: Class to detect.
        repeat: Rounds.
        model: Options of `pgvision.runtime.open_engine`.
    """
    import torch

    from pgvision import Detector
    from pgvision.runtime import load

    # 1. Read the images, and load the checkpoint in both engines.
    photographs = _read(images)
    detector = Detector(name, **model, conf=0)  # generate keeps everything, too
    ours: Any = detector.generator
    shared = ("model", "revision", "kind", "device", "dtype")
    theirs = load(**{key: model[key] for key in shared if key in model})
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
    sides: dict[str, Side] = {
        "ours": lambda batch: sum(map(len, detector.predict(batch))),
        "generate": lambda batch: _by_generate(theirs, batch, name),
    }
    same = int(getattr(ours.backend, "threads", many))
    for size in (1, 8):
        for threads in dict.fromkeys((many, same)):
            torch.set_num_threads(threads)
            key = f"batch {size}, generate with {threads} threads"
            figures[key] = _compare(sides, photographs, size, repeat, ours.forget_images)
    torch.set_num_threads(many)
    return figures


def _read(images: Sequence[str]) -> "list[ByteArray]":
    from pgvision.images import Frame, iter_frames
    from pgvision.samples import PHOTOGRAPHS, path

    sources: Sequence[Any] = images or [path(name) for name in PHOTOGRAPHS]
    return [frame.bgr for frame in iter_frames(list(sources)) if isinstance(frame, Frame)]


def _compare(
    sides: "dict[str, Side]",
    photographs: "Sequence[ByteArray]",
    size: int,
    repeat: int,
    forget: Callable[[], object],
) -> dict[str, Any]:
    # 1. Time both sides on the same images.
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    objects = dict.fromkeys(sides, 0)
    for round_ in range(repeat + 1):
        first = size * round_
        batch = [photographs[at % len(photographs)] for at in range(first, first + size)]
        # In turns, and in changing order: what heats the machine heats it for both.
        for side in sorted(sides, reverse=bool(round_ % 2)):
            forget()
            started = time.perf_counter()
            found = sides[side](batch)
            if round_:  # the first round warms up
                seconds[side].append((time.perf_counter() - started) / size)
                objects[side] += found
    # 2. Report medians: the mean follows single slow calls.
    medians = {side: 1e3 * statistics.median(spent) for side, spent in seconds.items()}
    return {
        **{f"{side} ms an image": round(median, 2) for side, median in medians.items()},
        "ratio": round(medians["generate"] / medians["ours"], 2),
        **{f"objects, {side}": count for side, count in objects.items()},
    }


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
    # 2. Generate greedily, as ours does.
    with torch.inference_mode():
        out = engine.model.generate(**inputs, max_new_tokens=engine.max_new_tokens, do_sample=False)
    # 3. Parse with supervision, and count.
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
