"""SQLite files of journals: tables, opening, reading and merging."""

import errno
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

from pgvision.batch.coco_files import write_coco_file, write_json_lines
from pgvision.errors import DataError, OptionError

Stamp: TypeAlias = tuple[int, int, str]  # bytes, modification time in ns, digest

_MAGIC: Final = b"SQLite format 3\0"
APPLICATION: Final = 0x70677669  # "pgvi", at byte 68 of the file
VERSION: Final = 2  # 1 was a file of JSON lines
_SYSTEM_ERRORS: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
}
SCHEMA: Final = """
CREATE TABLE run (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, settings TEXT NOT NULL,
    listing TEXT, num_listed INTEGER NOT NULL DEFAULT 0);
CREATE TABLE item (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run, name TEXT NOT NULL,
    place INTEGER NOT NULL, size INTEGER, changed INTEGER, digest TEXT,
    complete INTEGER NOT NULL DEFAULT 0, UNIQUE (run, name));
CREATE TABLE answer (
    id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES item ON DELETE CASCADE,
    frame INTEGER NOT NULL, failed INTEGER NOT NULL, checksum INTEGER NOT NULL,
    result TEXT NOT NULL, UNIQUE (item, frame));
"""


class Answers:
    """The answers of one run, as a database contains them.

    Args:
        db: A database with the journal's tables.
        run: Id of the run there.
        where: Name of the journal, for errors.
    """

    def __init__(self, db: sqlite3.Connection, run: int, where: str) -> None:
        self.db, self.run, self.where = db, run, where

    def results(self) -> Iterator[dict[str, Any]]:
        """Yield each result and failure as `to_dict` wrote it, in the order of the sources.

        Raises:
            DataError: If an answer was damaged on the disk.
        """
        for name, expected, text in self.rows(
            "SELECT name, checksum, result FROM item JOIN answer ON answer.item = item.id "
            "WHERE run = ? ORDER BY place, name, frame"
        ):
            if not isinstance(text, str) or checksum(text) != expected:
                raise DataError(
                    f"{self.where}: the answer for {name!r} is damaged; repeat the run, which "
                    "asks it again"
                )
            yield json.loads(text)

    def num_unread(self) -> int:
        """Count the images and frames that could not be read."""
        return self.count("JOIN answer ON answer.item = item.id WHERE run = ? AND failed")

    def num_left(self) -> int:
        """Count the items without a complete answer."""
        return self.count("WHERE run = ? AND NOT complete")

    def write_coco(self, path: str | Path, *, ids: str | Path | None = None) -> int:
        """Write all objects as one COCO file; see `write_coco_file`."""
        return write_coco_file(Path(path), self.results, ids=ids)

    def write_json_lines(self, path: str | Path) -> int:
        """Write all answers and failures as JSON lines; see `write_json_lines`."""
        return write_json_lines(Path(path), self.results())

    def names(self, condition: str) -> set[str]:
        """Return the names of the items that meet a condition on their columns."""
        rows = self.rows(f"SELECT name FROM item WHERE run = ? AND {condition}")  # noqa: S608
        return {name for (name,) in rows}

    def count(self, what: str) -> int:
        """Count the items that a clause leaves."""
        ((count,),) = self.rows(f"SELECT count(*) FROM item {what}")  # noqa: S608
        return int(count)

    def rows(self, query: str) -> Iterator[Any]:
        """Yield what a query about this run finds."""
        with reported_errors(self.where):
            yield from self.db.execute(query, (self.run,))


def connect(path: Path) -> sqlite3.Connection:
    """Open a journal, or a new file, and change nothing in it.

    Raises:
        DataError: If the file is not a journal.
        OSError: If it cannot be opened.
    """
    # 1. Look at the header before SQLite opens the file, which could change it.
    with suppress(FileNotFoundError), path.open("rb") as file:
        header = file.read(100)
        application = int.from_bytes(header[68:72], "big")
        if header and not (header.startswith(_MAGIC) and application in (0, APPLICATION)):
            raise DataError(_no_journal(path))
    # 2. Open it. Transactions are begun explicitly, and a locked file is an error at once.
    with reported_errors(path):
        db = sqlite3.connect(path, isolation_level=None, timeout=0.0, check_same_thread=False)
        try:
            db.execute("PRAGMA foreign_keys = ON")
            filled = _has_tables(db)
            (application,) = db.execute("PRAGMA application_id").fetchone()
            (version,) = db.execute("PRAGMA user_version").fetchone()
        except BaseException:
            db.close()
            raise
    # 3. Refuse files of other programs and versions; an empty file becomes a journal.
    if filled and (application, version) != (APPLICATION, VERSION):
        db.close()
        if application == APPLICATION:
            raise DataError(
                f"{path}: is a journal of version {version}, and this pgvision reads {VERSION}"
            )
        raise DataError(_no_journal(path))
    return db


