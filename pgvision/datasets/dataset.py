"""Data set in memory, in COCO's terms: images, objects and classes, with ids as in the file."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from pgvision.coco.checks import reading
from pgvision.errors import DataError, ImageError, OptionError
from pgvision.files import readable_name

OnError = Literal["raise", "record"]
"""``"raise"`` stops at a broken entry; ``"record"`` leaves it out, with a finding."""

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
        path: Path of the image, which need not exist. Reading a data set does not decode it.
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
    """A problem of a data set, or a note for its user.

    Attributes:
        rule: Short name of the rule, such as ``"missing-file"``. ``"left-out"`` is what a reader
            leaves out, ``"lost"`` (images and objects) and ``"not-kept"`` (fields) what a written
            file lacks, and ``"mended"`` what was corrected.
        level: ``"error"`` spoils training or scoring; ``"warning"`` does not.
        message: The problem, in words.
        where: The image or category, "" for the whole set.
        split: Name of the split, "" if there is only one.
    """

    rule: str
    level: Literal["error", "warning"]
    message: str
    where: str = ""
    split: str = ""

    def __post_init__(self) -> None:
        """Make file names that are no UTF-8 readable, so that findings can be printed."""
        object.__setattr__(self, "message", readable_name(self.message))
        object.__setattr__(self, "where", readable_name(self.where))

    @property
    def is_loss(self) -> bool:
        """Whether images or objects are missing or wrong, so that a conversion must report it.

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
        findings: What the reader left out or corrected.

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
        # 1. Ids are unique.
        if not self.images:
            reasons = "".join(f"; {finding.message}" for finding in self.findings[:3])
            raise DataError(f"expected at least one image in a data set, got 0{reasons}")
        require_distinct("image", [image.id for image in self.images])
        require_distinct("category", [category.id for category in self.categories])
        objects = [item for image in self.images for item in image.objects]
        require_distinct("annotation", [item.id for item in objects])
        # 2. Every object names a category.
        for item in objects:
            if item.category_id not in self.names:
                raise DataError(
                    f"annotation {item.id}: category_id {item.category_id} is not among the "
                    f"categories {sorted(self.names)}"
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

    def select(self, classes: Sequence[str]) -> "Dataset":
        """Return the data set with some classes only; images without their objects stay.

        Args:
            classes: Names of the classes to keep.

        Raises:
            OptionError: If a name is no class of the data set.

        Example:
            >>> data = Dataset((ImageRecord(1, "a.jpg", Path("a.jpg"), (4, 4)),),
            ...                (Category(1, "head"), Category(2, "helmet")))
            >>> data.select(["helmet"]).classes
            ('helmet',)
        """
        wanted = set(classes)
        self._require_classes(wanted)
        kept = tuple(category for category in self.categories if category.name in wanted)
        ids = {category.id for category in kept}
        images = change_objects(self.images, lambda item: item if item.category_id in ids else None)
        return replace(self, images=images, categories=kept)

    def rename(self, names: Mapping[str, str]) -> "Dataset":
        """Return the data set with other class names; classes that get one name become one class.

        Args:
            names: New names by old ones.

        Raises:
            OptionError: If a name is no class of the data set, or a new name is empty.

        Example:
            >>> data = Dataset((ImageRecord(1, "a.jpg", Path("a.jpg"), (4, 4)),),
            ...                (Category(1, "RBC"), Category(2, "helmet")))
            >>> data.rename({"RBC": "red blood cell"}).classes
            ('red blood cell', 'helmet')
        """
        self._require_classes(names)
        if not all(name.strip() for name in names.values()):
            raise OptionError("rename: a new class name is empty; give each class a name")
        # Of classes with one new name the first is kept.
        first: dict[str, Category] = {}
        numbers: dict[int, int] = {}
        for category in self.categories:
            name = names.get(category.name, category.name)
            kept = first.setdefault(name, replace(category, name=name))
            numbers[category.id] = kept.id
        images = change_objects(self.images, _renumber(numbers))
        return replace(self, images=images, categories=tuple(first.values()))

    def _require_classes(self, classes: Iterable[str]) -> None:
        unknown = sorted(set(classes) - set(self.classes))
        if unknown:
            raise OptionError(
                f"classes: {', '.join(map(repr, unknown))} not in the data set; it has "
                f"{', '.join(self.classes)}"
            )


def merge_datasets(datasets: Mapping[str, Dataset]) -> Dataset:
    """Merge data sets: classes by name, images named ``key/name``, their ids numbered from 1.

    Top-level fields (``licenses``) are kept if all have the same.

    Args:
        datasets: Data sets by a short name for each.

    Raises:
        OptionError: If there are none.

    Example:
        >>> shot = ImageRecord(7, "a.jpg", Path("a.jpg"), (4, 4))
        >>> both = merge_datasets({"x": Dataset((shot,), (Category(3, "helmet"),)),
        ...                        "y": Dataset((shot,), (Category(1, "head"),))})
        >>> both.classes, [image.file_name for image in both.images]
        (('head', 'helmet'), ['x/a.jpg', 'y/a.jpg'])
    """
    if not datasets:
        raise OptionError("datasets: expected at least one, got none")
    shared = share_ids(datasets)
    first = next(iter(shared.values()))
    return Dataset(
        images=tuple(
            replace(image, file_name=f"{key}/{image.file_name}")
            for key, part in shared.items()
            for image in part.images
        ),
        categories=first.categories,
        info=first.info if all(part.info == first.info for part in shared.values()) else {},
        findings=tuple(
            replace(finding, split=finding.split or key)
            for key, part in shared.items()
            for finding in part.findings
        ),
    )


def share_ids(parts: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Return parts with one list of classes, by name, and ids numbered through all of them."""
    # 1. Number the names of all parts, unless all have the same. They are sorted, so that the
    # numbers do not depend on the order of parts.
    lists = [part.categories for part in parts.values()]
    first = {category.name: category for categories in lists for category in categories}
    if any(categories != lists[0] for categories in lists):
        names = enumerate(sorted(first), start=1)
        first = {name: replace(first[name], id=number) for number, name in names}
    # 2. Number images and objects.
    shared: dict[str, Dataset] = {}
    images, objects = count(1), count(1)
    for key, part in parts.items():
        numbers = {category.id: first[category.name].id for category in part.categories}
        records = change_objects(part.images, _renumber(numbers, objects))
        records = tuple(replace(image, id=next(images)) for image in records)
        shared[key] = replace(part, images=records, categories=(*first.values(),))
    return shared


def number_dataset(
    records: Sequence[tuple[ImageRecord, Sequence[str]]], findings: Iterable[Finding]
) -> Dataset:
    """Build a data set from files without ids, which all are given from 1.

    Args:
        records: Images and the class name of each of their objects.
        findings: Of reading the files.
    """
    # Sorted by name, so that the ids do not depend on the order of files.
    names = sorted({name for _, labels in records for name in labels})
    categories = tuple(Category(number, name) for number, name in enumerate(names, 1))
    numbers = {category.name: category.id for category in categories}
    used, images = count(1), []
    for index, (image, labels) in enumerate(records, 1):
        objects = (
            replace(item, id=next(used), category_id=numbers[label])
            for item, label in zip(image.objects, labels, strict=True)
        )
        images.append(replace(image, id=index, objects=tuple(objects)))
    return Dataset(tuple(images), categories, findings=tuple(findings))


def change_objects(
    images: Iterable[ImageRecord], change: Callable[[Annotation], Annotation | None]
) -> tuple[ImageRecord, ...]:
    """Return images with changed objects; those that become None are left out."""
    return tuple(
        replace(image, objects=tuple(filter(None, map(change, image.objects)))) for image in images
    )


def _renumber(
    numbers: Mapping[int, int], ids: Iterator[int] | None = None
) -> Callable[[Annotation], Annotation]:
    """Return a change of category ids, and of ids where new ones are given."""

    def change(item: Annotation) -> Annotation:
        number = item.id if ids is None else next(ids)
        return replace(item, id=number, category_id=numbers[item.category_id])

    return change


def split_by_hash(dataset: Dataset, *, val: float = 0.2) -> dict[str, Dataset]:
    """Divide a data set into ``"train"`` and ``"val"`` by a hash of each image file.

    Copies of an image under two names stay together.

    An image stays in its part when others are added or removed, and with a larger ``val`` no
    image of ``"val"`` leaves it.

    Args:
        dataset: The data set.
        val: Expected share of images in ``"val"``; 0 < val < 1.

    Returns:
        The two parts, with the categories and ids of the whole.

    Raises:
        OptionError: If ``val`` is out of range.
        DataError: If a file cannot be read, or a part would be empty.

    Example:
        >>> from pgvision import samples
        >>> from pgvision.datasets import read_coco
        >>> parts = split_by_hash(read_coco(samples.truth()), val=0.3)
        >>> len(parts["train"].images) + len(parts["val"].images)
        18
    """
    if not 0 < val < 1:
        raise OptionError(f"val={val}: expected a share between 0 and 1")
    # 1. Place each image by its own hash.
    parts: dict[str, list[ImageRecord]] = {"train": [], "val": []}
    for image in dataset.images:
        # A hash is stable: adding images moves no other image.
        digest = hashlib.sha256(f"\0{file_digest(image.path)}".encode()).digest()
        share = int.from_bytes(digest[:7], "big") / (1 << 56)
        parts["val" if share < val else "train"].append(image)
    # 2. Neither part may be empty.
    for split, images in parts.items():
        if not images:
            raise DataError(
                f"{split!r} would hold none of the {len(dataset.images)} images; use another val"
            )
    return {split: replace(dataset, images=tuple(images)) for split, images in parts.items()}


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex.

    Raises:
        DataError: If it cannot be read.

    Source:
        FIPS 180-4; the value below is the standard's own example for "abc".

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "abc"
        >>> _ = file.write_bytes(b"abc")
        >>> file_digest(file)[:16]
        'ba7816bf8f01cfea'
    """
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class EntryErrors:
    """Errors of single entries: raised, or recorded as findings so that the others are read.

    Args:
        on_error: ``"raise"`` or ``"record"``.

    Example:
        >>> errors = EntryErrors("record")
        >>> with errors.entry("a.xml"):
        ...     raise DataError("a.xml: not complete XML")
        >>> errors.findings[0].rule
        'broken-entry'
    """

    def __init__(self, on_error: OnError) -> None:
        self._on_error = on_error
        self.findings: list[Finding] = []

    @contextmanager
    def entry(self, where: str) -> Iterator[None]:
        """Run the reading of one entry.

        Raises:
            DataError: That of the entry, unless errors are recorded.
            ImageError: Likewise.
        """
        try:
            yield
        except (DataError, ImageError) as error:
            if self._on_error == "raise":
                raise
            self.findings.append(Finding("broken-entry", "error", str(error), where))


def require_distinct(what: str, ids: list[int]) -> None:
    """Check that no id is used twice.

    Raises:
        DataError: With the first that is.
    """
    if len(set(ids)) < len(ids):
        twice = next(number for number, times in Counter(ids).items() if times > 1)
        raise DataError(f"{what} id {twice} is used twice; ids must be unique")
