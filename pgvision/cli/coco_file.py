"""One COCO file for everything that was found."""

from pathlib import Path
from types import TracebackType
from typing import Any

from pgvision.batch import KnownIds, describe_origin, found_entry, picture_name
from pgvision.cli.console import say
from pgvision.cli.outputs import Outcome
from pgvision.coco import image_entry, write_coco, write_results
from pgvision.results import DetectionResult, Failure


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
                found_entry(one, number)
                for number, one in enumerate(outcome.to_coco(image_id=image_id), first)
            ]
        name = picture_name(outcome, self.path)
        self._images.append(image_entry(image_id, name, outcome.image_hw))
        self._annotations.extend(objects)
