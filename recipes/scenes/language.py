"""Says what a scene holds: captions, questions with answers, readings; and reads captions back."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from recipes.scenes.dice import Dice
from recipes.scenes.scene import Question, SceneObject
from recipes.scenes.vocabulary import CLASSES

_NUMBERS: Final = (
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)
_VALUES: Final = {word: value for value, word in enumerate(_NUMBERS)} | {"a": 1, "an": 1}
_PHRASE: Final = re.compile(
    r"\b(" + "|".join(_VALUES) + r"|\d+) (" + "|".join(CLASSES) + r")s?\b"
    r"(?: (with|without) (?:a )?helmets?\b)?"
)
EMPTY_CAPTION: Final = "an empty construction site"


def _counted(count: int, noun: str, article: str = "a") -> str:
    if count == 1:
        return f"{article} {noun}"
    word = _NUMBERS[count] if count < len(_NUMBERS) else str(count)
    return f"{word} {noun}s"


def caption_of(objects: Sequence[SceneObject]) -> str:
    """Return the caption of these objects.

    Workers come first, grouped by whether a helmet is seen on them; then what nobody seen wears;
    then vests, trucks, ladders, cones, barrels and signs.
    """
    workers = [item for item in objects if item.label == "worker"]
    seen = {item.track_id for item in workers}
    loose = Counter(
        item.label
        for item in objects
        if item.label not in ("helmet", "head") or item.worn_by not in seen
    )
    parts = []
    for wears, ending in ((True, " with helmet"), (False, " without helmet"), (None, "")):
        count = sum(item.wears_helmet is wears for item in workers)
        if count:
            plural = "s" if count > 1 and ending else ""
            parts.append(_counted(count, "worker", "one") + ending + plural)
    for label in ("helmet", "head", "vest", "truck", "ladder", "cone", "barrel", "sign"):
        if loose[label]:
            parts.append(_counted(loose[label], label))
    if not parts:
        return EMPTY_CAPTION
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def caption_counts(text: str) -> dict[str, int]:
    """Count the objects that a caption names.

    A worker "with helmet" also counts as a helmet, a worker "without helmet" as a head.

    Args:
        text: Any text; what is not a counted class is passed over.

    Returns:
        Class name to count, for the classes that are named.

    Example:
        >>> caption_counts("two workers with helmets, one worker without helmet and a truck")
        {'worker': 3, 'helmet': 2, 'head': 1, 'truck': 1}
    """
    counts: dict[str, int] = {}
    for number, label, ending in _PHRASE.findall(text.lower()):
        count = _VALUES[number] if number in _VALUES else int(number)
        named = [label]
        if label == "worker" and ending:
            named.append("helmet" if ending == "with" else "head")
        for name in named:
            counts[name] = counts.get(name, 0) + count
    return {name: count for name, count in counts.items() if count}


def reading_of(objects: Sequence[SceneObject]) -> str:
    """Return the texts of the readable signs, left to right, joined by a space."""
    return " ".join(item.text for item in objects if item.text is not None)


def questions_of(objects: Sequence[SceneObject], dice: Dice) -> tuple[Question, ...]:
    """Return questions with answers.

    Everything that can be asked about workers, colours and a single sign is asked; of the counts
    and "is there" questions a few are drawn, so that "no" does not outweigh the rest.

    Args:
        objects: The annotated objects, left to right.
        dice: Chooses which counts and classes are asked for.
    """
    counts = Counter(item.label for item in objects)
    workers = [item for item in objects if item.label == "worker"]
    asked = [Question("how many workers are there?", str(len(workers)))]
    bare = sum(item.wears_helmet is False for item in workers)
    worn = sum(item.wears_helmet is True for item in workers)
    asked.append(Question("how many workers wear a helmet?", str(worn)))
    asked.append(Question("how many workers wear no helmet?", str(bare)))
    asked.extend(_about_one_worker(workers))
    for label in ("helmet", "vest", "truck", "barrel", "ladder"):
        if counts[label] == 1:
            colour = next(item.colour for item in objects if item.label == label)
            asked.append(Question(f"what color is the {label}?", str(colour)))
    if counts["sign"] == 1:
        text = next(item.text for item in objects if item.label == "sign")
        if text is not None:
            asked.append(Question("what does the sign say?", text.lower()))
    asked.extend(_drawn_counts(counts, dice))
    asked.extend(_about_everyone(worn, bare, len(workers)))
    return tuple(asked)


def head_count_questions(worn: int, bare: int) -> tuple[Question, ...]:
    """Return what can be asked where only helmets on heads and bare heads are known.

    Example:
        >>> [one.answer for one in head_count_questions(2, 0)]
        ['2', '0', 'no', 'yes']
    """
    counts = (
        Question("how many workers wear a helmet?", str(worn)),
        Question("how many workers wear no helmet?", str(bare)),
    )
    return (*counts, *_about_everyone(worn, bare, worn + bare))


def wearers_caption(worn: int, bare: int) -> str:
    """Return the caption where only helmets on heads and bare heads are known; "" for neither.

    Example:
        >>> wearers_caption(2, 1)
        'two workers with helmets and one worker without helmet'
    """
    counts = ((worn, " with helmet"), (bare, " without helmet"))
    parts = [
        _counted(count, "worker", "one") + ending + ("s" if count > 1 else "")
        for count, ending in counts
        if count
    ]
    return " and ".join(parts)


def _about_everyone(worn: int, bare: int, total: int) -> tuple[Question, ...]:
    """Ask whether anyone is bare-headed, unless that hangs on a head that is not seen."""
    if total == 0 or (bare == 0 and worn < total):
        return ()
    return (
        Question("are there any people without helmets?", "yes" if bare else "no"),
        Question("does everyone wear a helmet?", "no" if bare else "yes"),
    )


def _about_one_worker(workers: Sequence[SceneObject]) -> list[Question]:
    if len(workers) != 1:
        return []
    asked = []
    for thing, wears in (("helmet", workers[0].wears_helmet), ("vest", workers[0].wears_vest)):
        if wears is not None:
            asked.append(Question(f"does the worker wear a {thing}?", "yes" if wears else "no"))
    return asked


def _drawn_counts(counts: "Counter[str]", dice: Dice) -> list[Question]:
    things = ("cone", "barrel", "ladder", "truck", "sign", "vest")
    present = [label for label in things if counts[label]]
    absent = [label for label in things if not counts[label]]
    asked = []
    for label in things:
        if dice.chance(0.75 if counts[label] else 0.18):
            asked.append(Question(f"how many {label}s are there?", str(counts[label])))
    for labels, answer in ((present, "yes"), (absent, "no")):
        if labels:
            asked.append(Question(f"is there a {dice.pick(labels)}?", answer))
    return asked
