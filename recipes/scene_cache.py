"""Renders scenes once, as shards, so that training never waits for drawing."""

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from pgvision.arrays import IntArray
from pgvision.masks import crop_mask
from recipes.scenes import CLASSES, Scene, SceneObject, render_scene
from recipes.scenes.vocabulary import SIGN_WORDS
from recipes.shards import COLOURS, Shard, save_shard
from vqvae import MaskCodec

_LOG = logging.getLogger(__name__)
SHARD_SIZE: Final = 10_000
# Several shapes, since every picture is squeezed to a square before the model sees it.
_SIZES: Final = ((288, 384), (288, 384), (270, 480), (320, 320), (384, 288))


def render_shard(
    index: int, *, resolution: int, size: int = SHARD_SIZE, codec: MaskCodec | None = None
) -> Shard:
    """Render the scenes with the seeds ``index * size`` to ``(index + 1) * size - 1``."""
    images = np.empty((size, resolution, resolution, 3), np.uint8)
    counts, sentences, boxes, codes = [0], [], [], []
    objects: list[SceneObject] = []
    for row in range(size):
        seed = index * size + row
        scene = render_scene(seed, image_hw=_SIZES[seed % len(_SIZES)])
        small = cv2.resize(scene.image, (resolution, resolution), interpolation=cv2.INTER_AREA)
        images[row] = small[..., ::-1]
        height, width = scene.image_hw
        for item in scene.objects:
            left, top, right, bottom = item.xyxy
            boxes.append((top / height, left / width, bottom / height, right / width))
        codes.append(_codes(scene, codec))
        objects += scene.objects
        counts.append(len(objects))
        sentences.append(_sentences(scene))
    return Shard(
        images=images,
        offsets=np.array(counts, np.int64),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        classes=np.array([CLASSES.index(item.label) for item in objects], np.int64),
        colours=np.array([_place(item.colour, COLOURS) for item in objects], np.int64),
        texts=np.array([_place(item.text, SIGN_WORDS) for item in objects], np.int64),
        codes=np.concatenate(codes),
        sentences=tuple(sentences),
    )


def _place(word: str | None, words: Sequence[str]) -> int:
    return words.index(word) if word in words else -1


def _codes(scene: Scene, codec: MaskCodec | None) -> IntArray:
    """Encode the masks as ``convert --task segment`` does; -1 without a codec."""
    if codec is None or not scene.objects:
        return np.full((len(scene.objects), 16), -1, np.int16)
    crops = [
        crop_mask(item.crop, (0, 0, item.crop.shape[1], item.crop.shape[0]))
        for item in scene.objects
    ]
    return codec.encode(np.stack(crops)).astype(np.int16)


def _sentences(scene: Scene) -> str:
    questions = [(item.question, item.answer) for item in scene.questions]
    return json.dumps([scene.caption, scene.reading, questions])


def shard_path(folder: Path, index: int) -> Path:
    """Return where shard ``index`` lies."""
    return folder / f"shard_{index:03d}.npz"


def main() -> None:
    """Render the shards that are missing: ``python -m recipes.scene_cache``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--last", type=int, required=True, help="number after the last shard")
    parser.add_argument("--step", type=int, default=1, help="2 to share the work of two processes")
    parser.add_argument("--resolution", type=int, default=160)
    parser.add_argument("--size", type=int, default=SHARD_SIZE, help="scenes in a shard")
    parser.add_argument("--codec", help="encode the masks too, with this codec (tiny)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    cv2.setNumThreads(1)
    codec = MaskCodec.load(options.codec) if options.codec else None
    for index in range(options.first, options.last, options.step):
        path = shard_path(options.out, index)
        started = time.monotonic()
        if not path.exists():
            resolution, size = options.resolution, options.size
            save_shard(render_shard(index, resolution=resolution, size=size, codec=codec), path)
        _LOG.info("%s in %.0f s", path, time.monotonic() - started)


if __name__ == "__main__":
    main()
