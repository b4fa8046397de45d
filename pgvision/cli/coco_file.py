"""One COCO file for everything that was found."""

from pathlib import Path
from types import TracebackType
from typing import Any

from pgvision.batch import CocoEntries, KnownIds, describe_origin
from pgvision.cli.console import say
from pgvision.cli.outputs import Outcome
from pgvision.coco import image_entry, relative_name, write_coco, write_results
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
        self._entries = CocoEntries(self._known)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

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
            write_coco(
                self.path,
                images=self._images,
                annotations=self._annotations,
                categories=self._entries.categories(),
            )
        say(f"wrote {self.path} ({len(self._annotations)} objects, {len(self._images)} images)")

    def write(self, outcome: Outcome) -> None:
        """Take the objects of one picture.

        Raises:
            DataError: If the picture is not in the file that ids are taken from.
        """
        if isinstance(outcome, Failure) or not isinstance(outcome, DetectionResult):
            return
        self._annotations += self._entries.of(outcome)
        name = describe_origin(outcome)
        source = outcome.source or ""
        if "://" not in source and Path(source).is_file():
            name = relative_name(source, self.path) + name.removeprefix(source)
        self._images.append(image_entry(self._entries.num_images, name, outcome.image_hw))
