"""COCO files, read and written without renumbering, re-rasterising or dropping anything.

Supervision's reader rasterises polygons differently and its writer renumbers ids and turns masks
with holes into crowds, which is why both directions are here.
"""

import json
from pathlib import Path

from pgvision.datasets.fields import Fields, is_number, kind_of, load_json
from pgvision.datasets.image_files import find_image_folder, image_hw_of, image_path, stated_hw
from pgvision.datasets.records import (
    Annotation,
    Category,
    Dataset,
    ImageRecord,
    Polygons,
    Rle,
    Segmentation,
    require_distinct,
)
from pgvision.datasets.segmentations import polygons_xywh, segmentation_to_mask
from pgvision.errors import DataError, PgvisionError

_IMAGE_FIELDS = ("id", "file_name", "width", "height")
_ITEM_FIELDS = ("id", "image_id", "category_id", "bbox", "segmentation", "iscrowd", "area")


def read_coco(path: str | Path, *, images: str | Path | None = None) -> Dataset:
    """Read a COCO instances file. Images are not opened unless their size is missing.

    Args:
        path: The JSON file.
        images: The image folder; looked for near the file if not given.

    Returns:
        The data set, with the file's own ids.

    Raises:
        DataError: If the file is cut, holds NaN, lacks images, annotations or categories, repeats
            an id, or names an image outside the folder. The message names file and entry.

    Source:
        https://cocodataset.org/#format-data

    Example:
        >>> import json, tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.json"
        >>> _ = file.write_text(json.dumps({
        ...     "images": [{"id": 7, "file_name": "a.jpg", "width": 640, "height": 480}],
        ...     "annotations": [{"id": 1, "image_id": 7, "category_id": 3,
        ...                      "bbox": [0, 0, 10, 20], "area": 200, "iscrowd": 0}],
        ...     "categories": [{"id": 3, "name": "helmet"}]}))
        >>> read_coco(file).images[0].objects[0].xyxy
        (0.0, 0.0, 10.0, 20.0)
    """
    file = Path(path)
    return coco_to_dataset(load_json(file), source=file, images=images)


def coco_to_dataset(
    value: object, *, source: str | Path, images: str | Path | None = None
) -> Dataset:
    """Turn a parsed COCO object into a data set; see `read_coco`.

    Args:
        value: What ``json.load`` gave.
        source: The file that it stands for: named in errors, and where images are looked for.
        images: The image folder.

    Raises:
        DataError: As `read_coco`.
    """
    file = Path(source)
    top = Fields(value, str(file))
    for key in ("images", "annotations", "categories"):
        if key not in top:
            raise DataError(
                f"{file}: lacks {key!r}; a COCO file has images, annotations, categories"
            )
    records = _read_images(top, file, None if images is None else Path(images))
    info = top.rest("images", "annotations", "categories")
    try:
        return Dataset(images=records, categories=_read_categories(top, file), info=info)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def _read_images(top: Fields, file: Path, images: Path | None) -> tuple[ImageRecord, ...]:
    entries = [
        Fields(entry, f"{file}: images[{index}]") for index, entry in enumerate(top.items("images"))
    ]
    names = [entry.text("file_name") for entry in entries]
    folder = find_image_folder(file, names, images)
    numbers = [entry.integer("id") for entry in entries]
    try:
        require_distinct("image", numbers)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    sizes = [
        _image_hw(entry, image_path(name, folder, where=entry.where))
        for entry, name in zip(entries, names, strict=True)
    ]
    objects = _read_objects(top, file, dict(zip(numbers, sizes, strict=True)))
    return tuple(
        ImageRecord(
            id=number,
            file_name=name,
            path=image_path(name, folder, where=entry.where),
            image_hw=size,
            objects=tuple(objects.get(number, ())),
            extra=entry.rest(*_IMAGE_FIELDS),
        )
        for entry, number, name, size in zip(entries, numbers, names, sizes, strict=True)
    )


def _image_hw(entry: Fields, path: Path) -> tuple[int, int]:
    if "width" not in entry and "height" not in entry:
        try:
            return image_hw_of(path)
        except PgvisionError as error:
            raise DataError(
                f"{entry.where}: lacks 'width' and 'height', and the image does not tell: {error}"
            ) from error
    return stated_hw(entry.integer("height"), entry.integer("width"), where=entry.where)


def _read_categories(top: Fields, file: Path) -> tuple[Category, ...]:
    entries = [
        Fields(entry, f"{file}: categories[{index}]")
        for index, entry in enumerate(top.items("categories"))
    ]
    return tuple(
        Category(entry.integer("id"), entry.text("name"), entry.rest("id", "name"))
        for entry in entries
    )


def _read_objects(
    top: Fields, file: Path, sizes: dict[int, tuple[int, int]]
) -> dict[int, list[Annotation]]:
    objects: dict[int, list[Annotation]] = {}
    for index, value in enumerate(top.items("annotations")):
        entry = Fields(value, f"{file}: annotations[{index}]")
        image_id = entry.integer("image_id")
        if image_id not in sizes:
            raise DataError(f"{entry.where}: image_id {image_id} is not among the images")
        objects.setdefault(image_id, []).append(_read_object(entry, sizes[image_id]))
    return objects


