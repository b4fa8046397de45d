"""Time and memory of data sets at COCO's size: reading, writing, ground truth, evaluation.

Run: python tests/benchmarks/bench_datasets.py make FILE [IMAGES]
     python tests/benchmarks/bench_datasets.py measure FILE [STEP ...]

``make`` writes a COCO file of IMAGES images (118,000 as train2017) with 7.3 objects each, 80
classes, polygons of about 25 points, one crowd in a hundred. ``measure`` runs each step in a
process of its own and prints seconds of processor time and of the clock, and the peak of memory.
Steps: plain (json.load), pycocotools, read, convert (read and write as COCO), examples (read and
write as JSONL), truth, truth-masks, evaluate (boxes, one result an object, without details).
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson

OBJECTS_AN_IMAGE = 7.288  # 860,001 annotations on 118,287 images
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


def annotations_of(
    rng: np.random.Generator, images: range, first_id: int
) -> tuple[list[dict], list[dict]]:
    """Return annotations and one result for each; outlines are stars inside the box."""
    image_ids = np.repeat(np.array(images), rng.poisson(OBJECTS_AN_IMAGE, len(images)))
    n = len(image_ids)
    wh = np.minimum(np.exp(rng.normal(4, 1, (n, 2))) + 2, [638, 478])
    xy = rng.uniform(0, 1, (n, 2)) * ([640, 480] - wh)
    boxes = np.round(np.hstack([xy, wh]), 2)
    corners = rng.integers(8, 42, n)
    owner = np.repeat(np.arange(n), corners)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(corners) - corners, corners)
    angle = 2 * np.pi * place / corners[owner]
    reach = rng.uniform(0.6, 1, len(owner))[:, None]
    turn = np.stack([np.cos(angle), np.sin(angle)], 1)
    points = np.round(xy[owner] + wh[owner] / 2 * (1 + reach * turn), 2).ravel().tolist()
    shaken = np.maximum(boxes + rng.normal(0, 3, (n, 4)), 1).round(2).tolist()
    columns = (image_ids, rng.integers(1, 81, n), boxes, np.round(wh.prod(1) * 0.6, 4))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    ends, crowds = (2 * np.cumsum(corners)).tolist(), (rng.random(n) < 0.01).tolist()
    scores = rng.random(n).round(4).tolist()
    annotations, results, begin = [], [], 0
    for row, (image_id, category_id, box, area) in enumerate(rows):
        outline = [points[begin : ends[row]]]
        begin = ends[row]
        if crowds[row]:
            before, inside = int(box[0]) * 480 + int(box[1]), int(box[3])
            outline = {"size": [480, 640], "counts": [before, inside, 480 * 640 - before - inside]}
        shared = {"image_id": image_id, "category_id": category_id}
        annotations.append(
            {"id": first_id + row, **shared, "bbox": box, "area": area,
             "iscrowd": int(crowds[row]), "segmentation": outline}
        )  # fmt: skip
        results.append({**shared, "bbox": shaken[row], "score": scores[row]})
    return annotations, results


def make(file: Path, num_images: int) -> None:
    """Write the file, and ``.found.json`` beside it with one result an object, piece by piece."""
    rng = np.random.default_rng(0)
    num_objects = 0
    with file.open("wb") as out, file.with_suffix(".found.json").open("wb") as found:
        images = [
            {"id": number, "file_name": f"{number:012d}.jpg", "width": 640, "height": 480}
            for number in range(1, num_images + 1)
        ]
        categories = [{"id": number, "name": f"class {number}"} for number in range(1, 81)]
        head = orjson.dumps({"images": images, "categories": categories})
        out.write(head[:-1] + b',"annotations":[')
        found.write(b"[")
        for start in range(1, num_images + 1, 1000):
            chunk = range(start, min(start + 1000, num_images + 1))
            parts = annotations_of(rng, chunk, num_objects + 1)
            for stream, entries in zip((out, found), parts, strict=True):
                stream.write(b"," * bool(num_objects) + orjson.dumps(entries)[1:-1])
            num_objects += len(parts[0])
        out.write(b"]}")
        found.write(b"]")
    print(f"{file}: {num_images} images, {num_objects} objects, {file.stat().st_size >> 20} MB")


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
