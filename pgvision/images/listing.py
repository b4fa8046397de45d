"""Folders and glob patterns -> image and video files, in natural order."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

from pgvision.errors import SourceError
from pgvision.files import user_path
from pgvision.images.containers import is_ignored, is_media

_DIGITS = re.compile(r"(\d+)")
_MAGIC = re.compile(r"[*?\[]")


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
    parts = user_path(pattern).parts
    fixed = 0
    while fixed < len(parts) - 1 and (
        not is_glob(parts[fixed]) or Path(*parts[: fixed + 1]).is_dir()
    ):
        fixed += 1
    base = Path(*parts[:fixed])
    try:
        found = [path for path in base.glob("/".join(parts[fixed:])) if path.is_file()]
    except (OSError, ValueError) as error:
        raise SourceError(f"{pattern}: the pattern cannot be followed: {error}") from error
    if not any(is_ignored(part) for part in parts[fixed:]):
        found = [path for path in found if not is_ignored(path.relative_to(base))]
    if not found:
        raise SourceError(f"{pattern}: no file matches (looked from {Path.cwd()})")
    media = [path for path in found if is_media(path)]
    return sorted(media or found, key=natural_key)
