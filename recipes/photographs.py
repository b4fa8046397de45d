"""Photographs as shards: whole, mirrored, and larger crops, so that small objects become larger."""

import argparse
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np

from pgvision.arrays import ByteArray, FloatArray
from pgvision.datasets import Annotation, Dataset, ImageRecord, read_coco, segmentation_to_mask
from pgvision.images import read_image
from pgvision.masks import crop_mask
from recipes.scenes import CLASSES
from recipes.scenes.language import head_count_questions, wearers_caption
from recipes.shards import Shard, save_shard
from vqvae import MaskCodec

_LOG = logging.getLogger(__name__)
View = Literal["whole", "mirrored", "crop"]
_SEEN: Final = 0.4  # an object that a crop shows less of is left out
_SHARES: Final = (0.35, 0.75)  # side of a crop as a share of the picture's


@dataclass(frozen=True)
class Source:
    """One set of photographs.

    Attributes:
        dataset: What was read.
        names: The data set's class -> what the model calls it.
        absent: Classes of which it is known that no photograph shows one.
    """

    dataset: Dataset
    names: Mapping[str, str]
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Found:
    label: str
    box: tuple[float, float, float, float]  # top, left, bottom, right as shares
    codes: Sequence[int]


def pack_photographs(
    source: Source, *, view: View, resolution: int, seed: int = 0, codec: MaskCodec | None = None
) -> Shard:
    """Pack every photograph of a set once.

    Args:
        source: The set.
        view: The whole photograph, its mirror image, or a crop (mirrored half the time) around
            the middle of one of its objects.
        resolution: Side of the picture that the model sees.
        seed: Of the crops.
        codec: Encodes the masks; without it none is known.
    """
    names = tuple(dict.fromkeys(source.names.values()))
    pictures, counts, sentences, found = [], [0], [], list[_Found]()
    for position, record in enumerate(source.dataset.images):
        rng = np.random.default_rng([seed, position])
        picture, objects = _viewed(source, record, view, rng, codec)
        size = (resolution, resolution)
        pictures.append(cv2.resize(picture, size, interpolation=cv2.INTER_AREA)[..., ::-1])
        found += objects
        counts.append(len(found))
        sentences.append(_sentences(names, objects))
    none = np.full(len(found), -1)
    return Shard(
        images=np.stack(pictures),
        offsets=np.array(counts, np.int64),
        boxes=np.array([one.box for one in found], np.float32).reshape(-1, 4),
        classes=np.array([names.index(one.label) for one in found], np.int64),
        colours=none,
        texts=none,
        codes=np.array([one.codes for one in found], np.int16).reshape(-1, 16),
        sentences=tuple(sentences),
        names=names,
        absent=source.absent,
    )


def _viewed(
    source: Source,
    record: ImageRecord,
    view: View,
    rng: np.random.Generator,
    codec: MaskCodec | None,
) -> tuple[ByteArray, list[_Found]]:
    """Return the part of a photograph that a view shows, and its objects from left to right."""
    picture = read_image(record.path)
    hw = picture.shape[:2]
    window = _window(record, hw, rng) if view == "crop" else (0, 0, hw[1], hw[0])
    left, top, right, bottom = window
    mirrored = view == "mirrored" or (view == "crop" and rng.random() < 0.5)
    part = picture[top:bottom, left:right]
    found = []
    for item, name in _objects(source, record):
        box = _seen_box(item, window)
        if box is None:
            continue
        codes = _codes(item, hw, window, box, mirrored, codec)
        height, width = part.shape[:2]
        x0, y0, x1, y1 = box
        x0, x1 = (width - x1, width - x0) if mirrored else (x0, x1)
        shares = (y0 / height, x0 / width, y1 / height, x1 / width)
        found.append(_Found(name, shares, codes))
    found.sort(key=lambda one: one.box[1] + one.box[3])
    return (part[:, ::-1] if mirrored else part), found


def _objects(source: Source, record: ImageRecord) -> Iterator[tuple[Annotation, str]]:
    by_id = {one.id: one.name for one in source.dataset.categories}
    for item in record.objects:
        name = by_id[item.category_id]
        if name in source.names and not item.iscrowd:
            yield item, source.names[name]


