"""SQLite journal of resumable runs: their settings, their items, and every answer.

Each answer is one transaction, in write-ahead mode: a killed process loses nothing that was
reported as answered, and commits need no sync of their own. The log is synced and folded into the
file every 64 answers or 2 seconds, which bounds what a power failure costs. At the end the file is
put back into rollback mode: a journal at rest is one file, readable from read-only disks.
"""

import errno
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeAlias

from pgvision.batch.coco_files import write_coco_file, write_json_lines
from pgvision.errors import DataError, OptionError

Stamp: TypeAlias = tuple[int, int, str]  # bytes, modification time in ns, digest

_VERSION: Final = 3  # 1 was a file of JSON lines, 2 had checksums
_APPLICATION: Final = 0x70677669  # "pgvi"
# Bytes 0 to 15, 60 to 63 and 68 to 71 of the file.
_HEADER: Final = (b"SQLite format 3\0", _VERSION.to_bytes(4), _APPLICATION.to_bytes(4))
_SYSTEM_ERRORS: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
}
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS run (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, settings TEXT NOT NULL,
    listing TEXT, num_listed INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS item (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run, name TEXT NOT NULL,
    place INTEGER NOT NULL, size INTEGER, changed INTEGER, digest TEXT,
    complete INTEGER NOT NULL DEFAULT 0, UNIQUE (run, name));
CREATE TABLE IF NOT EXISTS answer (
    id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES item ON DELETE CASCADE,
    frame INTEGER NOT NULL, failed INTEGER NOT NULL, result TEXT NOT NULL, UNIQUE (item, frame));
"""
_ANSWERS_BETWEEN_SYNCS: Final = 64
_SECONDS_BETWEEN_SYNCS: Final = 2.0
_STILL: Final = -1  # frame number of an image that is not a video frame


class Row(NamedTuple):
    """One answer, or the end of a video.

    Attributes:
        name: Of the item.
        stamp: Fingerprint of the file that was read; None if unknown.
        frame: Number of the video frame; None for a still image.
        result: `to_dict` of the result or failure as JSON; None: the video is complete.
        failed: Whether it is a failure.
    """

    name: str
    stamp: Stamp | None = None
    frame: int | None = None
    result: str | None = None
    failed: bool = False


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
        for (text,) in self.rows(
            "SELECT result FROM item JOIN answer ON answer.item = item.id "
            "WHERE run = ? ORDER BY place, name, frame"
        ):
            try:
                answer = json.loads(text)
            except (TypeError, ValueError) as error:
                raise DataError(_damaged(self.where, error)) from error
            yield answer

    def num_unread(self) -> int:
        """Count the images and frames that could not be read."""
        return self.count("JOIN answer ON answer.item = item.id WHERE run = ? AND failed")

    def num_left(self) -> int:
        """Count the items without a complete answer."""
        return self.count("WHERE run = ? AND NOT complete")

    def write_coco(self, path: str | Path) -> int:
        """Write all objects as one COCO file; see `write_coco_file`."""
        return write_coco_file(Path(path), self.results)

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
    # 1. Look at the header: SQLite could change a database of another program by opening it.
    with suppress(FileNotFoundError), path.open("rb") as file:
        header = file.read(72)
        if header and (header[:16], header[60:64], header[68:]) != _HEADER:
            raise DataError(
                f"{path}: is not a journal of this version; it is left as it is. Name another file "
                "with --journal"
            )
    # 2. Open it. Transactions are begun explicitly, and a locked file is an error at once.
    with reported_errors(path):
        return sqlite3.connect(path, isolation_level=None, timeout=0.0, check_same_thread=False)


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
        raise DataError(_damaged(path, error)) from error


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
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # a message with damaged text
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
        raise DataError(_damaged(where, error)) from error


def _damaged(where: str | Path, error: Exception) -> str:
    return (
        f"{where}: the journal is damaged ({error}); delete it to ask everything again, or rescue "
        f"it with: sqlite3 {where} .recover"
    )


def _has_tables(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


class Journal(Answers):
    """One run in a journal, open for writing by this process only.

    Args:
        path: The file; made if it is missing.
        settings: What makes the answers what they are, by name. Runs with other settings are other
            runs.
        shared: Whether the file may contain other runs as well. If not, other settings than those
            of the run in the file are an error.

    Raises:
        OptionError: If the journal is of another run (the message names what differs), or another
            process has it open.
        DataError: If the file is not a journal. It is left as it is.
        OSError: If it cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.journal"
        >>> with Journal(path, {"task": "detect"}) as journal:
        ...     _ = journal.list_items(["a.jpg"], listing="1", num_listed=1, places=[0])
        ...     journal.add(Row("a.jpg", result='{"type": "Failure"}', failed=True))
        ...     journal.num_left(), list(journal.results())
        (0, [{'type': 'Failure'}])
    """

    def __init__(self, path: Path, settings: Mapping[str, object], *, shared: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        db = connect(path)
        try:
            with reported_errors(path):
                # No shared-memory file: that fails on network file systems. Exclusive locking also
                # keeps the lock for as long as the journal is open.
                db.execute("PRAGMA locking_mode = EXCLUSIVE")
                if not _has_tables(db):  # make the file known as a journal first
                    db.execute("BEGIN IMMEDIATE")
                    db.execute(f"PRAGMA application_id = {_APPLICATION}")
                    db.execute(f"PRAGMA user_version = {_VERSION}")
                    db.execute("COMMIT")
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")
                db.execute("PRAGMA foreign_keys = ON")
                db.execute("BEGIN IMMEDIATE")
                for statement in SCHEMA.split(";"):
                    db.execute(statement)
                run = _run_id(db, path, settings, shared)
                db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        super().__init__(db, run, str(path))
        self._unsynced, self._synced_at = 0, time.monotonic()

    def __enter__(self) -> Self:
        """Return the journal."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Merge the write-ahead log into the file and close it; on a full disk the log is kept."""
        try:
            with reported_errors(self.where):
                self.db.execute("PRAGMA journal_mode = DELETE")
        except OSError:
            if error is None:
                raise
        finally:
            self.db.close()

    # --- items ---------------------------------------------------------------------------------

    def listed(self) -> tuple[str | None, int]:
        """Return the digest and the length of the listing as of the last run; None: no run yet."""
        ((digest, count),) = self.rows("SELECT listing, num_listed FROM run WHERE id = ?")
        return digest, count

    def list_items(
        self,
        names: Sequence[str],
        *,
        listing: str,
        num_listed: int,
        places: Iterable[int],
        keep: bool = False,
    ) -> list[str]:
        """Replace the list of items; answers of items that stay are kept.

        Args:
            names: Names of this run's items.
            listing: Digest of the names of all items, those of other shards included.
            num_listed: How many these are.
            places: Place of each of ``names`` among them.
            keep: Keep the items that are gone as well.

        Returns:
            Names of answered items that are gone, and their answers with them.
        """
        gone = "FROM item WHERE run = ? AND name NOT IN (SELECT value FROM json_each(?))"
        given, found = (self.run, json.dumps(list(names))), []
        with self._transaction() as db:
            # 1. Delete items that are no longer listed, with their answers.
            if not keep:
                answered = "EXISTS (SELECT 1 FROM answer WHERE answer.item = item.id)"
                query = f"SELECT name {gone} AND {answered} ORDER BY place"
                found = db.execute(query, given).fetchall()
                db.execute(f"DELETE {gone}", given)  # noqa: S608
            # 2. Existing items keep their answers; only their place changes.
            db.executemany(
                "INSERT INTO item (run, name, place) VALUES (?, ?, ?) "
                "ON CONFLICT (run, name) DO UPDATE SET place = excluded.place",
                ((self.run, *item) for item in zip(names, places, strict=True)),
            )
            db.execute(
                "UPDATE run SET listing = ?, num_listed = ? WHERE id = ?",
                (listing, num_listed, self.run),
            )
        return [name for (name,) in found]

    def stamps(self) -> dict[str, Stamp | None]:
        """Return the fingerprint of each item that has an answer."""
        rows = self.rows(
            "SELECT name, size, changed, digest FROM item WHERE run = ? AND "
            "EXISTS (SELECT 1 FROM answer WHERE answer.item = item.id)"
        )
        return {name: None if stamp[0] is None else tuple(stamp) for name, *stamp in rows}

    def frames(self) -> dict[str, frozenset[int]]:
        """Return the answered frames of each video that is not complete."""
        found: dict[str, set[int]] = {}
        for name, frame in self.rows(
            "SELECT name, frame FROM item JOIN answer ON answer.item = item.id "
            "WHERE run = ? AND NOT complete"
        ):
            found.setdefault(name, set()).add(frame)
        return {name: frozenset(frames) for name, frames in found.items()}

    # --- answers -------------------------------------------------------------------------------

    def add(self, row: Row) -> None:
        """Write an answer, in place of an earlier one, or the end of a video.

        Raises:
            DataError: If the run has no such item.
            OSError: If it cannot be written (a full disk). The journal stays valid and ends with
                the answer before.
        """
        with self._transaction() as db:
            # 1. Find the item.
            size, changed, digest = row.stamp or (None, None, None)
            found = db.execute(
                "SELECT id, size, changed, digest FROM item WHERE run = ? AND name = ?",
                (self.run, row.name),
            ).fetchone()
            if found is None:
                raise DataError(f"{self.where}: {row.name} is not an item of this run")
            # 2. A row without a result completes a video; others store an answer.
            item = found[0]
            if row.result is None:
                db.execute("UPDATE item SET complete = 1 WHERE id = ?", (item,))
            else:
                if found[1:] != (size, changed, digest):  # frames of what the file was before
                    db.execute("DELETE FROM answer WHERE item = ?", (item,))
                db.execute(
                    "UPDATE item SET size = ?, changed = ?, digest = ?, complete = ? WHERE id = ?",
                    (size, changed, digest, row.frame is None, item),
                )
                db.execute(
                    "INSERT OR REPLACE INTO answer (item, frame, failed, result) "
                    "VALUES (?, ?, ?, ?)",
                    (item, _STILL if row.frame is None else row.frame, row.failed, row.result),
                )
        # 3. Sync to disk from time to time: each sync takes milliseconds.
        self._unsynced += 1
        late = time.monotonic() - self._synced_at >= _SECONDS_BETWEEN_SYNCS
        if late or self._unsynced >= _ANSWERS_BETWEEN_SYNCS:
            self.sync()

    def sync(self) -> None:
        """Force all answers to the disk."""
        with reported_errors(self.where):
            self.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._unsynced, self._synced_at = 0, time.monotonic()

    def forget(self, names: Iterable[str]) -> list[str]:
        """Delete the answers of some items, which are then asked again; return their names."""
        return self._forget("name IN (SELECT value FROM json_each(?))", json.dumps(list(names)))

    def forget_failures(self) -> list[str]:
        """Delete all failures; return the names of their items."""
        return self._forget("failed")

    def _forget(self, condition: str, *values: str) -> list[str]:
        joined = "FROM item JOIN answer ON answer.item = item.id"
        matching, given = f"{joined} WHERE run = ? AND {condition}", (self.run, *values)
        with self._transaction() as db:
            query = f"SELECT DISTINCT item.id, name {matching} ORDER BY place"
            rows = db.execute(query, given).fetchall()
            query = f"DELETE FROM answer WHERE id IN (SELECT answer.id {matching})"  # noqa: S608
            db.execute(query, given)
            db.executemany("UPDATE item SET complete = 0 WHERE id = ?", [(row[0],) for row in rows])
        return [name for _, name in rows]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with reported_errors(self.where):
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise


def _run_id(
    db: sqlite3.Connection, path: Path, settings: Mapping[str, object], shared: bool
) -> int:
    text = json.dumps(dict(settings), sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    found = db.execute("SELECT id FROM run WHERE key = ?", (key,)).fetchone()
    # A run with other settings needs a journal of its own, unless this one is shared.
    if found is None:
        others = [] if shared else db.execute("SELECT settings FROM run").fetchall()
        if others:
            raise OptionError(
                f"{path}: is the journal of another run ({_differences(others[0][0], text)}); give "
                "what was given then, name another journal, or delete it to ask everything again"
            )
        db.execute("INSERT INTO run (key, settings) VALUES (?, ?)", (key, text))
        return int(db.execute("SELECT last_insert_rowid()").fetchone()[0])
    return int(found[0])


def _differences(before_text: str, now_text: str) -> str:
    before, now = json.loads(before_text), json.loads(now_text)
    show: Callable[[object], str] = lambda value: (  # noqa: E731
        "nothing" if value is None else f"{value!r:.60}"
    )
    return "; ".join(
        f"{name}: {show(before.get(name))} then, {show(now.get(name))} now"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    )
