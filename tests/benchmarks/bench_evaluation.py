"""Evaluators against pycocotools: agreement on random sets, speed and memory on a large one.

Run: python tests/benchmarks/bench_evaluation.py agree [SETS]
     python tests/benchmarks/bench_evaluation.py speed [IMAGES] [bbox|segm]
     python tests/benchmarks/bench_evaluation.py dense [IMAGES]

``dense`` scores IMAGES images of 150 annotations and 300 predictions each with all details, and
prints seconds of CPU time and the peak of memory.
"""

import contextlib
import importlib.util
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
CHILD = """
import contextlib, io, json, resource, sys, time
way, gt, dt, iou_type = sys.argv[1:]
if way == "plain":
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
else:
    from pgvision.evaluation import evaluate_detections
    engine, details = way.split("+")
    module = {"faster": "faster_coco_eval"}.get(engine, "pycocotools")
    __import__(module)
start = time.process_time()
if way == "plain":
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(gt)
        run = COCOeval(truth, truth.loadRes(dt), iou_type)
        run.evaluate(); run.accumulate(); run.summarize()
    stats = list(run.stats)
else:
    stats = evaluate_detections(gt, dt, iou_type, engine, details=details == "details").stats
seconds = time.process_time() - start
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([seconds, memory, list(stats)]))
"""


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def agree(num_sets: int) -> None:
    from pgvision.evaluation import evaluate_detections

    folder = HERE.parent / "pgvision" / "evaluation"
    random_set = load(folder / "conftest.py").random_set
    reference = load(folder / "test_evaluation_engines.py").pycocotools_run
    for iou_type in ("bbox", "segm"):
        worst, used = dict.fromkeys(("faster", "pycocotools"), 0.0), 0
        for seed in range(num_sets):
            truth, results = random_set(seed, masks=iou_type == "segm")
            if not results:
                continue
            used += 1
            expected = reference(truth, results, iou_type).stats
            for engine in worst:
                report = evaluate_detections(truth, results, iou_type, engine, details=False)
                gap = float(np.abs(np.array(report.stats) - expected).max())
                worst[engine] = max(worst[engine], gap)
        print(f"{iou_type}: {used} sets, greatest difference {worst}")


def dense(num_images: int) -> None:
    from pgvision.evaluation import evaluate_detections

    rng = np.random.default_rng(0)
    truth = {
        "images": [{"id": n, "height": 2000, "width": 2000} for n in range(num_images)],
        "categories": [{"id": 1, "name": "box"}],
        "annotations": [],
    }
    results = []
    for image in range(num_images):
        for x, y in rng.uniform(0, 1900, (150, 2)).tolist():
            record = {"image_id": image, "category_id": 1, "bbox": [x, y, 60, 60]}
            truth["annotations"].append({**record, "id": len(truth["annotations"]) + 1})
            for dx, dy in rng.normal(0, 6, (2, 2)).tolist():
                score = float(rng.random())
                results.append({**record, "bbox": [x + dx, y + dy, 60, 60], "score": score})
    for details in (False, True):
        start = time.process_time()
        evaluate_detections(truth, results, details=details)
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        print(f"details={details}: {seconds:.1f} s CPU, peak {peak:.2f} GB")


def large_set(num_images: int, iou_type: str) -> tuple[dict, list]:
    """About 7 annotations and 36 predictions an image, 80 classes, sizes as COCO has them."""
    rng = np.random.default_rng(0)
    height, width = 480, 640
    rle = load(HERE.parent / "pgvision" / "evaluation" / "conftest.py")
    rle.IMAGE_HW = (height, width)
    annotations, results = [], []
    for image_id in range(1, num_images + 1):
        classes = rng.integers(1, 81, 3)
        for _ in range(rng.poisson(7)):
            w, h = np.minimum(np.exp(rng.normal(4, 1, 2)) + 2, [width - 2, height - 2])
            box = [rng.uniform(0, width - w), rng.uniform(0, height - h), w, h]
            box = [round(float(v), 2) for v in box]
            category = int(rng.choice(classes))
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id, "category_id": category,
                "bbox": box, "area": box[2] * box[3], "iscrowd": int(rng.random() < 0.01),
                "segmentation": rle.rectangle_rle(box) if iou_type == "segm" else [],
            })  # fmt: skip
            for _ in range(rng.poisson(5)):
                x, y, w, h = np.array(box) + rng.normal(0, 0.16, 4) * np.tile(box[2:], 2)
                x, y = np.clip([x, y], 0, [width - 3, height - 3])
                w, h = np.clip([w, h], 1, [width - x, height - y])
                other = rng.random() < 0.2
                record = {
                    "image_id": image_id,
                    "category_id": int(rng.integers(1, 81)) if other else category,
                    "bbox": [round(float(v), 2) for v in (x, y, w, h)],
                    "score": round(float(rng.random()), 4),
                }
                if iou_type == "segm":
                    record["segmentation"] = rle.rectangle_rle(record["bbox"])
                    del record["bbox"]
                results.append(record)
    images = [{"id": i, "height": height, "width": width} for i in range(1, num_images + 1)]
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
    return {"images": images, "categories": categories, "annotations": annotations}, results


def speed(num_images: int, iou_type: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder, name)) for name in ("gt.json", "dt.json")]
        truth, results = large_set(num_images, iou_type)
        for path, content in zip(files, (truth, results), strict=True):
            Path(path).write_text(json.dumps(content))
        print(f"{iou_type}: {num_images} images, 80 classes, {len(truth['annotations'])} "
              f"annotations, {len(results)} predictions")  # fmt: skip
        del truth, results
        base = expected = None
        for way in ("plain", "pycocotools+bare", "faster+bare", "faster+details"):  # fmt: skip
            best = min(measure(way, files, iou_type) for _ in range(1 if base is None else 2))
            seconds, memory, stats = best
            base, expected = base or seconds, expected or stats
            gap = float(np.abs(np.array(stats) - expected).max())
            print(f"{way:18s} {seconds:7.2f} s  {base / seconds:6.1f} x  {memory:6.0f} MB peak  "
                  f"difference {gap:.1e}", flush=True)  # fmt: skip


def measure(way: str, files: list[str], iou_type: str) -> list:
    command = [sys.executable, "-c", CHILD, way, *files, iou_type]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["agree"]:
        agree(int(arguments[1]) if arguments[1:] else 200)
    elif arguments[:1] == ["dense"]:
        dense(int(arguments[1]) if arguments[1:] else 600)
    elif arguments[:1] == ["speed"]:
        with contextlib.redirect_stderr(io.StringIO()):
            speed(int(arguments[1]) if arguments[1:] else 5000, (arguments[2:] or ["bbox"])[0])
    else:
        sys.exit(__doc__)
