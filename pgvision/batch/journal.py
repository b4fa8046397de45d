"""SQLite journal of resumable runs: their settings, their items, and every answer.

Each answer is one transaction, in write-ahead mode: a killed process loses nothing that was
reported as answered, and commits need no sync of their own. The log is synced and folded into the
file every 64 answers or 2 seconds, which bounds what a power failure costs. At the end the file is
put back into rollback mode: a journal at rest is one file, readable from read-only disks.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Self

from pgvision.batch.database import (
    Answers,
    Stamp,
    checksum,
    connect,
    create_tables,
    reported_errors,
)
from pgvision.errors import DataError, OptionError

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
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")
                db.execute("BEGIN IMMEDIATE")
                create_tables(db)
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
                    "INSERT OR REPLACE INTO answer (item, frame, failed, checksum, result) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (
                        item,
                        _STILL if row.frame is None else row.frame,
                        row.failed,
                        checksum(row.result),
                        row.result,
                    ),
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

    def forget_damaged(self) -> list[str]:
        """Delete answers with a wrong checksum; return the names of their items."""
        with reported_errors(self.where):
            self.db.create_function("checksum_of", 1, checksum, deterministic=True)
        return self._forget("checksum_of(result) <> checksum")

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
