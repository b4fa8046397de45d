"""Images of requests: files, base64, data URIs, addresses of allowed hosts; decoded in bounds."""

import asyncio
import base64
import binascii
import io
import math
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar
from urllib.parse import unquote_to_bytes

import cv2
import numpy as np
from PIL import Image

from pgvision.errors import ImageError
from pgvision.http import HttpError, HttpPolicy, fetch, hide_secrets, origin_of
from pgvision.images import Frame, decode_image, image_hw_of
from pgvision.server.errors import ApiError
from pgvision.server.settings import ServeSettings

_Value = TypeVar("_Value")
_FETCHES: Final = 8  # fetched images that are in memory at one time, and threads that fetch them
_WORK_THREADS: Final = 4
_KEPT_PIXELS: Final = 6_000_000
"""Larger images are shrunk as they are decoded: models see 224 to 896 pixels a side."""
_FETCH_SECONDS: Final = 10.0
LABEL_STUDIO: Final = "LABEL_STUDIO_URL"
_LABEL_STUDIO_KEY: Final = "LABEL_STUDIO_API_KEY"
_DATA_URI: Final = re.compile(r'\s*data:((?:[^,"]|"[^"]*"){0,999}),', re.IGNORECASE)
_IS_BASE64: Final = re.compile(r";\s*base64\s*$", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"\s*([a-z][\w+.-]{0,30})://", re.IGNORECASE)
_LONGEST_PATH: Final = 300
_PATH: Final = re.compile(
    r"/|~|\.{1,2}[/\\]|[a-z]:[/\\]|file:|[^\0]+\.(?:jpe?g|png|webp|gif|bmp)$", re.IGNORECASE
)


@dataclass(frozen=True)
class Upload:
    """An image of a request.

    Attributes:
        content: Bytes of a file, or text: base64, a data URI, an address.
        name: The file's name.
    """

    content: bytes | str = field(repr=False)
    name: str = "image"


