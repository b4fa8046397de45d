"""File kinds: endings, first bytes, and names that are left out of folders and archives."""

import os
from pathlib import PurePath
from typing import Final, Literal

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
ISO_BOXES: Final = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})
# Files that file managers and network drives add to image folders.
_SYSTEM_NAMES = frozenset({"__macosx", "@eadir", "$recycle.bin", "thumbs.db", "desktop.ini"})

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
    return "video" if start[4:8] in ISO_BOXES else None


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
