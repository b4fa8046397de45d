"""One picture, from a file or an address -> BGR; and its size, from the header alone."""

import base64
import io
import os
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image, UnidentifiedImageError

from pgvision.arrays import ByteArray
from pgvision.errors import ImageError, PgvisionError, SourceError
from pgvision.images.containers import sniff
from pgvision.images.opencv import cv2, quiet
from pgvision.images.pixels import PIL_ERRORS, orientation_of, require_moderate, to_bgr

_HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
_SOF_MARKERS = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = b"\xff\xd9"
_TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap height and width
_TIMEOUT = 15.0
_MOST_BYTES = 1 << 28
_MOST_IN_A_FILE = 1 << 31


class NotAnImageError(ImageError):
    """Bytes that no picture format claims (a caller may still try them as a video)."""


def read_image(path: str | os.PathLike[str]) -> ByteArray:
    """Read a picture file, upright, as BGR.

    JPEG, PNG, WebP, GIF, TIFF, BMP and whatever else the installed Pillow reads. All eight EXIF
    orientations are applied. Of an animation or a file of several pages, the first one is read.
    CMYK, palettes and gray become colour; transparent pixels are laid over white; 16 bits become
    8. JPEG in gray or YCbCr is decoded by OpenCV, which is about twice as fast; the rest by Pillow,
    which refuses truncated files and, above 179 million pixels, what may be a decompression bomb.

    Args:
        path: The file; ``~`` is the home folder.

    Returns:
        ``(h, w, 3)`` uint8, blue, green, red.

    Raises:
        SourceError: If there is no such file, or it cannot be opened.
        ImageError: If the file is empty, not a picture, of a kind that cannot be read (HEIC), or
            cut short: OpenCV would fill the missing part with gray and say nothing.
        DependencyError: If OpenCV cannot be loaded.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "red.png"
        >>> Image.new("RGB", (2, 1), "red").save(path)
        >>> read_image(path).tolist()
        [[[0, 0, 255], [0, 0, 255]]]
    """
    file = Path(path).expanduser()
    data = _read_bytes(file)
    if not data:
        raise ImageError(f"{file}: expected a picture, got an empty file (0 bytes)")
    return decode_image(data, str(file))


def image_hw_of(path: str | os.PathLike[str] | BinaryIO) -> tuple[int, int]:
    """Read height and width from a picture's header: those that `read_image` would give.

    Args:
        path: The file (``~`` is the home folder), or its bytes as an open file.

    Raises:
        ImageError: If there is no such file, or it is no picture.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "red.png"
        >>> Image.new("RGB", (2, 1), "red").save(path)
        >>> image_hw_of(path)
        (1, 2)
    """
    file = Path(path).expanduser() if isinstance(path, str | os.PathLike) else path
    try:
        with Image.open(file) as image:
            turned = orientation_of(image) in _TURNED
            # Of TIFF Pillow gives the turned size at once, and turns the pixels by itself.
            width, height = image.size
            return (width, height) if turned and image.format != "TIFF" else (height, width)
    except PIL_ERRORS as error:
        raise ImageError(f"{file}: cannot be read as an image: {error}") from error


