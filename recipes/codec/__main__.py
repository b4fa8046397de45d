"""Collect masks, or measure a codec: ``python -m recipes.codec masks|eval ...``.

::

    python -m recipes.codec masks instances_train.json scenes:2000:0 --out masks.npz
    python -m vqvae train --masks masks.npz --out runs/codec
    python -m recipes.codec eval scenes:100 --codec runs/codec/codec.safetensors --worst worst.png
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from pgvision.files import replaced_path
from recipes.codec.figures import measure_codec, save_worst_masks
from recipes.codec.masks import read_masks
from vqvae import MaskCodec


def main() -> None:
    """Write masks to an ``.npz``, or print the figures of a codec as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=("masks", "eval"))
    parser.add_argument("sources", nargs="+", help="see recipes.codec.masks.read_masks")
    parser.add_argument("--out", type=Path, default=Path("masks.npz"))
    parser.add_argument("--codec", default="tiny", help="'tiny', 'google' or a file")
    parser.add_argument("--limit", type=int, help="only the first n masks")
    parser.add_argument("--worst", type=Path, help="draw the worst cases into this PNG file")
    options = parser.parse_args()
    masks, weights = read_masks(options.sources)
    if options.job == "masks":
        with replaced_path(options.out) as aside, aside.open("wb") as file:
            np.savez_compressed(file, masks=masks, weights=weights)
        return
    report = measure_codec(MaskCodec.load(options.codec), masks[: options.limit])
    sys.stdout.write(json.dumps(report.to_dict()) + "\n")
    if options.worst is not None:
        save_worst_masks(masks[: options.limit], report, options.worst)


if __name__ == "__main__":
    main()
