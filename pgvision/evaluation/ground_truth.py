"""COCO ground truth, read once, checked, and kept as columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgvision.coco import FIX, CocoContent, read_content
from pgvision.errors import DataError, EvaluationError
from pgvision.rle import Rle, pack_rle, polygons_to_rle


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Checked ground truth. Rows are annotations in file order; categories are sorted by id.

    Attributes:
        image_ids: ``(i,)`` int64, sorted.
        image_hw: Height and width by image id; None where the file does not say.
        category_ids: ``(k,)`` int64, sorted.
        names: ``k`` category names.
        image: ``(n,)`` image id of each annotation.
        category: ``(n,)`` category id of each annotation.
        xywh: ``(n, 4)`` float64, pixels: left, top, width, height.
        area: ``(n,)`` float64, pixels.
        crowd: ``(n,)`` bool.
        segmentation: ``n`` polygons or RLEs as the file has them, or None when boxes are scored.
        notes: What was filled in.
    """

    image_ids: NDArray[np.int64]
    image_hw: dict[int, tuple[int, int] | None]
    category_ids: NDArray[np.int64]
    names: tuple[str, ...]
    image: NDArray[np.int64]
    category: NDArray[np.int64]
    xywh: NDArray[np.float64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    segmentation: list[Any] | None
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image)

    def rles(self) -> list[Rle]:
        """Each annotation's mask as a compressed RLE; only when masks are scored."""
        segmentations = self.segmentation or []
        return [
            pack_rle(segmentation)
            if isinstance(segmentation, Mapping)
            else polygons_to_rle(segmentation, self.image_hw[int(image)] or (0, 0))
            for segmentation, image in zip(segmentations, self.image, strict=True)
        ]


def load_ground_truth(gt: object, *, masks: bool = False) -> GroundTruth:
    """Read and check ground truth.

    Args:
        gt: A path to a COCO JSON file, its content as a dict, or a pycocotools ``COCO``.
        masks: Whether masks are scored: segmentations and image sizes are then required.

    Returns:
        The checked columns.

    Raises:
        EvaluationError: With every problem found: missing or duplicate ids, unknown images or
            categories, boxes that are no boxes, NaN, masks of another size.

    Example:
        >>> truth = load_ground_truth({
        ...     "images": [{"id": 1, "height": 40, "width": 60}],
        ...     "categories": [{"id": 3, "name": "helmet"}],
        ...     "annotations": [
        ...         {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 20]}]})
        >>> truth.names, truth.area.tolist()
        (('helmet',), [200.0])
    """
    source = gt if isinstance(gt, str | Path | Mapping) else getattr(gt, "dataset", None)
    if source is None:
        raise EvaluationError(
            f"ground truth: expected a COCO file, its dict or a pycocotools COCO, got "
            f"{type(gt).__name__}. Fix: pass the path of the annotation file."
        )
    where = f"ground truth {gt}" if isinstance(gt, str | Path) else "ground truth"
    try:
        content = read_content(source, where=where, outlines=masks)
    except DataError as error:
        raise EvaluationError(
            f"{error}. Fix: pass a COCO detection file with images, categories and annotations."
        ) from error
    entries_at_fault = any(not place.startswith("annotations") for place, _ in content.problems)
    if not (content.images and content.categories) and not entries_at_fault:
        raise EvaluationError(
            f"{where}: expected at least one image and one category, got {len(content.images)} "
            f"images and {len(content.categories)} categories. Fix: nothing can be scored against "
            "an empty set."
        )
    if masks:
        _require_masks(content)
    content.problems.refuse(FIX)
    return _columns(content, masks=masks)


def _require_masks(content: CocoContent) -> None:
    """Add what only mask scoring asks for to the problems."""
    for entry in content.images.values():
        if entry.sound and entry.image_hw is None:
            sides = [str(entry.fields.get(side)) for side in ("height", "width")]
            content.problems.add(
                f"images[{entry.index}]",
                f"height and width are {' and '.join(sides)}, expected positive integers: masks "
                "are scored",
            )
    for index, outline in zip(content.index.tolist(), content.outlines, strict=True):
        if outline is None:
            content.problems.add(
                f"annotations[{index}].segmentation",
                "holds no polygon of at least 3 points and no RLE, and masks are scored",
            )


def _columns(content: CocoContent, *, masks: bool) -> GroundTruth:
    category_ids = np.array(sorted(content.categories), np.int64)
    missing = int(np.isnan(content.area).sum())
    notes = content.notes
    if missing:
        filled = f"{missing} annotations have no area: taken from their mask, or else their box"
        notes = (filled, *notes)
    segmentation = None
    if masks:
        segmentation = [
            pack_rle(outline) if isinstance(outline, Mapping) else outline
            for outline in content.outlines
        ]
    return GroundTruth(
        image_ids=np.array(sorted(content.images), np.int64),
        image_hw={number: entry.image_hw for number, entry in content.images.items()},
        category_ids=category_ids,
        names=tuple(content.categories[n].fields["name"] for n in category_ids.tolist()),
        image=content.image_ids,
        category=content.category_ids,
        xywh=content.xywh,
        area=content.known_areas(),
        crowd=content.crowd,
        segmentation=segmentation,
        notes=notes,
    )
