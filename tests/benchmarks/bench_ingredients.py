"""What each ingredient of the third edition of ``small`` gives: short runs, each without one.

    git archive 173fcaf pgvision/runtime/small | tar x -C work     # the second edition
    python tests/benchmarks/bench_ingredients.py cache --data DATA --out work
    python tests/benchmarks/bench_ingredients.py no-negatives --data DATA --out work
    python tests/benchmarks/bench_small.py --data DATA --masks \\
        --model work/run-no-negatives/checkpoint

A run takes 100 steps, ten minutes of one core of an AMD EPYC (Zen 5); the cache, nine minutes.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from unittest import mock

import torch

from recipes.small import cache, prompts, third_edition
from recipes.small.sources import SOURCES, read_source
from vqvae import MaskCodec

RUNS = ("all", "no-negatives", "no-resolution", "no-masks")
MOST = {"hardhat": 600, "blood": 80, "mini": 100, "minisa": 60}  # images; others: 300
CROPPED = ("hats", "css", "mix", "riders", "close", "hardhat")
WITHOUT_PEOPLE = ("masked", "things", "objects")  # sets that are negatives only
EYES = "dinov2_small/model.safetensors"


def write_cache(data: Path, out: Path, resolution: int) -> None:
    """Cache a part of every source, whole, crops of those with helmets, and 250 scenes."""
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    blocks = cache.FrozenBlocks(data / EYES, resolution, 1)
    codec = MaskCodec.load("tiny")
    jobs = [(name, "whole", MOST.get(name, 300)) for name in SOURCES if name != "hardhat_valid"]
    for name, view, most in jobs + [(name, "crop", 300) for name in CROPPED]:
        items = read_source(data, name, held_out=False)
        items = items[:: max(1, len(items) // most)][:most]
        views = cache.viewed(items, view, resolution, codec)
        cache.write_part(out / f"{name}_{view}.npy", views, len(items), blocks)
    cache.write_part(out / "scene_0.npy", cache.scenes(0, resolution, codec), 250, blocks)


def without(run: str, full: Path, target: Path) -> Path:
    """Return the cache of a run: links to the features, with the truth that it learns from."""
    if run not in ("no-negatives", "no-masks"):
        return full
    target.mkdir(parents=True, exist_ok=True)
    for file in full.glob("*.npy"):
        if run == "no-negatives" and file.stem.split("_")[0] in WITHOUT_PEOPLE:
            continue
        rows = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        if run == "no-masks":
            rows = [row | {"codes": [[-1] * 16 for _ in row["codes"]]} for row in rows]
        (target / file.name).unlink(missing_ok=True)
        (target / file.name).symlink_to(file.resolve())
        (target / f"{file.stem}.json").write_text(json.dumps(rows), encoding="utf-8")
    return target


def main() -> None:
    """Cache, or make one run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", choices=["cache", *RUNS])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    # 1. The caches of both resolutions.
    if options.run == "cache":
        for resolution in (448, 224):
            write_cache(options.data, options.out / f"cache{resolution}", resolution)
        return
    # 2. One run. At 224 pixels the language model gets all of the fewer image tokens.
    resolution = 224 if options.run == "no-resolution" else 448
    start, out = options.out / "pgvision/runtime/small", options.out / f"run-{options.run}"
    full = options.out / f"cache{resolution}"
    words = {
        "cache": without(options.run, full, options.out / f"cache-{options.run}"),
        "start": start, "eyes": options.data / EYES, "out": out, "resolution": resolution,
        "steps": options.steps, "whole-steps": options.steps // 6, "head-steps": 15,
        "rate": 1e-3, "vision-rate": 1.5e-4, "scenes": 0.18,
        "tokens": 1.0 if resolution == 224 else 0.5,
    }  # fmt: skip
    sys.argv[1:] = [text for name, value in words.items() for text in (f"--{name}", str(value))]
    empty = 0.0 if options.run == "no-negatives" else prompts._EMPTY
    with mock.patch.multiple(third_edition, _WARMUP=30), mock.patch.multiple(prompts, _EMPTY=empty):
        third_edition.main()
    shutil.copyfile(start / "pgvision.json", out / "checkpoint/pgvision.json")


if __name__ == "__main__":
    main()
