"""One COCO file for everything that was found."""

from pathlib import Path, PureWindowsPath
from types import TracebackType
from typing import Any

from pgvision.cli.console import say
from pgvision.cli.outputs import Outcome, describe_origin
from pgvision.coco import (
    FIX,
    Problems,
    annotation_entry,
    image_entry,
    read_content,
    relative_name,
    write_coco,
    write_results,
)
from pgvision.errors import DataError
from pgvision.results import DetectionResult, Failure, SegmentationResult


class CocoFile:
    """All objects in COCO's form.

    Without ``ids`` the file stands on its own: images (named relative to its folder), categories
    and annotations, each with its score. With ``ids``, an annotation file, it is the plain list of
    results that evaluators read, with that file's numbers for images and categories.

    Args:
        path: The file; it appears at the end.
        ids: An annotation file to take ids from.
    """

    def __init__(self, path: Path, *, ids: Path | None = None) -> None:
        """Read ``ids`` at once: a mistake in it should show before the work."""
        self.path = path
        self._known = None if ids is None else KnownIds(ids)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._classes: tuple[str, ...] = ()

    def __enter__(self) -> "CocoFile":
        """Nothing to open before the end."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the file."""
        if error is not None:
            return
        if self._known is not None:
            write_results(self.path, self._annotations)
        else:
            categories = [
                {"id": number, "name": name} for number, name in enumerate(self._classes, 1)
            ]
            write_coco(
                self.path,
                images=self._images,
                annotations=self._annotations,
                categories=categories,
            )
        say(f"wrote {self.path} ({len(self._annotations)} objects, {len(self._images)} images)")

    def write(self, outcome: Outcome) -> None:
        """Take the objects of one picture.

        Raises:
            DataError: If the picture is not in the file that ids are taken from.
        """
        if isinstance(outcome, Failure) or not isinstance(outcome, DetectionResult):
            return
        self._classes = outcome.classes
        origin = describe_origin(outcome)
        if self._known is not None:
            image_id = self._known.image_id(origin)
            objects = outcome.to_coco(image_id=image_id, category_ids=self._known.categories)
        else:
            image_id = len(self._images) + 1
            first = len(self._annotations) + 1
            objects = [
                self._as_annotation(one, number)
                for number, one in enumerate(outcome.to_coco(image_id=image_id), first)
            ]
        name = _name_of(outcome, origin, self.path)
        self._images.append(image_entry(image_id, name, outcome.image_hw))
        self._annotations.extend(objects)

    def _as_annotation(self, found: dict[str, Any], number: int) -> dict[str, Any]:
        return annotation_entry(
            number,
            found["image_id"],
            found["category_id"],
            found["bbox"],
            segmentation=found.get("segmentation"),
        ) | {key: found[key] for key in ("score",) if key in found}


def _name_of(result: DetectionResult | SegmentationResult, origin: str, file: Path) -> str:
    """Name a picture relative to the COCO file; cameras and addresses keep their own name."""
    source = result.source or ""
    try:
        is_file = Path(source).is_file()
    except (OSError, ValueError):
        is_file = False
    return relative_name(source, file) + origin.removeprefix(source) if is_file else origin


class KnownIds:
    """The ids that an annotation file gives to images and categories.

    Args:
        path: The file; it need not hold annotations.

    Raises:
        DataError: If it is no COCO file, or its images or categories are not sound.
    """

    def __init__(self, path: Path) -> None:
        """Read the file."""
        where = f"--coco-ids {path}"
        content = read_content(path, where=where, outlines=False, required=("images", "categories"))
        problems = Problems(where)
        for place, what in content.problems:
            if not place.startswith("annotations"):
                problems.add(place, what)
        self._names: dict[str, list[tuple[tuple[str, ...], int]]] = {}
        for number, entry in content.images.items():
            name = entry.fields.get("file_name")
            if not isinstance(name, str) or not _parts(name):
                problems.add(f"images[{entry.index}].file_name", f"is {name!r:.40}, expected text")
                continue
            parts = _parts(name)
            self._names.setdefault(parts[-1], []).append((parts, number))
        problems.refuse(FIX, DataError)
        self.categories = {entry.fields["name"]: n for n, entry in content.categories.items()}
        self._taken: dict[int, str] = {}

    def image_id(self, picture: str) -> int:
        """Return the id of the image whose name and folders are the picture's own.

        Args:
            picture: Path of the picture. Of several images with its name, the one that shares most
                folders with it, counted from the right, is meant.

        Raises:
            DataError: If there is none, or several, or if another picture has taken the id.
        """
        parts = _parts(picture)
        shared = [
            (_num_shared(parts, known), number, "/".join(known))
            for known, number in self._names.get(parts[-1], [])
        ]
        most = max((count for count, _, _ in shared), default=0)
        best = [(number, name) for count, number, name in shared if count == most]
        if not best:
            raise DataError(f"--coco-ids has no image with the file name {parts[-1]!r}")
        (number, name), *others = best
        if others:
            names = ", ".join(repr(name) for _, name in best[:3])
            raise DataError(
                f"--coco-ids: {picture} may be any of {names}; run it in the folder that the names "
                "start from"
            )
        if self._taken.setdefault(number, picture) != picture:
            raise DataError(
                f"--coco-ids: {picture} and {self._taken[number]} would both be {name!r}; leave "
                "one out, or use an annotation file with both"
            )
        return number


def _parts(name: str) -> tuple[str, ...]:
    """Cut a path at either kind of separator."""
    return tuple(part for part in PureWindowsPath(name).parts if part != ".")


def _num_shared(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    count = 0
    for here, there in zip(reversed(one), reversed(other), strict=False):
        if here != there:
            break
        count += 1
    return count
