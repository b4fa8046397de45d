"""COCO files as data sets, read and written without renumbering or rasterising.

The rules of what is accepted are those of `pgvision.coco.content`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from pgvision.coco.content import FIX, CocoContent, Entry, read_content, without_collecting
from pgvision.coco.writing import annotation_entry, image_entry, write_coco
from pgvision.datasets.dataset import (
    Annotation,
    Category,
    Dataset,
    Finding,
    ImageRecord,
    OnError,
    Rle,
    Segmentation,
)
from pgvision.datasets.image_names import ImageFinder, size_of
from pgvision.datasets.outlines import outline_fault
from pgvision.errors import DataError

_IMAGE_FIELDS = ("id", "file_name", "width", "height")
_Placed: TypeAlias = dict[int, tuple[Path, tuple[int, int]]]
"""Path, height and width by image id."""


def read_coco(
    path: str | Path, *, images: str | Path | None = None, on_error: OnError = "raise"
) -> Dataset:
    """Read a COCO instances file. Images are not opened unless their size is missing.

    Args:
        path: The JSON file.
        images: The image folder; looked for near the file if not given.
        on_error: ``"raise"`` refuses a file with a broken entry; ``"record"`` leaves the entry out
            and adds a finding for each.

    Returns:
        The data set, with the file's own ids. Corrections are in ``findings``.

    Raises:
        DataError: If the file is cut, lacks images, annotations or categories, or contains entries
            that are not sound by the rules of `pgvision.coco.content`; or if it names an image
            outside the folder. The message names file and entries.

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
    with without_collecting():
        return _dataset(read_content(file, where=str(file)), file, images, on_error)


def coco_to_dataset(
    value: Mapping[str, object], *, source: str | Path, images: str | Path | None = None
) -> Dataset:
    """Turn a parsed COCO object into a data set; see `read_coco`.

    Args:
        value: What ``json.load`` returned.
        source: The file that it comes from: named in errors; images are searched next to it.
        images: The image folder.

    Raises:
        DataError: As `read_coco`.
    """
    return _dataset(read_content(value, where=str(source)), Path(source), images, "raise")


def _dataset(
    content: CocoContent, file: Path, images: str | Path | None, on_error: OnError
) -> Dataset:
    # 1. Find the images; refuse all problems in one error.
    placed = _place_images(content, file, images)
    objects = _objects(content, placed)
    if on_error == "raise" or not placed:
        content.problems.refuse(FIX, DataError)
    # 2. Build the data set, with notes on what was corrected.
    findings = [Finding("mended", "warning", note) for note in content.problems.notes]
    findings += [
        Finding("broken-entry", "error", f"{place}: {what}") for place, what in content.problems
    ]
    try:
        return Dataset(
            images=tuple(
                ImageRecord(
                    id=number,
                    file_name=content.images[number].fields["file_name"],
                    path=path,
                    image_hw=image_hw,
                    objects=tuple(objects.get(number, ())),
                    extra=_rest(content.images[number], *_IMAGE_FIELDS),
                )
                for number, (path, image_hw) in placed.items()
            ),
            categories=tuple(
                Category(number, entry.fields["name"], _rest(entry, "id", "name"))
                for number, entry in content.categories.items()
                if entry.sound
            ),
            info=content.info,
            findings=tuple(findings),
        )
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def _rest(entry: Entry, *known: str) -> dict[str, Any]:
    return {key: value for key, value in entry.fields.items() if key not in known}


def _place_images(content: CocoContent, file: Path, images: str | Path | None) -> _Placed:
    """Find path and size of each sound image; add the problems of the others."""
    # 1. Collect the names.
    named: dict[int, str] = {}
    for number, entry in content.images.items():
        name = entry.fields.get("file_name")
        if entry.sound and isinstance(name, str) and name:
            named[number] = name
        elif entry.sound:
            place = f"images[{entry.index}].file_name"
            content.problems.add(place, f"is {name!r:.40}, expected text")
    # 2. Find all images at once: folders are listed only once.
    found = ImageFinder(file, images, file.parent, file.stem).find_all(list(named.values()))
    # 3. Read sizes that the file does not state.
    placed = {}
    for number, outcome in zip(named, found, strict=True):
        entry = content.images[number]
        place = f"images[{entry.index}]"
        try:
            if isinstance(outcome, DataError):
                raise outcome
            image_hw = entry.image_hw or size_of(
                None, None, outcome.path, where=place, lacks="'width' and 'height'"
            )
            placed[number] = (outcome.path, image_hw)
        except DataError as error:
            content.problems.add(place, str(error).removeprefix(f"{place}: "))
    return placed


