"""Many results in one table or file."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pgvision.errors import DataError, OptionError, require_module
from pgvision.files import replaced_path
from pgvision.results.answer import Answer, Failure
from pgvision.results.conversions import PANDAS
from pgvision.results.detection import DetectionResult
from pgvision.results.plotting import require_ending
from pgvision.results.segmentation import SegmentationResult
from pgvision.results.text import TextResult

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
    kinds = {kind.__name__: kind for kind in (DetectionResult, SegmentationResult, TextResult)}
    name = data.get("type") if isinstance(data, Mapping) else type(data).__name__
    if name not in kinds:
        raise DataError(f"type must be one of {', '.join(kinds)}, got {name!r}")
    return kinds[str(name)].from_dict(data)


def to_table(results: Iterable[Result | Failure]) -> pd.DataFrame:
    """Join results into one pandas table: one row for each object or text.

    Args:
        results: Of one task. Failures have no row; a warning counts them.

    Raises:
        DependencyError: If pandas is not installed.
    """
    pandas = require_module(*PANDAS)
    tables = [
        one.to_pandas() if isinstance(one, DetectionResult) else pandas.DataFrame(one.to_rows())
        for one in _without_failures(results)
    ]
    # An empty table would change the types of the others.
    filled = [table for table in tables if len(table)] or tables[:1]
    joined: pd.DataFrame = pandas.concat(filled, ignore_index=True)
    return joined


def save_results(results: Iterable[Result | Failure], path: str | Path) -> Path:
    """Write many results into one file, one at a time.

    Args:
        results: Of one task; may be endless memory-wise, such as ``detector.stream(...)``.
        path: ``.jsonl``: all fields, one result a line, failures included. ``.csv``: the rows of
            `to_rows`, one for each object or text; failures are counted in a warning.

    Returns:
        ``path``; the file appears when it is complete.

    Raises:
        OptionError: If the ending is unknown, or a CSV would mix objects and texts.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "all.csv"
        >>> _ = save_results([TextResult(image_hw=(4, 6), text="EXIT", source="a.jpg")], path)
        >>> path.read_text().splitlines()
        ['source,frame_index,time,question,text,score', 'a.jpg,0,,,EXIT,']
    """
    target = Path(path)
    ending = require_ending(target, (".jsonl", ".csv"))
    with replaced_path(target) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        if ending == ".jsonl":
            for result in results:
                line = json.dumps(result.to_dict(), ensure_ascii=False, allow_nan=False)
                file.write(line + "\n")
            return target
        # The columns are those of the first row.
        table: csv.DictWriter[str] | None = None
        for result in _without_failures(results):
            for row in result.to_rows():
                if table is None:
                    table = csv.DictWriter(file, list(row), lineterminator="\n")
                    table.writeheader()
                if list(row) != list(table.fieldnames):
                    raise OptionError(f"{target}: a table of objects or of texts, not of both")
                table.writerow(row)
    return target


def load_results(path: str | Path) -> Iterator[Answer]:
    """Yield the results of a ``.jsonl`` file; lines of failures are left out.

    Args:
        path: As `save_results`, ``pgvision detect --out`` and jobs write it.

    Yields:
        One result a line; its ``image`` is None.

    Raises:
        DataError: If a line is not a result.
    """
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                data = json.loads(line)
                if data.get("type") != "Failure":
                    yield result_from_dict(data)
            except (ValueError, AttributeError) as error:
                raise DataError(f"{path}, line {number}: not a result: {error}") from error


def _without_failures(results: Iterable[Result | Failure]) -> Iterator[Result]:
    num_failures = 0
    for result in results:
        if isinstance(result, Failure):
            num_failures += 1
        else:
            yield result
    if num_failures:
        _log.warning("%d images could not be read and have no row", num_failures)
