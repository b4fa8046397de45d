"""Print every row of the speed table.

Usage: python tests/benchmarks/bench_speed.py [--data FOLDER] [--large FOLDER]

`small` and `tiny`, default options, against transformers' processor, ``generate`` and supervision's
parser with the same weights, at PyTorch's default threads: batches of 1 and 8, nine classes on one
image. Then a cold ``pgvision detect`` (wall time, CPU seconds, peak memory) against importing torch
and transformers. With ``--large PATH`` (a folder of the 3B shape) decoding alone. With ``--data``
(a folder with a COCO file) AP of torch float32 and of the default engine. Ours and theirs run in
turns; medians. Run it on a quiet machine.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLASSES = ("helmet", "head", "person", "vest", "cone", "barrel", "ladder", "truck", "sign")
_COLD = """
import resource, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(done.returncode, time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


def compared(model: str, repeat: int, images: list[str]) -> None:
    from pgvision.cli.bench import measure

    figures = measure(images, "helmet", repeat, {"model": model})
    print(json.dumps(figures, indent=1))


def nine_classes(model: str, repeat: int) -> None:
    """One call with nine classes against nine calls of generate."""
    from pgvision import Detector, samples
    from pgvision.cli.bench import _by_generate
    from pgvision.runtime import load

    names = [name for name in CLASSES if name in (load(model).card.classes or CLASSES)]
    detector, theirs = Detector(names, model=model), load(model)
    photographs = [samples.load(name) for name in samples.PHOTOGRAPHS]
    spent: dict[str, list[float]] = {"ours": [], "generate": []}
    for round_ in range(repeat + 1):
        image = photographs[round_ % len(photographs)]
        detector.generator.forget_images()
        started = time.perf_counter()
        detector(image)
        between = time.perf_counter()
        for name in names:
            _by_generate(theirs, [image], name)
        if round_:
            spent["ours"].append(between - started)
            spent["generate"].append(time.perf_counter() - between)
    ours, other = (1e3 * statistics.median(values) for values in spent.values())
    print(f"{model}, {len(names)} classes: {ours:.1f} ms against {other:.1f}: {other / ours:.1f}x")


def cold(repeat: int) -> None:
    """A command of its own each time, in turns."""
    from pgvision import samples

    pgvision = str(Path(sys.executable).with_name("pgvision"))
    image = str(samples.path("cyclist"))
    commands = {
        "pgvision detect helmet IMAGE": [pgvision, "detect", "helmet", image],
        "import torch, transformers": [sys.executable, "-c", "import torch, transformers"],
    }
    rows: dict[str, list[list[float]]] = {name: [] for name in commands}
    for _ in range(repeat):
        for name, command in commands.items():
            ended = subprocess.run(
                [sys.executable, "-c", _COLD, *command], capture_output=True, text=True, check=True
            )
            code, *figures = map(float, ended.stdout.split())
            if code:
                raise SystemExit(f"{name}: ended with {code}")
            rows[name].append(figures)
    for name, taken in rows.items():
        wall, cpu, memory = (statistics.median(column) for column in zip(*taken, strict=True))
        print(f"cold: {name}: {wall:.2f} s, {cpu:.2f} CPU s, {memory / 1024:.0f} MB")


def decoding(folder: str) -> None:
    """Five objects of a 3B shape in bfloat16: our passes against generate of the same tokens."""
    import numpy as np
    import torch
    from PIL import Image

    from pgvision.runtime import Picture, Request, load
    from pgvision.tokens import AnswerForm

    engine = load(folder, dtype="bfloat16", device="cpu")
    form = AnswerForm("detect", ("helmet",), max_objects=5, bans=("<eos>",))
    image = np.full((240, 320, 3), 90, np.uint8)
    request = Request(picture=Picture(image), prefix="detect helmet", form=form, max_new_tokens=64)
    ((_, answer),) = engine.generate([request])
    ours = answer.timings["answer"]
    inputs = engine.processor(
        images=[Image.fromarray(image)], text=["<image>detect helmet"], return_tensors="pt"
    )
    inputs.pop("labels", None)
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    seconds = []
    for tokens in (1, len(answer.token_ids)):
        started = time.perf_counter()
        with torch.inference_mode():
            engine.model.generate(
                **inputs, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens
            )
        seconds.append(time.perf_counter() - started)
    theirs = seconds[1] - seconds[0]
    print(f"3B decode of {len(answer.token_ids)} tokens: {ours:.2f} s, generate {theirs:.2f} s: "
          f"{ours / theirs:.2f}")  # fmt: skip


def average_precision(data: str, limit: int, model: str) -> None:
    """AP of the same images by torch in float32 and by the default engine."""
    for engine, options in (("torch, float32", ["--backend", "torch"]), ("default", [])):
        with tempfile.TemporaryDirectory() as out:
            ended = subprocess.run(
                [
                    *(sys.executable, "-m", "pgvision", "eval", "--data", data),
                    *("--model", model, "--limit", str(limit), "--out", out, "--json", *options),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
        if ended.returncode:
            raise SystemExit(ended.stderr[-500:])
        report = json.loads(ended.stdout)
        names = {one["name"]: (one["ap"], one["ap50"]) for one in report["per_class"]}
        shown = ", ".join(f"{name} {ap:.4f} / {ap50:.4f}" for name, (ap, ap50) in names.items())
        print(f"AP / AP50, {model}, {engine}: {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--images", nargs="*", default=[], help="photographs; default: samples")
    parser.add_argument("--data", help="data set for AP")
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--large", help="folder of the 3B shape (tools/random_paligemma.py)")
    options = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    for model in ("small", "tiny"):
        compared(model, options.repeat, options.images)
    nine_classes("small", options.repeat)
    cold(max(3, options.repeat // 3))
    if options.large:
        decoding(options.large)
    if options.data:
        average_precision(options.data, options.limit, "small")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
