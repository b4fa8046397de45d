"""What a checkpoint says that it knows, held against what it is asked. Needs no torch."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

from pgvision.errors import PromptError
from pgvision.runtime.checkpoints import CheckpointCard
from pgvision.tokens.labels import UNMATCHED, match_loosely


def known_classes(
    asked: Sequence[str], card: CheckpointCard
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Hold the classes that are asked for to those that the checkpoint knows.

    A checkpoint that was trained on a closed list answers "nothing" to any other name, which reads
    as "there is none". So a name that means one of the list ("Helmets"; "helmet, head") is asked by
    its own, and any other is refused. Checkpoints without a list take any phrase.

    Args:
        asked: The names, one a class.
        card: The checkpoint.

    Returns:
        The names to ask for, and a note for each that was changed.

    Raises:
        PromptError: If a name is none of the list; the message names the nearest.

    Example:
        >>> from pgvision.runtime.checkpoints import find_checkpoint
        >>> known_classes(["Helmets"], find_checkpoint("tiny"))
        (('helmet',), ("'Helmets' is asked for as 'helmet'",))
    """
    if card.classes is None:
        return tuple(asked), ()
    names: list[str] = []
    notes: list[str] = []
    for phrase in asked:
        found = _meant(phrase, card)
        if found != (phrase,):
            named = ", ".join(repr(name) for name in found)
            notes.append(f"{phrase!r} is asked for as {named}")
        names.extend(name for name in found if name not in names)
    return tuple(names), tuple(notes)


def known_question(question: str, card: CheckpointCard) -> tuple[str, str | None]:
    """Hold a question to the wordings that the checkpoint was trained on.

    Outside of them a small checkpoint answers with confidence, and wrongly.

    Args:
        question: In words.
        card: The checkpoint; one without a list of wordings takes any.

    Returns:
        The question as it is trained (case and marks mended), and a warning or None.

    Example:
        >>> from pgvision.runtime.checkpoints import find_checkpoint
        >>> known_question("Is there a truck", find_checkpoint("tiny"))
        ('is there a truck?', None)
    """
    if not card.questions:
        return question, None
    wordings = {_folded(form): form for form in card.questions}
    if form := wordings.get(_folded(question)):
        return form, None
    near = get_close_matches(_folded(question), wordings, n=len(wordings), cutoff=0.0)
    listed = "".join(f"\n  {wordings[each]}" for each in near)
    return question, (
        f"{card.name} was not trained on the question {question!r}: do not trust its answer. "
        f"It knows, the nearest first:{listed}"
    )


def unknown_classes(asked: Sequence[str], card: CheckpointCard) -> str | None:
    """Say which classes the checkpoint does not know, with the nearest that it knows.

    Args:
        asked: The names, one a class.
        card: The checkpoint; one without a list takes any name.

    Returns:
        A warning, or None where it knows them all as they are spelt.

    Example:
        >>> from pgvision.runtime.checkpoints import find_checkpoint
        >>> unknown_classes(["helmet", "helmat"], find_checkpoint("tiny")).partition(" and ")[0]
        "tiny does not know 'helmat' (did you mean helmet or head?)"
    """
    if card.classes is None:
        return None
    strangers = [name for name in asked if name not in card.classes]
    if not strangers:
        return None
    named = ", ".join(f"{name!r}{_hint(name, card.classes)}" for name in strangers)
    return (
        f"{card.name} does not know {named} and would find none, whatever the picture shows. "
        f"It knows {', '.join(card.classes)}; google/paligemma2-3b-mix-448 takes any phrase"
    )


def _meant(phrase: str, card: CheckpointCard) -> tuple[str, ...]:
    classes = card.classes or ()
    parts = (phrase,) if phrase in classes else tuple(re.split(r"\s*,\s*", phrase.strip(" ,")))
    rows = [match_loosely(part, classes) for part in parts]
    if UNMATCHED in rows:
        raise PromptError(unknown_classes([parts[rows.index(UNMATCHED)]], card))
    return tuple(classes[row] for row in rows)


def _hint(stranger: str, classes: tuple[str, ...]) -> str:
    row = match_loosely(stranger, classes)
    near = get_close_matches(stranger.casefold(), classes, n=3, cutoff=0.6)
    near = near if row == UNMATCHED else [classes[row]]
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _folded(question: str) -> str:
    return " ".join(question.casefold().split()).rstrip("?!. ")
