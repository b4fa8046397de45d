"""Options of images; file kinds (endings, first bytes, skipped names); folders -> files in order.

Imports no OpenCV and no numpy, so that ``--help`` is fast.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Final, Literal

from pgvision.errors import SourceError
from pgvision.files import user_path

Color = Literal["bgr", "rgb"]  # the order of an array's channels
OnError = Literal["raise", "skip", "record"]  # what to do about an image that cannot be read

IMAGE_ENDINGS: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp"}
    | {".tif", ".tiff", ".avif", ".jp2", ".j2k", ".pbm", ".pgm", ".ppm", ".pnm", ".tga", ".ico"}
    | {".heic", ".heif"}
)
VIDEO_ENDINGS: Final = frozenset(
    {".mp4", ".m4v", ".avi", ".mov", ".qt", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts"}
    | {".m2ts", ".wmv", ".flv", ".3gp", ".ogv"}
)
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*")
_VIDEO_STARTS = (b"\x1a\x45\xdf\xa3", b"FLV\x01", b"OggS", b"\0\0\x01\xba", b"\x30\x26\xb2\x75")
_ARCHIVE_STARTS = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7-Zip",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_STILL_BRANDS = frozenset({b"avif", b"avis", b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1"})
_ISO_BOXES: Final = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})
# Files that file managers and network drives add to image folders.
_SYSTEM_NAMES = frozenset({"__macosx", "@eadir", "$recycle.bin", "thumbs.db", "desktop.ini"})
_DIGITS = re.compile(r"(\d+)")
_MAGIC = re.compile(r"[*?\[]")

Kind = Literal["image", "video"]


def sniff(start: bytes) -> Kind | None:
    """Distinguish images from videos by the first 16 bytes; None if they match neither.

    Example:
        >>> sniff(b"GIF89a"), sniff(b"RIFF....AVI LIST"), sniff(b"hello")
        ('image', 'video', None)
    """
    if start.startswith(_IMAGE_STARTS):
        return "image"
    if start.startswith(_VIDEO_STARTS):
        return "video"
    if start[:4] == b"RIFF":
        return {b"WEBP": "image", b"AVI ": "video"}.get(start[8:12])  # type: ignore[return-value]
    if start[4:8] == b"ftyp":
        return "image" if start[8:12] in _STILL_BRANDS else "video"
    return "video" if start[4:8] in _ISO_BOXES else None


def archive_kind(start: bytes) -> str | None:
    r"""Return the name of a compressed archive by its first bytes, or None.

    Example:
        >>> archive_kind(b"\x1f\x8b\x08"), archive_kind(b"GIF89a")
        ('gzip', None)
    """
    kinds = (kind for magic, kind in _ARCHIVE_STARTS.items() if start.startswith(magic))
    return next(kinds, None)


def is_ignored(path: str | PurePath) -> bool:
    """Whether a name is skipped in folders, patterns, tar files and stores.

    Left out are hidden files and folders (``.ipynb_checkpoints``, macOS' ``._a.jpg``), folders of
    file managers (``__MACOSX``), and overlays that pgvision wrote (``a.overlay.jpg``).

    Args:
        path: Relative to the folder, archive or store: every part of it counts.

    Example:
        >>> [is_ignored(name) for name in ("._1.jpg", "__MACOSX/1.jpg", "a.overlay.jpg", "a/1.jpg")]
        [True, True, True, False]
    """
    # Text only: a `PurePath` for each of 100,000 names takes a second.
    parts = str(path).replace(os.sep, "/").split("/")
    hidden = any(
        (part.startswith(".") and part not in (".", "..")) or part.casefold() in _SYSTEM_NAMES
        for part in parts
    )
    return hidden or parts[-1].rpartition(".")[0].endswith(".overlay")


def is_media(path: str | PurePath) -> bool:
    """Whether a name ends like an image or a video.

    Example:
        >>> is_media("a.JPG"), is_media("a.mp4"), is_media("a.txt")
        (True, True, False)
    """
    return PurePath(path).suffix.lower() in IMAGE_ENDINGS | VIDEO_ENDINGS


def natural_key(path: PurePath) -> list[tuple[list[tuple[int, int, str]], str]]:
    """Sort key under which ``2.jpg`` comes before ``10.jpg``, folder by folder.

    Example:
        >>> names = ["b/1.jpg", "a/10.jpg", "a/2.jpg"]
        >>> [path.as_posix() for path in sorted(map(Path, names), key=natural_key)]
        ['a/2.jpg', 'a/10.jpg', 'b/1.jpg']
    """
    return [(_part_key(part.casefold()), part) for part in path.parts]


def _part_key(part: str) -> list[tuple[int, int, str]]:
    pieces = _DIGITS.split(part)
    return [(0, int(p), "") if i % 2 else (1, 0, p) for i, p in enumerate(pieces) if p]


def list_folder(folder: Path, *, recursive: bool) -> list[Path]:
    """List the images and videos of a folder, by their endings, in natural order.

    Args:
        folder: The folder. Names that `is_ignored` excludes are left out; links to files and
            folders are followed.
        recursive: Include subfolders.

    Returns:
        Paths that begin with ``folder``.

    Raises:
        SourceError: If the folder, or one below it, cannot be read, or contains no image or video.
    """
    try:
        found = list(walk(folder, is_media, recursive=recursive))
    except OSError as error:
        raise SourceError(f"{folder}: the folder cannot be read: {error}") from error
    if not found:
        hint = "" if recursive else "; subfolders are read with recursive=True (--recursive)"
        raise SourceError(f"{folder}: no image or video in this folder{hint}")
    return sorted(found, key=natural_key)


def walk(
    folder: Path,
    is_wanted: Callable[[str], bool],
    *,
    recursive: bool = True,
    above: frozenset[str] = frozenset(),
) -> Iterator[Path]:
    """Yield the files of a folder by their names; links to folders are followed, loops broken.

    Args:
        folder: The folder.
        is_wanted: Whether a file counts, by its name; what `is_ignored` excludes never does.
        recursive: Include subfolders.
        above: Real paths of the folders that led here.

    Raises:
        OSError: If a folder cannot be read.
    """
    # A link to a folder above would never end.
    above |= {os.path.realpath(folder)}
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_ignored(entry.name):
                continue
            if entry.is_dir():
                if recursive and os.path.realpath(entry.path) not in above:
                    yield from walk(Path(entry.path), is_wanted, above=above)
            elif is_wanted(entry.name):
                yield Path(entry.path)


def is_glob(text: str) -> bool:
    """Whether a path contains ``*``, ``?`` or ``[``.

    Example:
        >>> is_glob("photos/*.jpg"), is_glob("photos/1.jpg")
        (True, False)
    """
    return _MAGIC.search(text) is not None


def list_glob(pattern: str) -> list[Path]:
    """List the files that a pattern matches (``**``: at any depth), in natural order.

    If some are images or videos, all others are left out: ``data/*`` does not fail on label files.
    Names that `is_ignored` excludes are left out, unless the pattern names them (``.cache/*.jpg``,
    ``*.overlay.jpg``). Folders that are there as they are written are no pattern
    (``site [2024]/*.jpg``).

    Raises:
        SourceError: If nothing matches.
    """
    # 1. The folders above the first part with wildcards.
    parts = user_path(pattern).parts
    patterns = (n for n in range(len(parts)) if is_glob(parts[n]))
    fixed = next((n for n in patterns if not Path(*parts[: n + 1]).is_dir()), len(parts) - 1)
    base = Path(*parts[:fixed])
    try:
        # Links to nothing stay, as in folders: they are failures and not left out.
        found = [path for path in base.glob("/".join(parts[fixed:])) if not path.is_dir()]
    except (OSError, ValueError) as error:
        raise SourceError(f"{pattern}: the pattern cannot be followed: {error}") from error
    # 2. Leave out what folders leave out, and label files next to images.
    if not any(is_ignored(part) for part in parts[fixed:]):
        found = [path for path in found if not is_ignored(path.relative_to(base))]
    if not found:
        raise SourceError(f"{pattern}: no file matches (looked from {Path.cwd()})")
    media = [path for path in found if is_media(path)]
    return sorted(media or found, key=natural_key)
