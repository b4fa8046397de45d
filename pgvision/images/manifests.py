"""Lists of images: text, JSON lines, CSV, Parquet -> paths and addresses."""

import csv
import json
import logging
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path, PurePath
from typing import Final, TextIO, TypeAlias

from pgvision.errors import DataError, SourceError, require_module
from pgvision.http import hide_secrets
from pgvision.images.listing import is_ignored

MANIFEST_ENDINGS: Final = frozenset({".txt", ".jsonl", ".csv", ".parquet"})
_COLUMNS: Final = ("image", "file_name", "path", "filename", "image_path")
_EXPECTED: Final = ", ".join(_COLUMNS)
_UTF16_STARTS: Final = (b"\xff\xfe", b"\xfe\xff")

Entry: TypeAlias = tuple[int, str | DataError]

_log = logging.getLogger("pgvision.images")


def read_manifest(file: Path) -> Iterator[Entry]:
    """Yield the entries of a list of images; a broken entry costs that entry alone.

    Args:
        file: A ``.txt`` of one path a line (blank lines and ``#`` comments are left out); a
            ``.jsonl`` of objects, a ``.csv`` with a header or a ``.parquet`` of rows, with a column
            ``image``, ``file_name``, ``path``, ``filename`` or ``image_path`` (the first that
            exists). Paths are relative to the file's own folder. Of a CSV with one row for each
            object, each image is yielded once. Names that folders leave out (`is_ignored`) are left
            out here too, with a warning.

    Yields:
        The number of the line or row, from 1, and the path or address; or the error of this entry.

    Raises:
        SourceError: If the file cannot be read, or has no entry.
        DataError: If a table has no such column.
        DependencyError: For Parquet, if pyarrow is not installed.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "some.jsonl"
        >>> _ = file.write_text('{"image": "a.jpg"}')
        >>> list(read_manifest(file))
        [(1, 'a.jpg')]
    """
    # 1. Yield the entries, and count them.
    readers = {".jsonl": _json_lines, ".csv": _csv_rows, ".parquet": _parquet_rows}
    count = ignored = 0
    try:
        for count, entry in readers.get(file.suffix.lower(), _text_lines)(file):
            if isinstance(entry, str) and _is_left_out(entry):
                ignored += 1
            else:
                yield count, entry
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{file}: expected a list in UTF-8 or UTF-16: {error}") from error
    # 2. An empty list is most likely the wrong file.
    if not count:
        raise SourceError(f"{file}: the list contains no path")
    if ignored:
        _log.warning("%s: left out %d entries: hidden files or overlays", file, ignored)


def _is_left_out(entry: str) -> bool:
    """Whether an entry is skipped as in folders; of absolute paths only the last part counts."""
    path = PurePath(entry)
    return is_ignored(path.name if path.is_absolute() or "://" in entry else path)


def _open_text(file: Path) -> TextIO:
    """Open a text; bytes that are not UTF-8 become what `os.fsdecode` makes of a file name."""
    with file.open("rb") as stream:
        encoding = "utf-16" if stream.read(2) in _UTF16_STARTS else "utf-8-sig"
    # newline="\n": str.splitlines would also split at characters that file names may contain.
    return file.open(encoding=encoding, errors="surrogateescape", newline="\n")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    with _open_text(file) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, line.strip()


def _text_lines(file: Path) -> Iterator[Entry]:
    for number, line in _lines(file):
        # isfile is False for names that no file can have; Path.is_file raises.
        if not line.startswith("#") or os.path.isfile(file.parent / line):  # noqa: PTH113
            yield number, line


def _json_lines(file: Path) -> Iterator[Entry]:
    for number, line in _lines(file):
        where = f"{file}, line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            got = hide_secrets(line)
            yield number, DataError(f"{where}: expected a JSON object, got {got:.40}")
            continue
        # The first column with a path counts.
        values = [entry.get(name) for name in _COLUMNS] if isinstance(entry, dict) else []
        paths = [value for value in values if isinstance(value, str) and value.strip()]
        expected = f"{where}: expected an object with a path as one of {_EXPECTED}"
        yield number, paths[0] if paths else DataError(expected)


def _csv_rows(file: Path) -> Iterator[Entry]:
    with _open_text(file) as lines:
        # 1. Find the column by its header.
        numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
        above, header = next(numbered, (0, ""))
        # Spreadsheets of many languages write semicolons.
        for delimiter in (",", ";", "\t"):
            cells = next(csv.reader([header], delimiter=delimiter), [])
            names = [name.strip().casefold() for name in cells]
            column = next((names.index(name) for name in _COLUMNS if name in names), None)
            if column is not None:
                break
        else:
            header = header.strip()
            raise DataError(f"{file}: expected a header with one of {_EXPECTED}, got {header:.60}")
        # 2. Read the paths, each once; a quoted cell may have several lines.
        rows, seen = csv.reader(lines, delimiter=delimiter, strict=True), set()
        while True:
            number = above + rows.line_num + 1
            where = f"{file}, line {number}"
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield number, DataError(f"{where}: not a row ({error}); is a quote left open?")
                continue
            if row is None:
                return
            if len(row) < 2 and not "".join(row).strip():  # a blank line
                continue
            path = row[column].strip() if len(row) > column else ""
            if not path:
                yield number, DataError(f"{where}: no path in the column {names[column]}")
            elif path not in seen:
                seen.add(path)
                yield number, path


def _parquet_rows(file: Path) -> Iterator[Entry]:
    pa = require_module("pyarrow", f"{file}: Parquet needs pyarrow: pip install pyarrow")
    pq, number = import_module("pyarrow.parquet"), 0
    try:
        with pq.ParquetFile(file) as table:
            key = next((name for name in _COLUMNS if name in table.schema_arrow.names), None)
            if key is None:
                raise DataError(f"{file}: expected a column of paths, one of {_EXPECTED}")
            for batch in table.iter_batches(columns=[key]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    is_path = isinstance(value, str) and value.strip()
                    fault = DataError(f"{file}, row {number}: {key}: expected a path")
                    yield number, value if is_path else fault
    except (pa.ArrowException, KeyError, IndexError) as error:  # of broken files
        raise SourceError(f"{file}: not a Parquet file that can be read: {error}") from error
