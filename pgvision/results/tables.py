"""Many results in one table or file."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pgvision.coco.checks import reading
from pgvision.errors import DataError, OptionError
from pgvision.files import readable_name, replaced_path
from pgvision.results.answer import Answer, Failure, TextResult
from pgvision.results.detection import DetectionResult
from pgvision.results.exports import pandas_table, require_ending
from pgvision.results.segmentation import SegmentationResult

if TYPE_CHECKING:
    import pandas as pd

Result: TypeAlias = DetectionResult | TextResult

_log = logging.getLogger("pgvision.results")


def result_from_dict(data: Mapping[str, object]) -> Answer:
    """Build a result from what its `to_dict` returned, such as a line of a JSONL file.

    Args:
        data: The dict; its ``type`` names the class.

    Returns:
        A `DetectionResult`, `SegmentationResult` or `TextResult`.

    Raises:
        DataError: If ``type`` is none of these, or a field is missing or broken.

    Example:
        >>> result_from_dict(TextResult(image_hw=(4, 6), text="2").to_dict()).text
        '2'
    """
    kinds = (DetectionResult, SegmentationResult, TextResult)
    name = data.get("type") if isinstance(data, Mapping) else type(data).__name__
    for kind in kinds:
        if name == kind.__name__:
            return kind.from_dict(data)
    known = ", ".join(kind.__name__ for kind in kinds)
    raise DataError(f"type must be one of {known}, got {name!r}")


def to_table(results: Iterable[Result | Failure]) -> pd.DataFrame:
    """Join results into one pandas table: one row for each object or text.

    Args:
        results: Of one task. Failures have no row; a warning counts them. Without any result
            the table is empty.

    Raises:
        DependencyError: If pandas is not installed.
        OptionError: If they are of several tasks.
    """
    columns: dict[str, list[object]] = {}
    for part in _columns_of(results, "a table"):
        for name, values in part.items():
            columns.setdefault(name, []).extend(values)
    return pandas_table(columns)


def save_results(results: Iterable[Result | Failure], path: str | Path) -> Path:
    """Write many results into one file, one at a time.

    Args:
        results: Of one task; may be endless memory-wise, such as ``detector.stream(...)``.
        path: ``.jsonl``: all fields, one result a line, failures included. ``.csv``: a header and
            the rows of `to_rows`, one for each object or text; failures are counted in a warning.

    Returns:
        ``path``; the file appears when it is complete.

    Raises:
        OptionError: If the ending is unknown, or a CSV would have results of several tasks.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "all.csv"
        >>> _ = save_results([TextResult(image_hw=(4, 6), text="EXIT", source="a.jpg")], path)
        >>> path.read_text().splitlines()
        ['source,frame_index,time,question,text,score', 'a.jpg,0,,,EXIT,']
    """
    # 1. A result a line: all fields.
    target = Path(path)
    ending = require_ending(target, (".jsonl", ".csv"))
    with replaced_path(target) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        if ending == ".jsonl":
            for result in results:
                line = json.dumps(result.to_dict(), ensure_ascii=False, allow_nan=False)
                file.write(readable_name(line) + "\n")
            return target
        # 2. A table.
        # The first result decides the columns, with or without objects.
        table = csv.writer(file, lineterminator="\n")
        for number, columns in enumerate(_columns_of(results, str(target))):
            if not number:
                table.writerow(columns)
            for row in zip(*columns.values(), strict=True):
                table.writerow(
                    readable_name(cell) if isinstance(cell, str) else cell for cell in row
                )
    return target


def load_results(path: str | Path) -> Iterator[Answer]:
    """Yield the results of a ``.jsonl`` file; lines of failures are left out.

    Args:
        path: As `save_results`, ``pgvision detect --out`` and jobs write it.

    Yields:
        One result a line; its ``image`` is None.

    Raises:
        DataError: If the file cannot be read, or a line is not a result.
    """
    with reading(Path(path)), Path(path).open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                data = json.loads(line)  # bytes: UTF-8, with or without a byte-order mark
                if data.get("type") != "Failure":
                    yield result_from_dict(data)
            except (ValueError, AttributeError, RecursionError) as error:
                raise DataError(f"{path}, line {number}: not a result: {error}") from error


def _columns_of(
    results: Iterable[Result | Failure], where: str
) -> Iterator[dict[str, Sequence[object]]]:
    """Yield the columns of each result; failures are counted in a warning."""
    header, num_failures = None, 0
    for result in results:
        if isinstance(result, Failure):
            num_failures += 1
            continue
        columns = result._columns()
        header = header or list(columns)
        if list(columns) != header:
            raise OptionError(
                f"{where}: {type(result).__name__} has other columns than the results before it; "
                "make one table for each task, or a .jsonl file"
            )
        yield columns
    if num_failures:
        _log.warning("%d images could not be read and have no row", num_failures)