def picture_at(address: str, name: str) -> ByteArray | None:
    """Fetch a picture by http, to be decoded as a file is; None if no picture is sent there.

    Args:
        address: ``http://`` or ``https://``, with or without user and password.
        name: What errors call it.

    Raises:
        SourceError: If the server refuses, or does not answer.
        ImageError: If what it sends as a picture is none.
    """
    parts = urlsplit(address)
    # Only http and https come here (`pgvision.images.sources`), and redirects lead to no file.
    request = Request(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())  # noqa: S310
    request.add_header("User-Agent", "pgvision")
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
    try:
        with urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            kind = answer.headers.get_content_type()
            # A stream of pictures says "multipart", and a file of unknown kind "octet-stream".
            if not kind.startswith("image/") and kind != "application/octet-stream":
                return None
            start = answer.read(16)
            if kind == "application/octet-stream" and sniff(start) != "image":
                return None
            data = start + answer.read(_MOST_BYTES)
    except HTTPError as error:
        error.close()  # it is the answer as well, with a socket of its own
        raise SourceError(f"{name}: the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise SourceError(f"{name}: cannot be reached: {error}") from error
    return decode_image(data, name)


def decode_image(data: bytes, name: str) -> ByteArray:
    """Decode the bytes of a picture file as `read_image` does.

    Args:
        data: The whole file.
        name: What errors call it.

    Raises:
        ImageError: If it is no picture, or not a whole one.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (2, 1), "red").save(file, "PNG")
        >>> decode_image(file.getvalue(), "red").shape
        (1, 2, 3)
    """
    try:
        return _decode_jpeg(data) if data[:3] == b"\xff\xd8\xff" else _decode_with_pillow(data)
    except PgvisionError as error:
        kind = NotAnImageError if isinstance(error, NotAnImageError) else ImageError
        raise kind(f"{name}: {error}") from error


def _read_bytes(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        data = file.read_bytes() if size <= _MOST_IN_A_FILE else None
    except FileNotFoundError as error:
        raise SourceError(f"{file}: no such file (looked from {Path.cwd()})") from error
    except IsADirectoryError as error:
        raise SourceError(f"{file}: is a folder; read one with iter_frames") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise SourceError(f"{file}: cannot be opened: {error}") from error
    if data is None:
        raise ImageError(f"{file}: {size} bytes are no picture that can be read safely")
    return data


def _decode_jpeg(data: bytes) -> ByteArray:
    components, scan, pixels = _jpeg_layout(data)
    require_moderate(pixels)
    # Coded data never holds FF D9, so after the first scan it can only be the end marker; an
    # embedded thumbnail's own end marker lies before.
    if scan < 0 or data.rfind(_END_OF_IMAGE, scan) < 0:
        raise ImageError(
            "truncated JPEG: the end marker is missing, so part of the picture is too; "
            "copy or download the file again"
        )
    if components in (1, 3):
        try:
            with quiet():
                # OpenCV's own reading of EXIF differs from Pillow's where the block is odd.
                flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
                picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            picture = None
        if picture is not None:
            return _turned(np.asarray(picture, dtype=np.uint8), _jpeg_orientation(data))
    return _decode_with_pillow(data)


def _jpeg_orientation(data: bytes) -> int:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return orientation_of(image)
    except PIL_ERRORS:  # a header that OpenCV reads and Pillow does not
        return 1


def _turned(picture: ByteArray, orientation: int) -> ByteArray:
    if orientation in _TURNED:
        picture = picture.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


def _jpeg_layout(data: bytes) -> tuple[int, int, int]:
    """Walk the segments: (colour components, offset of the first scan or -1, pixels)."""
    components, position, pixels = 0, 2, 0
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _SOF_MARKERS and position + 9 < len(data):
            components = data[position + 9]
            height, width = data[position + 5 : position + 7], data[position + 7 : position + 9]
            pixels = int.from_bytes(height, "big") * int.from_bytes(width, "big")
        if marker == _START_OF_SCAN:
            return components, position, pixels
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return components, -1, pixels


def _decode_with_pillow(data: bytes) -> ByteArray:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return to_bgr(image)
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except PgvisionError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"too large to be read safely: {error}; if you trust it, open it with Pillow, "
            "PIL.Image.MAX_IMAGE_PIXELS raised, and pass the PIL image"
        ) from error
    except PIL_ERRORS as error:
        raise ImageError(f"expected a whole picture, got broken data: {error}") from error


def _unidentified(data: bytes) -> ImageError:
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        return ImageError(
            "HEIC / HEIF cannot be read here; convert it to JPEG, or "
            "pip install pillow-heif and call pillow_heif.register_heif_opener() first"
        )
    start = data[:12]
    return NotAnImageError(f"expected a picture, got bytes of no known format ({start!r} ...)")
