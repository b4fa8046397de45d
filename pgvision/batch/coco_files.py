"""One file of all answers: COCO or JSON lines, streamed."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from pgvision.coco.writing import annotation_entry, image_entry, write_coco
from pgvision.errors import DataError
from pgvision.files import readable_name, replaced_path
from pgvision.results import DetectionResult, TextResult, result_from_dict

Entry: TypeAlias = dict[str, Any]


def write_coco_file(path: Path, answers: Callable[[], Iterable[Entry]]) -> int:
    """Write all objects as one COCO file, aside and then renamed; failures are left out.

    Images are named as in the answers and numbered in their order; annotations have their score.

    Args:
        path: The file.
        answers: Returns all answers as `to_dict` wrote them; called once for each list of the file.

    Returns:
        The number of images.

    Raises:
        DataError: If there are texts among the answers.
    """
    entries = CocoEntries()
    numbered = enumerate(_detections(answers()), 1)
    # The annotations are written before the categories, which they collect.
    write_coco(
        path,
        images=(image_entry(n, describe_origin(one), one.image_hw) for n, one in numbered),
        annotations=(entry for one in _detections(answers()) for entry in entries.of(one)),
        categories=entries.categories(),
    )
    return entries.num_images


class CocoEntries:
    """Annotations of results, one after the other, with the numbers of one COCO file."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self.num_images = self.num_objects = 0

    def of(self, result: DetectionResult) -> list[Entry]:
        """Return the entries of the next image."""
        self.num_images += 1
        # Categories are numbered in the order of their first use.
        self._names.update(dict.fromkeys(result.classes))
        ids = {name: number for number, name in enumerate(self._names, 1)}
        entries = []
        for found in result.to_coco(image_id=self.num_images, category_ids=ids):
            self.num_objects += 1
            score = {"score": found.pop("score")} if "score" in found else {}
            entry = annotation_entry(self.num_objects, xywh=found.pop("bbox"), **found)
            entries.append(entry | score)
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
