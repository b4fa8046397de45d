"""COCO files read piece by piece: half a gigabyte of JSON need not become a tree in memory."""

import json
import math
from collections.abc import Iterator, Mapping
from json.decoder import WHITESPACE  # type: ignore[attr-defined]
from pathlib import Path
from typing import IO, Any, NoReturn, TypeAlias

from pgvision.coco.values import kind_of
from pgvision.errors import DataError

_BLOCK = 1 << 20


Member: TypeAlias = tuple[str, int | None, Any]
"""A piece of a JSON object: its top-level key, its place in the key's list, and the entry.

The place is None for a value that is no list, and where a list begins, with an empty one.
"""


def mapping_members(value: Mapping[Any, Any]) -> Iterator[Member]:
    """Yield the members of an object that is in memory already."""
    for key, part in value.items():
        is_list = isinstance(part, list | tuple)
        yield (str(key), None, [] if is_list else part)
        if is_list:
            for index, entry in enumerate(part):
                yield (str(key), index, entry)


def file_members(path: Path) -> Iterator[Member]:
    """Yield the members of the object that a JSON file holds, each as soon as it is read.

    NaN and Infinity come as floats: who looks at the fields can say where they stand.

    Raises:
        DataError: If the file is missing, is not UTF-8 (with or without a byte-order mark), is cut
            or holds something else than an object.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _Text(file).members()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, and it holds other bytes") from error
    except (_NotJson, ValueError, RecursionError):
        _explain(path)


def holds_objects(path: Path) -> bool:
    """Whether a JSON file is a COCO file of objects; no more of it is read than tells.

    Its annotations tell, by the first: those of captions have no boxes. A file that is cut before
    them counts if its keys are COCO's, so that its reader can say what is wrong.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.json"
        >>> _ = file.write_text('{"images": [], "annotations": [{"caption": "two helmets"}]}')
        >>> holds_objects(file)
        False
    """
    seen = set()
    try:
        for key, index, entry in file_members(path):
            if key == "annotations" and index == 0:
                return isinstance(entry, dict) and "caption" not in entry
            seen.add(key)
    except DataError:
        return bool(seen & {"images", "annotations", "categories"})
    return "annotations" in seen


class _NotJson(Exception):
    """The text is not what JSON allows here."""


class _Text:
    """A window on the text of a file, moved on as values are read."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        decoder: Any = json.JSONDecoder(parse_constant=_constant)
        self._scan = decoder.scan_once
        self._seen = ""
        self._at = 0

    def members(self) -> Iterator[Member]:
        self._expect("{")
        if self._next() == "}":
            self._at += 1
        else:
            while True:
                yield from self._member()
                if self._expect(",}") == "}":
                    break
        if self._next():
            raise _NotJson

    def _member(self) -> Iterator[Member]:
        self._next()
        key = self._value()
        if not isinstance(key, str):
            raise _NotJson
        self._expect(":")
        if self._next() != "[":
            yield (key, None, self._value())
            return
        yield (key, None, [])
        self._at += 1
        index = 0
        if self._next() == "]":
            self._at += 1
            return
        while True:
            self._next()
            yield (key, index, self._value())
            index += 1
            if self._expect(",]") == "]":
                return

    def _next(self) -> str:
        """Skip white space; return the character that follows, "" at the end."""
        while True:
            self._at = WHITESPACE.match(self._seen, self._at).end()
            if self._at < len(self._seen):
                return self._seen[self._at]
            if not self._more():
                return ""

    def _expect(self, signs: str) -> str:
        sign = self._next()
        if not sign or sign not in signs:
            raise _NotJson
        self._at += 1
        return sign

    def _value(self) -> Any:
        size = _BLOCK
        while True:
            try:
                value, end = self._scan(self._seen, self._at)
            except (StopIteration, ValueError):
                # Cut by the window, or wrong: ever larger pieces, so that long values stay cheap.
                if not self._more(size):
                    raise _NotJson from None
                size *= 2
                continue
            # A number at the very end may go on.
            if end < len(self._seen) or not self._more():
                self._at = end
                return value

    def _more(self, size: int = _BLOCK) -> bool:
        block = self._file.read(size)
        self._seen = self._seen[self._at :] + block
        self._at = 0
        return bool(block)


def _constant(name: str) -> float:
    return {"NaN": math.nan, "Infinity": math.inf}.get(name, -math.inf)


def _explain(path: Path) -> NoReturn:
    """Read the whole again for a message with line and column."""
    value = parse_json(read_text(path), str(path))
    raise DataError(f"{path}: expected a JSON object, got {kind_of(value)}")


def read_text(path: Path) -> str:
    """Read a UTF-8 file (with or without a byte-order mark).

    Raises:
        DataError: If it cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, byte {error.start} is not") from error


def parse_json(text: str, where: str) -> object:
    """Parse JSON ``text``; ``where`` names it in errors.

    Raises:
        DataError: If it is cut or wrong, nested beyond reason, or holds NaN or Infinity.
    """
    constants: list[str] = []
    try:
        value: object = json.loads(text, parse_constant=constants.append)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not complete JSON: {error.msg} at line {error.lineno}, column "
            f"{error.colno}; was the file cut?"
        ) from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{where}: JSON that cannot be read: {error}") from error
    if constants:
        raise DataError(
            f"{where}: holds {constants[0]}, which is not JSON; expected finite numbers"
        )
    return value
