"""The ids that an annotation file gives to pictures, found by name."""

from pathlib import Path, PureWindowsPath

from pgvision.coco import FIX, Problems, read_content
from pgvision.errors import DataError


class KnownIds:
    """The ids that an annotation file gives to images and categories.

    Args:
        path: The file; it need not hold annotations.

    Raises:
        DataError: If it is no COCO file, or its images or categories are not sound.
    """

    def __init__(self, path: Path) -> None:
        """Read the file."""
        where = f"--coco-ids {path}"
        content = read_content(path, where=where, outlines=False, required=("images", "categories"))
        problems = Problems(where)
        for place, what in content.problems:
            if not place.startswith("annotations"):
                problems.add(place, what)
        self._names: dict[str, list[tuple[tuple[str, ...], int]]] = {}
        for number, entry in content.images.items():
            name = entry.fields.get("file_name")
            if not isinstance(name, str) or not _parts(name):
                problems.add(f"images[{entry.index}].file_name", f"is {name!r:.40}, expected text")
                continue
            parts = _parts(name)
            self._names.setdefault(parts[-1], []).append((parts, number))
        problems.refuse(FIX, DataError)
        self.categories = {entry.fields["name"]: n for n, entry in content.categories.items()}
        self._taken: dict[int, str] = {}

    def image_id(self, picture: str) -> int:
        """Return the id of the image whose name and folders are the picture's own.

        Args:
            picture: Path of the picture. Of several images with its name, the one that shares most
                folders with it, counted from the right, is meant.

        Raises:
            DataError: If there is none, or several, or if another picture has taken the id.
        """
        parts = _parts(picture)
        shared = [
            (_num_shared(parts, known), number, "/".join(known))
            for known, number in self._names.get(parts[-1], [])
        ]
        most = max((count for count, _, _ in shared), default=0)
        best = [(number, name) for count, number, name in shared if count == most]
        if not best:
            raise DataError(f"--coco-ids has no image with the file name {parts[-1]!r}")
        (number, name), *others = best
        if others:
            names = ", ".join(repr(name) for _, name in best[:3])
            raise DataError(
                f"--coco-ids: {picture} may be any of {names}; run it in the folder that the names "
                "start from"
            )
        if self._taken.setdefault(number, picture) != picture:
            raise DataError(
                f"--coco-ids: {picture} and {self._taken[number]} would both be {name!r}; leave "
                "one out, or use an annotation file with both"
            )
        return number


def _parts(name: str) -> tuple[str, ...]:
    """Cut a path at either kind of separator."""
    return tuple(part for part in PureWindowsPath(name).parts if part != ".")


def _num_shared(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    count = 0
    for here, there in zip(reversed(one), reversed(other), strict=False):
        if here != there:
            break
        count += 1
    return count
