"""One image file, or its bytes -> BGR frames; and its size, from the header alone."""

import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from pgvision.arrays import ByteArray
from pgvision.errors import ImageError, PgvisionError, SourceError
from pgvision.files import user_path
from pgvision.http import HttpError, HttpPolicy, open_address
from pgvision.images.listing import archive_kind, sniff
from pgvision.images.pixels import (
    PIL_ERRORS,
    Frame,
    cv2,
    orientation_of,
    quiet,
    require_moderate,
    to_bgr,
)

_HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
_SOF_MARKERS = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = b"\xff\xd9"
_TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap height and width
MOST_BYTES: Final = 1 << 31  # of a file
# Formats with several frames; frames have times, except TIFF's pages.
_ANIMATED: Final = frozenset({"GIF", "PNG", "WEBP", "AVIF", "HEIF"})
_SUBFILE_TAG, _NOT_A_PAGE = 254, 1 | 4  # TIFF: a smaller copy of another page, or a mask of it
_reported: set[str] = set()

_log = logging.getLogger("pgvision.images")


class NotAnImageError(ImageError):
    """Bytes of no known image format (a caller may still try them as a video)."""


def read_image(path: str | os.PathLike[str]) -> ByteArray:
    """Read an image file, upright, as BGR.

    JPEG, PNG, WebP, GIF, TIFF, BMP and all else that the installed Pillow reads. All eight EXIF
    orientations are applied. Of an animation or a file of several pages the first one is read, and
    the log reports how many there are; `pgvision.images.iter_frames` reads all. CMYK, palettes and
    gray become colour; transparent pixels are laid over white; 16 bits become 8. JPEG in gray or
    YCbCr is decoded by OpenCV, which is about twice as fast; the rest by Pillow, which refuses
    truncated files and, above 179 million pixels, possible decompression bombs.

    Args:
        path: The file; ``~`` is expanded.

    Returns:
        ``(h, w, 3)`` uint8, blue, green, red.

    Raises:
        SourceError: If there is no such file, or it cannot be opened.
        ImageError: If the file is empty, not an image, of a kind that cannot be read (HEIC), or
            cut short: OpenCV would fill the missing part with gray silently.
        DependencyError: If OpenCV cannot be loaded.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "red.png"
        >>> Image.new("RGB", (2, 1), "red").save(path)
        >>> read_image(path).tolist()
        [[[0, 0, 255], [0, 0, 255]]]
    """
    file = user_path(path)
    return decode_image(read_bytes(file), str(file))


def image_hw_of(path: str | os.PathLike[str] | BinaryIO) -> tuple[int, int]:
    """Read height and width from an image's header: those that `read_image` would return.

    Args:
        path: The file (``~`` is expanded), or its bytes as an open file.

    Raises:
        ImageError: If there is no such file, or it is not an image.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "red.png"
        >>> Image.new("RGB", (2, 1), "red").save(path)
        >>> image_hw_of(path)
        (1, 2)
    """
    file = user_path(path) if isinstance(path, str | os.PathLike) else path
    try:
        with Image.open(file) as image:
            turned = orientation_of(image) in _TURNED
            # Of TIFF Pillow returns the turned size at once, and turns the pixels by itself.
            width, height = image.size
            return (width, height) if turned and image.format != "TIFF" else (height, width)
    except PIL_ERRORS as error:
        raise ImageError(f"{file}: cannot be read as an image: {error}") from error


def fetch_image(address: str, name: str) -> bytes | None:
    """Fetch the bytes of an image by http; None if the address sends something else.

    Args:
        address: ``http://`` or ``https://``, with or without user and password.
        name: Its name in errors, without secrets.

    Raises:
        SourceError: If the server refuses, or does not answer within 15 s.
    """
    try:
        with open_address(address, policy=HttpPolicy()) as reply:
            kind = reply.content_type
            # A stream of images has the type "multipart", a file of unknown kind "octet-stream".
            if not kind.startswith("image/") and kind != "application/octet-stream":
                return None
            start = reply.read(16)
            if kind == "application/octet-stream" and sniff(start) != "image":
                return None
            return start + reply.read()
    except HttpError as error:
        raise SourceError(f"{name}: cannot be fetched: {error}") from error


