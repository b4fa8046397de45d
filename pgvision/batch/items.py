"""Items of a job: a fixed list of images and videos, with file fingerprints."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pgvision.batch.journal import Stamp
from pgvision.errors import OptionError, PgvisionError
from pgvision.files import readable_name, user_path
from pgvision.http import hide_secrets
from pgvision.images import is_live
from pgvision.images.containers import LIST_ENDINGS, TAR_ENDING, TarImage, list_tar, read_list
from pgvision.images.listing import is_glob, list_folder, list_glob

_WHOLE: Final = 64 << 20  # bytes; of larger files (videos) only both ends are digested
_END: Final = 1 << 20
_MOST_SHARDS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Item:
    """An image or a video.

    Attributes:
        name: Its name in the journal, relative to the source.
        source: Path or address that is opened.
        packed: Its place in a tar file; None for a file.
        fault: Why this entry of a list cannot be read; "" for an image.
        at: Its place among all items of the job, those of other shards included.
    """

    name: str
    source: str
    packed: TarImage | None = None
    fault: str = ""
    at: int = 0

    @property
    def place(self) -> str:
        """Absolute path or address: the same for every spelling."""
        if self.packed is not None:
            return self.packed.name
        if self.fault:
            return f"{self.source}, {self.name}"
        return self.source if "://" in self.source else str(Path(self.source).absolute())

    @property
    def stamp(self) -> Stamp | None:
        """Fingerprint of the file now; None for an address."""
        return None if self.fault or "://" in self.source else stamp_of(Path(self.source))

    def is_unchanged(self, stamp: Stamp | None) -> bool:
        """Whether it equals the fingerprint; bytes are read only if the time differs."""
        if self.fault:
            return True
        # 1. Files; addresses are never asked again.
        if self.packed is None:
            return "://" in self.source or is_same_file(Path(self.source), stamp)
        # 2. Members of a tar file: time and size, else the bytes.
        if stamp is None or self.packed.changed == stamp[1]:
            return stamp is None or self.packed.size == stamp[0]
        try:
            return packed_stamp(self.packed, self.packed.read())[2] == stamp[2]
        except PgvisionError:
            return False


@dataclass(frozen=True)
class Shard:
    """One of several parts of a job, by the hash of each name: ``3/16``.

    Attributes:
        number: From 1.
        count: Number of parts.

    Raises:
        OptionError: If the numbers are out of range.
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

    def contains(self, name: str) -> bool:
        """Whether this part contains an item.

        Example:
            >>> [Shard(number, 3).contains("a.jpg") for number in (1, 2, 3)].count(True)
            1
        """
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def __str__(self) -> str:
        """Return the form that `parse` reads."""
        return f"{self.number}/{self.count}"


def list_items(sources: Iterable[str], *, recursive: bool = False) -> list[Item]:
    """List all images and videos of the sources, each once, in their order.

    Names are relative to the source: to the folder, to the fixed part of a pattern, to the list or
    tar file that names them. The same images have the same names wherever they are mounted. Where
    two sources would give one name, as many parent folders are added as tell them apart.

    Args:
        sources: Images, videos, folders, globs, lists (``.txt``, ``.jsonl``, ``.csv``; see
            `pgvision.images.containers.read_list`), tar files, addresses of files. A path that
            does not exist stays in the list and fails when it is read; a tar file must exist.
        recursive: Take folders with their subfolders.

    Raises:
        OptionError: For a camera or another live source, which cannot be read a second time.
        SourceError: For an empty folder, list or pattern.
        DataError: For a list that cannot be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a/1.jpg", "b/1.jpg", "b/2.jpg"):
        ...     (folder / name).parent.mkdir(exist_ok=True)
        ...     (folder / name).touch()
        >>> [item.name for item in list_items([f"{folder}/b"])]
        ['1.jpg', '2.jpg']
        >>> [item.name for item in list_items([f"{folder}/a", f"{folder}/b"])]
        ['a/1.jpg', 'b/1.jpg', '2.jpg']
    """
    # 1. Two spellings of one path are one item.
    found: dict[str, Item] = {}
    for source in sources:
        for item in _expanded(source, recursive):
            found.setdefault(item.place, item)
    # 2. Names must be unique: the journal finds items by them.
    names = _unique_names(list(found.values()))
    named = enumerate(zip(names, found.values(), strict=True))
    return [replace(item, name=name, at=at) for at, (name, item) in named]


