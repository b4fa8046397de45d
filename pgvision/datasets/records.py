"""What a set of labelled images is in memory: COCO's terms, nothing renumbered, nothing lost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from pgvision.errors import DataError

Polygons: TypeAlias = tuple[tuple[float, ...], ...]
"""Rings in pixels, each ``(x0, y0, x1, y1, ...)``, as COCO JSON writes them."""


class Rle(NamedTuple):
    """Run lengths as COCO JSON writes them.

    Attributes:
        size: Height and width of the image, in pixels.
        counts: The compressed text, or the plain run lengths of an uncompressed mask.
    """

    size: tuple[int, int]
    counts: str | tuple[int, ...]


Segmentation: TypeAlias = Polygons | Rle


@dataclass(frozen=True, slots=True)
class Category:
    """One class of a data set.

    Attributes:
        id: The number that annotations use, as the file has it.
        name: The name, as the file has it.
        extra: Other fields of the file (``supercategory``).
    """

    id: int
    name: str
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object of an image.

    The box is kept as COCO writes it: ``x + w - x`` is not ``w`` in floating point, and a file
    that is read and written should be the same file.

    Attributes:
        id: Number of the annotation, unique in its data set.
        category_id: `Category.id` of its class.
        xywh: Left, top, width, height in pixels.
        segmentation: Polygons or run lengths; None if there is only a box.
        iscrowd: True for a region of many objects that COCO neither counts nor scores.
        area: Area in square pixels as the file states it, None if it does not.
        extra: Other fields of the file (``attributes``, ``score``).

    Example:
        >>> Annotation(id=1, category_id=2, xywh=(10.0, 20.0, 30.0, 40.0)).xyxy
        (10.0, 20.0, 40.0, 60.0)
    """

    id: int
    category_id: int
    xywh: tuple[float, float, float, float]
    segmentation: Segmentation | None = None
    iscrowd: bool = False
    area: float | None = None
    extra: Mapping[str, object] = field(default_factory=dict)

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels."""
        x, y, width, height = self.xywh
        return (x, y, x + width, y + height)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image and its objects.

    Attributes:
        id: Number of the image, unique in its data set.
        file_name: Name as the file has it, relative to the image folder.
        path: Where the image should lie. It is not opened by reading a data set.
        image_hw: Height and width in pixels, as the annotations state them.
        objects: The annotations, in the order of the file.
        extra: Other fields of the file (``license``, ``flickr_url``).
    """

    id: int
    file_name: str
    path: Path
    image_hw: tuple[int, int]
    objects: tuple[Annotation, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or worth knowing, in a data set.

    Attributes:
        rule: Short name of the rule, such as ``"missing-file"``. What a reader leaves out is
            ``"left-out"``, what a writer does ``"lost"`` (whole images and objects) or
            ``"not-kept"`` (fields), and what was put right ``"mended"``.
        level: ``"error"`` spoils training or scoring; ``"warning"`` should be known.
        message: What was found, in words.
        where: The image or category it is about, "" for the whole set.
        split: Name of the split, "" if there is one only.
    """

    rule: str
    level: Literal["error", "warning"]
    message: str
    where: str = ""
    split: str = ""

    @property
    def is_loss(self) -> bool:
        """Whether images or objects are gone, or wrong: what a conversion must not hide.

        Example:
            >>> Finding("left-out", "warning", "a line encloses nothing").is_loss
            True
        """
        return self.level == "error" or self.rule in ("left-out", "lost")


@dataclass(frozen=True)
class Dataset:
    """Images, their objects and the classes, as they were read.

    Attributes:
        images: The images, in the order of the file.
        categories: The classes, in the order of the file; used or not.
        info: Other top-level fields of a COCO file (``info``, ``licenses``).
        findings: What the reader left out or could not place, for `check_dataset` and people.

    Raises:
        DataError: If there is no image, if an id is used twice, or if an object names a category
            that is not there.

    Example:
        >>> shot = ImageRecord(id=7, file_name="a.jpg", path=Path("a.jpg"), image_hw=(480, 640))
        >>> data = Dataset(images=(shot,), categories=(Category(3, "helmet"),))
        >>> data.classes, data.num_objects
        (('helmet',), 0)
    """

    images: tuple[ImageRecord, ...]
    categories: tuple[Category, ...]
    info: Mapping[str, object] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        if not self.images:
            raise DataError("expected at least one image in a data set, got 0")
        require_distinct("image", [image.id for image in self.images])
        require_distinct("category", [category.id for category in self.categories])
        objects = [item for image in self.images for item in image.objects]
        require_distinct("annotation", [item.id for item in objects])
        known = {category.id for category in self.categories}
        for item in objects:
            if item.category_id not in known:
                raise DataError(
                    f"annotation {item.id}: category_id {item.category_id} is not among the "
                    f"categories {sorted(known)}"
                )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the categories, in order."""
        return tuple(category.name for category in self.categories)

    @property
    def num_objects(self) -> int:
        """Number of annotations, crowds included."""
        return sum(len(image.objects) for image in self.images)

    @cached_property
    def names(self) -> dict[int, str]:
        """Name of each category id."""
        return {category.id: category.name for category in self.categories}


def require_distinct(what: str, ids: list[int]) -> None:
    """Check that no id is used twice.

    Raises:
        DataError: If one is; the message names it.
    """
    if len(set(ids)) == len(ids):
        return
    seen: set[int] = set()
    for number in ids:
        if number in seen:
            raise DataError(f"{what} id {number} is used twice; ids must be unique")
        seen.add(number)
