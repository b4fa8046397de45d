"""Shards: pictures that are squeezed to what the model sees, with all that is known about them.

Seeds of scenes under 10,000,000 are for training; held-out scenes start above.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from pgvision.arrays import ByteArray, FloatArray, IntArray
from pgvision.files import replaced_path
from recipes.scenes import CLASSES

COLOURS: Final = ("yellow", "white", "red", "blue", "orange", "green", "gray", "brown")
_TEXTS: Final = ("sentences", "names", "absent")


@dataclass(frozen=True)
class Shard:
    """Pictures that are ready for batches; rows of objects are found through ``offsets``.

    Attributes:
        images: ``(n, r, r, 3)`` uint8 RGB at the model's resolution.
        offsets: ``(n + 1,)``: picture ``i`` owns the objects ``offsets[i]:offsets[i + 1]``.
        boxes: ``(m, 4)`` float32, top, left, bottom, right as shares of the picture.
        classes: ``(m,)`` index into ``names``.
        colours: ``(m,)`` index into ``COLOURS``, -1 for none.
        texts: ``(m,)`` index into ``SIGN_WORDS``, -1 for none.
        codes: ``(m, 16)`` int16 mask codes, -1 for a mask that is not known.
        sentences: ``n`` JSON texts with caption, reading and questions.
        names: The classes of which every object is annotated.
        absent: Classes that no picture shows; of all others nothing is known.
    """

    images: ByteArray
    offsets: IntArray
    boxes: FloatArray
    classes: IntArray
    colours: IntArray
    texts: IntArray
    codes: IntArray
    sentences: tuple[str, ...]
    names: tuple[str, ...] = CLASSES
    absent: tuple[str, ...] = field(default=())


def save_shard(shard: Shard, path: Path) -> None:
    """Write a shard aside and rename it."""
    with replaced_path(path) as aside:
        fields = {name: getattr(shard, name) for name in Shard.__annotations__}
        fields |= {name: np.array(fields[name], np.str_) for name in _TEXTS}
        np.savez(aside, **fields)


def load_shard(path: Path, *, with_images: bool = True) -> Shard:
    """Read a shard that `save_shard` wrote.

    Args:
        path: The file.
        with_images: False leaves ``images`` empty, for a run that reads cached features.
    """
    with np.load(path, allow_pickle=False) as stored:
        left_out = set() if with_images else {"images"}
        fields = {name: stored[name] for name in Shard.__annotations__ if name not in left_out}
    fields |= {name: tuple(str(text) for text in fields[name]) for name in _TEXTS}
    return Shard(**{"images": np.empty((0, 0, 0, 3), np.uint8), **fields})
