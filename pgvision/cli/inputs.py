"""Number of images in the sources, as far as it is known before they are read."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

from pgvision.errors import PgvisionError
from pgvision.images import video_info
from pgvision.images.containers import VIDEO_ENDINGS
from pgvision.images.listing import is_glob, list_folder, list_glob
from pgvision.images.manifests import MANIFEST_ENDINGS

_MANY = MANIFEST_ENDINGS | {".tar"}  # how many is only known once they are read


def as_frames(sources: Sequence[str]) -> str | int | list[str]:
    """Hand sources to a task; a lone camera or address as itself, so that it is read live.

    Args:
        sources: As typed on the command line.

    Returns:
        A camera number, one path or address, or the list.

    Example:
        >>> as_frames(["0"]), as_frames(["a.jpg", "b.jpg"])
        (0, ['a.jpg', 'b.jpg'])
    """
    if len(sources) == 1:
        return int(sources[0]) if sources[0].isdecimal() else sources[0]
    return list(sources)


def count_images(sources: Sequence[str], *, recursive: bool, stride: int) -> int | None:
    """Count ahead, for the time that is left.

    Args:
        sources: As typed on the command line.
        recursive: Whether folders are read with their subfolders.
        stride: Of a video, each ``stride``-th frame counts.

    Returns:
        The number of pictures and video frames, or None if a source does not tell (a camera, an
        address, a list). A source that cannot be read counts as one: it will fail as one.

    Example:
        >>> count_images(["camera.jpg", "site.png"], recursive=False, stride=1)
        2
        >>> count_images(["0"], recursive=False, stride=1) is None
        True
    """
    total = 0
    for source in sources:
        try:
            count = _count(source, recursive, stride)
        except PgvisionError:
            count = 1
        if count is None:
            return None
        total += count
    return total


def nothing_there(sources: Sequence[str], *, recursive: bool) -> bool:
    """Whether not one source leads to a file, so that no model need be loaded.

    Args:
        sources: As typed on the command line.
        recursive: Whether folders are read with their subfolders.

    Example:
        >>> nothing_there(["missing.jpg", "no/such/*.png"], recursive=False)
        True
        >>> nothing_there(["missing.jpg", "0"], recursive=False)
        False
    """
    return not any(_leads_somewhere(source, recursive) for source in sources)


def _leads_somewhere(source: str, recursive: bool) -> bool:
    if source.isdecimal() or "://" in source:
        return True
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return bool(list_folder(path, recursive=recursive))
        return path.exists() or (is_glob(source) and bool(list_glob(source)))
    except (PgvisionError, OSError, ValueError):
        return False


def _count(source: str, recursive: bool, stride: int) -> int | None:
    if source.isdecimal() or "://" in source:
        return None
    path = Path(source).expanduser()
    if path.is_dir():
        return _count_files(list_folder(path, recursive=recursive), stride)
    if is_glob(source) and not path.exists():
        return _count_files(list_glob(source), stride)
    if path.suffix.lower() in _MANY or path.is_char_device():
        return None
    return _count_files([path], stride)


def _count_files(files: Sequence[Path], stride: int) -> int | None:
    total = 0
    for file in files:
        if file.suffix.lower() not in VIDEO_ENDINGS:
            total += 1
            continue
        try:
            frames = video_info(file).num_frames
        except PgvisionError:
            frames = 1
        if frames is None:
            return None
        total += ceil(frames / stride)
    return total
