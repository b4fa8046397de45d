"""Files that contain or name many images: lists (text, JSON lines, CSV) and tar files (WebDataset).

Nothing is unpacked: a member of a tar file is read at its offset.
"""

import csv
import json
import logging
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PureWindowsPath
from typing import IO, Final, TextIO, TypeAlias

from pgvision.errors import DataError, ImageError, SourceError
from pgvision.files import readable_name
from pgvision.http import hide_secrets
from pgvision.images.listing import IMAGE_ENDINGS, is_ignored
from pgvision.images.pixels import Frame
from pgvision.images.reading import MOST_BYTES, decode_frames, decode_image

LIST_ENDINGS: Final = frozenset({".txt", ".jsonl", ".csv"})
TAR_ENDING: Final = ".tar"
_COLUMNS: Final = ("image", "file_name", "path", "filename", "image_path")
_EXPECTED: Final = ", ".join(_COLUMNS)
_UTF16_STARTS: Final = (b"\xff\xfe", b"\xfe\xff")
_MOST_OF_A_HEADER: Final = 1 << 20  # bytes

Entry: TypeAlias = tuple[int, str | DataError]

_log = logging.getLogger("pgvision.images")


def read_list(file: Path) -> Iterator[Entry]:
    """Yield the entries of a list of images; a broken entry costs that entry alone.

    Args:
        file: A ``.txt`` of one path a line (blank lines and ``#`` comments are left out); a
            ``.jsonl`` of objects or a ``.csv`` with a header, with a column
            ``image``, ``file_name``, ``path``, ``filename`` or ``image_path`` (the first that
            exists). Paths are relative to the file's own folder. Of a CSV with one row for each
            object, each image is yielded once. Names that folders leave out (`is_ignored`) are left
            out here too, with a warning.

    Yields:
        The number of the line or row, from 1, and the path or address; or the error of this entry.

    Raises:
        SourceError: If the file cannot be read, or has no entry.
        DataError: If a table has no such column.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "some.jsonl"
        >>> _ = file.write_text('{"image": "a.jpg"}')
        >>> list(read_list(file))
        [(1, 'a.jpg')]
    """
    # 1. Yield the entries, and count them.
    readers = {".jsonl": _json_lines, ".csv": _csv_rows}
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


# --- tar files -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TarImage:
    """Location of an image in a tar file.

    Attributes:
        name: ``"shards/0.tar/12.jpg"``.
        path: The tar file.
        start: Offset in it.
        size: Number of bytes.
        changed: Modification time of the tar file in ns.
    """

    name: str
    path: str
    start: int
    size: int
    changed: int

    def read(self) -> bytes:
        """Read the bytes.

        Raises:
            SourceError: If it cannot be read, or ends too early.
            ImageError: If it is too large for an image.
        """
        # 1. The header of a damaged tar file may declare any size.
        if not 0 <= self.size <= MOST_BYTES:
            raise ImageError(f"{self.name}: {self.size} bytes are too many for an image")
        try:
            with Path(self.path).open("rb") as file:
                file.seek(self.start)
                data = file.read(self.size)
        except (OSError, ValueError, OverflowError) as error:
            raise SourceError(f"{self.name}: cannot be read: {error}") from error
        # 2. A file that was cut, or replaced since it was listed.
        if len(data) < self.size:
            raise SourceError(f"{self.name}: {len(data)} of {self.size} bytes; was it cut short?")
        return data

    def frame(self, data: bytes) -> Frame:
        """Decode the bytes; of several pages or frames the first one, with a warning.

        Raises:
            ImageError: If they are not an image.
        """
        return Frame(decode_image(data, self.name), self.name)

    def frames(self) -> Iterator[Frame]:
        """Read the image and yield all its pages or frames.

        Raises:
            SourceError: If it cannot be read.
            ImageError: If it is not an image.
        """
        return decode_frames(self.read(), self.name)


def list_tar(path: str) -> list[TarImage]:
    """List the images of a tar file, in its order.

    Names that `is_ignored` excludes are left out, as in folders.

    Raises:
        SourceError: If it cannot be read, contains no image, is compressed, or has members with
            names outside of it.
    """
    found = []
    try:
        changed = Path(path).stat().st_mtime_ns
        with (
            Path(path).open("rb") as file,
            tarfile.open(fileobj=_Headers(file), mode="r:") as tar,  # type: ignore[call-overload]
        ):
            for member in _walked(tar):
                # Keep regular image files; sparse members are not stored in one piece.
                is_image = Path(member.name).suffix.lower() in IMAGE_ENDINGS and member.isreg()
                if not is_image or member.issparse():
                    continue
                inside = _inside(member.name, path)
                if not is_ignored(inside):
                    full = readable_name(f"{path}/{inside}")
                    found.append(TarImage(full, path, member.offset_data, member.size, changed))
    except OSError as error:
        raise SourceError(f"{path}: cannot be opened: {error}") from error
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise SourceError(
            f"{path}: expected a whole tar file, not compressed (members of one that is cannot be "
            f"reached one by one): {error}"
        ) from error
    if not found:
        raise SourceError(f"{path}: no image in this tar file")
    return found


class _Headers:
    """Tar header reader; a header that declares gigabytes for a name is refused."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MOST_OF_A_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def _walked(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        yield member
        tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all


def _inside(member: str, name: str) -> str:
    """Return a member's name without ``./``; refuse one that would lead elsewhere as a path."""
    parts = PureWindowsPath(member).parts  # knows both separators, and drives
    if PureWindowsPath(member).anchor or ".." in parts or "\0" in member:
        raise SourceError(f"{name}: the member {member!r:.80} leads outside of it")
    return "/".join(parts)
