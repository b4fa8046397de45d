"""What journals hold: which pictures are answered, and where each answer lies."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgvision.batch.items import Item, Stamp
from pgvision.batch.journal import Row, Scan, read_at
from pgvision.errors import DataError


@dataclass(slots=True)
class Entry:
    """What is known of one item.

    Attributes:
        at: Its place among the items.
        file: Which journal holds it.
        stamp: What the file was.
        rows: Offset of the row of each frame; of a still picture, of frame 0.
        unread: Frames whose row is a failure.
        is_whole: Whether nothing of it is left to ask.
    """

    at: int
    file: int
    stamp: Stamp | None
    rows: dict[int, int] = field(default_factory=dict)
    unread: set[int] = field(default_factory=set)
    is_whole: bool = False


@dataclass
class Listing:
    """The items of a job as a journal last had them.

    Attributes:
        count: How many, in all shards.
        digest: Of their names.
        mine: How many of them are this journal's.
    """

    count: int = 0
    digest: str = ""
    mine: int = 0


class Ledger:
    """Reads journals of one job.

    Args:
        paths: The journals.

    Raises:
        DataError: If a file cannot be read, or a whole line is no row of a journal.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = list(paths)
        self.entries: dict[str, Entry] = {}
        self.listings = [Listing() for _ in self.paths]
        self.damaged = 0
        for number, path in enumerate(self.paths):
            scan = Scan(path)
            for offset, row in scan:
                try:
                    self._take(number, offset, row)
                except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
                    raise DataError(
                        f"{path}: byte {offset}: not a row of a job: {error}"
                    ) from error
            self.damaged += scan.damaged

    def missing(self, number: int) -> int:
        """Count the items of a journal that are not answered."""
        done = sum(one.is_whole for one in self.entries.values() if one.file == number)
        return self.listings[number].mine - done

    def num_unread(self) -> int:
        """Count the pictures and frames that could not be read."""
        return sum(len(one.unread) for one in self.entries.values())

    def forget(self, name: str, frames: Iterable[int] | None = None) -> None:
        """Let an item, or some frames of it, be asked anew: their rows count no more."""
        if frames is None:
            self.entries.pop(name, None)
            return
        entry = self.entries[name]
        entry.is_whole = False
        for frame in frames:
            entry.rows.pop(frame, None)
            entry.unread.discard(frame)

    def rows(self) -> Iterator[Row]:
        """Yield the row of every picture and frame, in the order of the items."""
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("rb")) for path in self.paths]
            for _, entry in sorted(self.entries.items(), key=lambda pair: (pair[1].at, pair[0])):
                for frame in sorted(entry.rows):
                    yield read_at(files[entry.file], entry.rows[frame])

    def results(self) -> Iterator[dict[str, Any]]:
        """Yield what each row says, as `to_dict` of results and failures wrote it."""
        for row in self.rows():
            yield row["result"]

    def _take(self, number: int, offset: int, row: Row) -> None:
        kind = row["type"]
        if kind == "listing":
            self._list(number, row)
        elif kind == "end":
            self.entries[row["name"]].is_whole = True
        elif kind == "forget":
            self.forget(row["name"], row["frames"])
        elif kind == "answer":
            self._answer(number, offset, row)
        elif kind != "head":
            raise ValueError(f"unknown type {kind!r:.40}")

    def _answer(self, number: int, offset: int, row: Row) -> None:
        name, frame = str(row["name"]), row["frame"]
        raw = row["stamp"]
        stamp = None if raw is None else (int(raw[0]), int(raw[1]), str(raw[2]))
        entry = self.entries.get(name)
        # Rows of what the file was before count no more, nor do frames of what is a still now.
        if entry is None or entry.stamp != stamp or entry.file != number or frame is None:
            entry = self.entries[name] = Entry(int(row["at"]), number, stamp)
        place = 0 if frame is None else int(frame)
        entry.rows[place] = offset
        entry.is_whole = frame is None
        if row["result"]["type"] == "Failure":
            entry.unread.add(place)
        else:
            entry.unread.discard(place)

    def _list(self, number: int, row: Row) -> None:
        places = {str(name): int(at) for name, at in row["places"].items()}
        self.listings[number] = Listing(int(row["count"]), str(row["digest"]), int(row["mine"]))
        for name in [name for name, one in self.entries.items() if one.file == number]:
            if name in places:
                self.entries[name].at = places[name]
            else:
                del self.entries[name]  # not among the items any more

    def reseat(self, items: Iterable[Item]) -> tuple[dict[str, int], list[str]]:
        """Give entries the places that their items have now.

        Returns:
            The places of the items that have entries, and the names that are no items any more,
            whose entries are gone.
        """
        now = {item.name: item.at for item in items}
        gone = [name for name in self.entries if name not in now]
        for name in gone:
            del self.entries[name]
        places = {name: now[name] for name in self.entries}
        for name, at in places.items():
            self.entries[name].at = at
        return places, gone
