"""Files that list pictures: text, JSON lines, Parquet -> paths and addresses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pgvision.errors import DataError, DependencyError, SourceError
from pgvision.images.listing import list_text

MANIFEST_ENDINGS: Final = frozenset({".txt", ".jsonl", ".parquet"})
_NAME_KEYS: Final = ("image", "file_name", "path")


def read_manifest(file: Path) -> Iterator[tuple[int, str]]:
    """Yield what a list of pictures names.

    Args:
        file: A ``.txt`` of one path a line; a ``.jsonl`` of objects or a ``.parquet`` of rows with
            ``image``, ``file_name`` or ``path`` (the first that is there). Paths are relative to
            the file's own folder.

    Yields:
        The number of the line or row, from 1, and the path or address.

    Raises:
        SourceError: If it cannot be read, or names nothing.
        DataError: If a line or row names nothing.
        DependencyError: For Parquet, if pyarrow is not installed.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "some.jsonl"
        >>> _ = file.write_text('{"image": "a.jpg"}')
        >>> list(read_manifest(file))
        [(1, 'a.jpg')]
    """
    readers = {".jsonl": _json_lines, ".parquet": _parquet_rows}
    read = readers.get(file.suffix.lower())
    if read is None:
        yield from list_text(file)
        return
    count = 0
    try:
        for count, entry in read(file):
            yield count, entry
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{file}: expected a manifest that can be read: {error}") from error
    if not count:
        raise SourceError(f"{file}: the manifest names no picture")


def _json_lines(file: Path) -> Iterator[tuple[int, str]]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, _named_in(line, f"{file}, line {number}")


def _named_in(line: str, where: str) -> str:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: expected a JSON object, got {line.strip():.40}") from error
    for key in _NAME_KEYS:
        if isinstance(entry, dict) and isinstance(entry.get(key), str) and entry[key].strip():
            return str(entry[key])
    raise DataError(f"{where}: expected an object with one of {', '.join(_NAME_KEYS)}, a path")


def _parquet_rows(file: Path) -> Iterator[tuple[int, str]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DependencyError(f"{file}: Parquet needs pyarrow: pip install pyarrow") from error
    number = 0
    try:
        with pq.ParquetFile(file) as table:
            key = next((name for name in _NAME_KEYS if name in table.schema_arrow.names), None)
            if key is None:
                raise DataError(f"{file}: expected a column {', '.join(_NAME_KEYS)}, of paths")
            for batch in table.iter_batches(columns=[key]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    if not isinstance(value, str) or not value.strip():
                        raise DataError(f"{file}, row {number}: {key}: expected a path")
                    yield number, value
    except (pa.ArrowException, KeyError, IndexError) as error:  # of broken files
        raise SourceError(f"{file}: no Parquet that can be read: {error}") from error
