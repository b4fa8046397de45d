"""An append-only journal: one checksummed JSON line a row, so that a stop at any byte costs no row.

A line is ``{"sum": "<crc32 of the row's bytes>", "row": {...}}``. The first row is the head, which
says by name what makes the rows what they are. A line that a stop cut off is taken away when the
journal is opened again; a line that was damaged later is passed over and counted.
"""

import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

from pgvision.errors import DataError, OptionError

# On Windows two processes on one journal are not noticed.
fcntl: Any = import_module("fcntl") if os.name == "posix" else None

Row = dict[str, Any]

_VERSION: Final = 1
_START: Final = b'{"sum": "'
_BETWEEN: Final = b'", "row": '
_ROW_AT: Final = len(_START) + 8 + len(_BETWEEN)
_ROWS_BETWEEN_SYNCS: Final = 64
_SECONDS_BETWEEN_SYNCS: Final = 2.0
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False).encode


def encode_row(row: Mapping[str, Any]) -> bytes:
    """Write a row as its line.

    Raises:
        ValueError: If a number is NaN or infinite.

    Example:
        >>> json.loads(encode_row({"a": 1}))["row"]
        {'a': 1}
    """
    text = _encode(row).encode("ascii")
    return b"%b%08x%b%b}\n" % (_START, zlib.crc32(text), _BETWEEN, text)


def decode_row(line: bytes) -> Row | None:
    """Read a line back; None if it is not whole.

    Example:
        >>> line = encode_row({"a": 1})
        >>> decode_row(line), decode_row(line[:-1]), decode_row(line.replace(b"1", b"2"))
        ({'a': 1}, None, None)
    """
    text = line[_ROW_AT:-2]
    if line[_ROW_AT - len(_BETWEEN) : _ROW_AT] != _BETWEEN or line[-2:] != b"}\n":
        return None
    if line[: _ROW_AT - len(_BETWEEN)] != b"%b%08x" % (_START, zlib.crc32(text)):
        return None
    try:
        row = json.loads(text, parse_constant=_refused)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _refused(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


@dataclass
class Scan:
    """A reading of a journal, from its first row to its last.

    Attributes:
        path: The file.
        damaged: Lines so far that are not whole.
        end: Where the last line ends; bytes beyond it are of a line that was cut off.
    """

    path: Path
    damaged: int = 0
    end: int = 0

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        """Yield each whole row with the offset of its line.

        Raises:
            DataError: If the file cannot be read.
        """
        self.damaged = self.end = 0
        try:
            with self.path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    start, self.end = self.end, self.end + len(line)
                    row = decode_row(line)
                    if row is None:
                        self.damaged += 1
                    else:
                        yield start, row
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror or error}") from error


def read_at(file: BinaryIO, offset: int) -> Row:
    """Read the row whose line starts at ``offset``.

    Raises:
        DataError: If there is no whole line.
    """
    file.seek(offset)
    row = decode_row(file.readline())
    if row is None:
        raise DataError(f"{file.name}: the line at byte {offset} was damaged while it was read")
    return row


def run_of(path: Path) -> dict[str, Any]:
    """Read from a journal's head what makes its rows what they are.

    Raises:
        DataError: If the file does not begin with a head that this version reads.
    """
    first = next(iter(Scan(path)), None)
    head = {} if first is None or first[0] != 0 else first[1]
    if head.get("type") != "head" or not isinstance(head.get("run"), dict):
        raise DataError(
            f"{path}: expected a journal of a bulk job, and its first line is no head; "
            "name another file, or delete it to begin anew"
        )
    if head.get("journal") != _VERSION:
        raise DataError(
            f"{path}: is a journal of version {head.get('journal')}, this pgvision reads "
            f"{_VERSION}; go on with the one that wrote it"
        )
    return dict(head["run"])


class Journal:
    """A journal that this process alone writes to.

    Every row is handed to the system at once, so that a killed process loses none; every 64 rows or
    2 seconds they are forced to the disk, so that a power cut costs no more than those.

    Args:
        path: The file; it is made if it is not there.
        run: What makes the rows what they are, by name.

    Raises:
        OptionError: If the journal is of another run (the message says what differs), or another
            process writes to it.
        DataError: If the file is no journal.
        OSError: If it cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.journal"
        >>> with Journal(path, {"task": "detect"}) as journal:
        ...     journal.add({"name": "a.jpg"})
        >>> [row for _, row in Scan(path)][1:]
        [{'name': 'a.jpg'}]
    """

    def __init__(self, path: Path, run: Mapping[str, object]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._lock()
            self._end = _whole_length(path)
            if self._end:
                _require_same(path, run)
            os.ftruncate(self._file, self._end)
            os.lseek(self._file, self._end, os.SEEK_SET)
            self._unsynced, self._synced_at = 0, time.monotonic()
            if not self._end:
                self.add({"type": "head", "journal": _VERSION, "run": dict(run)})
                self.sync()
                _sync_folder(path.parent)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> "Journal":
        """Nothing more to open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Force the rest to the disk; after a full disk what could be written is kept."""
        try:
            if error is None:
                self.sync()
            else:
                with suppress(OSError):
                    self.sync()
        finally:
            os.close(self._file)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row.

        Raises:
            OSError: If it could not be written (a full disk): the journal then ends with the row
                before, and stays good.
        """
        line = encode_row(row)
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._end += len(line)
        self._unsynced += 1
        late = time.monotonic() - self._synced_at >= _SECONDS_BETWEEN_SYNCS
        if late or self._unsynced >= _ROWS_BETWEEN_SYNCS:
            self.sync()

    def sync(self) -> None:
        """Force all rows to the disk."""
        os.fsync(self._file)
        self._unsynced, self._synced_at = 0, time.monotonic()

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OptionError(
                f"{self.path}: another process is writing to this journal; wait for it, or give "
                "each its own --shard"
            ) from error
        except OSError:  # file systems without locks
            return


def _whole_length(path: Path) -> int:
    """Return where whole lines end; 0 if not even the head is whole and nothing follows it."""
    scan = Scan(path)
    for _ in scan:
        pass
    return scan.end


def _require_same(path: Path, run: Mapping[str, object]) -> None:
    before, now = run_of(path), json.loads(_encode(dict(run)))
    differing = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if differing:
        said = "; ".join(
            f"{name}: {_short(before.get(name))} then, {_short(now.get(name))} now"
            for name in differing
        )
        raise OptionError(
            f"{path}: is the journal of another run ({said}); give what was given then, name "
            "another journal, or delete it to ask everything anew"
        )


def _short(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
