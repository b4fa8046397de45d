"""What callers send as a picture: bytes, base64, a data URI, an address of an allowed host."""

import base64
import binascii
import io
import re

from PIL import Image

from pgvision.errors import ImageError
from pgvision.images import Frame, decode_image, image_hw_of
from pgvision.server.fetching import fetch
from pgvision.server.refusals import Refusal
from pgvision.server.settings import ServeSettings

_DATA_URI = re.compile(r"data:[\w.+-]*/?[\w.+-]*(;[\w=.-]+)*;base64,", re.ASCII)
_ADDRESS = re.compile(r"[a-zA-Z][\w+.-]*://")
_PATH = re.compile(r"/|~|\.{1,2}[/\\]|[a-zA-Z]:[/\\]|file:|[^\0]{1,300}\.(jpe?g|png|webp|gif|bmp)$")


def read_text_picture(text: str, settings: ServeSettings) -> bytes:
    r"""Return the bytes of a picture that came as text.

    Args:
        text: Base64, a data URI, or an address of one of ``settings.allow_hosts``.
        settings: What may be fetched.

    Raises:
        Refusal: If it is a path, an address of another host, or no base64.

    Example:
        >>> read_text_picture("data:image/png;base64,iVBORw==", ServeSettings())
        b'\x89PNG'
    """
    if _ADDRESS.match(text) and not text.startswith("file:"):
        return fetch(text, settings)
    start = _DATA_URI.match(text)
    coded = "".join(text[start.end() if start else 0 :].split())
    try:
        return base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError) as error:
        if not start and _PATH.match(text):
            raise Refusal(
                422,
                "path_refused",
                f"image: expected a picture, got the path {text[:80]!r}; this service opens no "
                "files: send the file itself (multipart field image), or its bytes in base64",
            ) from error
        raise Refusal(
            422, "bad_base64", f"image: expected base64 or a data URI, got {text[:40]!r} ({error})"
        ) from error


def to_frame(data: bytes, name: str, settings: ServeSettings) -> Frame:
    """Decode a picture after its header was looked at.

    Args:
        data: The file's bytes.
        name: What to call it.
        settings: How many pixels are allowed.

    Raises:
        Refusal: 413 if the header says more pixels than allowed; 422 if there is no picture.
    """
    if not data:
        raise Refusal(422, "bad_picture", f"{name}: expected a picture, got 0 bytes")
    found = _size_said(data)
    if found is None or found[0] * found[1] > settings.max_pixels:
        size = "far more" if found is None else f"{found[1]} x {found[0]}"
        raise Refusal(
            413,
            "too_many_pixels",
            f"{name}: expected at most {settings.max_pixels / 1e6:g} million pixels, but its "
            f"header says {size}; send a smaller picture",
        )
    return Frame(decode_image(data, name), source=name)


def _size_said(data: bytes) -> tuple[int, int] | None:
    """Read height and width from the header; None if Pillow thinks it a bomb."""
    try:
        return image_hw_of(io.BytesIO(data))
    except ImageError as error:
        # What is broken otherwise, the decoder says in better words.
        return None if isinstance(error.__cause__, Image.DecompressionBombError) else (0, 0)
