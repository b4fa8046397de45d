"""Sample images with ground truth: twelve rendered construction sites and six photographs.

For examples, self-tests and first steps without data of one's own. ``README.md`` in this folder
lists sources and licences.
"""

from pathlib import Path
from typing import Final

from pgvision.arrays import ByteArray
from pgvision.errors import SourceError
from pgvision.images import read_image

__all__ = ["PHOTOGRAPHS", "RENDERED", "images", "load", "path", "truth"]

_FOLDER: Final = Path(__file__).parent
RENDERED: Final = tuple(f"site-{number:02d}" for number in range(1, 13))
"""Rendered construction sites: the first three are 480x640, the others 240x400."""
PHOTOGRAPHS: Final = ("cyclist", "astronaut", "cat", "coffee", "rocket", "tower")
"""Photographs; a person with a helmet is in the first two."""


def path(name: str) -> Path:
    """Return the file of a sample image.

    Args:
        name: One of `RENDERED` or `PHOTOGRAPHS`.

    Raises:
        SourceError: If there is no such sample.

    Example:
        >>> path("cyclist").name
        'cyclist.jpg'
    """
    if name not in (*RENDERED, *PHOTOGRAPHS):
        raise SourceError(f"sample {name!r}: expected one of {', '.join(RENDERED + PHOTOGRAPHS)}")
    return _FOLDER / f"{name}.jpg"


def load(name: str) -> ByteArray:
    """Read a sample image.

    Args:
        name: One of `RENDERED` or `PHOTOGRAPHS`.

    Returns:
        ``(h, w, 3)`` uint8, BGR.

    Raises:
        SourceError: If there is no such sample.

    Example:
        >>> load("site-01").shape
        (480, 640, 3)
    """
    return read_image(path(name))


def images() -> tuple[Path, ...]:
    """Return the files of all samples, rendered ones first.

    Example:
        >>> len(images())
        18
    """
    return tuple(path(name) for name in RENDERED + PHOTOGRAPHS)


def truth() -> Path:
    """Return the COCO file with the objects of all samples.

    Boxes of all; masks of the rendered ones. Its ``file_name`` are relative to its folder.

    Example:
        >>> from pgvision.datasets import read_coco
        >>> len(read_coco(truth()).images)
        18
    """
    return _FOLDER / "truth.json"
