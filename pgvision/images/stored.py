"""Pictures that are no files of their own: members of tar files (WebDataset), objects in stores.

Nothing is unpacked: a member is read where it lies. Stores are what pyarrow's file systems reach
(``s3://``, ``gs://``, ``abfs://``, ``hdfs://``), with their own credentials and settings.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import IO, Any, Final

from pgvision.errors import DependencyError, ImageError, SourceError
from pgvision.images.capture import without_password
from pgvision.images.containers import IMAGE_ENDINGS, sniff
from pgvision.images.frames import Frame
from pgvision.images.listing import natural_key
from pgvision.images.reading import decode_image

_STORE: Final = re.compile(r"(s3|gs|gcs|abfss?|hdfs|viewfs)://", re.IGNORECASE)
_MOST_BYTES: Final = 1 << 31
_MOST_OF_A_HEADER: Final = 1 << 20
_TAR: Final = ".tar"


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a picture lies.

    Attributes:
        name: ``"shards/0.tar/12.jpg"`` or ``"s3://bucket/12.jpg"``; no password is in it.
        source: What the user named: the tar file, or an address with all that it needs.
        path: Of the file that holds it, in its file system.
        start: Where it begins in a tar file; 0 for an object, which is a picture as a whole.
        size: Its bytes.
        changed: When that file changed, in ns; 0 if nobody knows.
    """

    name: str
    source: str
    path: str
    start: int
    size: int
    changed: int

    def read(self) -> bytes:
        """Read its bytes.

        Raises:
            SourceError: If it cannot be read, or ends too early.
            ImageError: If it is too large to be a picture.
        """
        if not 0 <= self.size <= _MOST_BYTES:
            raise ImageError(f"{self.name}: {self.size} bytes are no picture that is read safely")
        try:
            with _opened(self.source, self.path) as file:
                file.seek(self.start)
                data = file.read(self.size)
        except (OSError, ValueError, OverflowError) as error:
            raise SourceError(f"{self.name}: cannot be read: {error}") from error
        if len(data) < self.size:
            raise SourceError(f"{self.name}: {len(data)} of {self.size} bytes; was it cut short?")
        return data

    def frame(self, data: bytes) -> Frame:
        """Decode its bytes.

        Raises:
            ImageError: If they are no picture.
        """
        if sniff(data[:16]) == "video":
            raise ImageError(f"{self.name}: is a video, and these are read from files alone")
        return Frame(decode_image(data, self.name), self.name)


def is_stored(source: str) -> bool:
    """Whether a source is a store's address or a tar file.

    Example:
        >>> is_stored("s3://bucket/a.jpg"), is_stored("shards/0.tar"), is_stored("a.jpg")
        (True, True, False)
        >>> is_stored("http://host/0.tar")
        False
    """
    return _STORE.match(source) is not None or (
        "://" not in source and source.lower().endswith(_TAR)
    )


def list_stored(source: str, *, recursive: bool = False) -> list[Stored]:
    """List the pictures of a tar file (in its order), or of a store (in natural order).

    Args:
        source: A path, or the address of an object, a tar file, or a folder of either.
        recursive: Take folders of stores with their subfolders.

    Raises:
        SourceError: If it cannot be read, holds nothing, or a tar file is compressed or names what
            lies outside it.
        DependencyError: For a store, if pyarrow is not installed.
    """
    if _STORE.match(source) is None:
        about = _stat(source)
        return _members(source, source, source, about.st_mtime_ns)
    found = [
        one
        for path, size, changed in _objects(source, recursive)
        for one in (
            _members(_address(source, path), source, path, changed)
            if path.lower().endswith(_TAR)
            else [Stored(_address(source, path), source, path, 0, size, changed)]
        )
    ]
    if not found:
        hint = "" if recursive else "; recursive=True (--recursive) looks deeper"
        raise SourceError(f"{without_password(source)}: no picture here{hint}")
    return found


def _stat(path: str) -> Any:
    try:
        return Path(path).stat()
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: cannot be opened: {error}") from error


def _members(name: str, source: str, path: str, changed: int) -> list[Stored]:
    try:
        with (
            _opened(source, path) as file,
            tarfile.open(fileobj=_Headers(file), mode="r:") as tar,  # type: ignore[call-overload]
        ):
            found = [
                Stored(f"{name}/{_inside(one.name, name)}", source, path, *span, changed)
                for one in _walked(tar)
                if Path(one.name).suffix.lower() in IMAGE_ENDINGS and one.isreg()
                # What is sparse does not lie there in one piece.
                for span in ([] if one.issparse() else [(one.offset_data, one.size)])
            ]
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise SourceError(
            f"{name}: expected a whole tar file, not compressed (members of one that is cannot be "
            f"reached one by one): {error}"
        ) from error
    if not found:
        raise SourceError(f"{name}: no picture in this tar file")
    return found


class _Headers:
    """A tar file as its headers are read: one that claims gigabytes for a name gets none."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MOST_OF_A_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def _walked(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (one := tar.next()) is not None:
        yield one
        tar.members = []  # type: ignore[attr-defined]  # it would keep them all


def _inside(member: str, name: str) -> str:
    """Return a member's name without ``./``; refuse one that would lead elsewhere as a path."""
    parts = PureWindowsPath(member).parts  # knows both separators, and drives
    if PureWindowsPath(member).anchor or ".." in parts or "\0" in member:
        raise SourceError(f"{name}: the member {member!r:.80} would lie outside")
    return "/".join(parts)


def _objects(source: str, recursive: bool) -> list[tuple[str, int, int]]:
    system, root = _system(source)
    from pyarrow.fs import FileSelector, FileType

    try:
        about = system.get_file_info(root)
        if about.type == FileType.NotFound:
            raise SourceError(f"{without_password(source)}: no such object or folder")
        if about.type == FileType.File:
            infos = [about]
        else:
            infos = system.get_file_info(FileSelector(root, recursive=recursive))
    except (OSError, ValueError) as error:
        raise SourceError(f"{without_password(source)}: cannot be listed: {error}") from error
    taken = IMAGE_ENDINGS | {_TAR}
    wanted = [
        (one.path, int(one.size), int(one.mtime_ns or 0))
        for one in infos
        if one.type == FileType.File
        and (one is about or Path(one.path).suffix.lower() in taken)
        and (one is about or not one.base_name.startswith("."))
    ]
    return sorted(wanted, key=lambda one: natural_key(Path(one[0])))


def _address(source: str, path: str) -> str:
    return f"{source.partition('://')[0]}://{path}"


def _opened(source: str, path: str) -> IO[bytes]:
    if _STORE.match(source) is None:
        return Path(path).open("rb")
    file: IO[bytes] = _system(source)[0].open_input_file(path)
    return file


@lru_cache(maxsize=64)
def _system(source: str) -> tuple[Any, str]:
    try:
        from pyarrow.fs import FileSystem
    except ImportError as error:
        name = without_password(source)
        raise DependencyError(f"{name}: stores need pyarrow: pip install pyarrow") from error
    try:
        system, path = FileSystem.from_uri(source)
    except (OSError, ValueError) as error:
        raise SourceError(f"{without_password(source)}: no store's address: {error}") from error
    return system, path