def listing_digest(items: Iterable[Item]) -> str:
    """Fingerprint the names and their order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(item.name.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:32]


def stamp_of(path: Path) -> Stamp | None:
    """Fingerprint a file: size, modification time and digest; None if it does not exist.

    Example:
        >>> stamp_of(Path("no/such/file")) is None
        True
    """
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            digest = hashlib.sha256()
            # Of large files (videos) only the start and the end are read.
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
    """Whether a file equals a fingerprint; bytes are read only if the time differs."""
    try:
        about = path.stat()
    except (OSError, ValueError):
        return stamp is None  # it was missing before, too
    if stamp is None or about.st_size != stamp[0]:
        return False
    if about.st_mtime_ns == stamp[1]:
        return True
    now = stamp_of(path)
    return now is not None and now[2] == stamp[2]


def packed_stamp(packed: TarImage, data: bytes) -> Stamp:
    """Fingerprint an image of a tar file, from its bytes."""
    return packed.size, packed.changed, hashlib.sha256(data).hexdigest()[:32]


# --- what sources contain --------------------------------------------------------------------


def _unique_names(found: list[Item]) -> list[str]:
    names = [readable_name(item.name) for item in found]
    # Add one parent folder after the other, until all names differ.
    for depth in range(1, 64):
        count = Counter(names)
        if len(count) == len(names):
            return names
        names = [
            name if count[name] == 1 else _tail(item, depth)
            for name, item in zip(names, found, strict=True)
        ]
    return [f"{number}/{name}" for number, name in enumerate(names)]


def _tail(item: Item, depth: int) -> str:
    parts = Path(hide_secrets(item.place)).parts
    return readable_name("/".join(parts[-(len(Path(item.name).parts) + depth) :]))


def _expanded(source: str, recursive: bool, *, lists: bool = True) -> Iterator[Item]:
    if not source.strip():
        raise OptionError("sources: expected a path, got an empty string")
    # 1. Cameras and addresses.
    if is_live(source):
        raise OptionError(
            f"{hide_secrets(source)}: is a live source, which cannot be read again, so that a "
            "job cannot resume; use the task itself (pgvision detect), or record it to a file"
        )
    if "://" in source:
        yield Item(hide_secrets(source), source)
        return
    # 2. Folders, files, patterns; what does not exist is reported as a failure.
    path = user_path(source)
    if path.is_dir():
        yield from _under(path, list_folder(path, recursive=recursive))
    elif path.is_file():
        yield from _in_file(path, path.parent, recursive, lists)
    elif not path.exists() and is_glob(source):
        for file in list_glob(source):
            yield from _in_file(file, _fixed_part(path), recursive, lists=True)
    else:
        yield Item(path.name, str(path))


def _under(root: Path, files: Iterable[Path]) -> Iterator[Item]:
    for file in files:
        name = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
        yield Item(name.as_posix(), str(file))


def _fixed_part(pattern: Path) -> Path:
    """Return the folder above the first part of a pattern that has wildcards."""
    fixed = pattern
    while is_glob(str(fixed)):
        fixed = fixed.parent
    return fixed


def _in_file(path: Path, root: Path, recursive: bool, lists: bool) -> Iterator[Item]:
    if path.suffix.lower() == TAR_ENDING:
        (tar,) = _under(root, [path])
        for packed in list_tar(str(path)):
            yield Item(tar.name + packed.name.removeprefix(str(path)), packed.path, packed)
    elif path.suffix.lower() not in LIST_ENDINGS:
        yield from _under(root, [path])
    elif not lists:
        raise OptionError(f"{path}: a list within a list is not followed; name it as a source")
    else:
        yield from _in_list(path, recursive)


def _in_list(path: Path, recursive: bool) -> Iterator[Item]:
    """Expand a list; a relative entry is its own name."""
    for number, entry in read_list(path):
        # 1. An entry that cannot be read is a failure in its place.
        if not isinstance(entry, str):
            yield Item(f"{path.name}#{number}", str(path), fault=str(entry))
            continue
        # 2. An address is its own name.
        if "://" in entry:
            yield from _expanded(entry, recursive, lists=False)
            continue
        # 3. A path is relative to the list, and named so if it is below it.
        at = path.parent / user_path(entry)
        for item in _expanded(str(at), recursive, lists=False):
            below = Path(item.source).is_relative_to(path.parent) and item.packed is None
            name = Path(item.source).relative_to(path.parent).as_posix() if below else item.name
            yield Item(name, item.source, item.packed)
