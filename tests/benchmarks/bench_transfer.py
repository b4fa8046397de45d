"""What a fine-tuning gives: by the number of pictures, the start, and each part of the recipe.

One line of JSON for each run, as it ends; a run that is there is not done again. For example

    python tests/benchmarks/bench_transfer.py --train bccd/train.json --valid bccd/val.json \\
        --rename "RBC=red blood cell;WBC=white blood cell;Platelets=platelet" \\
        --pictures 20 50 200 0 --minutes 10 --out runs/bccd
    python tests/benchmarks/bench_transfer.py ... --pictures 50 --ablate --out runs/bccd
    python tests/benchmarks/bench_transfer.py ... --pictures 50 --scratch --out runs/bccd
    python tests/benchmarks/bench_transfer.py ... --eyes dinov2.safetensors --out runs/hardhat
    python tests/benchmarks/bench_transfer.py ... --eyes random --out runs/hardhat
    python -m recipes.scenes --count 300 --out scenes
    python tests/benchmarks/bench_transfer.py --train scenes/instances.json ... \\
        --task segment --masks --model tiny --out runs/masks
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

import torch

from pgvision.files import write_text
from pgvision.runtime import load_apart
from pgvision.training.finetuning.runs import finetune
from pgvision.training.finetuning.settings import DataPlaces, FinetuneSettings
from recipes.small.second_edition import BLOCKS, RESOLUTION
from recipes.vision_tower import eyes_weights

ABLATIONS: dict[str, dict[str, Any]] = {
    "plain cross-entropy": {"loc_sigma": 0.0},
    "neighbouring bins": {},
    "bins, noise boxes": {"closed_set": True},
    "bins, no views": {"augment": False},
}
MASKS: dict[str, dict[str, Any]] = {"codes alone": {}, "codes and mask loss": {"mask_loss": 1.0}}


def part_of(source: Path, folder: Path, *, count: int, rename: dict[str, str]) -> Path:
    """Write a COCO file of ``count`` pictures (0: all), chosen by a fixed chance, beside them."""
    data = json.loads(source.read_text())
    images = sorted(data["images"], key=lambda one: one["file_name"])
    random.Random(0).shuffle(images)
    images = images[:count] if count else images
    kept = {one["id"] for one in images}
    data["images"] = images
    data["annotations"] = [one for one in data["annotations"] if one["image_id"] in kept]
    for category in data["categories"]:
        category["name"] = rename.get(category["name"], category["name"])
    target = folder / f"{source.stem}-{len(images)}" / "instances.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    places = [source.parent / name for name in (source.stem, "images", ".")]
    for one in images:
        held = next(place for place in places if (place / one["file_name"]).exists())
        (target.parent / one["file_name"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(held / one["file_name"], target.parent / one["file_name"])
    write_text(target, json.dumps(data))
    return target


def other_start(folder: Path, *, eyes: str | None) -> Path:
    """Write the carried checkpoint with weights drawn anew: all, or those of its tower.

    Args:
        folder: Where to.
        eyes: ``"random"``, or DINOv2's weights as they were before the recipe of ``small`` taught
            them; None: all weights are drawn anew.
    """
    if (folder / "config.json").exists():
        return folder
    engine = load_apart("small", device="cpu")
    torch.manual_seed(0)
    drawn = type(engine.model)(engine.model.config)
    tower = drawn.model.vision_tower
    if eyes not in (None, "random"):
        inner = getattr(tower, "vision_model", tower)
        inner.load_state_dict(eyes_weights(Path(eyes), blocks=BLOCKS, resolution=RESOLUTION))
    if eyes is not None:
        engine.model.model.vision_tower = tower
        drawn = engine.model
    drawn.save_pretrained(folder)
    engine.processor.save_pretrained(folder)
    card = Path(load_apart("small").card.location) / "pgvision.json"
    write_text(folder / card.name, card.read_text())
    return folder


def main() -> None:
    """Run what is asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--rename", default="", help="class=words;class=words")
    parser.add_argument("--pictures", type=int, nargs="+", default=[0], help="0: all")
    parser.add_argument("--valid-pictures", type=int, default=0)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int)
    length.add_argument("--minutes", type=float)
    parser.add_argument("--model", default="small")
    parser.add_argument("--task", default="detect")
    parser.add_argument("--vision-share", type=float, default=FinetuneSettings.vision_share)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--scratch", action="store_true", help="begin with random weights")
    parser.add_argument("--eyes", help="begin with small's decoder and other eyes")
    parser.add_argument("--masks", action="store_true", help="with and without the mask loss")
    parser.add_argument("--ablate", action="store_true", help="each part of the recipe in turn")
    parser.add_argument("--only", nargs="*", help="names of ablations")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    rename = dict(one.split("=") for one in options.rename.split(";") if one)
    valid = part_of(options.valid, options.out, count=options.valid_pictures, rename=rename)
    start, model = options.model, options.model
    if options.scratch or options.eyes:
        start = "random" if options.scratch else f"{Path(options.eyes).stem}-eyes"
        model = str(other_start(options.out / start, eyes=options.eyes))
    variants = ABLATIONS if options.ablate else MASKS if options.masks else {"": {}}
    for count in options.pictures:
        train = part_of(options.train, options.out, count=count, rename=rename)
        for name, changed in variants.items():
            if options.only and name not in options.only:
                continue
            recipe = {
                "task": options.task,
                "vision_share": options.vision_share,
                "learning_rate": options.learning_rate,
                **changed,
            }
            settings = FinetuneSettings(
                model=model,
                steps=options.steps,
                minutes=options.minutes,
                eval_every=1_000_000,  # only at the end
                eval_limit=1,
                **recipe,
            )
            folder = options.out / f"{start}-{count}-{name.replace(' ', '-')}"
            if (folder / "result.json").exists():
                continue
            places = DataPlaces(data=train, valid=valid)
            began = time.monotonic()
            report = finetune(places, folder, settings)
            row = {
                "start": start,
                "pictures": count or "all",
                "recipe": name or "default",
                "learning_rate": options.learning_rate or "default",
                "steps": report.steps,
                "minutes": round((time.monotonic() - began) / 60, 1),
                "before": report.before,
                "after": report.after,
            }
            if report.finished:
                write_text(folder / "result.json", json.dumps(row))
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
