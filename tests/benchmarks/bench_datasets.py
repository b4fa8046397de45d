"""Time and memory of data sets at COCO's size: reading, writing, ground truth, evaluation.

Run: python tests/benchmarks/bench_datasets.py make FILE [IMAGES]
     python tests/benchmarks/bench_datasets.py measure FILE [STEP ...]

``make`` writes a COCO file of IMAGES pictures (118,000 as train2017) with 7.3 objects each, 80
classes, polygons of about 25 points, one crowd in a hundred. ``measure`` runs each step in a
process of its own and prints seconds of processor time and of the clock, and the peak of memory.
Steps: plain (json.load), pycocotools, read, convert (read and write as COCO), examples (read and
write as JSONL), truth, truth-masks, evaluate (boxes, one result an object, without details).
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

OBJECTS_A_PICTURE = 7.288  # 860,001 annotations on 118,287 pictures
STEPS = (
    "plain", "pycocotools", "read", "convert", "examples", "truth", "truth-masks", "evaluate",
)  # fmt: skip
CHILD = """
import contextlib, io, json, resource, sys, tempfile, time
step, file = sys.argv[1:]
out = tempfile.mkdtemp() + "/out.json"
if step == "pycocotools":
    from pycocotools.coco import COCO
elif step in ("read", "convert", "examples"):
    from pgvision.datasets import read_dataset, write_dataset
elif step != "plain":
    import faster_coco_eval
    from pgvision.evaluation import evaluate_detections
    try:
        from pgvision.evaluation.inputs import load_ground_truth
    except ImportError:  # up to November
        from pgvision.evaluation.ground_truth import load_ground_truth
if step.startswith("evaluate"):
    found = json.load(open(file.replace(".json", ".found.json")))
clock, busy = time.perf_counter(), time.process_time()
if step == "plain":
    kept = json.load(open(file))
elif step == "pycocotools":
    with contextlib.redirect_stdout(io.StringIO()):
        kept = COCO(file)
elif step in ("read", "convert", "examples"):
    kept = read_dataset(file)
    if step == "convert":
        write_dataset(kept, out, format="coco")
    elif step == "examples":
        write_dataset(kept, out + "l", format="jsonl")
elif step.startswith("evaluate"):
    engine = step.partition("-")[2] or "faster"
    kept = evaluate_detections(file, found, engine=engine, details=False)
else:
    kept = load_ground_truth(file, masks=step == "truth-masks")
busy, clock = time.process_time() - busy, time.perf_counter() - clock
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
print(json.dumps([busy, clock, peak]))
"""


def objects_of(rng: np.random.Generator, image_id: int, first_id: int) -> Iterator[dict]:
    """Yield one picture's annotations; outlines are stars around the middle of the box."""
    for number in range(int(rng.poisson(OBJECTS_A_PICTURE))):
        w, h = np.minimum(np.exp(rng.normal(4, 1, 2)) + 2, [638, 478])
        x, y = rng.uniform(0, 640 - w), rng.uniform(0, 480 - h)
        entry = {
            "id": first_id + number,
            "image_id": image_id,
            "category_id": int(rng.integers(1, 81)),
            "bbox": [round(float(v), 2) for v in (x, y, w, h)],
            "area": round(float(w * h * 0.6), 4),
            "iscrowd": 0,
        }
        if rng.random() < 0.01:
            counts = [int(x) * 480 + int(y), int(h), 0]
            counts[2] = 480 * 640 - sum(counts)
            yield entry | {"iscrowd": 1, "segmentation": {"size": [480, 640], "counts": counts}}
            continue
        angles = np.linspace(0, 2 * np.pi, int(rng.integers(8, 42)), endpoint=False)
        reach = rng.uniform(0.6, 1, len(angles))
        xs, ys = x + w / 2 * (1 + reach * np.cos(angles)), y + h / 2 * (1 + reach * np.sin(angles))
        ring = np.round(np.stack([xs, ys], 1).ravel(), 2).tolist()
        yield entry | {"segmentation": [ring]}


def make(file: Path, num_images: int) -> None:
    """Write the file, and ``.found.json`` beside it with one result an object, piece by piece."""
    rng = np.random.default_rng(0)
    num_objects = 0
    with file.open("w") as out, file.with_suffix(".found.json").open("w") as found:
        images = [
            {"id": number, "file_name": f"{number:012d}.jpg", "width": 640, "height": 480}
            for number in range(1, num_images + 1)
        ]
        categories = [{"id": number, "name": f"class {number}"} for number in range(1, 81)]
        out.write(f'{{"images": {json.dumps(images)}, "categories": {json.dumps(categories)}, ')
        out.write('"annotations": [')
        found.write("[")
        for number in range(1, num_images + 1):
            for entry in objects_of(rng, number, num_objects + 1):
                out.write(", " * bool(num_objects) + json.dumps(entry))
                box = np.maximum(np.array(entry["bbox"]) + rng.normal(0, 3, 4), 1).round(2).tolist()
                record = {"image_id": number, "category_id": entry["category_id"], "bbox": box}
                record["score"] = round(float(rng.random()), 4)
                found.write(", " * bool(num_objects) + json.dumps(record))
                num_objects += 1
        out.write("]}")
        found.write("]")
    print(f"{file}: {num_images} pictures, {num_objects} objects, {file.stat().st_size >> 20} MB")


def measure(file: Path, steps: list[str]) -> None:
    """Print a line a step."""
    for step in steps:
        command = [sys.executable, "-c", CHILD, step, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{step:16s} failed: {done.stderr.strip()[-200:]}", flush=True)
            continue
        busy, clock, peak = json.loads(done.stdout)
        print(f"{step:16s} {busy:7.1f} s busy  {clock:7.1f} s  {peak:6.2f} GB peak", flush=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["make"] and len(arguments) > 1:
        make(Path(arguments[1]), int(arguments[2]) if arguments[2:] else 118_000)
    elif arguments[:1] == ["measure"] and len(arguments) > 1:
        measure(Path(arguments[1]), arguments[2:] or list(STEPS))
    else:
        sys.exit(__doc__)