def _read_object(entry: Fields, image_hw: tuple[int, int]) -> Annotation:
    crowd = entry.values.get("iscrowd", 0)
    if crowd not in (0, 1, None):
        raise entry.fail("iscrowd", "0 or 1")
    segmentation = _read_segmentation(entry, image_hw)
    return Annotation(
        id=entry.integer("id"),
        category_id=entry.integer("category_id"),
        xywh=_read_box(entry, segmentation),
        segmentation=segmentation,
        iscrowd=bool(crowd),
        area=entry.number("area") if "area" in entry else None,
        extra=entry.rest(*_ITEM_FIELDS),
    )


def _read_box(
    entry: Fields, segmentation: Segmentation | None
) -> tuple[float, float, float, float]:
    if "bbox" not in entry and segmentation and not isinstance(segmentation, Rle):
        return polygons_xywh(segmentation)
    box = entry.numbers("bbox")
    if len(box) != 4:
        raise entry.fail("bbox", "4 numbers (x, y, width, height)")
    return (box[0], box[1], box[2], box[3])


def _read_segmentation(entry: Fields, image_hw: tuple[int, int]) -> Segmentation | None:
    value = entry.values.get("segmentation")
    if value is None or value == []:
        return None
    if isinstance(value, dict):
        return _read_rle(Fields(value, f"{entry.where}: segmentation"), image_hw)
    if not isinstance(value, list):
        raise DataError(
            f"{entry.where}: segmentation is {kind_of(value)}, expected polygons or run lengths"
        )
    return _read_polygons(value, entry)


def _read_polygons(value: list[object], entry: Fields) -> Polygons:
    rings = []
    for ring in value:
        if not isinstance(ring, list) or len(ring) % 2 or not all(map(is_number, ring)):
            raise DataError(
                f"{entry.where}: segmentation: expected rings of x, y pairs of finite numbers, "
                f"got {ring!r:.80}"
            )
        rings.append(tuple(float(number) for number in ring))
    return tuple(rings)


def _read_rle(entry: Fields, image_hw: tuple[int, int]) -> Rle:
    size = entry.numbers("size")
    if tuple(size) != image_hw:
        raise DataError(
            f"{entry.where}: size {list(size)}, but the image is {list(image_hw)} (height, width)"
        )
    counts = entry.values.get("counts")
    if isinstance(counts, str):
        return Rle(image_hw, counts)
    runs = entry.numbers("counts")
    if any(run < 0 or run != int(run) for run in runs) or sum(runs) != image_hw[0] * image_hw[1]:
        raise DataError(
            f"{entry.where}: counts must be whole run lengths that sum to "
            f"{image_hw[0]} x {image_hw[1]}, they sum to {sum(runs):g}"
        )
    return Rle(image_hw, tuple(int(run) for run in runs))


def dataset_to_coco(dataset: Dataset) -> dict[str, object]:
    """Turn a data set into the object that a COCO file holds.

    Ids, names, boxes, outlines and other fields are those that were read. A missing ``area`` is
    computed (of the mask, or else of the box), because COCO tools fail without it.

    Args:
        dataset: The data set.

    Returns:
        A dict that ``json.dump`` takes and that pycocotools' ``COCO.dataset`` may hold.

    Raises:
        DataError: If an area has to be computed from a broken mask.

    Example:
        >>> box = Annotation(id=1, category_id=3, xywh=(0.0, 0.0, 10.0, 20.0))
        >>> shot = ImageRecord(7, "a.jpg", Path("a.jpg"), (480, 640), (box,))
        >>> data = Dataset(images=(shot,), categories=(Category(3, "helmet"),))
        >>> [(item["bbox"], item["area"]) for item in dataset_to_coco(data)["annotations"]]
        [([0.0, 0.0, 10.0, 20.0], 200.0)]
    """
    return {
        **dataset.info,
        "images": [
            {
                "id": image.id,
                "file_name": image.file_name,
                "width": image.image_hw[1],
                "height": image.image_hw[0],
                **image.extra,
            }
            for image in dataset.images
        ],
        "annotations": [_item(item, image) for image in dataset.images for item in image.objects],
        "categories": [
            {"id": category.id, "name": category.name, **category.extra}
            for category in dataset.categories
        ],
    }


def _item(item: Annotation, image: ImageRecord) -> dict[str, object]:
    entry: dict[str, object] = {
        "id": item.id,
        "image_id": image.id,
        "category_id": item.category_id,
        "bbox": list(item.xywh),
        "area": area_of(item, image.image_hw),
        "iscrowd": int(item.iscrowd),
    }
    if isinstance(item.segmentation, Rle):
        counts = item.segmentation.counts
        entry["segmentation"] = {
            "size": list(item.segmentation.size),
            "counts": counts if isinstance(counts, str) else list(counts),
        }
    elif item.segmentation is not None:
        entry["segmentation"] = [list(ring) for ring in item.segmentation]
    return entry | dict(item.extra)


def area_of(item: Annotation, image_hw: tuple[int, int]) -> float:
    """Return an annotation's area in square pixels: stated, or of its mask, or of its box.

    Raises:
        DataError: If the mask is broken.

    Example:
        >>> area_of(Annotation(id=1, category_id=1, xywh=(0.0, 0.0, 4.0, 2.5)), (10, 10))
        10.0
    """
    if item.area is not None:
        return item.area
    if item.segmentation is not None:
        return float(segmentation_to_mask(item.segmentation, image_hw).sum())
    return max(item.xywh[2], 0.0) * max(item.xywh[3], 0.0)


def coco_text(dataset: Dataset) -> str:
    """Return the text of a COCO file: numbers with every digit they need to come back the same."""
    return json.dumps(dataset_to_coco(dataset), ensure_ascii=False, allow_nan=False)
