"""Render construction sites: ``python -m recipes.scenes --count 500 --out heldout``."""

import argparse
from pathlib import Path

from recipes.scenes.export import export_scenes
from recipes.scenes.video import write_scene_video
from vqvae import MaskCodec


def main() -> None:
    """Write ``images/``, ``instances.json`` (COCO), ``examples.jsonl`` and videos."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--count", type=int, default=100, help="images")
    parser.add_argument(
        "--seed", type=int, default=20_000_000, help="seed of the first image; training took < 1e7"
    )
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--videos", type=int, default=0, help="every other has a moving camera")
    parser.add_argument("--codec", help="'tiny', 'google' or a file: write 'segment' examples too")
    options = parser.parse_args()
    image_hw = (options.height, options.width)
    codec = None if options.codec is None else MaskCodec.load(options.codec)
    out: Path = options.out
    export_scenes(out, count=options.count, seed=options.seed, image_hw=image_hw, codec=codec)
    for number in range(options.videos):
        (out / "videos").mkdir(exist_ok=True)
        path = out / "videos" / f"{options.seed + number:08d}.mp4"
        camera = "moving" if number % 2 else "static"
        write_scene_video(path, options.seed + number, image_hw=image_hw, camera=camera)


if __name__ == "__main__":
    main()
