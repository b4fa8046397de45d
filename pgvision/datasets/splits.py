"""Splits that never drift: an image's part follows from the image alone."""

import hashlib
from dataclasses import replace
from typing import Literal

from pgvision.datasets.image_files import file_digest
from pgvision.datasets.records import Dataset
from pgvision.errors import DataError, OptionError


def split_by_hash(
    dataset: Dataset,
    *,
    val: float = 0.2,
    salt: str = "",
    by: Literal["content", "name"] = "content",
) -> dict[str, Dataset]:
    """Part a data set into ``"train"`` and ``"val"`` by a hash of each image.

    An image stays where it is when others come or go, and with a larger ``val`` no image of
    ``"val"`` leaves it.

    Args:
        dataset: The data set.
        val: Share of images for ``"val"``, in expectation; 0 < val < 1.
        salt: Another text gives another, equally fixed split.
        by: ``"content"`` hashes the file's bytes, so that copies under two names stay together;
            ``"name"`` hashes the file name and opens nothing.

    Returns:
        The two parts, with the categories and ids of the whole.

    Raises:
        OptionError: If ``val`` or ``by`` is outside what it may be.
        DataError: If a file cannot be read, or one part would be empty.

    Example:
        >>> from pathlib import Path
        >>> from pgvision.datasets import ImageRecord
        >>> shots = tuple(ImageRecord(i, f"{i}.jpg", Path(f"{i}.jpg"), (8, 8)) for i in range(50))
        >>> parts = split_by_hash(Dataset(shots, ()), val=0.2, by="name")
        >>> len(parts["train"].images) + len(parts["val"].images)
        50
    """
    if not 0 < val < 1:
        raise OptionError(f"val={val}: expected a share between 0 and 1")
    if by not in ("content", "name"):
        raise OptionError(f"by={by!r}: expected 'content' or 'name'")
    in_val = {}
    for image in dataset.images:
        key = image.file_name if by == "name" else file_digest(image.path)
        in_val[image.id] = _unit(f"{salt}\0{key}") < val
    parts = {}
    for split, wanted in (("train", False), ("val", True)):
        images = tuple(image for image in dataset.images if in_val[image.id] is wanted)
        if not images:
            raise DataError(
                f"{split!r} would hold none of the {len(dataset.images)} images; "
                "use another val or salt"
            )
        parts[split] = replace(dataset, images=images)
    return parts


def _unit(text: str) -> float:
    """Map text to [0, 1), evenly and always the same."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / (1 << 56)