def decode_text(text: str) -> bytes:
    r"""Return the bytes of an image that was sent as text.

    Read are base64 (standard and URL-safe alphabet, with line breaks, with or without padding) and
    data URIs of RFC 2397 (scheme, media type and ``base64`` in any case, quoted parameters).

    Raises:
        ApiError: If it is a path, or not base64.

    Example:
        >>> decode_text('DATA:image/png;name="a,b.png";BASE64,iVBORw')
        b'\x89PNG'
    """
    # 1. A path is not an image: this service opens no files.
    head = _DATA_URI.match(text)
    if not head and len(text) < _LONGEST_PATH and _PATH.match(text) and text[:4] != "/9j/":
        # "/9j/" begins a JPEG. Many paths are valid base64 if padding is not required.
        raise ApiError(
            "path_refused",
            f"image: expected an image, got the path {text[:80]!r}; this service opens no files: "
            "send the file itself (multipart field image), or its bytes in base64",
        )
    # 2. A data URI without base64 is percent-encoded bytes.
    data = text[head.end() :] if head else text
    if head and not _IS_BASE64.search(head[1]):
        return unquote_to_bytes(data)
    if head and "%" in data:
        data = unquote_to_bytes(data).decode("latin-1")
    # 3. Base64, in both alphabets, with line breaks and without padding.
    coded = "".join(data.split()).translate({ord("-"): "+", ord("_"): "/"}).rstrip("=")
    try:
        return base64.b64decode(coded + "=" * (-len(coded) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(
            "bad_base64", f"image: expected base64 or a data URI, got {text[:40]!r} ({error})"
        ) from error


class Uploads:
    """Reads and decodes images, with limits on pixels in flight and on threads.

    Args:
        settings: The limits.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._free = 2 * settings.max_pixels
        self._changed = asyncio.Event()
        self._room = asyncio.Semaphore(_FETCHES)
        self._fetchers = ThreadPoolExecutor(_FETCHES, thread_name_prefix="pgvision-fetch")
        self._workers = ThreadPoolExecutor(_WORK_THREADS, thread_name_prefix="pgvision-decode")

    async def run(self, work: Callable[[], _Value]) -> _Value:
        """Run CPU work in one of a few threads."""
        return await asyncio.wrap_future(self._workers.submit(work))

    @asynccontextmanager
    async def decoded(
        self, upload: Upload, deadline: float, *, full_size: bool
    ) -> AsyncIterator[tuple[Frame, tuple[int, int]]]:
        """Read and decode an image; its pixels count as in flight until the block ends.

        Args:
            upload: The image.
            deadline: `time.monotonic` at which the request ends.
            full_size: Keep all pixels of large images, for tiles.

        Yields:
            The image, perhaps shrunk; and height and width as it was sent, which results are in.

        Raises:
            ApiError: 413 if it has too many pixels, 422 if it cannot be read.
        """
        content, name = upload.content, upload.name
        scheme = None if isinstance(content, bytes) else _ADDRESS.match(content)
        is_fetched = scheme is not None and scheme[1].lower() not in ("data", "file")
        # Fetched bytes are in memory from here until they are decoded, so few at a time.
        async with self._room if is_fetched else nullcontext():
            # 1. Read the bytes: uploaded, base64, or fetched from an address.
            if isinstance(content, bytes):
                data = content
            elif is_fetched:
                data = await self._fetched(content.strip(), deadline)
            else:
                data = await self.run(partial(decode_text, content))
            height, width = await self.run(partial(self._checked_hw, data, name))
            # 2. Wait for free memory; small images go ahead of a large one that does not fit yet.
            taken = height * width
            while self._free < taken:
                self._changed.clear()
                await self._changed.wait()
            self._free -= taken
            # 3. Decode, and shrink to what the model needs.
            try:
                frame, image_hw = await self.run(partial(_decode, data, name, full_size))
            except BaseException as error:
                self._give(taken)
                if not isinstance(error, ImageError):
                    raise
                # The decoder's message quotes the first bytes: of addresses they are not shown.
                reason = "image: the address does not send an image" if is_fetched else str(error)
                raise ApiError("bad_picture", reason) from error
            del data
        # 4. Give back what shrinking saved, and the rest at the end.
        kept = min(frame.image_hw[0] * frame.image_hw[1], taken)
        self._give(taken - kept)
        try:
            yield frame, image_hw
        finally:
            self._give(kept)

    def _give(self, num_pixels: int) -> None:
        self._free += num_pixels
        self._changed.set()

    async def _fetched(self, address: str, deadline: float) -> bytes:
        """Fetch from an allowed host; Label Studio's token goes to Label Studio only."""
        # 1. Check the address: only hosts that the operator allows.
        policy = HttpPolicy(
            seconds=max(min(_FETCH_SECONDS, deadline - time.monotonic()), 0.001),
            max_bytes=self._settings.max_bytes,
            hosts=self._settings.host_rules,
            use_proxies=False,
        )
        shown = hide_secrets(address[:200])
        try:
            if not policy.allows(address):
                host = origin_of(address)[1]
                raise ApiError(
                    "address_refused",
                    f"image: expected an image, got the address {shown!r}; nothing is fetched from "
                    f"there: send the image itself, or start the service with --allow-host {host}",
                )
        except HttpError as error:
            raise ApiError("address_refused", f"image: {error}") from error
        # 2. Label Studio's own images need its token; no other host gets it.
        home, token = os.environ.get(LABEL_STUDIO), os.environ.get(_LABEL_STUDIO_KEY)
        is_home = bool(home and token) and origin_of(address) == origin_of(home or "")
        headers = {"Authorization": f"Token {token}"} if is_home else None
        try:
            # 3. Fetch in a thread.
            return await asyncio.wrap_future(
                self._fetchers.submit(fetch, address, policy=policy, headers=headers)
            )
        except HttpError as error:
            raise ApiError("not_fetched", f"image: {error}") from error

    def _checked_hw(self, data: bytes, name: str) -> tuple[int, int]:
        if not data:
            raise ApiError("bad_picture", f"{name}: expected an image, got 0 bytes")
        found = _declared_hw(data)
        if found is None or found[0] * found[1] > self._settings.max_pixels:
            size = "far more" if found is None else f"{found[1]} x {found[0]}"
            raise ApiError(
                "too_many_pixels",
                f"{name}: expected at most {self._settings.max_megapixels:g} million pixels, but "
                f"its header states {size}; send a smaller image",
            )
        return found


def _declared_hw(data: bytes) -> tuple[int, int] | None:
    """Return height and width of the header; None if Pillow refuses it for its size."""
    try:
        return image_hw_of(io.BytesIO(data))
    except ImageError as error:
        # The decoder has better messages for other faults.
        return None if isinstance(error.__cause__, Image.DecompressionBombError) else (0, 0)


def _decode(data: bytes, name: str, full_size: bool) -> tuple[Frame, tuple[int, int]]:
    """Decode, and shrink large images; also return height and width before."""
    bgr = decode_image(data, name)
    height, width = bgr.shape[:2]
    if not full_size and height * width > _KEPT_PIXELS:
        scale = (_KEPT_PIXELS / (height * width)) ** 0.5
        size = math.ceil(width * scale), math.ceil(height * scale)
        bgr = np.asarray(cv2.resize(bgr, size, interpolation=cv2.INTER_AREA), np.uint8)
    return Frame(bgr, source=name), (height, width)
