"""Names and questions of a user -> those that a checkpoint was trained on, or a refusal."""

import logging
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Final, NamedTuple

from pgvision.errors import PromptError, UnknownNameError
from pgvision.runtime import CheckpointCard
from pgvision.tasks.options import Unknown
from pgvision.tokens.labels import UNMATCHED, match_loosely

_LOG: Final = logging.getLogger(__name__)
_NEAREST: Final = 3
_REMEDY: Final = 'ask for one of these, or insist with unknown="ask" (--unknown ask)'


class ClassName(NamedTuple):
    """A class under two names: ``given`` by the user, ``trained`` in the prompt."""

    given: str
    trained: str


def known_classes(
    phrases: Sequence[str], card: CheckpointCard, *, unknown: Unknown = "refuse"
) -> tuple[ClassName, ...]:
    """Map names to the classes of a checkpoint.

    Other case, plurals, hyphens and the card's synonyms mean the trained name; "helmet, head" is
    two names. A checkpoint without a list of classes takes any phrase.

    Args:
        phrases: The names, one a class.
        card: The checkpoint's card.
        unknown: "ask" sends an unknown name as it is.

    Returns:
        One `ClassName` a class, in the order given.

    Raises:
        UnknownNameError: If a name is not in the list; with the three nearest.
        PromptError: If two names mean the same class.

    Example:
        >>> from pgvision.runtime import find_checkpoint
        >>> known_classes(["Hard hats"], find_checkpoint("tiny"))
        (ClassName(given='Hard hats', trained='helmet'),)
    """
    # 1. The checkpoint takes any phrase.
    if card.classes is None:
        return tuple(ClassName(phrase, phrase) for phrase in phrases)
    names: list[ClassName] = []
    # 2. Find each name, or each of a list with commas, among the trained ones.
    for phrase in phrases:
        parts = [phrase] if _trained_name(phrase, card) else phrase.strip(" ,").split(",")
        trained = [_trained_name(part, card) for part in parts]
        if None not in trained:
            names += [
                ClassName(part.strip(), str(name))
                for part, name in zip(parts, trained, strict=True)
            ]
        elif unknown == "ask":
            names.append(ClassName(phrase, phrase))
        else:
            stranger = parts[trained.index(None)].strip()
            near = _nearest(stranger.casefold(), _spellings(card))
            raise UnknownNameError(
                f"{card.name} was not trained on the class {stranger!r}; the nearest are "
                f"{near}: {_REMEDY}. google/paligemma2-3b-mix-448 takes any phrase"
            )
    # 3. Refuse two names with one meaning: their objects could not be separated.
    first: dict[str, str] = {}
    for name in names:
        if name.trained in first:
            raise PromptError(
                f"{first[name.trained]!r} and {name.given!r} both mean {name.trained!r} to "
                f"{card.name}; ask for one of them"
            )
        first[name.trained] = name.given
        if name.given != name.trained:
            _LOG.info("%r is asked for as %r", name.given, name.trained)
    return tuple(names)


def known_question(question: str, card: CheckpointCard, *, unknown: Unknown = "refuse") -> str:
    """Return a question in the wording that the checkpoint was trained on.

    Case, closing marks, "-body" for "-one" and "colour" make no difference. A checkpoint without
    a list of questions takes any.

    Args:
        question: In words.
        card: The checkpoint's card.
        unknown: "ask" returns an unknown question as it is.

    Raises:
        UnknownNameError: If the question is not in the list; with the three nearest.

    Example:
        >>> from pgvision.runtime import find_checkpoint
        >>> known_question("Is there a truck", find_checkpoint("tiny"))
        'is there a truck?'
    """
    if not card.questions:
        return question
    wordings = {_folded(form): form for form in card.questions}
    if form := wordings.get(_folded(question)):
        return form
    if unknown == "ask":
        return question
    near = _nearest(_folded(question), {form: form for form in card.questions})
    raise UnknownNameError(
        f"{card.name} was not trained on the question {question!r:.200}; the nearest are "
        f"{near}: {_REMEDY}"
    )


def _spellings(card: CheckpointCard) -> dict[str, str]:
    """Return the trained name of each spelling in the card."""
    spellings = {name: name for name in card.classes or ()}
    for name, words in card.synonyms.items():
        for other in words:
            spellings.setdefault(other, name)
    return spellings


def _trained_name(phrase: str, card: CheckpointCard) -> str | None:
    if phrase in (card.classes or ()):
        return phrase
    spellings = _spellings(card)
    row = match_loosely(phrase, tuple(spellings))
    return None if row == UNMATCHED else list(spellings.values())[row]


def _nearest(text: str, spellings: dict[str, str]) -> str:
    """Return the names of the spellings that are most like a text, for a message."""
    ratios = {
        spelling: SequenceMatcher(None, spelling.casefold(), text).ratio() for spelling in spellings
    }
    ranked = sorted(spellings, key=lambda spelling: -ratios[spelling])
    names = list(dict.fromkeys(spellings[spelling] for spelling in ranked))
    return ", ".join(map(repr, names[:_NEAREST]))


def _folded(question: str) -> str:
    words = question.casefold().replace("colour", "color").split()
    pronouns = {f"{start}body": f"{start}one" for start in ("any", "every", "some", "no")}
    return " ".join(pronouns.get(word, word) for word in words).rstrip("?!. ")
