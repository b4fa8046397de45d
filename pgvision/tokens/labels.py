"""Matching of a written name to the class that was asked for."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

UNMATCHED: Final = -1

_IRREGULAR: Final = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "mouse": "mice",
    "ox": "oxen",
}
_ENDINGS: Final = {"y": "ies", "f": "ves", "fe": "ves"}
_GAPS: Final = re.compile(r"[\s_\-\u2010\u2011]+")
_EDGES: Final = ".,:;!?\"'()[] "


def match_label(label: str | None, classes: Sequence[str]) -> int:
    """Find the class that a label names.

    Tried in turn: the same text; the same but for case, Unicode form (NFKC), spaces, hyphens and
    outer punctuation; the same but for English plurals, word by word. Among several the first
    class wins.

    Args:
        label: What the model wrote, or None if it wrote no label.
        classes: The names that were asked for.

    Returns:
        Index into ``classes``, or -1. Without a label: 0 if one class was asked for (the prompt
        left nothing else to mean), else -1.

    Example:
        >>> match_label("Helmets", ["head", "helmet"]), match_label("dog", ["head", "helmet"])
        (1, -1)
    """
    if label is None:
        return 0 if len(classes) == 1 else UNMATCHED
    names = tuple(classes)
    return names.index(label) if label in names else match_loosely(label, names)


@lru_cache(maxsize=8192)
def match_loosely(label: str, classes: tuple[str, ...]) -> int:
    """Do the part of `match_label` that comes after exact comparison.

    Example:
        >>> match_loosely("hard-hat", ("Hard Hat",))
        0
    """
    # 1. The same but for case, Unicode form, gaps and outer punctuation.
    words = _words(label)
    folded = [_words(name) for name in classes]
    if not words:
        return UNMATCHED
    if words in folded:
        return folded.index(words)
    # 2. The same but for plurals, word by word.
    for at, name in enumerate(folded):
        if len(name) == len(words) and all(map(_same_word, words, name)):
            return at
    return UNMATCHED


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _GAPS.sub(" ", folded).strip(_EDGES).split()


def _same_word(one: str, other: str) -> bool:
    return one == other or one in _plurals(other) or other in _plurals(one)


def _plurals(word: str) -> tuple[str, ...]:
    """Spell the plurals that an English word could have, right or wrong."""
    # "a" and "as" are no singular and plural.
    if len(word) < 3 and word not in _IRREGULAR:
        return ()
    plurals = [word + "s", word + "es"]
    for singular, plural in (*_ENDINGS.items(), *_IRREGULAR.items()):
        if word.endswith(singular):  # workman, workmen
            plurals.append(word.removesuffix(singular) + plural)
    return tuple(plurals)
