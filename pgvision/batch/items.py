"""What a job is asked about: a fixed list of pictures and videos, and what the files were."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from pgvision.errors import DataError, OptionError, SourceError
from pgvision.images import is_live
from pgvision.images.listing import is_glob, list_folder, list_glob, list_text

Stamp: TypeAlias = tuple[int, int, str]  # bytes, time of the last change in ns, digest

_NAME_KEYS: Final = ("image", "file_name", "path")
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
    """

    name: str
    at: int
    source: str

    @property
    def stamp(self) -> Stamp | None:
        """What the file is now; None for what is no file."""
        return None if "://" in self.source else stamp_of(Path(self.source))


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
        sources: Pictures, videos, folders, globs, ``.txt`` lists of paths, ``.jsonl`` manifests
            whose lines have ``image``, ``file_name`` or ``path`` (relative to the manifest), and
            addresses of files. What is named and not there stays in the list, and fails when it
            is read.
        recursive: Take folders with their subfolders.

    Raises:
        OptionError: For a camera or another live source, which no second run can read again.
        SourceError: For an empty folder, list or pattern.
        DataError: For a manifest that is none.
    """
    places: dict[str, str] = {}
    for source in sources:
        for found in _expanded(source, recursive):
            name = _name(found)
            places.setdefault(name, found)
    return [Item(name, at, found) for at, (name, found) in enumerate(places.items())]


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


def _name(source: str) -> str:
    from pgvision.images.capture import without_password

    return without_password(source) if "://" in source else str(Path(source).expanduser())


def _expanded(source: str, recursive: bool, *, lists: bool = True) -> Iterator[str]:
    if not source.strip():
        raise OptionError("sources: expected a path, got an empty string")
    if "://" in source or (source.isascii() and source.isdecimal()):
        if is_live(source):
            raise OptionError(
                f"{_name(source)}: is live: what it showed cannot be read again, so that a job "
                "cannot go on; leave --resume out, or record it to a file first"
            )
        yield source
        return
    path = Path(source).expanduser()
    if path.is_dir():
        yield from map(str, list_folder(path, recursive=recursive))
    elif path.is_file() and path.suffix.lower() in (".txt", ".jsonl"):
        if not lists:
            raise OptionError(f"{path}: a list within a list is not followed; name it as a source")
        reader = _manifest_names if path.suffix.lower() == ".jsonl" else _list_names
        for entry in reader(path):
            inner = entry if "://" in entry else str(path.parent / Path(entry).expanduser())
            yield from _expanded(inner, recursive, lists=False)
    elif not path.exists() and is_glob(source):
        yield from map(str, list_glob(source))
    else:
        yield str(path)


def _list_names(file: Path) -> list[str]:
    return [entry for _, entry in list_text(file)]


def _manifest_names(file: Path) -> Iterator[str]:
    count = 0
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _named_in(line, f"{file}, line {number}")
                    count += 1
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{file}: expected a UTF-8 manifest: {error}") from error
    if not count:
        raise SourceError(f"{file}: the manifest names no picture")


def _named_in(line: str, where: str) -> str:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: expected a JSON object, got {line.strip():.40}") from error
    for key in _NAME_KEYS:
        if isinstance(entry, dict) and isinstance(entry.get(key), str) and entry[key].strip():
            return str(entry[key])
    raise DataError(f"{where}: expected an object with one of {', '.join(_NAME_KEYS)}, a path")
