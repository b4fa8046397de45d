"""Cut images and their annotations into tiles, so that small objects become larger."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from pgvision.arrays import BoolArray
from pgvision.datasets import Annotation, Dataset, ImageRecord, Rle, segmentation_to_mask
from pgvision.errors import OptionError
from pgvision.files import replaced_path
from pgvision.images import read_image
from pgvision.rle import mask_to_rle
from pgvision.tasks.tiles import tiles
from pgvision.training.augment import GONE, VISIBLE, View

_QUALITY: Final = 95


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
