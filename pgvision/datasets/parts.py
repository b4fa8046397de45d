"""Train, validation and test part of a data set, recognised by a word of a file's or folder's name.

The one place for this rule: training, evaluation and `read_splits` all use it.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from pgvision.errors import DataError, OptionError

Part = Literal["train", "valid", "test"]

_WORDS: Final[dict[str, Part]] = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "minival", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def _words(name: str) -> list[str]:
    """Split a name into words and numbers; words for a part become the part."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [_WORDS.get(word, word) for word in re.findall(r"[a-z]+|\d+", apart.lower())]


def part_of(name: str) -> Part | None:
    """Return the part that a file or folder name means.

    Args:
        name: Name without its folder; an ending does no harm.

    Returns:
        The part that has a word in the name; None if there is no such word, or words of
        training and another part.

    Example:
        >>> [part_of(name) for name in ("_annotations.train", "instances_val2017", "b_test")]
        ['train', 'valid', 'test']
        >>> part_of("trains"), part_of("train_test")
        (None, None)
    """
    words = set(_words(name))
    if "train" in words:
        return None if words & {"valid", "test"} else "train"
    if "test" in words:  # COCO's test-dev is a test part
        return "test"
    return "valid" if "valid" in words else None


def find_split(names: Iterable[str], split: str, *, source: object) -> str:
    """Return the one of several names that a user's ``split`` means.

    Args:
        names: Names of files or folders.
        split: A whole name, or words of one: ``val2017`` for ``instances_val2017``, ``valid`` for
            ``helmets_val``.
        source: The data set, for errors.

    Raises:
        OptionError: If none fits, or several do.

    Example:
        >>> find_split(["instances_train2017", "instances_val2017"], "val2017", source="coco/")
        'instances_val2017'
    """
    known = list(names)
    if split in known:
        return split
    wanted = _words(split)
    fitting = [name for name in known if wanted and _contains(_words(name), wanted)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise OptionError(
            f"split={split!r}: {source} has several that fit: {', '.join(fitting)}; give the whole "
            "name"
        )
    raise OptionError(f"split={split!r}: {source} has {', '.join(known)}")


def _contains(words: Sequence[str], wanted: Sequence[str]) -> bool:
    ends = range(len(words) - len(wanted) + 1)
    return any(words[start : start + len(wanted)] == wanted for start in ends)


def training_part(names: Iterable[str], split: str | None = None, *, source: object) -> str:
    """Return the name of the part to learn from.

    A part called test is chosen by ``split`` only. A single file or folder is the training part
    unless it is called test.

    Args:
        names: Names of the parts: stems of files, or folder names.
        split: The user's choice; see `find_split`.
        source: The data set, for errors.

    Raises:
        DataError: If it cannot be decided; the message lists the names.
        OptionError: If ``split`` is none of the names.

    Example:
        >>> training_part(["b_test", "b_train", "b_val"], source="b/")
        'b_train'
    """
    known = list(names)
    if split is not None:
        return find_split(known, split, source=source)
    chosen = [name for name in known if part_of(name) == "train"]
    if not chosen:
        chosen = [name for name in known if part_of(name) is None]
    if len(chosen) == 1:
        return chosen[0]
    if len(known) == 1 and part_of(known[0]) == "valid":
        return known[0]
    raise DataError(_undecided(known, "learn from", source))


def validation_part(
    names: Iterable[str], split: str | None = None, *, source: object, beside: str | None = None
) -> str | None:
    """Return the name of the part to validate or evaluate on.

    Args:
        names: Names of the parts: stems of files, or folder names.
        split: The user's choice; see `find_split`.
        source: The data set, for errors.
        beside: The training part, which is left out; None if there is no training, as in
            ``pgvision eval``. Then a single part is taken whatever its name.

    Returns:
        The validation part, else the test part; None if there is neither and ``beside`` is given.

    Raises:
        DataError: If it cannot be decided; the message lists the names.
        OptionError: If ``split`` is none of the names.

    Example:
        >>> validation_part(["train", "valid", "test"], source="site/")
        'valid'
    """
    # 1. The named part, or the only one.
    known = [name for name in names if name != beside]
    if split is not None:
        return find_split(known, split, source=source)
    if beside is None and len(known) == 1:
        return known[0]
    # 2. Validation before test.
    for part in ("valid", "test"):
        chosen = [name for name in known if part_of(name) == part]
        if len(chosen) == 1:
            return chosen[0]
        if chosen:
            raise DataError(_undecided(chosen, "validate on", source))
    if beside is not None:
        return None
    raise DataError(_undecided(known, "evaluate on", source))


def _undecided(names: Sequence[str], purpose: str, source: object) -> str:
    return (
        f"{source}: cannot decide which part to {purpose}: {', '.join(names)}. Name one with "
        "split=... (--split)"
    )