def decode_image(data: bytes, name: str) -> ByteArray:
    """Decode the bytes of an image file as `read_image` does.

    Args:
        data: The whole file.
        name: Its name in errors.

    Raises:
        ImageError: If it is not an image, or not a whole one.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (2, 1), "red").save(file, "PNG")
        >>> decode_image(file.getvalue(), "red").shape
        (1, 2, 3)
    """
    with _named(name):
        if data[:3] == b"\xff\xd8\xff":
            return _decode_jpeg(data, name)
        with _opened(data, name) as image:
            _warn_of_others(image, name)
            return to_bgr(image)


def decode_frames(data: bytes, name: str) -> Iterator[Frame]:
    """Decode all pages or frames of an image file.

    Args:
        data: The whole file.
        name: Its name in errors.

    Yields:
        Frames; of an animation with their times. Smaller copies of a page within a TIFF are left
        out.

    Raises:
        ImageError: If it is not an image, or a page is not whole.

    Example:
        >>> file = io.BytesIO()
        >>> pages = [Image.new("L", (2, 1), shade) for shade in (0, 9)]
        >>> pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
        >>> [int(frame.bgr[0, 0, 0]) for frame in decode_frames(file.getvalue(), "a.tif")]
        [0, 9]
    """
    with _named(name):
        # 1. A single image: JPEG has no pages; OpenCV decodes it faster.
        image = None if data[:3] == b"\xff\xd8\xff" else _opened(data, name)
    if image is None or image.format not in _ANIMATED | {"TIFF"}:
        yield Frame(decode_image(data, name), name)
        return
    with image:
        # 2. Pages or frames, one at a time.
        pages, time = _own_images(image), 0.0
        for at, index in enumerate(pages):
            with _named(f"{name}, image {index + 1}" if len(pages) > 1 else name):
                image.seek(index)
                bgr = to_bgr(image)
            is_moving = len(pages) > 1 and image.format in _ANIMATED
            yield Frame(bgr, name, at, time if is_moving else None)
            # Browsers show frames without a duration for 0.1 s.
            time += float(image.info.get("duration") or 100.0) / 1000


def read_bytes(file: Path) -> bytes:
    """Read a whole image file.

    Raises:
        SourceError: If there is no such file, or it cannot be opened.
        ImageError: If it is empty, or too large for an image.
    """
    try:
        # The size first: a file of terabytes must not be read.
        size = file.stat().st_size
        data = file.read_bytes() if size <= MOST_BYTES else None
    except FileNotFoundError as error:
        raise SourceError(f"{file}: no such file (looked from {Path.cwd()})") from error
    except IsADirectoryError as error:
        raise SourceError(f"{file}: is a folder; read one with iter_frames") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise SourceError(f"{file}: cannot be opened: {error}") from error
    if data is None:
        raise ImageError(f"{file}: {size} bytes are too many for an image")
    if not data:
        raise ImageError(f"{file}: expected an image, got an empty file (0 bytes)")
    return data


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn what Pillow raises into errors that begin with the name of the file."""
    try:
        yield
    except PgvisionError as error:
        # The subclass is kept: the caller may try the file as a video.
        kind = NotAnImageError if isinstance(error, NotAnImageError) else ImageError
        raise kind(f"{name}: {error}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name}: too large to be read safely: {error}; if you trust it, open it with Pillow, "
            "PIL.Image.MAX_IMAGE_PIXELS raised, and pass the PIL image"
        ) from error
    except PIL_ERRORS as error:
        raise ImageError(f"{name}: expected a whole image, got broken data: {error}") from error


def _opened(data: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    image.filename = name  # for messages about its EXIF block
    return image


def _own_images(image: Image.Image) -> list[int]:
    """List the images of a file, without smaller copies of a TIFF's page; the first is current."""
    if image.format == "ICO":
        return list(range(len(image.info.get("sizes", "1"))))
    indices = list(range(int(getattr(image, "n_frames", 1))))
    if image.format == "TIFF" and len(indices) > 1:
        kinds = []
        for index in indices:
            image.seek(index)
            kinds.append(image.tag_v2.get(_SUBFILE_TAG, 0))  # type: ignore[attr-defined]
        image.seek(0)
        indices = [index for index in indices if not index or not kinds[index] & _NOT_A_PAGE]
    return indices


