"""Where a data set's images lie, what their headers say, and their fingerprints."""

import hashlib
import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from pgvision.coco.values import MOST_PIXELS, stated_size
from pgvision.errors import DataError
from pgvision.images import image_hw_of as image_hw_of

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def image_path(name: str, folder: Path, *, where: str) -> Path:
    """Join an image name that came from a file to the image folder, and keep it inside.

    Args:
        name: Name as an annotation file gives it.
        folder: The image folder.
        where: What to call the source of the name in errors.

    Returns:
        Where the image should lie. Separators of Windows are understood, and a name that begins
        with the last folders of ``folder`` itself. A name may climb (``../images/a.jpg``) to an
        image that is there, below the parent of ``folder`` or the working folder.

    Raises:
        DataError: If the name is empty, climbs to anything else, or is absolute and not inside
            ``folder``. Links inside the folder are followed: they are the owner's choice.

    Example:
        >>> image_path("train/a.jpg", Path("data"), where="a.json").as_posix()
        'data/train/a.jpg'
        >>> image_path("../secret.jpg", Path("data"), where="a.json")
        Traceback (most recent call last):
        pgvision.errors.DataError: a.json: image name '../secret.jpg' leaves the image folder data;
        name the folder it is in (images=...)
    """
    if not name.strip() or "\0" in name or name in (".", "/"):
        raise DataError(f"{where}: image name {name!r} is not a file name")
    if PureWindowsPath(name).drive or PurePosixPath(name).is_absolute():
        path = Path(name)
        if not path.is_absolute() or not path.is_relative_to(folder.absolute()):
            raise DataError(
                f"{where}: image name {name!r} is absolute and not inside the image folder "
                f"{folder}; name the folder it is in (images=...) or use relative names"
            )
        return path
    plain = posix_name(name, folder)
    down = [part for part in plain.split("/") if part not in ("..", ".", "")]
    for count in range(1, len(down)):
        if tuple(down[:count]) == folder.parts[-count:]:
            path = folder.joinpath(*down[count:])
            if path.is_file() and not (folder / plain).is_file():
                return path
    if ".." not in plain.split("/"):
        return folder / plain
    path = Path(os.path.normpath(folder.absolute() / plain))
    roots = (folder.absolute().parent, Path.cwd())
    if not path.is_file() or not any(path.is_relative_to(root) for root in roots):
        raise DataError(
            f"{where}: image name {name!r} leaves the image folder {folder}; name the folder it "
            "is in (images=...)"
        )
    return path


def posix_name(name: str, folder: Path) -> str:
    r"""Return a name with forward slashes, as files written on Windows mean it.

    Example:
        >>> posix_name(r"images\a.jpg", Path("data"))
        'images/a.jpg'
    """
    if "\\" not in name or (folder / name).is_file():
        return name
    return PureWindowsPath(name).as_posix()


def list_images(folder: Path) -> list[Path]:
    """Return the image files below ``folder`` in a fixed order, hidden ones left out.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png"):
        ...     (folder / name).touch()
        >>> [path.name for path in list_images(folder)]
        ['a.JPG', 'b.png']
    """
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)
    return sorted(
        (path for path in found if not path.name.startswith(".")),
        key=lambda path: path.relative_to(folder).as_posix(),
    )


def stated_hw(height: int, width: int, *, where: str) -> tuple[int, int] | None:
    """Return the size that a file states, if an image can have it; None where a side is 0.

    Tools that do not know the size write 0: it is missing, not wrong.

    Raises:
        DataError: If a side is negative, or there are more than 2 to the 30 pixels (a mask of it
            would not fit).

    Example:
        >>> stated_hw(480, 640, where="a.json"), stated_hw(0, 640, where="b.json")
        ((480, 640), None)
    """
    try:
        return stated_size(height, width)
    except ValueError as error:
        raise DataError(
            f"{where}: size {width} x {height}, expected at least 1 x 1 and at most "
            f"{MOST_PIXELS} pixels"
        ) from error


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex.

    Raises:
        DataError: If it cannot be read.

    Source:
        FIPS 180-4; the value below is the standard's own example for "abc".

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "abc"
        >>> _ = file.write_bytes(b"abc")
        >>> file_digest(file)[:16]
        'ba7816bf8f01cfea'
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()
