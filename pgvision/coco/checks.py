"""Checks of JSON fields: one for each kind, shared by COCO files, results and data sets."""

import json
import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from pgvision.errors import DataError, EvaluationError

MAX_ID: Final = 2**53  # evaluators store the ids of images and categories as floats, exact below
MAX_PIXELS: Final = 1 << 30
_MAX_SHOWN = 5  # problems listed in an error
_MAX_INT = 10**300


class Problems:
    """Problems of one input, collected so that one run lists them all.

    Args:
        source: What is checked: a path, or ``"results"``.

    Example:
        >>> problems = Problems("results.json")
        >>> problems.add("[3].score", "is NaN, expected a finite number")
        >>> problems.refuse("write null scores or drop the records")
        Traceback (most recent call last):
        ...
        pgvision.errors.EvaluationError: results.json has 1 problem:
          [3].score: is NaN, expected a finite number
        Fix: write null scores or drop the records.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._problems: list[tuple[str, str]] = []
        self._notes: dict[str, tuple[int, str]] = {}

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Iterate over pairs of place and problem."""
        return iter(self._problems)

    def add(self, where: str, what: str) -> None:
        """Add a problem: its place in the input, and what was expected and found."""
        self._problems.append((where, what))

    def note(self, what: str, where: str) -> None:
        """Count a value that was corrected and can be used."""
        count, first = self._notes.get(what, (0, where))
        self._notes[what] = (count + 1, first)

    @property
    def notes(self) -> tuple[str, ...]:
        """Corrections, with their number and the first place."""
        return tuple(
            f"{what}: {count} (first: {first})" for what, (count, first) in self._notes.items()
        )

    def refuse(
        self, fix: str, error: type[DataError] | type[EvaluationError] = EvaluationError
    ) -> None:
        """Raise ``error`` if there is any problem.

        Raises:
            EvaluationError: With the first problems, their number, and the fix.
            DataError: The same, if ``error`` is `DataError`.
        """
        if not self._problems:
            return
        count = len(self._problems)
        lines = [f"{self.source} has {count} problem{'s' if count > 1 else ''}:"]
        lines += [f"  {where}: {what}" for where, what in self._problems[:_MAX_SHOWN]]
        if count > _MAX_SHOWN:
            lines.append(f"  ... and {count - _MAX_SHOWN} more")
        raise error("\n".join([*lines, f"Fix: {fix}."]))


