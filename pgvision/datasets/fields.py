"""JSON objects read field by field, for formats with one small file for each image."""

import reprlib
from typing import Any

from pgvision.coco.checks import kind_of, number_fault, whole_number
from pgvision.errors import DataError


class Fields:
    """A JSON object; errors name the file, the entry and the field.

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
        self.values: dict[str, Any] = value
        self.where = where

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def fail(self, key: str, expected: str) -> DataError:
        """Return the error of a field that is not what was ``expected``."""
        if key not in self.values:
            return DataError(f"{self.where}: lacks {key!r}")
        # reprlib: the whole text of nested YAML aliases could have gigabytes.
        found = reprlib.repr(self.values[key])
        return DataError(f"{self.where}: {key!r} is {found:.80}, expected {expected}")

    def integer(self, key: str) -> int:
        """Return a whole number (``640.0`` counts, ``true`` and ``"640"`` do not).

        Raises:
            DataError: If it is missing or something else.
        """
        number = whole_number(self.values.get(key))
        if number is None:
            raise self.fail(key, "a whole number")
        return number

    def text(self, key: str) -> str:
        """Return a text that is not empty.

        Raises:
            DataError: If it is missing or something else.
        """
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise self.fail(key, "text")
        return value

    def items(self, key: str) -> list[Any]:
        """Return a list.

        Raises:
            DataError: If it is missing or something else.
        """
        value = self.values.get(key)
        if not isinstance(value, list):
            raise self.fail(key, "a list")
        return value

    def points(self, key: str) -> list[tuple[float, float]]:
        """Return a list of x, y pairs.

        Raises:
            DataError: If it is missing or something else.
        """
        points = []
        for point in self.items(key):
            if not isinstance(point, list) or len(point) != 2 or any(map(number_fault, point)):
                raise self.fail(key, "a list of x, y pairs of finite numbers")
            points.append((float(point[0]), float(point[1])))
        return points

    def rest(self, *known: str) -> dict[str, Any]:
        """Return the fields other than ``known``."""
        return {key: value for key, value in self.values.items() if key not in known}