def runs_in(path: Path) -> list[tuple[int, dict[str, Any], str | None, int]]:
    """Read the runs of a journal: id, settings, digest and length of the listing.

    Raises:
        DataError: If it is not a journal.
        OptionError: If another process has it open.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such journal (looked from {Path.cwd()})")
    with closing(connect(path)) as db, reported_errors(path):
        # An empty file: the first run was stopped before its tables were committed.
        query = "SELECT id, settings, listing, num_listed FROM run"
        found = db.execute(query).fetchall() if _has_tables(db) else []
    try:
        return [
            (run, dict(json.loads(text)), listing, count) for run, text, listing, count in found
        ]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}: the journal is damaged ({error}); delete it to begin anew"
        ) from error


class Merged(Answers):
    """The answers of several journals of one job.

    Attributes:
        missing: What is not answered yet, in words; empty if the job is complete.
    """

    missing: tuple[str, ...] = ()


def gather(paths: Iterable[Path]) -> Merged:
    """Copy the runs of several journals into one temporary database, which the system cleans up.

    Raises:
        DataError: If an item is in two of them.
    """
    with reported_errors("merge"):
        # 1. Create a temporary database with one run.
        db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        db.executescript(SCHEMA)
        db.execute("INSERT INTO run (id, key, settings) VALUES (1, '', '')")
    for path in paths:
        with reported_errors(path):
            # 2. Copy items and answers of each journal; ids are assigned anew.
            db.execute("ATTACH ? AS part", (str(path),))
            try:
                db.execute(
                    "INSERT INTO item (run, name, place, complete) "
                    "SELECT 1, name, place, complete FROM part.item"
                )
                db.execute(
                    "INSERT INTO answer (item, frame, failed, checksum, result) "
                    "SELECT mine.id, frame, failed, checksum, result FROM part.answer "
                    "JOIN part.item AS theirs ON theirs.id = part.answer.item "
                    "JOIN main.item AS mine ON mine.run = 1 AND mine.name = theirs.name"
                )
            except sqlite3.IntegrityError as error:
                raise DataError(f"{path}: has items that another journal has, too") from error
            db.execute("DETACH part")
    return Merged(db, 1, "merge")


@contextmanager
def reported_errors(where: str | Path) -> Iterator[None]:
    """Raise SQLite's errors as the project's own.

    Raises:
        OptionError: If another process has the file open.
        OSError: If the system refuses to read or write.
        DataError: If the file is damaged.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        # Extended codes have the primary code in the low byte.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        # 1. Another process has it.
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise OptionError(
                f"{where}: another process is writing to this journal; wait for it, or give each "
                "its own --shard or --journal"
            ) from error
        # 2. The system refuses.
        if code in _SYSTEM_ERRORS:
            reason = f"the journal cannot be written ({error})"
            raise OSError(_SYSTEM_ERRORS[code], reason, str(where)) from error
        # 3. What is left is damage.
        raise DataError(
            f"{where}: the journal is damaged ({error}); delete it to ask everything again, or "
            f"rescue it with: sqlite3 {where} .recover"
        ) from error


def _no_journal(path: Path) -> str:
    return (
        f"{path}: is not a journal of this version; it is left as it is. Name another file with "
        "--journal"
    )


def _has_tables(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def create_tables(db: sqlite3.Connection) -> None:
    """Create a journal's tables in a database that has none."""
    if _has_tables(db):
        return
    for statement in SCHEMA.split(";"):
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION}")
    db.execute(f"PRAGMA user_version = {VERSION}")


def checksum(text: str) -> int:
    """Return the CRC-32 of a text."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))
