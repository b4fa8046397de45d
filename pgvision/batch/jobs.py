"""Bulk jobs: images in, a journal of answers, one file at the end; a stopped job resumes."""

import json
import logging
import os
import sqlite3
import weakref
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from pgvision.batch.items import Item, Shard, list_items, listing_digest
from pgvision.batch.journal import SCHEMA, Answers, Journal, connect, reported_errors, runs_in
from pgvision.batch.recipes import Asker, Outcome, Recipe
from pgvision.errors import DataError, OptionError

_LOG = logging.getLogger(__name__)
_MOST_NAMED: Final = 5
_MOST_READERS: Final = 4  # threads that read and decode ahead of the model


class Job:
    """Answers for all images of some sources, each exactly once, however often it is stopped.

    Each answer is in the journal before it is yielded. Repeat a stopped run as it was: it asks
    about what is left. An image that was replaced in the meantime is asked again; images that were
    added or removed are noticed. Images that cannot be read are recorded with their reason, and
    asked again with ``retry_unread`` or when the file has changed.

    Args:
        recipe: The task.
        sources: Images, videos, folders, globs, lists, tar files; see `list_items`.
        journal: The journal's file.
        recursive: Take folders with their subfolders.
        stride: Of videos take each ``stride``-th frame.
        shard: Take one of several parts only; `pgvision.batch.merge` makes one file of them.
        retry_unread: Read again what could not be read.
        shared: Whether the journal may contain other runs as well; see `Journal`. Answers of images
            that are not among the sources any more are kept then.

    Raises:
        OptionError: If an option is out of range, or a source is live.
        SourceError: If a folder, list or pattern is empty.

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
        shared: bool = False,
    ) -> None:
        if isinstance(sources, str | os.PathLike):
            sources = [sources]
        if stride < 1:
            raise OptionError(f"stride: expected at least 1, got {stride}")
        self.path, self.shard = Path(journal), shard
        # Each shard lists all sources, so that all agree on the listing.
        listed = list_items([os.fspath(source) for source in sources], recursive=recursive)
        self.num_listed, self.listing = len(listed), listing_digest(listed)
        self.items = [item for item in listed if shard is None or shard.contains(item.name)]
        self.asker = Asker(recipe, stride, min(_MOST_READERS, os.cpu_count() or 1))
        self.notes: list[str] = []
        self._retry, self._shared = retry_unread, shared
        self._names: dict[str, str] = {}

    @property
    def settings(self) -> dict[str, object]:
        """Everything that determines the answers, by name; it identifies the run in the journal."""
        shard = None if self.shard is None else str(self.shard)
        return {**self.asker.recipe.settings, "stride": self.asker.stride, "shard": shard}

    def name_of(self, path: str | Path) -> str:
        """Return the name of an image in the journal.

        Args:
            path: As it was given as a source.
        """
        if not self._names:
            self._names = {str(Path(item.source).absolute()): item.name for item in self.items}
        return self._names.get(str(Path(path).absolute()), "")

    def stream(self) -> Iterator[Outcome]:
        """Ask about everything that is left.

        Yields:
            Each result or failure, once it is in the journal.

        Raises:
            OptionError: If the journal is of another run; the message names what differs.
            DataError: If the file is not a journal.
            OSError: If it cannot be written (a full disk). What was written stays valid.
        """
        with self.opened() as (journal, left):
            if left:
                for outcome, rows in self.asker.ask(left, journal.frames()):
                    for row in rows:
                        journal.add(row)
                    if outcome is not None:
                        yield outcome

    @contextmanager
    def opened(self) -> Iterator[tuple[Journal, list[Item]]]:
        """Open the journal and bring it up to date with the sources.

        Yields:
            The journal, and the items that are left.
        """
        with Journal(self.path, self.settings, shared=self._shared) as journal:
            self.notes = self._update(journal)
            for note in self.notes:
                _LOG.warning(note)
            left = journal.names("NOT complete")
            yield journal, [item for item in self.items if item.name in left]

    def run_all(self) -> list[Outcome]:
        """Ask about everything that is left and return the outcomes; `stream` keeps none."""
        return list(self.stream())

    def num_left(self) -> int:
        """Count the images and videos that have no complete answer in the journal."""
        if not self.path.exists():
            return len(self.items)
        with self._answers() as answers:
            done = answers.names("complete")
            return sum(item.name not in done for item in self.items)

    def num_unread(self) -> int:
        """Count the images and frames that could not be read."""
        with self._answers() as answers:
            return answers.num_unread()

    def results(self) -> Iterator[dict[str, Any]]:
        """Yield all answers in the order of the sources, as `to_dict` wrote them."""
        with self._answers() as answers:
            yield from answers.results()

    def write_coco(self, path: str | Path) -> int:
        """Write all objects as one COCO file; see `write_coco_file`."""
        with self._answers() as answers:
            return answers.write_coco(path)

    def write_json_lines(self, path: str | Path) -> int:
        """Write all answers and failures as JSON lines; see `write_json_lines`."""
        with self._answers() as answers:
            return answers.write_json_lines(path)

    @contextmanager
    def _answers(self) -> Iterator[Answers]:
        """Open the journal for reading; without the run in it there are no answers."""
        # As the journal has them: tuples are lists.
        settings = json.loads(json.dumps(self.settings))
        run = next((run for run, given, _, _ in runs_in(self.path) if given == settings), None)
        answers = _gather(()) if run is None else Answers(connect(self.path), run, str(self.path))
        with closing(answers.db):
            yield answers

    def _update(self, journal: Journal) -> list[str]:
        """Bring the journal up to date with the sources; return notes on what changed."""
        notes = []
        # 1. Items that came or went.
        digest, count = journal.listed()
        if digest != self.listing:
            gone = journal.list_items(
                [item.name for item in self.items],
                listing=self.listing,
                num_listed=self.num_listed,
                places=[item.at for item in self.items],
                keep=self._shared,
            )
            if digest is not None and not self._shared:
                notes.append(f"the sources have changed: {count} then, {self.num_listed} now")
                notes += [f"gone: {_some(gone)}"] if gone else []
        # 2. Files that were replaced.
        stamps = journal.stamps()
        replaced = [
            item.name
            for item in self.items
            if item.name in stamps and not item.is_unchanged(stamps[item.name])
        ]
        if replaced:
            journal.forget(replaced)
            notes.append(f"replaced since, and asked again: {_some(replaced)}")
        # 3. Files that could not be read.
        if self._retry and (failed := journal.forget_failures()):
            notes.append(f"read again: {_some(failed)}")
        return notes


class Merged(Answers):
    """The answers of several journals of one job.

    Attributes:
        missing: What is not answered yet, in words; empty if the job is complete.
    """

    missing: tuple[str, ...] = ()


def _gather(paths: Iterable[Path]) -> Merged:
    """Copy the runs of several journals into one temporary database, which the system cleans up.

    Raises:
        DataError: If an item is in two of them.
    """
    with reported_errors("merge"):
        # 1. Create a temporary database with one run.
        db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        merged = Merged(db, 1, "merge")
        weakref.finalize(merged, db.close)  # else Python 3.13 warns of an open connection
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
                    "INSERT INTO answer (item, frame, failed, result) "
                    "SELECT mine.id, frame, failed, result FROM part.answer "
                    "JOIN part.item AS theirs ON theirs.id = part.answer.item "
                    "JOIN main.item AS mine ON mine.run = 1 AND mine.name = theirs.name"
                )
            except sqlite3.IntegrityError as error:
                raise DataError(f"{path}: has items that another journal has, too") from error
            db.execute("DETACH part")
    return merged


def merge(journals: Iterable[str | Path], *, partial: bool = False) -> Merged:
    """Bring together the journals of all shards (``--shard 1/3`` to ``3/3``) of one job.

    Args:
        journals: Their files, in any order.
        partial: Accept a job that is not complete.

    Raises:
        OptionError: If they are not of one job, a shard occurs twice, or, without ``partial``,
            something is missing.
        DataError: If one of them is not a journal.
    """
    # 1. Read the run of each journal.
    parts: list[tuple[Path, Shard, dict[str, Any], str | None, int]] = []
    for path in map(Path, journals):
        runs = runs_in(path)
        if len(runs) != 1:
            raise OptionError(f"{path}: contains {len(runs)} runs; merge takes journals of one")
        _, settings, listing, num_listed = runs[0]
        shard = Shard.parse(str(settings.pop("shard", None) or "1/1"))
        parts.append((path, shard, settings, listing, num_listed))
    if not parts:
        raise OptionError("journals: expected at least one file, got none")
    # 2. Require one job: the same settings, listing and number of shards, and each shard once.
    first, first_shard, first_settings, first_listing, first_count = parts[0]
    seen: dict[Shard, Path] = {}
    for path, shard, settings, listing, num_listed in parts:
        names = {*settings, *first_settings}
        if other := [
            name for name in sorted(names) if settings.get(name) != first_settings.get(name)
        ]:
            raise OptionError(f"{path}: is of another job than {first} (other {', '.join(other)})")
        if shard.count != first_shard.count:
            raise OptionError(f"{path}: is shard {shard}, and {first} is shard {first_shard}")
        if shard in seen:
            raise OptionError(f"{path}: shard {shard} occurs twice ({seen[shard]})")
        seen[shard] = path
        if listing is not None and first_listing is not None and listing != first_listing:
            raise OptionError(
                f"{path}: was made of {num_listed} images and videos (listing {listing[:8]}), "
                f"{first} of {first_count} (listing {first_listing[:8]}): the sources differ; run "
                "all shards on the same images"
            )
    # 3. Require a complete job: each shard present, and each item answered.
    absent = {*range(1, first_shard.count + 1)} - {shard.number for shard in seen}
    missing = [f"no journal of shard {number}/{first_shard.count}" for number in sorted(absent)]
    for path, _, _, listing, _ in parts:
        with closing(connect(path)) as db:
            part = Answers(db, 1, str(path))
            if listing is None:
                missing.append(f"{path} was stopped before it began")
            elif left := part.num_left():
                missing.append(f"{left} of {part.count('WHERE run = ?')} left in {path}")
    if missing and not partial:
        raise OptionError(
            f"the job is not complete: {'; '.join(missing)}; run what is missing, or accept that "
            "(--partial)"
        )
    # 4. Copy the answers into one database.
    merged = _gather(path for path, *_ in parts)
    merged.missing = tuple(missing)
    return merged


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
