"""Renders scenes once, squeezed to what the model sees, so that training never waits for drawing.

A shard is one ``.npz``: pictures, boxes, classes, colours, sign texts, 64x64 masks and the
sentences of each scene. Seeds under 10,000,000 are for training; held-out scenes start above.
"""

import argparse
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from pgvision.arrays import ByteArray, FloatArray, IntArray
from pgvision.files import replaced_path
from pgvision.scenes import CLASSES, Scene, render_scene
from pgvision.scenes.vocabulary import SIGN_WORDS
from vqvae import MaskCodec

_LOG = logging.getLogger(__name__)
COLOURS: Final = ("yellow", "white", "red", "blue", "orange", "green", "gray", "brown")
SHARD_SIZE: Final = 10_000
# Several shapes, since every picture is squeezed to a square before the model sees it.
_SIZES: Final = ((288, 384), (288, 384), (270, 480), (320, 320), (384, 288))


@dataclass(frozen=True)
class Shard:
    """Scenes that are ready for batches; rows of objects are found through ``offsets``.

    Attributes:
        images: ``(n, r, r, 3)`` uint8 RGB at the model's resolution.
        offsets: ``(n + 1,)``: scene ``i`` owns the objects ``offsets[i]:offsets[i + 1]``.
        boxes: ``(m, 4)`` float32, top, left, bottom, right as shares of the picture.
        classes: ``(m,)`` index into ``CLASSES``.
        colours: ``(m,)`` index into ``COLOURS``, -1 for none.
        texts: ``(m,)`` index into ``SIGN_WORDS``, -1 for none.
        masks: ``(m, 512)`` uint8: 64x64 masks inside their boxes, packed bits.
        sentences: ``n`` JSON texts with caption, reading and questions.
    """

    images: ByteArray
    offsets: IntArray
    boxes: FloatArray
    classes: IntArray
    colours: IntArray
    texts: IntArray
    masks: ByteArray
    sentences: tuple[str, ...]


def render_shard(index: int, *, resolution: int, size: int = SHARD_SIZE) -> Shard:
    """Render the scenes with the seeds ``index * size`` to ``(index + 1) * size - 1``."""
    images = np.empty((size, resolution, resolution, 3), np.uint8)
    counts, sentences = [0], []
    boxes, classes, colours, texts, masks = [], [], [], [], []
    for row in range(size):
        seed = index * size + row
        scene = render_scene(seed, image_hw=_SIZES[seed % len(_SIZES)])
        small = cv2.resize(scene.image, (resolution, resolution), interpolation=cv2.INTER_AREA)
        images[row] = small[..., ::-1]
        height, width = scene.image_hw
        for item in scene.objects:
            left, top, right, bottom = item.xyxy
            boxes.append((top / height, left / width, bottom / height, right / width))
            classes.append(CLASSES.index(item.label))
            colours.append(COLOURS.index(item.colour) if item.colour in COLOURS else -1)
            texts.append(SIGN_WORDS.index(item.text) if item.text in SIGN_WORDS else -1)
            masks.append(_packed_mask(item.crop))
        counts.append(len(boxes))
        sentences.append(_sentences(scene))
    return Shard(
        images=images,
        offsets=np.array(counts, np.int64),
        boxes=np.array(boxes, np.float32),
        classes=np.array(classes, np.int64),
        colours=np.array(colours, np.int64),
        texts=np.array(texts, np.int64),
        masks=np.array(masks, np.uint8),
        sentences=tuple(sentences),
    )


def _packed_mask(crop: "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]") -> ByteArray:
    grown = max(crop.shape) <= 64
    how = cv2.INTER_LINEAR if grown else cv2.INTER_AREA
    soft = cv2.resize(crop.astype(np.float32), (64, 64), interpolation=how)
    return np.packbits(soft.ravel() > 0.5)


def _sentences(scene: Scene) -> str:
    questions = [(item.question, item.answer) for item in scene.questions]
    return json.dumps([scene.caption, scene.reading, questions])


def save_shard(shard: Shard, path: Path) -> None:
    """Write a shard aside and rename it."""
    with replaced_path(path) as aside:
        fields = {name: getattr(shard, name) for name in Shard.__annotations__}
        fields["sentences"] = np.array(shard.sentences)
        np.savez(aside, **fields)


def load_shard(path: Path) -> Shard:
    """Read a shard that `save_shard` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        fields = {name: stored[name] for name in Shard.__annotations__}
    fields["sentences"] = tuple(str(text) for text in fields["sentences"])
    return Shard(**fields)


def shard_path(folder: Path, index: int) -> Path:
    """Return where shard ``index`` lies."""
    return folder / f"shard_{index:03d}.npz"


def codes_path(shard: Path) -> Path:
    """Return where the mask codes of a shard's objects lie."""
    return shard.with_name(shard.name.replace("shard", "codes")).with_suffix(".npy")


def save_codes(shard: Path, codec: MaskCodec, *, batch_size: int = 512) -> None:
    """Encode the masks of a shard and write ``(m, 16)`` codes beside it."""
    packed = load_shard(shard).masks
    codes = [
        codec.encode(np.unpackbits(part, axis=1).reshape(-1, 64, 64).astype(np.float32))
        for part in np.split(packed, range(batch_size, len(packed), batch_size))
    ]
    with replaced_path(codes_path(shard)) as aside, aside.open("wb") as file:
        np.save(file, np.concatenate(codes).astype(np.int16))


def main() -> None:
    """Render the shards that are missing: ``python -m pgvision.training.scene_cache``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--last", type=int, required=True, help="number after the last shard")
    parser.add_argument("--step", type=int, default=1, help="2 to share the work of two processes")
    parser.add_argument("--resolution", type=int, default=160)
    parser.add_argument("--codec", help="encode the masks too, with this codec (tiny)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    cv2.setNumThreads(1)
    for index in range(options.first, options.last, options.step):
        path = shard_path(options.out, index)
        started = time.monotonic()
        if not path.exists():
            save_shard(render_shard(index, resolution=options.resolution), path)
        if options.codec and not codes_path(path).exists():
            save_codes(path, MaskCodec.load(options.codec))
        _LOG.info("%s in %.0f s", path, time.monotonic() - started)


if __name__ == "__main__":
    main()