def _objects(content: CocoContent, placed: _Placed) -> dict[int, list[Annotation]]:
    """Make the annotations of each image; add the problems of outlines of another size."""
    objects: dict[int, list[Annotation]] = {}
    columns = (
        *(content.ids, content.image_ids, content.category_ids),
        *(content.xywh, content.crowd, content.has_area, content.area),
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for row, (number, image_id, category_id, xywh, crowd, has_area, area) in enumerate(rows):
        outline = content.outlines[row]
        if isinstance(outline, Mapping):
            height, width = map(int, outline["size"])
            counts = outline["counts"]
            text = counts.decode("ascii") if isinstance(counts, bytes) else counts
            outline = Rle((height, width), text if isinstance(text, str) else tuple(map(int, text)))
        item = Annotation(
            number, category_id, tuple(xywh), outline, crowd, area if has_area else None,
            content.other_fields(row),
        )  # fmt: skip
        # Free the outline: large files would be in memory twice.
        content.outlines[row] = None
        # Outlines of images without a stated size were not compared with it.
        is_new = content.images[image_id].image_hw is None and image_id in placed
        if is_new and (fault := outline_fault(outline, placed[image_id][1])):
            content.problems.add(f"annotations[{content.index[row]}].segmentation", fault)
        else:
            objects.setdefault(image_id, []).append(item)
    return objects


def dataset_to_coco(dataset: Dataset) -> dict[str, object]:
    """Turn a data set into the object that a COCO file contains.

    Ids, names, boxes, outlines and other fields are those that were read. A missing ``area`` is
    computed (of the mask, or of the box), because COCO tools fail without it.

    Args:
        dataset: The data set.

    Returns:
        A dict for ``json.dump`` or for pycocotools' ``COCO.dataset``.

    Raises:
        DataError: If an area has to be computed from a broken mask.

    Example:
        >>> box = Annotation(id=1, category_id=3, xywh=(0.0, 0.0, 10.0, 20.0))
        >>> shot = ImageRecord(7, "a.jpg", Path("a.jpg"), (480, 640), (box,))
        >>> data = Dataset(images=(shot,), categories=(Category(3, "helmet"),))
        >>> [(item["bbox"], item["area"]) for item in dataset_to_coco(data)["annotations"]]
        [([0.0, 0.0, 10.0, 20.0], 200.0)]
    """
    return {**dataset.info, **{key: list(part) for key, part in _lists(dataset, {}).items()}}


def write_coco_file(path: Path, dataset: Dataset, names: Mapping[int, str] | None = None) -> None:
    """Write a data set as a COCO file, entry by entry.

    Args:
        path: The file.
        dataset: The data set.
        names: Other file names, by image id.

    Raises:
        DataError: As `dataset_to_coco`, or if a number is not finite.
    """
    write_coco(path, info=dataset.info, **_lists(dataset, names or {}))


def _lists(dataset: Dataset, names: Mapping[int, str]) -> dict[str, Iterator[dict[str, Any]]]:
    """Return the entries under each key of a COCO file; see `write_coco_file`."""
    # Generators, so that a large data set is not in memory twice.
    images = (
        image_entry(image.id, names.get(image.id, image.file_name), image.image_hw)
        | dict(image.extra)
        for image in dataset.images
    )
    categories = (
        {"id": category.id, "name": category.name, **category.extra}
        for category in dataset.categories
    )
    return {"images": images, "annotations": _items(dataset), "categories": categories}


def _items(dataset: Dataset) -> Iterator[dict[str, Any]]:
    for image in dataset.images:
        for item in image.objects:
            entry = annotation_entry(
                item.id,
                image.id,
                item.category_id,
                item.xywh,
                area=item.area,
                iscrowd=item.iscrowd,
                segmentation=_as_json(item.segmentation),
                image_hw=image.image_hw,
            )
            yield entry | dict(item.extra) if item.extra else entry


def _as_json(segmentation: Segmentation | None) -> Any:
    if isinstance(segmentation, Rle):
        counts = segmentation.counts
        plain = counts if isinstance(counts, str) else list(counts)
        return {"size": list(segmentation.size), "counts": plain}
    return None if segmentation is None else [list(ring) for ring in segmentation]
