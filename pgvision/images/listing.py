"""Folders, globs and text files of paths -> files, in natural order."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from pgvision.errors import SourceError
from pgvision.images.containers import IMAGE_ENDINGS, VIDEO_ENDINGS

_MEDIA = IMAGE_ENDINGS | VIDEO_ENDINGS
_DIGITS = re.compile(r"(\d+)")
_MAGIC = re.compile(r"[*?\[]")


def natural_key(path: Path) -> list[tuple[list[tuple[int, int, str]], str]]:
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
    """List the pictures and videos of a folder, by their endings, in natural order.

    Args:
        folder: The folder. Hidden files and overlays (``site.overlay.jpg``, which pgvision wrote)
            are left out; links to folders are not followed.
        recursive: Take its subfolders too.

    Returns:
        Paths that begin with ``folder``.

    Raises:
        SourceError: If the folder, or one below it, cannot be read, or there is nothing to see.
    """
    try:
        files = [file for file in _walk(folder, recursive=recursive) if _is_media(file)]
    except OSError as error:
        raise SourceError(f"{folder}: the folder cannot be read: {error}") from error
    if not files:
        hint = "" if recursive else "; subfolders are read with recursive=True (--recursive)"
        raise SourceError(f"{folder}: no picture or video in this folder{hint}")
    return sorted(files, key=natural_key)


def _walk(folder: Path, *, recursive: bool) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if recursive:
                    yield from _walk(folder / entry.name, recursive=True)
            elif not entry.is_dir():
                yield folder / entry.name


def _is_media(path: Path) -> bool:
    return path.suffix.lower() in _MEDIA and not _is_own(path) and not path.name.startswith(".")


def _is_own(path: Path) -> bool:
    return path.stem.endswith(".overlay")


def is_glob(text: str) -> bool:
    """Whether a path holds ``*``, ``?`` or ``[``.

    Example:
        >>> is_glob("photos/*.jpg"), is_glob("photos/1.jpg")
        (True, False)
    """
    return _MAGIC.search(text) is not None


def list_glob(pattern: str) -> list[Path]:
    """List the files that a pattern matches (``**``: at any depth), in natural order.

    Where some have the ending of a picture or video, the others are left out, so that
    ``data/*`` does not stumble over its label files.

    Raises:
        SourceError: If nothing matches.
    """
    parts = Path(pattern).expanduser().parts
    fixed = next(i for i, part in enumerate(parts) if is_glob(part))
    base = Path(*parts[:fixed])
    try:
        found = [path for path in base.glob("/".join(parts[fixed:])) if path.is_file()]
    except (OSError, ValueError) as error:
        raise SourceError(f"{pattern}: the pattern cannot be followed: {error}") from error
    named = ".overlay" in parts[-1]
    found = [path for path in found if not path.name.startswith(".")]
    found = [path for path in found if named or not _is_own(path)]
    media = [] if named else [path for path in found if _is_media(path)]
    if not found:
        raise SourceError(f"{pattern}: no file matches (looked from {Path.cwd()})")
    return sorted(media or found, key=natural_key)


def list_text(file: Path) -> list[tuple[int, str]]:
    """Read a text file of sources, one a line; blank lines and ``#`` comments are left out.

    Args:
        file: UTF-8. Paths in it are relative to its own folder.

    Returns:
        Pairs of line number, from 1, and path or address.

    Raises:
        SourceError: If it cannot be read, or lists nothing.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{file}: expected a UTF-8 text file of paths: {error}") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    entries = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not entries:
        raise SourceError(f"{file}: the list holds no path")
    return entries
