"""Image files of a data set: listing of folders, and names in annotation files to paths.

A name is tried in this order, and the first form that finds a file counts: as it is; with
separators of Windows; with ``%20`` and the like decoded; in another Unicode form or with an ending
in another case; without its ending. Where the user names the image folder, the last parts of a name
that leads elsewhere count too.
"""

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
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


def walk_files(folder: Path, endings: Sequence[str]) -> list[Path]:
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
    wanted = tuple(endings)
    with reading(folder):
        found = walk(folder, lambda name: name.lower().endswith(wanted))
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
        self._base, self._given = base, None if images is None else Path(images)
        if self._given is not None and not self._given.is_dir():
            raise DataError(f"{images}: expected the folder of images of {source}, found none")
        folders = [self._given] if self._given else _image_folders(base, stem)
        self._folders = list(dict.fromkeys(folders))
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
        # A file of exactly this name counts first: "a:b.jpg" is no drive then.
        climbs = ".." in plain.split("/")
        if not climbs and not plain.startswith("/") and (hits := self._look(name)):
            return _only(hits, name)
        absolute = plain.startswith("/") or bool(PureWindowsPath(name).drive)
        if absolute or climbs:
            return self._find_outside(name, plain, absolute)
        own = [hit for folder in self._folders for hit in self._own_tails(folder, plain)]
        return _only(own, name) if own else self._given_tail(name, plain)

    def _look(self, name: str, folders: Sequence[Path] | None = None) -> list[FoundImage]:
        """Return the files that a name means in its first form that any folder has."""
        plain = _slashes(name)
        decoded = _decoded(plain) if "%" in plain else plain
        exact = list(dict.fromkeys((name, plain, decoded)))
        loose = list(dict.fromkeys((plain, decoded)))
        # Each form is tried in all folders before the next, looser one.
        tries: list[tuple[list[str], int]] = [([form], 0) for form in exact]
        tries += [(loose, 1), (loose, 2)]
        for forms, looseness in tries:
            hits: dict[Path, FoundImage] = {}
            for folder in folders or self._folders:
                for form in forms:
                    parent, _, last = form.rpartition("/")
                    place = f"{folder}/{parent}" if parent else str(folder)
                    if place not in self._listings:
                        self._listings[place] = _Listing(place)
                    for file in self._listings[place].get(last, looseness):
                        found = PurePosixPath(parent, file).as_posix()
                        hits[folder / found] = FoundImage(found, folder / found)
            if hits:
                return list(hits.values())
        return []

    def _own_tails(self, folder: Path, plain: str) -> list[FoundImage]:
        """Return the files of a name that begins with the folder's own last parts."""
        parts = tuple(plain.split("/"))
        if parts[0] not in folder.parts:
            return []
        for count in range(1, len(parts)):
            if parts[:count] == folder.parts[-count:] and (
                hits := self._look("/".join(parts[count:]), [folder])
            ):
                return hits
        return []

    def _given_tail(self, name: str, plain: str) -> FoundImage | None:
        """Return the file of the folder that the user names which the longest tail means.

        Raises:
            DataError: If another name means the same file.
        """
        # The longest tail that is there counts: `b/a.jpg` before `a.jpg`.
        parts = [part for part in plain.split("/") if part not in ("", ".", "..")]
        for start in range(1, len(parts)) if self._given is not None else ():
            if hits := self._look("/".join(parts[start:])):
                found = _only(hits, name)
                other = self._by_tail.setdefault(found.path, name)
                if other != name:
                    raise DataError(
                        f"image names {other!r} and {name!r} both end like {found.path}; name the "
                        "folder above (images=...)"
                    )
                return found
        return None

    def _find_outside(self, name: str, plain: str, absolute: bool) -> FoundImage:
        """Find an absolute name inside a folder, or one with ``..`` in a file nearby."""
        # 1. Absolute names inside the image folder become relative.
        folders = [folder.absolute() for folder in self._folders]
        base = self._base.absolute()
        if absolute and Path(name).is_absolute():
            place = Path(os.path.normpath(name))
            for folder in [*folders, self._root]:
                if place != folder and place.is_relative_to(folder):
                    return FoundImage(place.relative_to(folder).as_posix(), place)
        # Names with ".." start at the annotations, or at the image folder.
        if not absolute and (hits := list(self._climb(plain, folders))):
            return _only(hits, name)
        # 2. Search the given folder for the end of the name.
        if (found := self._given_tail(name, plain)) is not None:
            return found
        place = Path(os.path.normpath(base / plain))
        for folder in folders if not absolute else ():
            if folder not in (base, self._root) and place.is_relative_to(folder):
                return FoundImage(place.relative_to(folder).as_posix(), place)
        # 3. Refuse: no name may lead outside the folder.
        what = "is absolute and not inside" if absolute else "leaves"
        fix = "name the folder that contains it (images=...) or use relative names"
        if self._given is not None:
            fix = "no file of this folder ends like it"
        raise DataError(f"image name {name!r} {what} the image folder {self._folders[0]}; {fix}")

    def _climb(self, plain: str, folders: list[Path]) -> Iterator[FoundImage]:
        """Yield the files that a name with ``..`` leads to, inside the data set or close to it."""
        base = self._base.absolute()
        # Names may climb to a folder close to the data set, and no further.
        roots = [*folders, self._root, base.parent, Path.cwd()]
        for start in dict.fromkeys((base, *(each for each in folders if each.is_dir()))):
            place = Path(os.path.normpath(start / plain))
            root = next((each for each in roots if place.is_relative_to(each)), None)
            for hit in self._look(place.name, [place.parent]) if root is not None else ():
                yield FoundImage(hit.path.relative_to(root or base).as_posix(), hit.path)
        down = "/".join(part for part in plain.split("/") if part != "..")
        for folder in folders:
            yield from self._own_tails(folder, down)


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
        self._folded: list[dict[str, list[str]]] | None = None

    def get(self, name: str, looseness: int) -> Sequence[str]:
        """Return the files that a name means.

        Args:
            name: Name without folder.
            looseness: 0 for the exact name, 1 for other Unicode forms and cases of the ending, 2
                for a name without its ending.
        """
        if not self._names:
            return ()
        if looseness == 0:
            return (name,) if name in self._names else ()
        # Built on demand: exact names need no index.
        if self._folded is None:
            self._folded = [{}, {}]
            for each in sorted(self._names):
                stem, ending = os.path.splitext(unicodedata.normalize("NFC", each))  # noqa: PTH122
                self._folded[0].setdefault(stem + ending.lower(), []).append(each)
                if ending.lower() in IMAGE_ENDINGS:
                    self._folded[1].setdefault(stem, []).append(each)
        composed = unicodedata.normalize("NFC", name)
        if looseness == 1:
            stem, ending = os.path.splitext(composed)  # noqa: PTH122
            composed = stem + ending.lower()
        return self._folded[looseness - 1].get(composed, ())


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
                "(images=...) or write the whole name"
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
