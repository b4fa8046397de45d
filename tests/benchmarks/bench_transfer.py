"""What fine-tuning gives: by the number of images, by class names, and by parts of the recipe.

One line of JSON for each run, as it ends; a run that is there is not done again. For example

    python tests/benchmarks/bench_transfer.py --train bccd/train.json --valid bccd/val.json \\
        --images 20 50 200 0 --minutes 10 --out runs/new-names
    python tests/benchmarks/bench_transfer.py ... \\
        --rename "RBC=red blood cell;WBC=white blood cell;Platelets=platelet" --out runs/known-names
    python tests/benchmarks/bench_transfer.py ... --images 50 --ablate names --out runs/names

Goal for new names: blood smears called RBC, WBC and Platelets, 50 images, ten minutes on two quiet
cores: mean AP50 of RBC and WBC at least 0.5.
"""

import argparse
import json
import logging
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from pgvision.files import write_text
from pgvision.training import DataSource, train

ABLATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "": {"default": {}},
    "recipe": {
        "plain cross-entropy": {"loc_sigma": 0.0},
        "neighbouring bins": {},
        "noise boxes": {"closed_set": True},
        "no augmentation": {"augment": False},
    },
    "vision": {
        "vision tower at 0.05 of the rate": {},
        "no vision tower": {"vision_rate": 0.0},
    },
    "names": {
        "matched": {},
        "pieces": {"match_names": False},
    },
}


def part_of(source: Path, folder: Path, count: int, *, held_out: bool | None = None) -> Path:
    """Write a COCO file of ``count`` images (0: all), a fixed random choice, with its images.

    ``held_out`` takes every fifth image by id, or the others; None: all.
    """
    data = json.loads(source.read_text(encoding="utf-8"))
    images = sorted(data["images"], key=lambda one: one["file_name"])
    if held_out is not None:
        images = [one for one in images if (one["id"] % 5 == 0) == held_out]
    random.Random(0).shuffle(images)
    images = images[:count] if count else images
    kept = {one["id"] for one in images}
    data["images"] = images
    data["annotations"] = [one for one in data["annotations"] if one["image_id"] in kept]
    part = {None: source.stem, True: "held-out", False: "train"}[held_out]
    target = folder / f"{part}-{len(images)}" / "instances.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    places = [source.parent / name for name in (source.stem, "images", ".")]
    for one in images:
        found = next(place for place in places if (place / one["file_name"]).exists())
        (target.parent / one["file_name"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found / one["file_name"], target.parent / one["file_name"])
    write_text(target, json.dumps(data))
    return target


def main() -> None:
    """Run what is asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--valid", type=Path, help="default: every fifth image of --train, by id")
    parser.add_argument("--num-valid", type=int, default=0, help="images of --valid; 0: all")
    parser.add_argument("--rename", default="", help="class=words;class=words")
    parser.add_argument("--images", type=int, nargs="+", default=[0], help="0: all")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--model", default="small")
    parser.add_argument("--task", default="detect")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--ablate", choices=sorted(ABLATIONS), default="")
    parser.add_argument("--only", nargs="*", help="names of variants")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    is_split = options.valid is None
    valid = part_of(
        options.valid or options.train, options.out, options.num_valid, held_out=is_split or None
    )
    for count in options.images:
        data = part_of(options.train, options.out, count, held_out=False if is_split else None)
        for name, changed in ABLATIONS[options.ablate].items():
            folder = options.out / f"{count}-{name.replace(' ', '-')}"
            if (options.only and name not in options.only) or (folder / "result.json").exists():
                continue
            start = time.monotonic()
            report = train(
                DataSource(data=data, valid=valid),
                folder,
                device="cpu",
                progress=False,
                model=options.model,
                task=options.task,
                steps=options.steps,
                minutes=options.minutes,
                learning_rate=options.learning_rate,
                rename=dict(one.split("=") for one in options.rename.split(";") if one),
                eval_all=True,
                eval_every=10**6,  # only at the end
                **changed,
            )
            row = {
                "images": count or "all",
                "recipe": name,
                "steps": report.steps,
                "minutes": round((time.monotonic() - start) / 60, 1),
                "before": report.before,
                "after": report.after,
            }
            write_text(folder / "result.json", json.dumps(row))
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
