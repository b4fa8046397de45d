"""Cut images and their annotations into tiles, so that small objects become larger."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2

from pgvision.arrays import BoolArray
from pgvision.datasets import Annotation, Dataset, ImageRecord, Rle, segmentation_to_mask
from pgvision.errors import OptionError
from pgvision.files import replaced_path
from pgvision.images import read_image
from pgvision.rle import mask_to_rle
from pgvision.training.augment import GONE, VISIBLE

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
        for left, top, right, bottom in _windows(record.image_hw, side, overlap):
            name = f"{record.id}_{Path(record.file_name).stem}_{left}_{top}.jpg"
            part = bgr[top:bottom, left:right]
            with replaced_path(target / name) as aside:
                options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
                aside.write_bytes(cv2.imencode(".jpg", part, options)[1].tobytes())
            objects: list[Annotation] = []
            for item in record.objects:
                window = (left, top, right, bottom)
                moved = _moved(item, masks.get(item.id), window, first + len(objects))
                objects += [] if moved is None else [moved]
            first += len(objects)
            size = (bottom - top, right - left)
            images.append(ImageRecord(len(images) + 1, name, target / name, size, tuple(objects)))
    return Dataset(tuple(images), dataset.categories, dataset.info)


def _windows(
    image_hw: tuple[int, int], side: int, overlap: float
) -> Iterator[tuple[int, int, int, int]]:
    """Yield left, top, right, bottom of tiles that cover an image."""
    height, width = image_hw
    step = max(1, round(side * (1 - overlap)))

    def starts(length: int) -> list[int]:
        last = max(0, length - side)
        return sorted({*range(0, last, step), last})

    for top in starts(height):
        for left in starts(width):
            yield left, top, min(width, left + side), min(height, top + side)


def _moved(
    item: Annotation,
    mask: BoolArray | None,
    window: tuple[int, int, int, int],
    number: int,
) -> Annotation | None:
    """Return an annotation in a tile's pixels; None if the tile shows nothing of it."""
    # 1. The part of the box inside the tile.
    left, top, right, bottom = window
    x1, y1, x2, y2 = item.xyxy
    inside = (max(x1, left), max(y1, top), min(x2, right), min(y2, bottom))
    width, height = inside[2] - inside[0], inside[3] - inside[1]
    if width <= 0 or height <= 0:
        return None
    share = width * height / max((x2 - x1) * (y2 - y1), 1e-9)
    if share < GONE:
        return None
    # 2. The part of the mask.
    segmentation = None
    if mask is not None:
        part = mask[top:bottom, left:right]
        if not part.any():
            return None
        rle = mask_to_rle(part)
        segmentation = Rle((bottom - top, right - left), rle["counts"])
    box = (inside[0] - left, inside[1] - top, width, height)
    # 3. Objects cut too much are crowds: neither asked for nor counted as wrong.
    is_crowd = item.iscrowd or share < VISIBLE
    return Annotation(number, item.category_id, box, segmentation, is_crowd)
