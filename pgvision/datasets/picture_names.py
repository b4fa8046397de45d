"""Which picture file a name in an annotation file means: one answer for every format.

Tried in this order, and the first that finds a file counts: the name as it is; Windows' separators;
``%20`` and its like; the same letters in another Unicode form or an ending in another case; the
name without its ending.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple
from urllib.parse import unquote

from pgvision.datasets.image_files import IMAGE_ENDINGS
from pgvision.errors import DataError

_PLACES = set(
    "annotation annotations label labels xml xmls json jsons image images img imgs jpegimages "
    "train training val valid validation test testing default".split()
)


class Picture(NamedTuple):
    """A picture of a data set.

    Attributes:
        name: Relative to the image folder, with ``/``; as on disk where the file is there.
        path: Where it lies, or should.
    """

    name: str
    path: Path


class PictureNames:
    r"""Finds the pictures that one annotation file, or folder of them, names.

    Args:
        base: Folder of the annotation file; names that climb start here.
        folders: Where pictures may lie, the likeliest first.
        names: The names that will be asked for: names found nowhere are placed in the first
            folder that holds one of them.

    Example:
        >>> import tempfile
        >>> base = Path(tempfile.mkdtemp())
        >>> (base / "images").mkdir()
        >>> (base / "images" / "a b.jpg").touch()
        >>> found = PictureNames(base, [base, base / "images"])
        >>> [found.find(name, where="x").name for name in ("a%20b.jpg", r".\a b.jpg", "a b")]
        ['a b.jpg', 'a b.jpg', 'a b.jpg']
    """

    def __init__(self, base: Path, folders: Sequence[Path], names: Iterable[str] = ()) -> None:
        self._base = base
        self._folders = list(dict.fromkeys(folders))
        self._root = data_set_root(base)
        self._listings: dict[Path, _Listing] = {}
        tried = [name for name in names if name][:20]
        holding = (f for f in self._folders for name in tried if self._in_folder(f, name))
        there = next((folder for folder in self._folders if folder.is_dir()), self._folders[0])
        self._home = next(holding, there)

    def find(self, name: str, *, where: str) -> Picture:
        """Return the picture that ``name`` means.

        Args:
            name: As the annotation file has it.
            where: What to call the source of the name in errors.

        Raises:
            DataError: If the name is empty, leaves the data set, or means two files.
        """
        if not name.strip() or "\0" in name or name in (".", "/"):
            raise DataError(f"{where}: image name {name!r} is not a file name")
        absolute = bool(PureWindowsPath(name).drive) or name.startswith(("/", "\\"))
        if absolute or ".." in PureWindowsPath(name).parts:
            return self._outside(name, absolute, where)
        for form in range(_NUM_FORMS):
            hits = []
            for folder in self._folders:
                hits += [Picture(hit, folder / hit) for hit in self._look(folder, name, form)]
            if hits:
                return _only(hits, name, where)
        plain = _slashes(name)
        tails = [Picture(file, f / file) for f in self._folders for file in self._tails(f, plain)]
        return _only(tails, name, where) if tails else Picture(plain, self._home / plain)

    def _outside(self, name: str, absolute: bool, where: str) -> Picture:
        """Place an absolute name inside a folder, or one that climbs to a picture near."""
        folders = [folder.absolute() for folder in self._folders]
        if absolute and Path(name).is_absolute():
            place = Path(os.path.normpath(name))
            for folder in [*folders, self._root]:
                if place != folder and place.is_relative_to(folder):
                    return Picture(place.relative_to(folder).as_posix(), place)
        elif not absolute:
            hits = list(self._climbed(_slashes(name), folders))
            if hits:
                return _only(hits, name, where)
            place = Path(os.path.normpath(self._base.absolute() / _slashes(name)))
            for folder in folders:
                if folder not in (self._base.absolute(), self._root) and place.is_relative_to(
                    folder
                ):
                    return Picture(place.relative_to(folder).as_posix(), place)
        what = "is absolute and not inside" if absolute else "leaves"
        raise DataError(
            f"{where}: image name {name!r} {what} the image folder {self._home}; name the folder "
            "it is in (images=...) or use relative names"
        )

    def _climbed(self, plain: str, folders: list[Path]) -> Iterator[Picture]:
        base = self._base.absolute()
        roots = [*folders, self._root, base.parent, Path.cwd()]
        for start in dict.fromkeys((base, *(each for each in folders if each.is_dir()))):
            place = Path(os.path.normpath(start / plain))
            root = next((each for each in roots if place.is_relative_to(each)), None)
            if root is not None:
                for file in self._near(place.parent, place.name):
                    path = place.parent / file
                    yield Picture(path.relative_to(root).as_posix(), path)
        down = "/".join(part for part in plain.split("/") if part != "..")
        for folder in folders:
            for file in self._tails(folder, down):
                yield Picture(file, folder / file)

    def _near(self, folder: Path, name: str) -> list[str]:
        forms = (self._look(folder, name, form) for form in range(_NUM_FORMS))
        return next((hits for hits in forms if hits), [])

    def _tails(self, folder: Path, plain: str) -> list[str]:
        """Return the files that a name means which begins with the folder's own last parts."""
        parts = tuple(plain.split("/"))
        for count in range(1, len(parts)):
            own = parts[:count] == folder.parts[-count:]
            if own and (hits := self._near(folder, "/".join(parts[count:]))):
                return hits
        return []

    def _in_folder(self, folder: Path, name: str) -> bool:
        return bool(self._near(folder, name) or self._tails(folder, _slashes(name)))

    def _look(self, folder: Path, name: str, form: int) -> list[str]:
        """Return the files of ``folder`` that ``name`` means in one form, as relative names."""
        plain = name if form == 0 else _slashes(name)
        names = [plain] if form < 2 else [unquote(plain)] if form == 2 else [plain, unquote(plain)]
        hits: dict[str, None] = {}
        for each in names:
            whole = PurePosixPath(each)
            if ".." in whole.parts or whole.is_absolute() or not whole.name:
                continue
            for file in self._listing(folder / whole.parent).get(whole.name, form):
                hits[(whole.parent / file).as_posix()] = None
        return list(hits)

    def _listing(self, folder: Path) -> "_Listing":
        if folder not in self._listings:
            self._listings[folder] = _Listing(folder)
        return self._listings[folder]


