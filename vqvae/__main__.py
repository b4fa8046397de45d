"""Command line of the codec's training: ``python -m vqvae train --masks masks.npz --out DIR``."""

import argparse
import logging
import sys
from pathlib import Path

from pgvision.errors import PgvisionError
from vqvae.training import TrainingSettings, read_mask_file, train_codec


def main() -> None:
    """Train a mask codec on 64x64 masks."""
    # 1. Options: numbers have the types and defaults of the settings.
    parser = argparse.ArgumentParser(prog="python -m vqvae", description=main.__doc__)
    train = parser.add_subparsers(required=True).add_parser("train", help=main.__doc__)
    train.add_argument("--masks", type=Path, required=True, help=".npz with 'masks' (n, 64, 64)")
    train.add_argument("--out", type=Path, default=Path("runs/codec"), help="codec and run state")
    for name, text in {
        "steps": "length of the run in batches",
        "batch_size": "masks a step",
        "save_every": "steps between states",
        "seed": "random seed",
        "threads": "of torch; 0: torch's default",
        "learning_rate": "peak rate",
    }.items():
        default = getattr(TrainingSettings, name)
        flag = f"--{name.replace('_', '-')}"
        train.add_argument(flag, type=type(default), default=default, help=text)
    train.add_argument("--resume", action="store_true", help="resume the run in --out")
    # 2. Train; errors are one line.
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = {
        name: getattr(options, name)
        for name in TrainingSettings.__dataclass_fields__
        if hasattr(options, name)
    }
    try:
        masks, weights = read_mask_file(options.masks)
        path = train_codec(
            masks,
            options.out,
            settings=TrainingSettings(**given),
            weights=weights,
            resume=options.resume,
        )
    except (PgvisionError, OSError) as error:
        sys.exit(f"vqvae: {error}")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
