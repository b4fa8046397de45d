"""A bulk job: pictures in, a journal that grows, one file at the end; stopped, it goes on."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from pgvision.batch.coco_files import write_coco_file, write_json_lines
from pgvision.batch.items import Item, Shard, Stamp, list_items, listing_digest
from pgvision.batch.journal import Journal, Row
from pgvision.batch.ledger import Entry, Ledger
from pgvision.batch.reading import Read, read_items
from pgvision.batch.recipes import Outcome, Recipe
from pgvision.errors import OptionError
from pgvision.images import Frame, FrameFailure
from pgvision.results import Failure

_MOST_NAMED: Final = 5


class Job:
    """Answers for all pictures of some sources, each exactly once, however often it is stopped.

    Each answer is a line of the journal before you see it. A run that was stopped at any moment is
    repeated as it was, and asks about what is left. A picture that was replaced since is asked
    again; pictures that came or went are noticed. Pictures that cannot be read are recorded with
    their reason, and asked again with ``retry_unread`` or when the file has changed.

    Args:
        recipe: What is asked.
        sources: Pictures, videos, folders, globs, lists, tar files, stores; see `iter_frames`.
        journal: The journal's file.
        recursive: Take folders with their subfolders.
        stride: Of videos take each ``stride``-th frame.
        shard: Take one of several parts only; `pgvision.batch.merge` makes one file of them.
        retry_unread: Read again what could not be read.
        num_readers: Threads that read and decode ahead of the model; None: up to 4.

    Raises:
        OptionError: If an option is out of range, or a source is live.
        SourceError: If a folder, list or pattern holds nothing.

    Example:
        >>> import tempfile
        >>> from pgvision import samples
        >>> import cv2
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = cv2.imwrite(str(folder / "a.png"), samples.load("site-01"))
        >>> job = Job(Recipe("detect", {"classes": "helmet"}), [folder], folder / "a.journal")
        >>> [len(job.run_all()), len(job.run_all())]
        [1, 0]
    """

    def __init__(
        self,
        recipe: Recipe,
        sources: Iterable[str | Path],
        journal: str | Path,
        *,
        recursive: bool = False,
        stride: int = 1,
        shard: Shard | None = None,
        retry_unread: bool = False,
        num_readers: int | None = None,
    ) -> None:
        if isinstance(sources, str | os.PathLike):
            sources = [sources]
        if stride < 1 or (num_readers is not None and num_readers < 1):
            raise OptionError(
                f"stride, num_readers: expected at least 1, got {stride}, {num_readers}"
            )
        self.recipe, self.path = recipe, Path(journal)
        self._all = list_items([os.fspath(one) for one in sources], recursive=recursive)
        mine = self._all if shard is None else [one for one in self._all if shard.holds(one.name)]
        self.items, self.shard, self._stride = mine, shard, stride
        self._retry = retry_unread
        self._num_readers = num_readers or min(4, os.cpu_count() or 1)
        self.notes: list[str] = []

    @property
    def run(self) -> dict[str, object]:
        """What makes the rows what they are, by name; the journal's head holds it."""
        shard = None if self.shard is None else str(self.shard)
        return {**self.recipe.run, "stride": self._stride, "shard": shard}

    def stream(self) -> Iterator[Outcome]:
        """Ask about everything that is left.

        Yields:
            Each result or failure, once it is in the journal.

        Raises:
            OptionError: If the journal is of another run; the message says what differs.
            DataError: If the file is no journal.
            OSError: If it cannot be written (a full disk). What was written stays good.
        """
        with self.opened() as (journal, ledger, left):
            if left:
                yield from self.answers(left, journal.add, ledger)

    @contextmanager
    def opened(self) -> Iterator[tuple[Journal, Ledger, list[Item]]]:
        """Open the journal and write down what has changed since.

        Yields:
            The journal, what it holds, and the items that are left.
        """
        with Journal(self.path, self.run) as journal:
            ledger = self._opened(journal)
            yield journal, ledger, [one for one in self.items if not self._is_whole(ledger, one)]

    def run_all(self) -> list[Outcome]:
        """Ask about everything that is left, and return what came; `stream` holds none of it."""
        return list(self.stream())

    def num_left(self) -> int:
        """Count the pictures and videos that have no whole answer in the journal."""
        if not self.path.exists():
            return len(self.items)
        ledger = Ledger([self.path])
        return sum(not self._is_whole(ledger, item) for item in self.items)

    def num_unread(self) -> int:
        """Count the pictures and frames that could not be read."""
        return Ledger([self.path]).num_unread()

    def results(self) -> Iterator[dict[str, Any]]:
        """Yield all that is answered, in the order of the sources, as `to_dict` writes it."""
        return Ledger([self.path]).results()

    def write_coco(self, path: str | Path, *, ids: str | Path | None = None) -> int:
        """Assemble all objects into one COCO file; see `write_coco_file`."""
        return write_coco_file(Path(path), Ledger([self.path]).results, ids=ids)

    def write_json_lines(self, path: str | Path) -> int:
        """Assemble all answers, and all failures, into one JSONL file."""
        return write_json_lines(Path(path), Ledger([self.path]).results())

    def _is_whole(self, ledger: Ledger, item: Item) -> bool:
        entry = ledger.entries.get(item.name)
        return entry is not None and entry.is_whole

    def _opened(self, journal: Journal) -> Ledger:
        """Read the journal, and write down what has changed since."""
        ledger, notes = Ledger([self.path]), []
        digest = listing_digest(self._all)
        known = ledger.listings[0]
        if known.digest != digest:
            places, gone = ledger.reseat(self.items)
            if known.digest:
                new = sum(item.name not in ledger.entries for item in self.items)
                notes.append(f"the sources have changed: {known.count} then, {len(self._all)} now")
                notes += [f"{new} are not answered yet"] if new else []
                notes += [f"gone: {_some(gone)}"] if gone else []
            counts = {"count": len(self._all), "digest": digest, "mine": len(self.items)}
            journal.add({"type": "listing", **counts, "places": places})
        if ledger.damaged:
            notes.append(f"{ledger.damaged} damaged lines: what they held is asked again")
        changed = [item for item in self.items if not _is_unchanged(ledger, item)]
        for item in changed:
            journal.add({"type": "forget", "name": item.name, "frames": None})
            ledger.forget(item.name)
        if changed:
            notes.append(f"replaced since, and asked again: {_some([i.name for i in changed])}")
        if self._retry:
            notes += self._forget_unread(journal, ledger)
        self.notes = notes
        return ledger

    def _forget_unread(self, journal: Journal, ledger: Ledger) -> list[str]:
        names = [name for name, entry in ledger.entries.items() if entry.unread]
        for name in names:
            frames = sorted(ledger.entries[name].unread)
            journal.add({"type": "forget", "name": name, "frames": frames})
            ledger.forget(name, frames)
        return [f"read again: {_some(names)}"] if names else []

    def answers(
        self, left: list[Item], add: Callable[[Row], None], ledger: Ledger | None = None
    ) -> Iterator[Outcome]:
        """Ask about some items and hand on their rows; what `stream` does once the journal is open.

        Args:
            left: What to ask about.
            add: Takes each row, before its result is yielded.
            ledger: What is answered already of videos; None: nothing.

        Yields:
            Each result or failure.
        """
        entries = {} if ledger is None else ledger.entries
        taken: dict[str, tuple[Item, Stamp | None]] = {}  # of frames on their way
        videos: dict[str, None] = {}  # which are not known to be whole
        now = ""
        for outcome in self.recipe.stream(self._frames(left, entries, taken, videos)):
            name = outcome.source or ""
            if now != name:
                _end(add, videos, now)
                taken.pop(now, None)
                now = name
            item, stamp = taken[name]
            place = outcome.index if isinstance(outcome, Failure) else outcome.frame_index
            add({
                "type": "answer",
                "name": name,
                "at": item.at,
                "frame": place if name in videos else None,
                "stamp": stamp,
                "result": _exact(outcome),
            })  # fmt: skip
            yield outcome
        for name in list(videos):
            _end(add, videos, name)

    def _frames(
        self,
        left: list[Item],
        entries: Mapping[str, Entry],
        taken: dict[str, tuple[Item, Stamp | None]],
        videos: dict[str, None],
    ) -> Iterator[Frame | FrameFailure]:
        """Yield what is to be asked about; note what each frame is of, and which are videos."""

        def wanted(item: Item, frame: int) -> bool:
            videos[item.name] = None
            return item.name not in entries or frame not in entries[item.name].rows

        reads: Iterator[Read] = read_items(
            left, stride=self._stride, wanted=wanted, num_threads=self._num_readers
        )
        with closing(reads):  # type: ignore[type-var]
            for item, stamp, frame in reads:
                taken[item.name] = item, stamp
                yield frame


def _end(add: Callable[[Row], None], videos: dict[str, None], name: str) -> None:
    if name in videos:
        del videos[name]
        add({"type": "end", "name": name})


def _is_unchanged(ledger: Ledger, item: Item) -> bool:
    entry = ledger.entries.get(item.name)
    return entry is None or item.is_unchanged(entry.stamp)


def _exact(outcome: Outcome) -> dict[str, object]:
    """Write what is the same in every run; how long it took is not."""
    data = outcome.to_dict()
    return data if isinstance(outcome, Failure) else {**data, "timings": {}, "passes": None}


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
