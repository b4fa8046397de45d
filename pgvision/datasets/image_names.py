"""Image files of a data set: listing of folders, and names in annotation files to paths.

A name is tried in this order, and the first form that finds a file counts: as it is; with
separators of Windows; with ``%20`` and the like decoded; in another Unicode form or with an ending
in another case; without its ending. Where the user names the image folder, the last parts of a name
that leads elsewhere count too.
"""

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from pgvision.coco.checks import reading, stated_size
from pgvision.datasets.dataset import EntryErrors, Finding
from pgvision.errors import DataError, ImageError
from pgvision.images import image_hw_of
from pgvision.images.listing import walk

IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".webp", ".tif", ".tiff"),
    *(".gif", ".avif", ".jp2"),
)
_FOLDER_WORDS = set(
    "annotation annotations label labels xml xmls json jsons image images img imgs jpegimages "
    "train training val valid validation test testing default".split()
)


class FoundImage(NamedTuple):
    """An image of a data set.

    Attributes:
        name: Relative to the image folder, with ``/``; as on disk if the file exists.
        path: The file, or where it is expected.
    """

    name: str
    path: Path


def walk_files(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """List files below a folder by their endings, sorted by name.

    Hidden files and folders (``.ipynb_checkpoints``, ``._a.jpg``), ``__MACOSX`` and overlays that
    pgvision wrote (``a.overlay.jpg``) are left out. Links to folders are followed.

    Raises:
        DataError: If a folder cannot be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "a.overlay.jpg"):
        ...     (folder / name).touch()
        >>> [path.name for path in walk_files(folder, IMAGE_ENDINGS)]
        ['a.JPG', 'b.png']
    """
    with reading(folder):
        found = walk(folder, lambda name: name.lower().endswith(endings))
        files = list(found) if folder.is_dir() else []
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def list_images(folder: Path) -> list[Path]:
    """List the images below a folder; see `walk_files`."""
    return walk_files(folder, IMAGE_ENDINGS)


def size_of(
    height: object, width: object, path: Path, *, where: str, lacks: str
) -> tuple[int, int]:
    """Return height and width as a file states them, or else from the header of the image.

    Args:
        height: As stated; 0 and None mean unknown.
        width: Likewise.
        path: The image.
        where: Name of the entry in errors.
        lacks: What the entry lacks if the size is unknown.

    Raises:
        DataError: If the stated size is no image's, or it is unknown and the image cannot be read.
    """
    try:
        stated = stated_size(height, width)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if stated is not None:
        return stated
    try:
        return image_hw_of(path)
    except ImageError as error:
        raise DataError(f"{where}: lacks {lacks}, and the image cannot be read: {error}") from error


class ImageFinder:
    r"""Find the images that one annotation file, or one folder of them, names.

    Args:
        source: The data set, for errors.
        images: The image folder, if the user names it.
        base: Folder of the annotations; names with ``..`` start here.
        stem: Name of the annotation file without its ending, "" for a folder of files.
        listings: Folders that were listed before; shared by the finders of one data set.

    Raises:
        DataError: If ``images`` is no folder.

    Example:
        >>> import tempfile
        >>> base = Path(tempfile.mkdtemp())
        >>> (base / "images").mkdir()
        >>> (base / "images" / "a b.jpg").touch()
        >>> finder = ImageFinder(base, None, base)
        >>> [found.name for found in finder.find_all(["a%20b.jpg", r".\a b.jpg", "a b"])]
        ['a b.jpg', 'a b.jpg', 'a b.jpg']
    """

    def __init__(
        self,
        source: Path,
        images: str | Path | None,
        base: Path,
        stem: str = "",
        listings: "dict[str, _Listing] | None" = None,
    ) -> None:
        self._base, self._is_given = base, images is not None
        if images is not None and not Path(images).is_dir():
            raise DataError(f"{images}: expected the folder of images of {source}, found none")
        folders = _image_folders(base, stem) if images is None else [Path(images)]
        self._folders = list(dict.fromkeys(folders))
        self._parts = {folder: folder.absolute().parts for folder in self._folders}
        self._root = data_set_root(base)
        self._by_tail: dict[Path, str] = {}
        self._listings = {} if listings is None else listings

    def find_all(self, names: Sequence[str]) -> list[FoundImage | DataError]:
        """Find images by their names in the annotations.

        Returns:
            For each name the image, or the error of a name that is empty, leaves the data set or
            means two files. Images that are nowhere are placed in the folder of the others.
        """
        # 1. Look for each name; an error belongs to its name alone.
        outcomes: list[FoundImage | DataError | None] = []
        for name in names:
            try:
                outcomes.append(self._find(name))
            except DataError as error:
                outcomes.append(error)
        # Images that are nowhere belong into the folder in which others of the file were found.
        usual = [
            folder
            for folder in self._folders
            if {folder.name, folder.parent.name} & {"images", "JPEGImages"} and folder.is_dir()
        ]
        found = (outcome for outcome in outcomes if isinstance(outcome, FoundImage))
        homes = (
            folder for hit in found for folder in self._folders if hit.path == folder / hit.name
        )
        home = next(homes, usual[-1] if usual else self._folders[0])
        return [
            FoundImage(_slashes(name), home / _slashes(name)) if outcome is None else outcome
            for name, outcome in zip(names, outcomes, strict=True)
        ]

    def _find(self, name: str) -> FoundImage | None:
        if not name.strip() or "\0" in name or name in (".", "/"):
            raise DataError(f"image name {name!r} is not a file name")
        plain = _slashes(name)
        leaves = ".." in plain.split("/") or plain.startswith("/")
        # A file of exactly this name counts first: "a:b.jpg" is no drive then.
        if not leaves and (hits := self._look(name, self._folders)):
            return _only(hits, name)
        if leaves or PureWindowsPath(name).drive:
            return self._find_outside(name, plain)
        return self._find_tail(name, plain)

    def _find_outside(self, name: str, plain: str) -> FoundImage:
        """Find an absolute name inside a folder, or one with ``..`` in a file nearby.

        Raises:
            DataError: If the name leads elsewhere.
        """
        # 1. Absolute names must be inside the data set; names with ".." start at the annotations,
        # and may climb to a folder close to the data set.
        is_drive, is_rooted = bool(PureWindowsPath(name).drive), plain.startswith("/")
        base = self._base.absolute()
        place = Path(os.path.normpath(base / plain))
        own = [] if is_drive else [*(folder.absolute() for folder in self._folders), self._root]
        near = [] if is_drive or is_rooted else [base.parent, Path.cwd()]
        root = next((r for r in own + near if place != r and place.is_relative_to(r)), None)
        if root is not None:
            hits = self._look(place.name, [place.parent])
            if hits or is_rooted:
                path = _only(hits, name).path if hits else place
                return FoundImage(path.relative_to(root).as_posix(), path)
        # 2. The end of the name, or else where a missing image is expected.
        if (found := self._find_tail(name, plain)) is not None:
            return found
        for folder in own:
            if folder not in (base, self._root) and place.is_relative_to(folder):
                return FoundImage(place.relative_to(folder).as_posix(), place)
        # 3. Refuse: no name may lead outside the folder.
        what = "is absolute and not inside" if is_drive or is_rooted else "leaves"
        fix = "name the folder that contains it (images=..., --images) or use relative names"
        if self._is_given:
            fix = "no file of this folder ends like it"
        raise DataError(f"image name {name!r} {what} the image folder {self._folders[0]}; {fix}")

    def _look(self, name: str, folders: Sequence[Path]) -> list[FoundImage]:
        """Return the files that a name means in its first form that any folder has."""
        plain = _slashes(name)
        decoded = _decoded(plain) if "%" in plain else plain
        # Each form is tried in all folders before the next, looser one.
        forms = [(form, False) for form in dict.fromkeys((name, plain, decoded))]
        forms += [(form, True) for form in dict.fromkeys((plain, decoded))]
        for form, is_loose in forms:
            hits: dict[Path, FoundImage] = {}
            parent, _, last = form.rpartition("/")
            for folder in folders:
                place = f"{folder}/{parent}" if parent else str(folder)
                if place not in self._listings:
                    self._listings[place] = _Listing(place)
                for file in self._listings[place].get(last, is_loose=is_loose):
                    found = PurePosixPath(parent, file).as_posix()
                    hits[folder / found] = FoundImage(found, folder / found)
            if hits:
                return list(hits.values())
        return []

    def _find_tail(self, name: str, plain: str) -> FoundImage | None:
        """Return the file that the longest tail of a name means.

        The parts before it must be those of the folder, unless the user named the folder.

        Raises:
            DataError: If the tail of another name means the same file.
        """
        parts = tuple(part for part in plain.split("/") if part not in ("", ".", ".."))
        for start in range(1, len(parts)):
            folders = [
                folder
                for folder in self._folders
                if self._is_given or self._parts[folder][-start:] == parts[:start]
            ]
            if hits := self._look("/".join(parts[start:]), folders) if folders else []:
                found = _only(hits, name)
                other = self._by_tail.setdefault(found.path, name)
                if other != name:
                    raise DataError(
                        f"image names {other!r} and {name!r} both end like {found.path}; name the "
                        "folder above (images=..., --images)"
                    )
                return found
        return None


def find_named(
    source: Path, images: str | Path | None, names: Mapping[Path, str], errors: EntryErrors
) -> dict[Path, FoundImage]:
    """Find the image of each annotation file, by the stated name or else by the file's own name.

    Args:
        source: The data set, for errors.
        images: The image folder, if the user names it.
        names: The stated name of the image, by annotation file.
        errors: Where images that are taken by the file's name, and errors, are recorded.

    Raises:
        DataError: If ``images`` is no folder; or as `ImageFinder.find_all`, unless errors are
            recorded.
    """
    # All names of a folder together, so that lost images are placed with the others.
    by_folder: dict[Path, list[Path]] = {}
    for file in names:
        by_folder.setdefault(file.parent, []).append(file)
    found: dict[Path, FoundImage] = {}
    listings: dict[str, _Listing] = {}
    for folder, files in by_folder.items():
        # 1. Look for the stated name and for the file's own name.
        finder = ImageFinder(source, images, folder, listings=listings)
        stated = finder.find_all([names[file] for file in files])
        own = finder.find_all([file.stem for file in files])
        for file, image, other in zip(files, stated, own, strict=True):
            with errors.entry(file.name):
                # 2. Images that were renamed often have the annotation file's name.
                lost = isinstance(image, DataError) or not image.path.is_file()
                if lost and isinstance(other, FoundImage) and other.path.is_file():
                    message = f"{file.name} names {names[file]!r}, which is not there"
                    message += f"; {other.name} was taken"
                    errors.findings.append(Finding("mended", "warning", message, other.name))
                    found[file] = other
                elif isinstance(image, DataError):
                    raise DataError(f"{file}: {image}")
                else:
                    found[file] = image
    return {file: found[file] for file in names if file in found}


class _Listing:
    """The files of one folder, read once."""

    def __init__(self, folder: str) -> None:
        try:
            with os.scandir(folder) as entries:
                self._names = {entry.name for entry in entries if entry.is_file()}
        except (OSError, ValueError):
            self._names = set()
        # By name in one Unicode form, with a lower-case ending; and by name without ending.
        self._folded: dict[str, list[str]] = {}
        self._stems: dict[str, list[str]] = {}

    def get(self, name: str, *, is_loose: bool) -> Sequence[str]:
        """Return the files that a name means.

        Args:
            name: Name without folder.
            is_loose: Whether other Unicode forms, endings in another case, and a missing ending
                count.
        """
        if not is_loose or not self._names:
            return (name,) if name in self._names else ()
        # Built on demand: exact names need no index.
        if not self._folded:
            for each in sorted(self._names):
                stem, ending = _folded(each)
                self._folded.setdefault(stem + ending, []).append(each)
                if ending in IMAGE_ENDINGS:
                    self._stems.setdefault(stem, []).append(each)
        stem, ending = _folded(name)
        by_stem = self._stems.get(unicodedata.normalize("NFC", name), ())
        return self._folded.get(stem + ending) or by_stem


def _folded(name: str) -> tuple[str, str]:
    stem, ending = os.path.splitext(unicodedata.normalize("NFC", name))  # noqa: PTH122
    return stem, ending.lower()


def _slashes(name: str) -> str:
    if "\\" not in name and not name.startswith("./") and "//" not in name and "/./" not in name:
        return name
    return PurePosixPath(name.replace("\\", "/")).as_posix()


def _decoded(name: str) -> str:
    """Decode ``%20`` and the like, to bytes that need not be UTF-8 (see `readable_name`)."""
    return os.fsdecode(unquote_to_bytes(name.encode("utf-8", "surrogatepass")))


def _only(hits: Sequence[FoundImage], name: str) -> FoundImage:
    first = hits[0]
    for other in hits[1:]:
        if not first.path.samefile(other.path):
            raise DataError(
                f"image name {name!r} may mean {first.path} or {other.path}; name the folder "
                "(images=..., --images) or write the whole name"
            )
    return first


def data_set_root(base: Path) -> Path:
    """Return the folder of the whole data set: above ``labels``, ``train`` and the like.

    Example:
        >>> data_set_root(Path("/data/site/labels/train2017")).as_posix()
        '/data/site'
    """
    root = base.absolute()
    while (words := re.findall("[a-z]+", root.name.lower())) and _FOLDER_WORDS.issuperset(words):
        root = root.parent
    return root


def _image_folders(base: Path, stem: str) -> list[Path]:
    """Return where the images of an annotation file may be, the likeliest first.

    The file's folder, its ``images/`` or ``JPEGImages/``, a folder with the file's name
    (``train.json`` and ``train/``), or one next to ``annotations/`` (COCO's
    ``annotations/instances_val2017.json`` and ``val2017/``).
    """
    # `train.json` and `instances_train2017.json` name their folders.
    parts = [part for part in dict.fromkeys((stem, stem.split("_")[-1])) if part]
    folders = []
    for root in (base, base.parent) if data_set_root(base) != base.absolute() else (base,):
        images = [root / name for name in ("images", "JPEGImages", "img")]
        folders += [root, *images, *(root / part for part in parts)]
        folders += [place / part for place in images for part in parts]
    for above in base.parents:  # labels/train and images/train
        if above.name.lower() in ("labels", "annotations"):
            inner = base.relative_to(above)
            folders += [above.parent / name / inner for name in ("images", "JPEGImages")]
            folders += [above.parent / inner]
            break
    return folders
