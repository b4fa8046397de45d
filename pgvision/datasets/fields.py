"""Strict reading of JSON: a wrong field is named with its file, and NaN is no number."""

import math
from pathlib import Path

from pgvision.coco.stream import parse_json as parse_json
from pgvision.coco.stream import read_text as read_text
from pgvision.coco.values import kind_of
from pgvision.errors import DataError


def load_json(path: Path) -> object:
    """Read a JSON file, refusing what the standard refuses.

    Raises:
        DataError: If the file is missing, is not UTF-8, is cut, or holds NaN or Infinity.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.json"
        >>> _ = file.write_text('{"area": 3}')
        >>> load_json(file)
        {'area': 3}
    """
    return parse_json(read_text(path), str(path))


class Fields:
    """One JSON object, read field by field; every error says which file and which entry.

    Example:
        >>> entry = Fields({"id": 4, "width": 640.0}, "a.json: image 0")
        >>> entry.integer("id"), entry.integer("width")
        (4, 640)
        >>> entry.text("file_name")
        Traceback (most recent call last):
        pgvision.errors.DataError: a.json: image 0: lacks 'file_name'
    """

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise DataError(f"{where}: expected a JSON object, got {kind_of(value)}")
        self.values: dict[str, object] = value
        self.where = where

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def fail(self, key: str, expected: str) -> DataError:
        """Return the error for field ``key``, which is not what was ``expected``."""
        if key not in self.values:
            return DataError(f"{self.where}: lacks {key!r}")
        return DataError(f"{self.where}: {key!r} is {self.values[key]!r:.80}, expected {expected}")

    def integer(self, key: str) -> int:
        """Return a whole number (``640.0`` counts, ``true`` and ``"640"`` do not).

        Raises:
            DataError: If it is missing or something else.
        """
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
            raise self.fail(key, "a whole number")
        return int(value)

    def number(self, key: str) -> float:
        """Return a finite number.

        Raises:
            DataError: If it is missing or something else.
        """
        value = self.values.get(key)
        if not is_number(value):
            raise self.fail(key, "a finite number")
        return float(value)  # type: ignore[arg-type]

    def text(self, key: str) -> str:
        """Return a text, not empty.

        Raises:
            DataError: If it is missing or something else.
        """
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise self.fail(key, "text")
        return value

    def items(self, key: str) -> list[object]:
        """Return a list.

        Raises:
            DataError: If it is missing or something else.
        """
        value = self.values.get(key)
        if not isinstance(value, list):
            raise self.fail(key, "a list")
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """Return a list of finite numbers.

        Raises:
            DataError: If it is missing or something else.
        """
        values = self.items(key)
        if not all(is_number(value) for value in values):
            raise self.fail(key, "a list of finite numbers")
        return tuple(float(value) for value in values)  # type: ignore[arg-type]

    def rest(self, *known: str) -> dict[str, object]:
        """Return the fields other than ``known``."""
        return {key: value for key, value in self.values.items() if key not in known}


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite int or float, and not a bool.

    Example:
        >>> [is_number(value) for value in (1, 2.5, True, "3", float("inf"))]
        [True, True, False, False, False]
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    # An integer of 400 digits is JSON, but no coordinate.
    return abs(value) < 1e15 and math.isfinite(value)
