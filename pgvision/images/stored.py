"""Images in tar files (WebDataset) and in object stores.

Nothing is unpacked: a member is read at its offset. Stores are those of pyarrow's file systems
(``s3://``, ``gs://``, ``abfs://``, ``hdfs://``), with their own credentials and settings.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import IO, Any, Final

from pgvision.errors import ImageError, SourceError, require_module
from pgvision.files import readable_name
from pgvision.http import hide_secrets
from pgvision.images.listing import IMAGE_ENDINGS, is_ignored, natural_key, sniff
from pgvision.images.pixels import Frame
from pgvision.images.reading import decode_frames, decode_image

_STORE: Final = re.compile(r"(s3|gs|gcs|abfss?|hdfs|viewfs)://", re.IGNORECASE)
_MOST_BYTES: Final = 1 << 31
_MOST_OF_A_HEADER: Final = 1 << 20
_TAR: Final = ".tar"


@dataclass(frozen=True, slots=True)
class Stored:
    """Location of an image.

    Attributes:
        name: ``"shards/0.tar/12.jpg"`` or ``"s3://bucket/12.jpg"``, without secrets.
        source: As the user named it: the tar file, or an address with its credentials.
        path: Path of the file that contains it, in its file system.
        start: Offset in the tar file; 0 for an object.
        size: Number of bytes.
        changed: Modification time of that file in ns; 0 if unknown.
    """

    name: str
    source: str
    path: str
    start: int
    size: int
    changed: int

    def read(self) -> bytes:
        """Read the bytes.

        Raises:
            SourceError: If it cannot be read, or ends too early.
            ImageError: If it is too large for an image.
        """
        # 1. The header of a damaged tar file may declare any size.
        if not 0 <= self.size <= _MOST_BYTES:
            raise ImageError(f"{self.name}: {self.size} bytes are too many for an image")
        try:
            with _opened(self.source, self.path) as file:
                file.seek(self.start)
                data = file.read(self.size)
        except (OSError, ValueError, OverflowError) as error:
            raise SourceError(f"{self.name}: cannot be read: {error}") from error
        # 2. A file that was cut, or replaced since it was listed.
        if len(data) < self.size:
            raise SourceError(f"{self.name}: {len(data)} of {self.size} bytes; was it cut short?")
        return data

    def frame(self, data: bytes) -> Frame:
        """Decode the bytes; of several pages or frames the first one, with a warning.

        Raises:
            ImageError: If they are not an image.
        """
        self._require_image(data)
        return Frame(decode_image(data, self.name), self.name)

    def frames(self) -> Iterator[Frame]:
        """Read and decode the image.

        Yields:
            All its pages or frames.

        Raises:
            SourceError: If it cannot be read.
            ImageError: If it is not an image.
        """
        data = self.read()
        self._require_image(data)
        yield from decode_frames(data, self.name)

    def _require_image(self, data: bytes) -> None:
        if sniff(data[:16]) == "video":
            raise ImageError(f"{self.name}: is a video; videos are only read from files")


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
    """List the images of a tar file (in its order), or of a store (in natural order).

    Names that `is_ignored` excludes are left out, as in folders.

    Args:
        source: A path, or the address of an object, a tar file, or a folder of either.
        recursive: Take folders of stores with their subfolders.

    Raises:
        SourceError: If it cannot be read, contains no image, or a tar file is compressed or has
            members with names outside of it.
        DependencyError: For a store, if pyarrow is not installed.
    """
    # 1. A tar file on this machine.
    if _STORE.match(source) is None:
        try:
            changed = Path(source).stat().st_mtime_ns
        except (OSError, ValueError) as error:
            raise SourceError(f"{source}: cannot be opened: {error}") from error
        return _members(source, source, source, changed)
    # 2. Objects of a store; tar files among them by their members.
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
        raise SourceError(f"{hide_secrets(source)}: no image here{hint}")
    return found


def _members(name: str, source: str, path: str, changed: int) -> list[Stored]:
    try:
        with (
            _opened(source, path) as file,
            tarfile.open(fileobj=_Headers(file), mode="r:") as tar,  # type: ignore[call-overload]
        ):
            found = []
            for member in _walked(tar):
                # Keep regular image files; sparse members are not stored in one piece.
                is_image = Path(member.name).suffix.lower() in IMAGE_ENDINGS and member.isreg()
                if not is_image or member.issparse():  # sparse: not stored in one piece
                    continue
                inside = _inside(member.name, name)
                if not is_ignored(inside):
                    full = readable_name(f"{name}/{inside}")
                    span = member.offset_data, member.size
                    found.append(Stored(full, source, path, *span, changed))
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise SourceError(
            f"{name}: expected a whole tar file, not compressed (members of one that is cannot be "
            f"reached one by one): {error}"
        ) from error
    if not found:
        raise SourceError(f"{name}: no image in this tar file")
    return found


class _Headers:
    """Tar header reader; a header that declares gigabytes for a name is refused."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MOST_OF_A_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def _walked(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        yield member
        tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all


def _inside(member: str, name: str) -> str:
    """Return a member's name without ``./``; refuse one that would lead elsewhere as a path."""
    parts = PureWindowsPath(member).parts  # knows both separators, and drives
    if PureWindowsPath(member).anchor or ".." in parts or "\0" in member:
        raise SourceError(f"{name}: the member {member!r:.80} leads outside of it")
    return "/".join(parts)


def _objects(source: str, recursive: bool) -> list[tuple[str, int, int]]:
    system, root = _system(source)
    from pyarrow.fs import FileSelector, FileType

    try:
        # 1. List the store.
        about = system.get_file_info(root)
        if about.type == FileType.NotFound:
            raise SourceError(f"{hide_secrets(source)}: no such object or folder")
        if about.type == FileType.File:
            infos = [about]
        else:
            infos = system.get_file_info(FileSelector(root, recursive=recursive))
    except (OSError, ValueError) as error:
        raise SourceError(f"{hide_secrets(source)}: cannot be listed: {error}") from error
    # 2. Keep images and tar files.
    wanted = []
    for info in infos:
        inside = info.path.removeprefix(root).lstrip("/")
        is_wanted = Path(info.path).suffix.lower() in IMAGE_ENDINGS | {_TAR}
        if info is about or (info.type == FileType.File and is_wanted and not is_ignored(inside)):
            wanted.append((info.path, int(info.size), int(info.mtime_ns or 0)))
    return sorted(wanted, key=lambda entry: natural_key(Path(entry[0])))


def _address(source: str, path: str) -> str:
    return f"{source.partition('://')[0]}://{path}"


def _opened(source: str, path: str) -> IO[bytes]:
    if _STORE.match(source) is None:
        return Path(path).open("rb")
    file: IO[bytes] = _system(source)[0].open_input_file(path)
    return file


@lru_cache(maxsize=64)
def _system(source: str) -> tuple[Any, str]:
    missing = f"{hide_secrets(source)}: stores need pyarrow: pip install pyarrow"
    stores = require_module("pyarrow.fs", missing)
    try:
        system, path = stores.FileSystem.from_uri(source)
    except (OSError, ValueError) as error:
        raise SourceError(f"{hide_secrets(source)}: not the address of a store: {error}") from error
    return system, path
