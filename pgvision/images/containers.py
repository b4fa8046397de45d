"""What the first bytes of a file say: picture or video, and whether the file is whole.

FFmpeg reads a cut file up to the cut and then reports its ordinary end, so the lengths that the
container itself declares are the only sure sign that something is missing.
"""

import os
from pathlib import Path
from typing import BinaryIO, Literal

IMAGE_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp"}
    | {".tif", ".tiff", ".avif", ".jp2", ".j2k", ".pbm", ".pgm", ".ppm", ".pnm", ".tga"}
    | {".heic", ".heif"}
)
VIDEO_ENDINGS = frozenset(
    {".mp4", ".m4v", ".avi", ".mov", ".qt", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts"}
    | {".m2ts", ".wmv", ".flv", ".3gp", ".ogv"}
)
_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*")
_VIDEO_STARTS = (b"\x1a\x45\xdf\xa3", b"FLV\x01", b"OggS", b"\0\0\x01\xba", b"\x30\x26\xb2\x75")
_STILL_BRANDS = frozenset({b"avif", b"avis", b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1"})
_ISO_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})
_SEGMENT = b"\x18\x53\x80\x67"

Kind = Literal["image", "video"]


def sniff(start: bytes) -> Kind | None:
    """Tell a picture from a video by the first 16 bytes; None if they say neither.

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


def counts_frames(start: bytes) -> bool:
    r"""Whether the container stores its number of frames (MP4, MOV, AVI).

    Elsewhere OpenCV's count is the duration times the rate: an estimate.

    Example:
        >>> counts_frames(b"RIFF....AVI LIST"), counts_frames(b"\x1a\x45\xdf\xa3")
        (True, False)
    """
    return start[:4] == b"RIFF" or start[4:8] in _ISO_BOXES


def cut_short(path: Path) -> str | None:
    """Compare the lengths that a video container declares with the file's own.

    Args:
        path: An MP4 / MOV, AVI, Matroska or WebM file.

    Returns:
        None if the file holds all that it declares, or declares nothing; otherwise what is missing.

    Raises:
        OSError: If the file cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "cut.avi"
        >>> _ = path.write_bytes(b"RIFF" + (1000).to_bytes(4, "little") + b"AVI LIST")
        >>> cut_short(path)
        'the file declares 1008 bytes and has 16'
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(12)
        file.seek(0)
        if start[:4] == b"RIFF":
            declared: int | None = int.from_bytes(start[4:8], "little") + 8
        elif start[:4] == _VIDEO_STARTS[0]:
            declared = _matroska_length(file)
        elif start[4:8] in _ISO_BOXES:
            return _iso_gap(file, size)
        else:
            return None
    # 8: an AVI whose writer never came back to fill in the length.
    if declared is None or declared in (8, size) or declared < size:
        return None
    return f"the file declares {declared} bytes and has {size}"


def _iso_gap(file: BinaryIO, size: int) -> str | None:
    """Walk the top-level boxes of an MP4; the last one must end where the file does."""
    position, names = 0, set()
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        name, length = header[4:8], int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:
            length = size - position
        if length < 8 or not name.isalnum():
            break  # padding or garbage behind the last box
        names.add(name)
        position += length
    if position > size:
        return f"the file declares {position} bytes and has {size}"
    return None if b"moov" in names else "its index (moov) is missing"


def _matroska_length(file: BinaryIO) -> int | None:
    file.seek(4)
    header = _read_vint(file)
    if header is None or header > os.fstat(file.fileno()).st_size:  # seeks end at 2^63
        return None
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return None
    length = _read_vint(file)
    return None if length is None else file.tell() + length


def _read_vint(file: BinaryIO) -> int | None:
    """Read an EBML length; None if it is "unknown" (all ones), as live recordings write."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    width = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(width - 1), "big") & ((1 << 7 * width) - 1)
    return None if value == (1 << 7 * width) - 1 else value