def _window(
    record: ImageRecord, hw: tuple[int, ...], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    share = rng.uniform(*_SHARES) * rng.uniform(0.88, 1.12, 2)
    height, width = (max(32, round(side * part)) for side, part in zip(hw, share, strict=True))
    height, width = min(height, hw[0]), min(width, hw[1])
    if record.objects:
        x0, y0, x1, y1 = record.objects[int(rng.integers(len(record.objects)))].xyxy
    else:
        x0, y0, x1, y1 = 0.0, 0.0, float(hw[1]), float(hw[0])
    left = round((x0 + x1) / 2 - width * rng.uniform(0.15, 0.85))
    top = round((y0 + y1) / 2 - height * rng.uniform(0.15, 0.85))
    left, top = min(max(left, 0), hw[1] - width), min(max(top, 0), hw[0] - height)
    return left, top, left + width, top + height


def _seen_box(item: Annotation, window: tuple[int, int, int, int]) -> FloatArray | None:
    """Return left, top, right, bottom inside the window; None if too little of it is there."""
    left, top, right, bottom = window
    whole = np.array(item.xyxy, np.float64)
    low, high = np.array([left, top]), np.array([right, bottom])
    cut = np.concatenate([np.clip(whole[:2], low, high), np.clip(whole[2:], low, high)])
    area, rest = (max(0.0, (b[2] - b[0]) * (b[3] - b[1])) for b in (whole, cut))
    if rest <= 0 or rest < _SEEN * area:
        return None
    seen: FloatArray = (cut - np.concatenate([low, low])).astype(np.float32)
    return seen


def _codes(
    item: Annotation,
    hw: tuple[int, ...],
    window: tuple[int, int, int, int],
    box: FloatArray,
    mirrored: bool,
    codec: MaskCodec | None,
) -> Sequence[int]:
    if codec is None or item.segmentation is None:
        return [-1] * 16
    left, top, right, bottom = window
    mask = segmentation_to_mask(item.segmentation, image_hw=(hw[0], hw[1]))
    soft = crop_mask(mask[top:bottom, left:right], box)
    codes = codec.encode((soft[:, ::-1] if mirrored else soft)[None])
    return [int(code) for code in codes[0]]


def _sentences(names: Sequence[str], found: Sequence[_Found]) -> str:
    counts = [sum(one.label == name for one in found) for name in names]
    if tuple(names) == ("helmet", "head"):
        asked = [(one.question, one.answer) for one in head_count_questions(*counts)]
        return json.dumps([wearers_caption(*counts), "", asked])
    return json.dumps(["", "", []])


def known_sources(folder: Path) -> dict[str, tuple[Source, tuple[View, ...]]]:
    """Return the sets that the carried ``"small"`` learns from, with the views of each.

    Every third photograph of ``coco_person_448`` (ids that three divides) is held out.

    Args:
        folder: Where ``hardhat``, ``coco_person_448``, ``coco_mini_448`` and ``bccd_448`` lie.
    """
    cells = {"RBC": "red blood cell", "WBC": "white blood cell", "Platelets": "platelet"}
    hats = read_coco(folder / "hardhat/train.json", images=folder / "hardhat/train")
    persons = read_coco(folder / "coco_person_448/person_ccby.json")
    persons = replace(persons, images=tuple(one for one in persons.images if one.id % 3))
    blood = read_coco(folder / "bccd_448/train.json", images=folder / "bccd_448/train")
    all_views: tuple[View, ...] = ("whole", "mirrored", "crop")
    no_cells = tuple(cells.values())
    sources = {
        "hardhat": Source(hats, {"helmet": "helmet", "head": "head"}, no_cells),
        "person": Source(persons, {"person": "person"}, no_cells),
        "blood": Source(blood, cells, CLASSES),
    }
    for name in ("mini_ccby", "mini_ccbysa"):
        mini = read_coco(folder / f"coco_mini_448/{name}.json")
        sources[name] = Source(mini, {"person": "person"}, no_cells)
    return {name: (source, all_views) for name, source in sources.items()}


def main() -> None:
    """Pack the photographs: ``python -m recipes.photographs --data DIR --out DIR``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resolution", type=int, default=224)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    codec = MaskCodec.load("tiny")
    for name, (source, views) in known_sources(options.data).items():
        for view in views:
            path = options.out / f"{name}_{view}.npz"
            if not path.exists():
                shard = pack_photographs(
                    source, view=view, resolution=options.resolution, codec=codec
                )
                save_shard(shard, path)
            _LOG.info("%s", path)


if __name__ == "__main__":
    main()
