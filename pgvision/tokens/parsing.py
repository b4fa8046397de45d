"""Lossless parser of an answer's text into objects, and matching of their labels to classes.

One regular expression cuts the text into runs of tokens with the words after them, gaps, and prose.
The tokens of a run are counted: they are one object, several, or a reject with its reason.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from pgvision.errors import PromptError
from pgvision.tokens.bins import (
    CODES_PER_MASK,
    LOCS_PER_BOX,
    NUM_BINS,
    NUM_CODES,
    decode_boxes,
    require_convention,
    require_image_hw,
)

UNMATCHED: Final = -1  # class of a label that names none
PROSE: Final = "prose"
TRUNCATED: Final = "truncated"
OUT_OF_RANGE: Final = "number out of range"
NO_AREA: Final = "degenerate box"
LOC_COUNT: Final = "wrong number of location tokens"
SEG_COUNT: Final = "wrong number of mask tokens"
LONE_MASK: Final = "mask without a box"

# A token, or the beginning of one that the end of the text cut off.
_LOC: Final = r"<loc[0-9]*(?:>|\Z)"
_SEG: Final = r"<seg[0-9]*(?:>|\Z)"
_ANY: Final = rf"(?:{_LOC}|{_SEG})"
_MARKER: Final = r"<(?:eos|pad|bos)>"
# A label ends at a token, a semicolon or a line break. A phrase contains neither of the last two.
_WORDS: Final = rf"[^<;\n\r]*(?:(?!{_ANY}|{_MARKER})<[^<;\n\r]*)*"
_PIECE: Final = re.compile(rf"({_ANY}(?:\s*{_ANY})*){_WORDS}|(?:[\s;]|{_MARKER})+|({_WORDS})")
_GROUP: Final = re.compile(rf"((?:{_LOC}\s*)*)((?:{_SEG}\s*)*)")
_TOKEN: Final = re.compile(r"<(loc|seg)([0-9]*)(>|\Z)")
_LIMITS: Final = {"loc": (4, NUM_BINS), "seg": (3, NUM_CODES)}


@dataclass(frozen=True, slots=True)
class ParsedObject:
    """One object of an answer.

    Attributes:
        loc_yxyx: Bins as written: top, left, bottom, right.
        xyxy: The box in pixels, inside the image: left, top, right, bottom.
        label: The name that the model wrote, or None if it wrote none.
        class_id: Index into the classes asked for; -1 if the label names none of them.
        codes: The 16 codes of its mask, or None.
        start: Where its first token begins in the text.
        end: Where its last character ends.
    """

    loc_yxyx: tuple[int, int, int, int]
    xyxy: tuple[float, float, float, float]
    label: str | None
    class_id: int
    codes: tuple[int, ...] | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Reject:
    """A fragment that could not be read: ``text``, ``reason``, and its place in the answer."""

    text: str
    reason: str
    start: int
    end: int


class ParsedSuffix(NamedTuple):
    """What `parse_suffix` found, in the order of the text."""

    objects: tuple[ParsedObject, ...]
    rejects: tuple[Reject, ...]

    @property
    def truncated(self) -> bool:
        """Whether the text ends inside an object."""
        return bool(self.rejects) and self.rejects[-1].reason == TRUNCATED


# An object before its bins become pixels: bins, codes, label, start, end. A plain tuple, since one
# is made for each object and the time shows.
_Found: TypeAlias = tuple[tuple[int, int, int, int], tuple[int, ...] | None, str | None, int, int]


def parse_suffix(
    text: str,
    *,
    image_hw: tuple[int, int],
    classes: Iterable[str] | None = None,
    convention: str = "1024",
) -> ParsedSuffix:
    """Read what a model wrote about boxes and masks.

    Never raises on ``text``, and loses none of it: each character is in an object, in a reject,
    or is a gap (space, ``;`` between objects, ``<eos>``, ``<pad>``, ``<bos>``). Objects may lack
    the label or the separator, tokens may be apart, labels may contain any character but a
    semicolon or a line break. Boxes in a row without words between them are as many objects, all
    but the last without a label. Repeated objects are kept.

    Args:
        text: The suffix, with or without ``<eos>``.
        image_hw: Height and width of the original image, in pixels.
        classes: The names that were asked for, to fill in ``class_id`` (see `match_label`): with
            one name, an object without a label is of that class.
        convention: ``"1024"`` or ``"1023"``, as in `decode_boxes`.

    Returns:
        Objects and rejects.

    Raises:
        ShapeError: If ``image_hw`` is not two positive ints.
        OptionError: If ``convention`` is unknown.
        PromptError: If ``text`` or a class is not text.

    Source:
        google-research/big_vision, configs/proj/paligemma (the format); supervision,
        detection/vlm.py (on what it reads, boxes and labels agree with it).

    Example:
        >>> text = "<loc0256><loc0000><loc0768><loc0512> helmets ; <loc0001><loc0002>"
        >>> parsed = parse_suffix(text, image_hw=(480, 640), classes=["helmet"])
        >>> [(one.xyxy, one.label, one.class_id) for one in parsed.objects]
        [((0.0, 120.0, 320.0, 360.0), 'helmets', 0)]
        >>> [(reject.text, reject.reason) for reject in parsed.rejects], parsed.truncated
        ([('<loc0001><loc0002>', 'truncated')], True)
    """
    if not isinstance(text, str):
        raise PromptError(f"text: expected what the model wrote, got {type(text).__name__}.")
    require_image_hw(image_hw)
    require_convention(convention)
    names = None if classes is None else _require_names(classes)
    found, rejects = _scan(text)
    objects = _finish(found, names, image_hw, convention) if found else ()
    return ParsedSuffix(objects, tuple(rejects))


def _require_names(classes: Iterable[str]) -> tuple[str, ...]:
    names = (classes,) if isinstance(classes, str) else classes
    checked = tuple(names) if isinstance(names, Iterable) else (None,)
    if not all(isinstance(name, str) for name in checked):
        raise PromptError(f"classes: expected names, got {classes!r}.")
    return checked


def _scan(text: str) -> tuple[list[_Found], list[Reject]]:
    found: list[_Found] = []
    rejects: list[Reject] = []
    # What ends with the text may have been cut off.
    length = len(text.rstrip())
    for piece in _PIECE.finditer(text):
        run, prose = piece.groups()
        if prose:
            rejects.append(_reject(text, PROSE, piece.start(), piece.end()))
        elif run:
            at_end = piece.end(1) >= length
            for one in _read_run(text, *piece.span(), piece.end(1), at_end=at_end):
                if isinstance(one, Reject):
                    rejects.append(one)
                else:
                    found.append(one)
    return found, rejects


def _reject(text: str, reason: str, start: int, end: int) -> Reject:
    fragment = text[start:end].rstrip()
    return Reject(fragment, reason, start, start + len(fragment))


def _read_run(
    text: str, start: int, end: int, stop: int, *, at_end: bool
) -> Iterator[_Found | Reject]:
    """Read the tokens in ``[start, stop)``, not one whole object, and the words up to ``end``."""
    label = text[stop:end].strip() or None
    # 1. A location after a mask code begins a new group.
    for group in _GROUP.finditer(text, start, stop):
        if group.start() == group.end():
            continue
        # 2. A group is one object, several boxes, or a reject. The last one has the label.
        for tokens in _chunks(text, *group.span(), at_end=at_end and group.end() >= stop):
            is_last = tokens[-1].end() == stop
            reason = _judge(tokens, at_end=at_end and is_last)
            first = tokens[0].start()
            last = end if is_last and label else tokens[-1].end()
            if reason is not None:
                yield _reject(text, reason, first, last)
            else:
                last = first + len(text[first:last].rstrip())
                yield _found(tokens, label if is_last else None, first, last)


def _chunks(text: str, start: int, end: int, *, at_end: bool) -> Iterator[list["re.Match[str]"]]:
    """Cut locs and the segs after them into boxes."""
    # A multiple of four, or cut off at the end of the answer: then the last box alone is not whole.
    # Elsewhere it is ambiguous which location is too many.
    tokens = list(_TOKEN.finditer(text, start, end))
    num_locs = sum(token[1] == "loc" for token in tokens)
    first = 0
    if num_locs % LOCS_PER_BOX == 0 or (at_end and num_locs == len(tokens)):
        for first in range(0, num_locs - LOCS_PER_BOX, LOCS_PER_BOX):
            yield tokens[first : first + LOCS_PER_BOX]
        first = max(0, (num_locs - 1) // LOCS_PER_BOX * LOCS_PER_BOX)
    yield tokens[first:]


def _judge(tokens: list["re.Match[str]"], *, at_end: bool) -> str | None:
    """Return why tokens are not an object, or None if they are one."""
    if not tokens[-1][3]:
        return TRUNCATED
    # Locations come first: `_GROUP` cuts before a location that follows a code.
    num_locs = sum(token[1] == "loc" for token in tokens)
    num_codes = len(tokens) - num_locs
    if not num_locs:
        return LONE_MASK
    if num_locs > LOCS_PER_BOX or (num_codes and num_locs < LOCS_PER_BOX):
        return LOC_COUNT
    if num_codes > CODES_PER_MASK:
        return SEG_COUNT
    if num_locs < LOCS_PER_BOX or 0 < num_codes < CODES_PER_MASK:
        return TRUNCATED if at_end else SEG_COUNT if num_codes else LOC_COUNT
    for token in tokens:
        digits, size = _LIMITS[token[1]]
        # The length first: int() refuses thousands of digits.
        if len(token[2]) != digits or int(token[2]) >= size:
            return OUT_OF_RANGE
    top, left, bottom, right = (int(token[2]) for token in tokens[:LOCS_PER_BOX])
    return None if top < bottom and left < right else NO_AREA


def _found(tokens: list["re.Match[str]"], label: str | None, start: int, end: int) -> _Found:
    top, left, bottom, right, *codes = (int(token[2]) for token in tokens)
    return (top, left, bottom, right), tuple(codes) or None, label, start, end


def _finish(
    found: list[_Found],
    classes: tuple[str, ...] | None,
    image_hw: tuple[int, int],
    convention: str,
) -> tuple[ParsedObject, ...]:
    # 1. Decode all boxes at once.
    flat = list(chain.from_iterable([one[0] for one in found]))
    bins_yxyx = np.array(flat).reshape(-1, LOCS_PER_BOX)
    boxes = decode_boxes(bins_yxyx, image_hw=image_hw, convention=convention)
    # 2. Match the labels to the classes.
    objects = []
    for (bins, codes, label, start, end), xyxy in zip(found, boxes.tolist(), strict=True):
        class_id = UNMATCHED if classes is None else match_label(label, classes)
        objects.append(ParsedObject(bins, tuple(xyxy), label, class_id, codes, start, end))
    return tuple(objects)


# --- labels to classes --------------------------------------------------------------------------

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