def whole_number(value: object, most: int = MAX_ID) -> int | None:
    """Return ``value`` as an int if it is whole and below ``most``, else None.

    ``1.0`` is accepted, since tools that use data frames write it; ``true`` and ``"1"`` are not.

    Example:
        >>> [whole_number(value) for value in (7, 1.0, 1.5, True, "1", None)]
        [7, 1, None, None, None, None]
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    if isinstance(value, float | np.floating) and not float(value).is_integer():
        return None
    number = int(value)
    return number if -most < number < most else None


def whole_fault(value: object, most: int = MAX_ID) -> str:
    """Return why `whole_number` gives None for ``value``."""
    if value is None:
        return "is missing, expected an integer"
    if isinstance(value, int | float) and not -most < value < most:
        return f"is {value!s:.40}, expected an integer below 2**{most.bit_length() - 1}"
    return f"is {value!r:.40}, expected an integer (a whole number)"


def number_fault(value: object) -> str | None:
    """Return what is wrong with ``value`` as a finite number, or None."""
    if value is None:
        return "is missing, expected a finite number"
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return f"is {value!r:.40}, expected a finite number"
    # An integer of 400 digits is valid JSON and no coordinate.
    if isinstance(value, int) and abs(value) > _MAX_INT or not math.isfinite(value):
        return f"is {value!s:.40}, expected a finite number"
    return None


def box_fault(value: object) -> str | None:
    """Return what is wrong with a COCO box (left, top, width, height in pixels), or None."""
    if value is None:
        return "is missing, expected [left, top, width, height]"
    is_row = isinstance(value, list | tuple | np.ndarray) and getattr(value, "ndim", 1) == 1
    if not is_row or len(value) != 4:  # type: ignore[arg-type]
        return f"is {value!r:.60}, expected 4 numbers [left, top, width, height]"
    numbers: list[Any] = list(value)  # type: ignore[call-overload]
    for number in numbers:
        if fault := number_fault(number):
            return f"is {numbers!r:.80}: a coordinate {fault}"
    if numbers[2] < 0 or numbers[3] < 0:
        return (
            f"is {numbers!r:.80}: negative width or height; COCO boxes are [left, top, width, "
            "height], not corners"
        )
    return None


def stated_size(height: object, width: object) -> tuple[int, int] | None:
    """Return height and width as a file states them; None where either is missing or 0.

    Raises:
        ValueError: If they are not whole numbers, or too large for an image.

    Example:
        >>> stated_size(480.0, 640), stated_size(0, 640), stated_size(None, None)
        ((480, 640), None, None)
    """
    rows, columns = (0 if side is None else whole_number(side) for side in (height, width))
    if rows is None or columns is None or min(rows, columns) < 0 or rows * columns > MAX_PIXELS:
        raise ValueError(
            f"height and width are {height!r:.20} and {width!r:.20}, expected positive integers "
            f"of at most {MAX_PIXELS} pixels together"
        )
    return (rows, columns) if rows and columns else None


def kind_of(value: object) -> str:
    """Name a JSON value's type in JSON's words.

    Example:
        >>> kind_of([1]), kind_of(None), kind_of("a")
        ('a list', 'null', 'text')
    """
    names = {list: "a list", dict: "an object", str: "text", int: "a number", float: "a number"}
    names |= {bool: "true/false", type(None): "null"}
    return names.get(type(value), type(value).__name__)


class Table:
    """Records of a JSON list, read column by column; rows with a problem are marked.

    Half a million records take seconds to check one by one. A column is converted at once, and
    only where that fails are its values checked singly.

    Args:
        records: The list's entries; those that are no objects are problems and left out.
        where: Name of the list in places: ``annotations``.
        problems: Where problems are added.
    """

    def __init__(self, records: Sequence[Any], where: str, problems: Problems) -> None:
        self.where, self._problems = where, problems
        self.index = np.arange(len(records))
        self.records = records
        if set(map(type, records)) - {dict}:
            keep = [row for row, record in enumerate(records) if isinstance(record, Mapping)]
            for row in sorted(set(range(len(records))) - set(keep)):
                problems.add(f"{where}[{row}]", f"is {kind_of(records[row])}, expected an object")
            self.index = np.array(keep, np.int64)
            self.records = [records[row] for row in keep]
        self.bad = np.zeros(len(self.records), np.bool_)

    def place(self, row: int, key: str = "") -> str:
        """Return the place of a record or of its field, for messages."""
        return f"{self.where}[{self.index[row]}]" + (f".{key}" if key else "")

    def fail(self, row: int, key: str, what: str) -> None:
        """Add a problem of one row."""
        self._problems.add(self.place(row, key), what)
        self.bad[row] = True

    def values(self, key: str) -> list[Any]:
        """Return the values of a key; None where it is missing, too."""
        return [record.get(key) for record in self.records]

    def whole(self, key: str, most: int = MAX_ID) -> NDArray[np.int64]:
        """Return a column ``(n,)`` of integers, -1 where the value is a problem."""
        values = self.values(key)
        # Bools and NumPy integers are not plain ints: they are checked singly.
        if set(map(type, values)) <= {int}:
            with suppress(OverflowError):  # the loop below finds the value
                column = np.fromiter(values, np.int64, len(values))
                if not len(column) or max(-int(column.min()), int(column.max())) < most:
                    return column
        column = np.full(len(values), -1, np.int64)
        for row, value in enumerate(values):
            number = whole_number(value, most)
            if number is None:
                self.fail(row, key, whole_fault(value, most))
            else:
                column[row] = number
            if number is not None and type(value) is float:
                self._problems.note("whole numbers written as 1.0", self.place(row, key))
        return column

    def numbers(self, key: str, *, optional: bool = False) -> NDArray[np.float64]:
        """Return a column ``(n,)`` of finite numbers; NaN where ``optional`` ones are missing."""
        values = self.values(key)
        if (plain := _plain_numbers(values)) is not None:
            return plain
        # Otherwise check each value, and report its place.
        column = np.zeros(len(values))
        for row, value in enumerate(values):
            if optional and value is None:
                column[row] = np.nan
            elif fault := number_fault(value):
                self.fail(row, key, fault)
            else:
                column[row] = float(value)
        return column

    def boxes(self, values: Sequence[Any]) -> NDArray[np.float64]:
        """Return ``(n, 4)`` left, top, width, height of ``values``, given as lists or arrays."""
        # Fast path: rows of 4 plain numbers.
        if set(map(type, values)) <= {list, tuple} and set(map(len, values)) <= {4}:
            plain = _plain_numbers(list(chain.from_iterable(values)))
            if plain is not None and (plain.reshape(-1, 4)[:, 2:] >= 0).all():
                return plain.reshape(-1, 4)
        boxes = np.zeros((len(values), 4))
        for row, value in enumerate(values):
            if fault := box_fault(value):
                self.fail(row, "bbox", fault)
            else:
                boxes[row] = [float(number) for number in value]
        return boxes


def _plain_numbers(values: Sequence[Any]) -> NDArray[np.float64] | None:
    """Return Python's finite numbers as an array at once; None if one is something else."""
    if set(map(type, values)) <= {float, int}:
        with suppress(OverflowError):  # an integer of 400 digits
            column = np.array(values, np.float64)
            return column if np.isfinite(column).all() else None
    return None


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


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        DataError: If it cannot be read.
    """
    with reading(path):
        return path.read_bytes()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name a file in errors of the operating system.

    Raises:
        DataError: Instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte-order mark.

    Raises:
        DataError: If it cannot be read or is not UTF-8.
    """
    return _decoded(read_bytes(path), str(path))


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: expected UTF-8 text, byte {error.start} is not") from error


def parse_json(data: bytes | str, where: str, *, allow_nan: bool = False) -> Any:
    """Parse JSON.

    Args:
        data: The text; bytes are UTF-8, with or without a byte-order mark.
        where: Its name in errors.
        allow_nan: Whether NaN and Infinity are returned, so that the caller can name their place.

    Raises:
        DataError: If it is cut, wrong or not UTF-8, or contains NaN or Infinity.
    """
    try:
        plain = data.removeprefix(b"\xef\xbb\xbf") if isinstance(data, bytes) else data
        return orjson.loads(plain)
    except orjson.JSONDecodeError:
        pass  # the standard library's parser gives line and column, and reads NaN
    text = data if isinstance(data, str) else _decoded(data, where)

    def constant(word: str) -> float:
        if not allow_nan:
            raise ValueError(f"contains {word}, which is not JSON; expected finite numbers")
        return float(word)

    try:
        return json.loads(text, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not complete JSON: {error.msg} at line {error.lineno}, column "
            f"{error.colno}; was the file cut?"
        ) from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{where}: cannot be read as JSON: {error}") from error
