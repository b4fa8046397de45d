"""One COCO file for everything that was found."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from pgvision.cli.console import say
from pgvision.cli.outputs import Outcome, describe_origin
from pgvision.errors import DataError
from pgvision.files import write_text
from pgvision.results import DetectionResult, Failure, SegmentationResult


class CocoFile:
    """All objects in COCO's form.

    Without ``ids`` the file stands on its own: images, categories and annotations, each with its
    score. With ``ids``, an annotation file, it is the plain list of results that evaluators read,
    with that file's numbers for images (by file name) and categories (by name).

    Args:
        path: The file; it appears at the end.
        ids: An annotation file to take ids from.
    """

    def __init__(self, path: Path, *, ids: Path | None = None) -> None:
        """Read ``ids`` at once: a mistake in it should show before the work."""
        self.path = path
        self._known = None if ids is None else _read_ids(ids)
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
        write_text(self.path, json.dumps(self._content(), ensure_ascii=False, allow_nan=False))
        say(f"wrote {self.path} ({len(self._annotations)} objects, {len(self._images)} images)")

    def write(self, outcome: Outcome) -> None:
        """Take the objects of one picture.

        Raises:
            DataError: If the picture is not in the file that ids are taken from.
        """
        if isinstance(outcome, Failure) or not isinstance(outcome, DetectionResult):
            return
        image_id = self._image_id(outcome)
        categories = None if self._known is None else self._known[1]
        objects = outcome.to_coco(image_id=image_id, category_ids=categories)
        self._classes = outcome.classes
        height, width = outcome.image_hw
        self._images.append(
            {
                "id": image_id,
                "file_name": describe_origin(outcome),
                "height": height,
                "width": width,
            }
        )
        if self._known is None:
            objects = [self._as_annotation(each, row) for row, each in enumerate(objects, start=1)]
        self._annotations.extend(objects)

    def _as_annotation(self, found: dict[str, Any], row: int) -> dict[str, Any]:
        _, _, width, height = found["bbox"]
        area = width * height
        if "segmentation" in found:
            from pycocotools import mask

            area = float(mask.area(found["segmentation"]))
        return {"id": len(self._annotations) + row, "area": area, "iscrowd": 0} | found

    def _image_id(self, result: DetectionResult | SegmentationResult) -> int:
        if self._known is None:
            return len(self._images) + 1
        name = Path(describe_origin(result)).name
        if name not in self._known[0]:
            raise DataError(f"--coco-ids has no image with the file name {name!r}")
        return self._known[0][name]

    def _content(self) -> object:
        if self._known is not None:
            return self._annotations
        return {
            "images": self._images,
            "categories": [
                {"id": number, "name": name} for number, name in enumerate(self._classes, start=1)
            ],
            "annotations": self._annotations,
        }


def _read_ids(path: Path) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Read ids of images by file name and of categories by name."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        images = {Path(each["file_name"]).name: int(each["id"]) for each in data["images"]}
        return images, {each["name"]: int(each["id"]) for each in data["categories"]}
    except OSError as error:
        raise DataError(f"--coco-ids {path}: cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"--coco-ids {path}: expected a COCO file with images and categories ({error!r})"
        ) from error