_NUM_FORMS = 5


class _Listing:
    """The files of one folder: one look at the disk instead of one for each name."""

    def __init__(self, folder: Path) -> None:
        try:
            with os.scandir(folder) as entries:
                self.names = {entry.name for entry in entries if entry.is_file()}
        except (OSError, ValueError):
            self.names = set()
        self._folded: list[dict[str, list[str]]] | None = None

    def get(self, name: str, form: int) -> list[str]:
        if form < 3:
            return [name] if name in self.names else []
        if self._folded is None:
            self._folded = [{}, {}]
            for each in sorted(self.names):
                stem, ending = _cut(unicodedata.normalize("NFC", each))
                self._folded[0].setdefault(stem + ending.lower(), []).append(each)
                if ending.lower() in IMAGE_ENDINGS:
                    self._folded[1].setdefault(stem, []).append(each)
        composed = unicodedata.normalize("NFC", name)
        if form == 3:
            stem, ending = _cut(composed)
            return self._folded[0].get(stem + ending.lower(), [])
        return self._folded[1].get(composed, [])


def _cut(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    return path.stem, path.suffix


def _slashes(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).as_posix()


def _only(hits: list[Picture], name: str, where: str) -> Picture:
    first = hits[0]
    for other in hits[1:]:
        if not first.path.samefile(other.path):
            raise DataError(
                f"{where}: image name {name!r} may mean {first.path} or {other.path}; name the "
                "folder (images=...) or write the whole name"
            )
    return first


def data_set_root(base: Path) -> Path:
    """Return the folder of the whole data set: above ``labels``, ``train`` and the like.

    Example:
        >>> data_set_root(Path("/data/site/labels/train2017")).as_posix()
        '/data/site'
    """
    root = base.absolute()
    while (words := re.findall("[a-z]+", root.name.lower())) and _PLACES.issuperset(words):
        root = root.parent
    return root


def picture_folders(base: Path, stem: str, images: Path | None, *, source: object) -> list[Path]:
    """Return where the pictures of an annotation file may lie.

    Data sets have them beside the file, in ``images/`` or ``JPEGImages/``, in a folder called as
    the file (``train.json`` and ``train/``), or in one beside ``annotations/`` (COCO's
    ``annotations/instances_val2017.json`` and ``val2017/``).

    Args:
        base: Folder of the annotation file.
        stem: Its name without the ending, "" for a folder of files.
        images: The folder, if the caller knows it.
        source: What to call the annotations in errors.

    Raises:
        DataError: If ``images`` is given and is not a folder.
    """
    if images is not None:
        if not images.is_dir():
            raise DataError(f"{images}: expected the folder of images of {source}, found none")
        return [images]
    parts = [part for part in dict.fromkeys((stem, stem.split("_")[-1])) if part]
    folders = []
    for root in (base, base.parent) if data_set_root(base) != base.absolute() else (base,):
        pictures = [root / name for name in ("images", "JPEGImages", "img")]
        folders += [root, *pictures, *(root / part for part in parts)]
        folders += [place / part for place in pictures for part in parts]
    if base.parent.name.lower() in ("labels", "annotations"):  # labels/train and images/train
        beside = base.parent.parent
        folders += [beside / name / base.name for name in ("images", "JPEGImages")]
        folders += [beside / base.name]
    return folders