def _warn_of_others(image: Image.Image, name: str) -> None:
    """Log that further images of a file are not read."""
    if (count := len(_own_images(image))) < 2:
        return
    if image.format in _ANIMATED | {"TIFF"}:
        rest = "the first one is read; name the file as a source (iter_frames) to read all"
    elif image.format not in _reported:  # photographs of many telephones: once is enough
        _reported.add(image.format or "")
        rest = "the main one is read (files of this kind are not reported again)"
    else:
        return
    _log.warning("%s: contains %d images; %s", name, count, rest)


def _decode_jpeg(data: bytes, name: str) -> ByteArray:
    # 1. Refuse bombs and cut files, which OpenCV would allocate or fill with gray.
    components, scan, pixels = _jpeg_layout(data)
    require_moderate(pixels)
    _require_end(data, scan)
    # 2. Orientation, and further images (MPO); some headers are readable to OpenCV alone.
    orientation = 1
    with suppress(*PIL_ERRORS), _opened(data, name) as image:
        orientation = orientation_of(image)
        _warn_of_others(image, name)
    # 3. Decode; CMYK needs Pillow, and so does what OpenCV refuses.
    if components in (1, 3):
        try:
            with quiet():
                # OpenCV's own reading of EXIF differs from Pillow's for malformed blocks.
                flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
                picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            picture = None
        if picture is not None:
            return _turned(np.asarray(picture, dtype=np.uint8), orientation)
    with _opened(data, name) as image:
        return to_bgr(image)


def _require_end(data: bytes, scan: int) -> None:
    # Coded data never contains FF D9, so after the first scan it can only be the end marker; an
    # embedded thumbnail's own end marker comes earlier.
    if scan < 0 or data.rfind(_END_OF_IMAGE, scan) < 0:
        raise ImageError(
            "truncated JPEG: the end marker is missing, so part of the image is too; "
            "copy or download the file again"
        )


def require_whole(data: bytes, name: str) -> int:
    """Check that an image file is whole, without decoding it; return its pages or frames.

    Checked are the end marker of a JPEG, the checksums of a PNG, and the headers of all pages.

    Args:
        data: The whole file.
        name: Its name in errors.

    Raises:
        ImageError: If it is not an image, or not a whole one.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (2, 1), "red").save(file, "PNG")
        >>> require_whole(file.getvalue(), "red.png")
        1
    """
    with _named(name):
        if data[:3] == b"\xff\xd8\xff":
            _require_end(data, _jpeg_layout(data)[1])
        with _opened(data, name) as image:
            num_frames = int(getattr(image, "n_frames", 1))
            image.verify()
            return num_frames


def _turned(picture: ByteArray, orientation: int) -> ByteArray:
    if orientation in _TURNED:
        picture = picture.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


def _jpeg_layout(data: bytes) -> tuple[int, int, int]:
    """Walk the segments; return colour components, offset of the first scan or -1, and pixels."""
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


def _unidentified(data: bytes) -> ImageError:
    # Known kinds with their own fix, then all others.
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        return ImageError(
            "HEIC / HEIF cannot be read here; convert it to JPEG, or "
            "pip install pillow-heif and call pillow_heif.register_heif_opener() first"
        )
    if kind := archive_kind(data[:8]):
        return ImageError(
            f"is a {kind} archive, whose members cannot be read one by one; unpack it and name "
            "the folder, or the .tar file"
        )
    start = data[:12]
    return NotAnImageError(f"expected an image, got bytes of no known format ({start!r} ...)")
