"""COCO ground truth, read once, checked, and kept as columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgvision.errors import EvaluationError
from pgvision.evaluation.columns import (
    Record,
    box_column,
    id_column,
    number_column,
    number_fault,
    read_json,
    require_records,
)
from pgvision.evaluation.problems import Problems
from pgvision.rle import (
    Rle,
    pack_rle,
    pixels_fault,
    polygons_to_rle,
    rle_area,
    rle_fault,
    run_totals,
)

FIX = "mend the annotation file; `pgvision convert --check` lists everything that is wrong with it"


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
            _as_rle(segmentation, self.image_hw[int(image)] or (0, 0))
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
    where, content = _open(gt)
    for key in ("images", "categories", "annotations"):
        if key not in content:
            raise EvaluationError(
                f"{where}: expected the COCO key {key!r}, got {sorted(map(str, content))[:8]}. "
                "Fix: pass a COCO detection file with images, categories and annotations."
            )
    problems = Problems(where)
    images = require_records(content["images"], f"{where}: images")
    categories = require_records(content["categories"], f"{where}: categories")
    rows = require_records(content["annotations"], f"{where}: annotations")
    if not images or not categories:
        raise EvaluationError(
            f"{where}: expected at least one image and one category, got {len(images)} images and "
            f"{len(categories)} categories. Fix: nothing can be scored against an empty set."
        )
    image_hw = _image_sizes(images, masks, problems)
    category_ids, names = _categories(categories, problems)
    image = _known(rows, "image_id", np.array(list(image_hw), np.int64), problems)
    category = _known(rows, "category_id", category_ids, problems)
    _unique(rows, "annotations", problems, required=False)
    crowd = _crowds(rows, problems)
    boxes = box_column(_with_boxes(rows), "annotations", problems)
    problems.refuse(FIX)
    segmentation = _segmentations(rows, image, image_hw, problems) if masks else None
    problems.refuse(FIX)
    area, notes = _areas(rows, boxes, segmentation, image, image_hw, problems)
    problems.refuse(FIX)
    return GroundTruth(
        np.array(sorted(image_hw), np.int64), image_hw, category_ids, names, image, category,
        boxes, area, crowd, segmentation, notes,
    )  # fmt: skip


def _open(gt: object) -> tuple[str, Mapping[str, Any]]:
    where = "ground truth"
    if isinstance(gt, str | Path):
        where, content = f"ground truth {gt}", read_json(gt, "ground truth")
    else:
        content = gt if isinstance(gt, Mapping) else getattr(gt, "dataset", None)
    if not isinstance(content, Mapping):
        came = type(content if isinstance(gt, str | Path) else gt).__name__
        raise EvaluationError(
            f"{where}: expected a COCO file, its dict or a pycocotools COCO, got {came}. "
            "Fix: pass the path of the annotation file."
        )
    return where, content


def _image_sizes(
    images: Sequence[Record], masks: bool, problems: Problems
) -> dict[int, tuple[int, int] | None]:
    ids = _unique(images, "images", problems, required=True)
    sizes: dict[int, tuple[int, int] | None] = {}
    for index, (number, record) in enumerate(zip(ids.tolist(), images, strict=True)):
        height, width = record.get("height"), record.get("width")
        if type(height) is int and type(width) is int and height > 0 and width > 0:
            sizes[number] = (height, width)
            continue
        sizes[number] = None
        if masks or height is not None or width is not None:
            problems.add(
                f"images[{index}]",
                f"height and width are {height!r:.20} and {width!r:.20}, "
                "expected positive integers",
            )
    return sizes


def _categories(
    records: Sequence[Record], problems: Problems
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    ids = _unique(records, "categories", problems, required=True)
    for index, record in enumerate(records):
        if not isinstance(record.get("name"), str) or not record["name"]:
            problems.add(
                f"categories[{index}].name", f"is {record.get('name')!r:.40}, expected text"
            )
        elif record["name"] in [earlier.get("name") for earlier in records[:index]]:
            problems.add(f"categories[{index}].name", f"{record['name']!r:.40} is there twice")
    order = np.argsort(ids, kind="stable")
    return ids[order], tuple(str(records[index].get("name")) for index in order)


def _unique(
    records: Sequence[Record], where: str, problems: Problems, *, required: bool
) -> NDArray[np.int64]:
    """The ``id`` column; annotations may go without ids, since we number them ourselves."""
    if not required and not any("id" in record for record in records):
        return np.arange(len(records))
    before = len(problems)
    ids = id_column(records, "id", where, problems)
    if len(problems) == before and len(np.unique(ids)) < len(ids):
        seen: dict[int, int] = {}
        for index, number in enumerate(ids.tolist()):
            if number in seen:
                problems.add(f"{where}[{index}].id", f"is {number}, as {where}[{seen[number]}]")
            seen.setdefault(number, index)
    return ids


def _known(
    rows: Sequence[Record], key: str, known: NDArray[np.int64], problems: Problems
) -> NDArray[np.int64]:
    before = len(problems)
    column = id_column(rows, key, "annotations", problems)
    if len(problems) == before:
        for index in np.flatnonzero(~np.isin(column, known)).tolist():
            problems.add(f"annotations[{index}].{key}", f"is {column[index]}, which is not listed")
    return column


def _crowds(rows: Sequence[Record], problems: Problems) -> NDArray[np.bool_]:
    values = [row.get("iscrowd", 0) for row in rows]
    for index, value in enumerate(values):
        if not isinstance(value, int) or value not in (0, 1):
            problems.add(f"annotations[{index}].iscrowd", f"is {value!r:.20}, expected 0 or 1")
    return np.array([value == 1 for value in values], bool)


def _with_boxes(rows: Sequence[Record]) -> Sequence[Record]:
    return [{"bbox": row["bbox"]} if "bbox" in row else {} for row in rows]


def _segmentations(
    rows: Sequence[Record],
    image: NDArray[np.int64],
    image_hw: dict[int, tuple[int, int] | None],
    problems: Problems,
) -> list[Any]:
    segmentations, packs, places = [], [], []
    for index, row in enumerate(rows):
        segmentation = row.get("segmentation")
        size = image_hw[int(image[index])] or (0, 0)
        is_rle = isinstance(segmentation, Mapping)
        fault = rle_fault(segmentation, size) if is_rle else polygon_fault(segmentation)
        if fault:
            problems.add(f"annotations[{index}].segmentation", fault)
        elif isinstance(segmentation, Mapping):
            segmentation = pack_rle(segmentation)
            packs.append(segmentation)
            places.append(index)
        segmentations.append(segmentation)
    check_totals(packs, places, "annotations", problems)
    return segmentations


def polygon_fault(polygons: object) -> str | None:
    """What is wrong with a list of polygons ``[x1, y1, x2, y2, x3, y3, ...]``, or None."""
    if not isinstance(polygons, list | tuple) or not polygons:
        return f"is {polygons!r:.40}, expected polygons or an RLE"
    for polygon in polygons:
        if not isinstance(polygon, list | tuple) or len(polygon) < 6 or len(polygon) % 2:
            return f"holds {polygon!r:.40}, expected at least 3 points x, y"
        for number in polygon:
            if fault := number_fault(number):
                return f"holds a coordinate that {fault}"
    return None


def _as_rle(segmentation: Any, image_hw: tuple[int, int]) -> Rle:
    if isinstance(segmentation, Mapping):
        return pack_rle(segmentation)
    return polygons_to_rle(segmentation, image_hw)


def check_totals(
    packs: Sequence[Rle], places: Sequence[int], where: str, problems: Problems
) -> None:
    """Note every RLE whose runs do not fill its image exactly."""
    totals = run_totals([pack["counts"] for pack in packs])
    for pack, index, total in zip(packs, places, totals.tolist(), strict=True):
        if fault := pixels_fault(total, (pack["size"][0], pack["size"][1])):
            problems.add(f"{where}[{index}].segmentation", fault)


def _areas(
    rows: Sequence[Record],
    boxes: NDArray[np.float64],
    segmentation: list[Any] | None,
    image: NDArray[np.int64],
    image_hw: dict[int, tuple[int, int] | None],
    problems: Problems,
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """The ``area`` column, filled from the mask or the box where the file has none."""
    missing = [index for index, row in enumerate(rows) if row.get("area") is None]
    if not missing:
        return number_column(rows, "area", "annotations", problems), ()
    areas = boxes[:, 2] * boxes[:, 3]
    known = [index for index, row in enumerate(rows) if row.get("area") is not None]
    areas[known] = number_column([rows[index] for index in known], "area", "annotations", problems)
    if segmentation is not None:
        for index in missing:
            hw = image_hw[int(image[index])] or (0, 0)
            areas[index] = rle_area(_as_rle(segmentation[index], hw))
    origin = "box" if segmentation is None else "mask"
    return areas, (f"{len(missing)} annotations have no area: taken from their {origin}",)
