"""Masks for the codec, from wherever they come: 64x64, each cropped to its box."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pgvision.arrays import BoolArray, ByteArray, FloatArray
from pgvision.datasets import read_dataset, segmentation_to_mask
from pgvision.errors import CodecError, OptionError
from pgvision.images import read_image
from pgvision.masks import crop_mask
from recipes.scenes import render_scene
from vqvae.training import read_mask_file

_SIDE = 64
_SCENES = "scenes:"


def read_masks(sources: Sequence[str]) -> tuple[ByteArray, FloatArray]:
    """Read masks and crop each to its box.

    Args:
        sources: Any of: a data set with outlines or run lengths (COCO, YOLO, LabelMe ...); a folder
            of PNG files, one mask each, inside where not black; an ``.npz`` file with ``masks``
            ``(n, 64, 64)`` uint8 and, if they differ, ``weights`` ``(n,)``; ``scenes:COUNT`` or
            ``scenes:COUNT:SEED`` of the rendered world.

    Returns:
        ``(n, 64, 64)`` uint8, 0 outside to 255 inside, and how often each is drawn in training,
        relative to the others: ``(n,)`` float32.

    Raises:
        CodecError: If a source contains no mask, or a file of masks cannot be read.

    Example:
        >>> masks, weights = read_masks(["scenes:1:7"])
        >>> masks.shape[1:], bool((weights == 1).all())
        ((64, 64), True)
    """
    masks, weights = [], []
    for source in sources:
        if source.endswith(".npz"):
            held, share = read_mask_file(Path(source))
        else:
            held = _read(source)
            share = np.ones(len(held), np.float32)
        if not len(held):
            raise CodecError(f"{source}: contains no mask")
        masks.append(held)
        weights.append(share)
    return np.concatenate(masks), np.concatenate(weights)


def _read(source: str) -> ByteArray:
    if source.startswith(_SCENES):
        return _stacked(_scene_masks(source))
    path = Path(source)
    if path.is_dir() and any(path.glob("*.png")):
        return _stacked(_png_masks(path))
    return _stacked(_dataset_masks(path))


def _stacked(crops: Iterator[FloatArray]) -> ByteArray:
    rows = [np.round(crop * 255).astype(np.uint8) for crop in crops]
    return np.stack(rows) if rows else np.zeros((0, _SIDE, _SIDE), np.uint8)


def _scene_masks(source: str) -> Iterator[FloatArray]:
    numbers = source.removeprefix(_SCENES).split(":")
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise OptionError(f"{source}: expected scenes:COUNT or scenes:COUNT:SEED")
    first = int(numbers[1]) if len(numbers) == 2 else 20_000_000
    for seed in range(first, first + int(numbers[0])):
        for item in render_scene(seed).objects:
            yield crop_mask(item.mask, item.xyxy)


def _png_masks(folder: Path) -> Iterator[FloatArray]:
    for path in sorted(folder.glob("*.png")):
        inside: BoolArray = read_image(path).max(axis=2) > 0
        if not inside.any():
            raise CodecError(f"{path}: the mask is empty; expected some pixels that are not black")
        yield crop_mask(inside, _bounds(inside))


def _bounds(mask: BoolArray) -> FloatArray:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return np.asarray(edges, dtype=np.float32)


def _dataset_masks(path: Path) -> Iterator[FloatArray]:
    dataset = read_dataset(path)
    for image in dataset.images:
        for item in image.objects:
            if item.segmentation is None or item.iscrowd:
                continue
            mask = segmentation_to_mask(item.segmentation, image.image_hw)
            if mask.any():
                yield crop_mask(mask, _bounds(mask))
