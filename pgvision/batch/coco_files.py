"""One file of all answers: COCO or JSON lines, streamed."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any, TypeAlias

from pgvision.coco.checks import Problems
from pgvision.coco.content import FIX, read_content
from pgvision.coco.writing import annotation_entry, image_entry, write_coco, write_results
from pgvision.errors import DataError
from pgvision.files import readable_name, replaced_path
from pgvision.results import DetectionResult, TextResult, result_from_dict

Entry: TypeAlias = dict[str, Any]


def write_coco_file(
    path: Path, answers: Callable[[], Iterable[Entry]], *, ids: str | Path | None = None
) -> int:
    """Write all objects in COCO's form, aside and then renamed.

    Without ``ids`` the file is complete: images (named as in the answers, numbered in their order),
    categories and annotations, each with its score. With ``ids``, an annotation file, it is the
    list of results that evaluators read, with that file's ids. Failures are left out.

    Args:
        path: The file.
        answers: Returns all answers as `to_dict` wrote them; called once for each list of the file.
        ids: An annotation file to take ids from.

    Returns:
        The number of images.

    Raises:
        DataError: If there are texts among the answers, or an image is not in ``ids``.
    """
    entries = CocoEntries(None if ids is None else KnownIds(Path(ids)))
    count = 0

    def images() -> Iterator[Entry]:
        nonlocal count
        for count, result in enumerate(_detections(answers()), 1):  # noqa: B007
            yield image_entry(count, describe_origin(result), result.image_hw)

    def annotations() -> Iterator[Entry]:
        for result in _detections(answers()):
            yield from entries.of(result)

    # 1. With given ids only a list of results is written, as evaluators expect.
    if ids is not None:
        write_results(path, annotations())
        count = entries.num_images
    else:
        # 2. The annotations are written before the categories, which they collect.
        write_coco(
            path, images=images(), annotations=annotations(), categories=entries.categories()
        )
    return count


class CocoEntries:
    """Annotations of results, one after the other, with the numbers of one COCO file.

    Args:
        known: Ids of an annotation file; the entries are then COCO results.
    """

    def __init__(self, known: "KnownIds | None" = None) -> None:
        self._known = known
        self._names: dict[str, None] = {}
        self.num_images = self.num_objects = 0

    def of(self, result: DetectionResult) -> list[Entry]:
        """Return the entries of the next image.

        Raises:
            DataError: If the image is not in the annotation file.
        """
        self.num_images += 1
        # 1. With known ids: COCO's list of results.
        if self._known is not None:
            image_id = self._known.image_id(describe_origin(result))
            entries = result.to_coco(image_id=image_id, category_ids=self._known.categories)
            self.num_objects += len(entries)
            return entries
        # 2. Else a whole file: categories are numbered in the order of their first use.
        self._names.update(dict.fromkeys(result.classes))
        ids = {name: number for number, name in enumerate(self._names, 1)}
        entries = []
        for found in result.to_coco(image_id=self.num_images, category_ids=ids):
            self.num_objects += 1
            entry = annotation_entry(
                self.num_objects,
                found["image_id"],
                found["category_id"],
                found["bbox"],
                segmentation=found.get("segmentation"),
            )
            entries.append(entry | {key: found[key] for key in ("score",) if key in found})
        return entries

    def categories(self) -> Iterator[Entry]:
        """Yield the categories of the entries so far."""
        for number, name in enumerate(self._names, 1):
            yield {"id": number, "name": name}


def write_json_lines(path: Path, answers: Iterable[Entry]) -> int:
    """Write all answers and failures, one JSON object a line, aside and then renamed.

    Returns:
        The number of lines.
    """
    count = 0
    with replaced_path(path) as aside, aside.open("w", encoding="ascii") as file:
        for answer in answers:
            file.write(json.dumps(answer, allow_nan=False) + "\n")
            count += 1
    return count


def describe_origin(result: DetectionResult | TextResult) -> str:
    """Name the image: its source, and the frame number of a video.

    Returns:
        ``"site.mp4#12"`` or ``"site.jpg"``.
    """
    source = readable_name(result.source or "image")
    is_single = result.time is None and result.frame_index == 0
    return source if is_single else f"{source}#{result.frame_index}"


class KnownIds:
    """The ids that an annotation file gives to images and categories.

    Args:
        path: The file; it needs no annotations.

    Raises:
        DataError: If it is not a COCO file, or its images or categories are invalid.
    """

    def __init__(self, path: Path) -> None:
        where = f"--coco-ids {path}"
        content = read_content(path, where=where, outlines=False, required=("images", "categories"))
        problems = Problems(where)
        # Annotations are not used, so their problems do not matter.
        for place, what in content.problems:
            if not place.startswith("annotations"):
                problems.add(place, what)
        self._names: dict[str, list[tuple[tuple[str, ...], int]]] = {}
        # Index the images by file name; folders may differ.
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

    def image_id(self, image: str) -> int:
        """Return the id of the image that shares the file name and most folders, from the right.

        Args:
            image: Path of the image.

        Raises:
            DataError: If there is none, or several, or if another image has taken the id.
        """
        # 1. Compare with all known images of this file name.
        parts = _parts(image)
        shared = [
            (len(os.path.commonprefix([parts[::-1], known[::-1]])), number, "/".join(known))
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
                f"--coco-ids: {image} may be any of {names}; run it in the folder that the names "
                "start from"
            )
        # 2. Two images must not get one id.
        if self._taken.setdefault(number, image) != image:
            raise DataError(
                f"--coco-ids: {image} and {self._taken[number]} would both be {name!r}; leave one "
                "out, or use an annotation file with both"
            )
        return number


def _detections(answers: Iterable[Entry]) -> Iterator[DetectionResult]:
    for answer in answers:
        if answer["type"] == "Failure":
            continue
        result = result_from_dict(answer)
        if not isinstance(result, DetectionResult):
            raise DataError(
                f"{result.source}: COCO files contain boxes, this is a {type(result).__name__}; "
                "write JSON lines"
            )
        yield result


def _parts(name: str) -> tuple[str, ...]:
    """Cut a path at either kind of separator."""
    return tuple(part for part in PureWindowsPath(name).parts if part != ".")
