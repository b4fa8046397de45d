"""Columns of JSON records as arrays, refused with a location when a value is not what it should be.

Half a million records are checked a column at a time; only when a column is not plain does the
slow walk over single records begin, and it is the one that speaks.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgvision.coco.problems import Problems
from pgvision.coco.values import MISSING, box_fault, number_fault, whole_fault, whole_number
from pgvision.errors import EvaluationError

Record = Mapping[str, Any]


def read_json(path: str | Path, what: str) -> Any:
    """Read one JSON file.

    Args:
        path: The file.
        what: What it holds, for the message.

    Returns:
        The parsed content.

    Raises:
        EvaluationError: If the file is missing, not UTF-8, or not whole JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise EvaluationError(
            f"{what} {path}: expected a readable JSON file, got {error.strerror}. "
            "Fix: check the path."
        ) from error
    except json.JSONDecodeError as error:
        raise EvaluationError(
            f"{what} {path}: not whole JSON at line {error.lineno}, column {error.colno} "
            f"({error.msg}). Fix: the file was probably cut while it was written; write it again."
        ) from error
    except UnicodeDecodeError as error:
        raise EvaluationError(
            f"{what} {path}: expected UTF-8 JSON, got other bytes at {error.start}. "
            "Fix: save it as UTF-8."
        ) from error


def require_records(value: object, where: str) -> Sequence[Record]:
    """Refuse anything but a list of JSON objects.

    Raises:
        EvaluationError: If ``value`` is not a list, or holds something that is not an object.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise EvaluationError(
            f"{where}: expected a list of objects, got {type(value).__name__}. "
            "Fix: pass a JSON array of records."
        )
    if set(map(type, value)) - {dict}:
        for index, record in enumerate(value):
            if not isinstance(record, Mapping):
                raise EvaluationError(
                    f"{where}[{index}]: expected an object, got {type(record).__name__}. "
                    "Fix: every record must be a JSON object."
                )
    return value


def _values(records: Sequence[Record], key: str) -> list[Any]:
    try:
        return list(map(itemgetter(key), records))  # three times as fast as asking each record
    except KeyError:
        return [record.get(key, MISSING) for record in records]


def id_column(records: Sequence[Record], key: str, where: str, problems: Problems) -> NDArray[Any]:
    """Integer column ``key``; strings, booleans and fractions are problems, 1.0 counts as 1.

    Returns:
        ``(n,)`` int64; the entries that are problems are -1.
    """
    values = _values(records, key)
    if set(map(type, values)) <= {int}:
        try:
            return np.fromiter(values, np.int64, len(values))
        except OverflowError:
            pass  # the walk below says which one
    column = np.full(len(values), -1, np.int64)
    for index, value in enumerate(values):
        number = whole_number(value)
        if number is None:
            problems.add(f"{where}[{index}].{key}", whole_fault(value))
        else:
            column[index] = number
    return column


def number_column(
    records: Sequence[Record], key: str, where: str, problems: Problems
) -> NDArray[np.float64]:
    """Column ``key`` of finite numbers.

    Returns:
        ``(n,)`` float64; the entries that are problems are 0.
    """
    values = _values(records, key)
    if set(map(type, values)) <= {float, int}:
        column = np.array(values, np.float64).reshape(len(values))
        if np.isfinite(column).all():
            return column
    column = np.zeros(len(values))
    for index, value in enumerate(values):
        fault = number_fault(value)
        if fault:
            problems.add(f"{where}[{index}].{key}", fault)
        else:
            column[index] = float(value)
    return column


def box_column(records: Sequence[Record], where: str, problems: Problems) -> NDArray[np.float64]:
    """Column ``bbox``: left, top, width, height in pixels, as lists, tuples or arrays.

    Returns:
        ``(n, 4)`` float64; the entries that are problems are 0.
    """
    values = _values(records, "bbox")
    if set(map(type, values)) <= {list, tuple} and set(map(len, values)) <= {4}:
        flat = list(chain.from_iterable(values))
        if set(map(type, flat)) <= {float, int}:
            boxes = np.array(flat, np.float64).reshape(-1, 4)
            if np.isfinite(boxes).all() and (boxes[:, 2:] >= 0).all():
                return boxes
    boxes = np.zeros((len(values), 4))
    for index, value in enumerate(values):
        fault = box_fault(value)
        if fault:
            problems.add(f"{where}[{index}].bbox", fault)
        else:
            boxes[index] = [float(number) for number in value]
    return boxes
