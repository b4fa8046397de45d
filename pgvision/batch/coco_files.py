"""One file of everything that a job answered: COCO, or JSON lines. Streamed: no list of it all."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from pgvision.batch.coco_ids import KnownIds
from pgvision.coco import annotation_entry, image_entry, relative_name, write_coco, write_results
from pgvision.errors import DataError
from pgvision.files import replaced_path
from pgvision.results import DetectionResult, TextResult, result_from_dict

Answers: TypeAlias = Callable[[], Iterable[dict[str, Any]]]


def write_coco_file(path: Path, answers: Answers, *, ids: str | Path | None = None) -> int:
    """Write all objects in COCO's form, aside and then renamed.

    Without ``ids`` the file stands on its own: images (named relative to its folder, numbered in
    the order of the answers), categories and annotations, each with its score. With ``ids``, an
    annotation file, it is the plain list of results that evaluators read, with that file's numbers.
    Failures are in neither.

    Args:
        path: The file.
        answers: Gives all answers as `to_dict` wrote them; called once for each list of the file.
        ids: An annotation file to take ids from.

    Returns:
        The number of images.

    Raises:
        DataError: If there are texts among the answers, or a picture is not in ``ids``.
    """
    images = _Counted(_results(answers))
    if ids is not None:
        known = KnownIds(Path(ids))
        write_results(path, _known_objects(images, known))
    else:
        names: dict[str, None] = {}
        write_coco(
            path,
            images=(
                image_entry(number, picture_name(one, path), one.image_hw)
                for number, one in enumerate(images, 1)
            ),
            annotations=_objects(_results(answers), names),
            categories=_categories(names),
        )
    _sync(path)
    return images.count


def write_json_lines(path: Path, answers: Iterable[dict[str, Any]]) -> int:
    """Write all answers and failures, one JSON object a line, aside and then renamed.

    Returns:
        The number of lines.
    """
    count = 0
    with replaced_path(path) as aside, aside.open("w", encoding="ascii") as file:
        for answer in answers:
            file.write(json.dumps(answer, allow_nan=False) + "\n")
            count += 1
    _sync(path)
    return count


def found_entry(found: dict[str, Any], number: int) -> dict[str, Any]:
    """Make an annotation, with its score, of a COCO result.

    Example:
        >>> box = {"image_id": 1, "category_id": 2, "bbox": [0, 0, 4, 2], "score": 0.5}
        >>> found_entry(box, 7)["id"], found_entry(box, 7)["score"]
        (7, 0.5)
    """
    return annotation_entry(
        number,
        found["image_id"],
        found["category_id"],
        found["bbox"],
        segmentation=found.get("segmentation"),
    ) | {key: found[key] for key in ("score",) if key in found}


def describe_origin(result: DetectionResult | TextResult) -> str:
    """Name the picture: its source, and the frame number of a video.

    Returns:
        ``"site.mp4#12"`` or ``"site.jpg"``.
    """
    source = result.source or "picture"
    return source if result.time is None else f"{source}#{result.frame_index}"


def picture_name(result: DetectionResult, file: Path) -> str:
    """Name a picture relative to the COCO file; cameras and addresses keep their own name."""
    source, origin = result.source or "", describe_origin(result)
    try:
        is_file = Path(source).is_file()
    except (OSError, ValueError):
        is_file = False
    return relative_name(source, file) + origin.removeprefix(source) if is_file else origin


class _Counted:
    """Counts what it hands on."""

    def __init__(self, results: Iterable[DetectionResult]) -> None:
        self._results, self.count = results, 0

    def __iter__(self) -> Iterator[DetectionResult]:
        for one in self._results:
            self.count += 1
            yield one


def _results(answers: Answers) -> Iterator[DetectionResult]:
    for answer in answers():
        if answer["type"] == "Failure":
            continue
        result = result_from_dict(answer)
        if not isinstance(result, DetectionResult):
            raise DataError(
                f"{result.source}: COCO files hold boxes, this is a {type(result).__name__}; "
                "write JSON lines"
            )
        yield result


def _known_objects(results: Iterable[DetectionResult], known: KnownIds) -> Iterator[dict[str, Any]]:
    for result in results:
        image_id = known.image_id(describe_origin(result))
        yield from result.to_coco(image_id=image_id, category_ids=known.categories)


def _objects(
    results: Iterable[DetectionResult], names: dict[str, None]
) -> Iterator[dict[str, Any]]:
    number = 0
    for image_id, result in enumerate(results, 1):
        names.update(dict.fromkeys(result.classes))
        for found in result.to_coco(image_id=image_id):
            number += 1
            yield found_entry(found, number)


def _categories(names: dict[str, None]) -> Iterator[dict[str, Any]]:
    """Yield what the objects before have filled in."""
    for number, name in enumerate(names, 1):
        yield {"id": number, "name": name}


def _sync(path: Path) -> None:
    """Force a finished file to the disk before anybody is told that it is there."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
