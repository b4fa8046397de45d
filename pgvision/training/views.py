"""Views of images: random crops and light for training, tiles that make small objects larger."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from pgvision.arrays import BoolArray, ByteArray, FloatArray
from pgvision.datasets import Annotation, Dataset, ImageRecord, Rle, segmentation_to_mask
from pgvision.errors import OptionError
from pgvision.files import replaced_path
from pgvision.images import read_image
from pgvision.rle import mask_to_rle
from pgvision.tasks.tiles import tiles

VISIBLE: Final = 0.4
"""Visible share; objects below it are left out of the answer."""
GONE: Final = 0.02
"""Visible share; objects below it count as absent."""
_CROPPED: Final = 0.5  # share of the views that are a crop
_LEAST_SIDE: Final = 0.5  # least side of a crop, as a share of the image's
_QUALITY: Final = 95  # of the JPEG files of tiles
_LIGHT: Final = 0.25  # greatest relative change of brightness


@dataclass(frozen=True)
class View:
    """A crop of an image and its change of colours.

    Attributes:
        window: Left, top, right, bottom in whole pixels.
        mirrored: Whether left and right change places.
        gains: Factors of blue, green and red.
        offset: Added to all of them.
    """

    window: tuple[int, int, int, int]
    mirrored: bool = False
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: float = 0.0

    def image(self, bgr: ByteArray, *, max_side: int | None = None) -> ByteArray:
        """Return ``(h, w, 3)`` of the view.

        Args:
            bgr: The whole image.
            max_side: Sides that are longer than this are reduced to it, each by itself, since the
                model's input is a square; boxes as shares of the image stay valid.
        """
        left, top, right, bottom = self.window
        part = bgr[top:bottom, left:right]
        size = tuple(min(side, max_side or side) for side in part.shape[1::-1])
        if size != part.shape[1::-1]:
            part = cv2.resize(part, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        part = part[:, ::-1] if self.mirrored else part
        if self.gains != (1.0, 1.0, 1.0) or self.offset:
            table = np.arange(256)[:, None] * np.array(self.gains) + self.offset
            light = table.clip(0, 255).astype(np.uint8)[None]
            part = cv2.LUT(np.ascontiguousarray(part), light).astype(np.uint8)
        return np.ascontiguousarray(part)

    def mask(self, mask: BoolArray) -> BoolArray:
        """Return a mask ``(h, w)`` of the view."""
        left, top, right, bottom = self.window
        part = mask[top:bottom, left:right]
        return part[:, ::-1] if self.mirrored else part

    def boxes(self, xyxy: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return boxes ``(n, 4)`` inside the view, and the share of each that is left, ``(n,)``."""
        left, top, right, bottom = self.window
        width, height = right - left, bottom - top
        moved = xyxy - np.array([left, top, left, top])
        if self.mirrored:
            moved = moved[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [width, 0, width, 0]
        inside = np.clip(moved, 0, [width, height, width, height])
        areas = np.maximum((xyxy[:, 2:] - xyxy[:, :2]).prod(1), 1e-9)
        return inside, (inside[:, 2:] - inside[:, :2]).prod(1) / areas


def whole(image_hw: tuple[int, int]) -> View:
    """Return the view of the whole image, unchanged."""
    return View((0, 0, image_hw[1], image_hw[0]))


def draw_view(image_hw: tuple[int, int], rng: np.random.Generator, *, geometric: bool) -> View:
    """Draw a view.

    Args:
        image_hw: Height and width of the image.
        rng: Source of randomness.
        geometric: Whether to mirror and crop; the light changes in any case.
    """
    height, width = image_hw
    window, mirrored = (0, 0, width, height), False
    if geometric:
        mirrored = bool(rng.random() < 0.5)
        if rng.random() < _CROPPED:
            sides = np.maximum(1, rng.uniform(_LEAST_SIDE, 1.0, 2) * (width, height)).astype(int)
            left, top = (int(rng.integers(0, most + 1)) for most in (width, height) - sides)
            window = (left, top, left + int(sides[0]), top + int(sides[1]))
    shared = 1.0 + rng.uniform(-_LIGHT, _LIGHT)
    blue, green, red = (float(shared * (1 + rng.normal(0, 0.04))) for _ in range(3))
    return View(window, mirrored, (blue, green, red), float(rng.uniform(-20, 20)))


def cut_tiles(dataset: Dataset, folder: str | Path, *, side: int, overlap: float = 0.2) -> Dataset:
    """Write the images of a data set as tiles and return the data set of these.

    An object of which a tile shows less than 40% becomes a crowd region there: training neither
    asks for it nor calls its class absent.

    Args:
        dataset: The data set; masks follow the tiles.
        folder: Folder for the JPEG files.
        side: Side of a tile in pixels; images that are not larger stay one tile.
        overlap: Share of a tile that its neighbour repeats, in [0, 0.9].

    Raises:
        OptionError: If ``side`` or ``overlap`` is outside its range.
        ImageError: If an image cannot be read.

    Example:
        >>> import tempfile
        >>> from pgvision import samples
        >>> from pgvision.datasets import read_coco
        >>> tiles = cut_tiles(read_coco(samples.truth()), tempfile.mkdtemp(), side=320)
        >>> max(max(image.image_hw) for image in tiles.images)
        320
    """
    if side < 32 or not 0 <= overlap <= 0.9:
        raise OptionError(f"side={side}, overlap={overlap}: expected at least 32, and 0 to 0.9")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    images: list[ImageRecord] = []
    first = 1
    for record in dataset.images:
        # 1. Read the image, and its masks at full size.
        bgr = read_image(record.path)
        masks = {
            item.id: segmentation_to_mask(item.segmentation, record.image_hw)
            for item in record.objects
            if item.segmentation is not None
        }
        # 2. Write each tile, with the objects cut to it.
        for window in tiles(record.image_hw, side, overlap, most=None):
            left, top, right, bottom = window
            name = f"{record.id}_{Path(record.file_name).stem}_{left}_{top}.jpg"
            part = bgr[top:bottom, left:right]
            with replaced_path(target / name) as aside:
                options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
                aside.write_bytes(cv2.imencode(".jpg", part, options)[1].tobytes())
            objects = list(_moved(record, masks, View(window), first))
            first += len(objects)
            size = (bottom - top, right - left)
            images.append(ImageRecord(len(images) + 1, name, target / name, size, tuple(objects)))
    return Dataset(tuple(images), dataset.categories, dataset.info)


def _moved(
    record: ImageRecord, masks: Mapping[int, BoolArray], view: View, first: int
) -> Iterator[Annotation]:
    """Yield the annotations that a tile shows, in its pixels, with ids from ``first`` on."""
    boxes = np.array([item.xyxy for item in record.objects], np.float64).reshape(-1, 4)
    for item, box, share in zip(record.objects, *view.boxes(boxes), strict=True):
        if share < GONE or (box[2:] <= box[:2]).any():
            continue
        segmentation = None
        if item.id in masks:
            part = view.mask(masks[item.id])
            if not part.any():
                continue
            segmentation = Rle((part.shape[0], part.shape[1]), mask_to_rle(part)["counts"])
        left, top, right, bottom = box.tolist()
        # Objects cut too much are crowds: neither asked for nor counted as wrong.
        is_crowd = item.iscrowd or bool(share < VISIBLE)
        xywh = (left, top, right - left, bottom - top)
        yield Annotation(first, item.category_id, xywh, segmentation, is_crowd)
        first += 1
