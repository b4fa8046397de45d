"""What a job is asked about: a fixed list of pictures and videos, and what the files were."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pgvision.errors import OptionError, PgvisionError
from pgvision.images import is_live
from pgvision.images.capture import without_password
from pgvision.images.listing import is_glob, list_folder, list_glob
from pgvision.images.manifests import MANIFEST_ENDINGS, read_manifest
from pgvision.images.stored import Stored, is_stored, list_stored

Stamp: TypeAlias = tuple[int, int, str]  # bytes, time of the last change in ns, digest

_WHOLE: Final = 64 << 20  # of a larger file (a video) only both ends are digested
_END: Final = 1 << 20
_MOST_SHARDS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Item:
    """A picture or a video.

    Attributes:
        name: What it is called in the journal: its path as it was reached, or its address.
        at: Its place among all items of the job, of other shards too.
        source: What is opened.
        stored: Where it lies, if it is no file of its own.
    """

    name: str
    at: int
    source: str
    stored: Stored | None = None

    @property
    def stamp(self) -> Stamp | None:
        """What the file is now; None for what is no file."""
        return None if "://" in self.source else stamp_of(Path(self.source))

    def is_unchanged(self, stamp: Stamp | None) -> bool:
        """Whether it is what it was; its bytes are only read where its time says otherwise."""
        if self.stored is None:
            return "://" in self.source or is_same_file(Path(self.source), stamp)
        if stamp is None or self.stored.changed == stamp[1]:
            return stamp is None or self.stored.size == stamp[0]
        try:
            return stored_stamp(self.stored, self.stored.read())[2] == stamp[2]
        except PgvisionError:
            return False


@dataclass(frozen=True)
class Shard:
    """One of several parts of a job, by the hash of each name: ``3/16``.

    Attributes:
        number: From 1.
        count: How many there are.

    Raises:
        OptionError: If there is no such part.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.number <= self.count <= _MOST_SHARDS:
            raise OptionError(
                f"shard: expected 1/n to n/n with n up to {_MOST_SHARDS}, got "
                f"{self.number}/{self.count}"
            )

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read ``3/16``.

        Raises:
            OptionError: If it is not two whole numbers.

        Example:
            >>> Shard.parse("3/16")
            Shard(number=3, count=16)
        """
        number, slash, count = text.partition("/")
        if not slash or not (number.isdecimal() and count.isdecimal() and text.isascii()):
            raise OptionError(f"shard: expected two numbers like 3/16, got {text!r}")
        return cls(int(number), int(count))

    def holds(self, name: str) -> bool:
        """Whether an item is of this part.

        Example:
            >>> [Shard(number, 3).holds("a.jpg") for number in (1, 2, 3)].count(True)
            1
        """
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def __str__(self) -> str:
        """Write it as `parse` reads it."""
        return f"{self.number}/{self.count}"


def list_items(sources: Iterable[str], *, recursive: bool = False) -> list[Item]:
    """List all pictures and videos that sources hold, each once, in their order.

    Args:
        sources: Pictures, videos, folders, globs, lists (``.txt``, ``.jsonl``, ``.parquet``; see
            `pgvision.images.manifests.read_manifest`), tar files, addresses of files, of objects
            in stores and of their folders. What is named and not there stays in the list, and
            fails when it is read; a tar file or store must be there.
        recursive: Take folders with their subfolders.

    Raises:
        OptionError: For a camera or another live source, which no second run can read again.
        SourceError: For an empty folder, list or pattern.
        DataError: For a manifest that is none.
        DependencyError: For Parquet and stores, if pyarrow is not installed.
    """
    places: dict[str, str | Stored] = {}
    for source in sources:
        for found in _expanded(source, recursive):
            places.setdefault(_name(found), found)
    return [
        Item(name, at, found)
        if isinstance(found, str)
        else Item(name, at, found.source, stored=found)
        for at, (name, found) in enumerate(places.items())
    ]


def listing_digest(items: Iterable[Item]) -> str:
    """Fingerprint the names and their order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(item.name.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:32]


def stamp_of(path: Path) -> Stamp | None:
    """Fingerprint a file: its size, its time of change, and a digest; None if it is not there.

    Example:
        >>> stamp_of(Path("no/such/file")) is None
        True
    """
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            digest = hashlib.sha256()
            if about.st_size <= _WHOLE:
                while block := file.read(_END):
                    digest.update(block)
            else:
                digest.update(file.read(_END))
                file.seek(-_END, os.SEEK_END)
                digest.update(file.read(_END))
    except (OSError, ValueError):
        return None
    return about.st_size, about.st_mtime_ns, digest.hexdigest()[:32]


def is_same_file(path: Path, stamp: Stamp | None) -> bool:
    """Whether a file is what it was; its bytes are only read where its time says otherwise."""
    try:
        about = path.stat()
    except (OSError, ValueError):
        return stamp is None
    if stamp is None or about.st_size != stamp[0]:
        return False
    if about.st_mtime_ns == stamp[1]:
        return True
    now = stamp_of(path)
    return now is not None and now[2] == stamp[2]


def stored_stamp(stored: Stored, data: bytes) -> Stamp:
    """Fingerprint a picture in a tar file or a store, whose bytes have been read."""
    return stored.size, stored.changed, hashlib.sha256(data).hexdigest()[:32]


def _name(found: str | Stored) -> str:
    if isinstance(found, Stored):
        return found.name
    return without_password(found) if "://" in found else str(Path(found).expanduser())


def _expanded(source: str, recursive: bool, *, lists: bool = True) -> Iterator[str | Stored]:
    if not source.strip():
        raise OptionError("sources: expected a path, got an empty string")
    if source.lower().startswith("file://"):
        source = url2pathname(urlsplit(source).path)
    if "://" in source or (source.isascii() and source.isdecimal()):
        if is_live(source):
            raise OptionError(
                f"{_name(source)}: is live: what it showed cannot be read again, so that a job "
                "cannot go on; leave --resume out, or record it to a file first"
            )
        yield from list_stored(source, recursive=recursive) if is_stored(source) else [source]
        return
    path = Path(source).expanduser()
    if path.is_dir():
        yield from map(str, list_folder(path, recursive=recursive))
    elif path.is_file():
        yield from _from_file(path, recursive, lists)
    elif not path.exists() and is_glob(source):
        for file in list_glob(source):
            yield from list_stored(str(file)) if is_stored(file.name) else [str(file)]
    else:
        yield str(path)


def _from_file(path: Path, recursive: bool, lists: bool) -> Iterator[str | Stored]:
    if is_stored(path.name):
        yield from list_stored(str(path))
    elif path.suffix.lower() in MANIFEST_ENDINGS:
        if not lists:
            raise OptionError(f"{path}: a list within a list is not followed; name it as a source")
        for _, entry in read_manifest(path):
            inner = entry if "://" in entry else str(path.parent / Path(entry).expanduser())
            yield from _expanded(inner, recursive, lists=False)
    else:
        yield str(path)
