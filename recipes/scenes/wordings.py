"""Other ways to ask what the scenes ask: some to train on, some kept back to test with."""

import re
from typing import Final

# One line for each kind of question: a pattern of its first form, forms to train on, forms to
# keep back. ``{x}`` is what the pattern caught, without a plural's s.
_FORMS: Final[tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]] = (
    (
        r"how many workers are there\?",
        ("how many people are there?", "how many workers can you see?", "count the people"),
        ("how many people can you see?", "count the workers"),
    ),
    (
        r"how many workers wear a helmet\?",
        (
            "how many people wear a helmet?",
            "how many workers are wearing helmets?",
            "how many people wear helmets?",
            "how many workers have a helmet on?",
            "how many people with helmets are there?",
        ),
        ("how many people are wearing a helmet?", "how many workers with helmets are there?"),
    ),
    (
        r"how many workers wear no helmet\?",
        (
            "how many people wear no helmet?",
            "how many workers are without a helmet?",
            "how many people do not wear a helmet?",
            "how many workers are not wearing helmets?",
            "how many people without helmets are there?",
        ),
        ("how many people are without helmets?", "how many workers do not wear a helmet?"),
    ),
    (
        r"are there any people without helmets\?",
        (
            "are there any workers without helmets?",
            "is there a worker without a helmet?",
            "is anyone without a helmet?",
            "does anyone wear no helmet?",
            "is anyone not wearing a helmet?",
            "are there people who do not wear a helmet?",
            "is somebody not wearing a helmet?",
        ),
        (
            "is there anyone without a helmet?",
            "are there workers who do not wear helmets?",
            "is there a person without a helmet?",
        ),
    ),
    (
        r"does everyone wear a helmet\?",
        (
            "is everyone wearing a helmet?",
            "do all workers wear a helmet?",
            "are all people wearing helmets?",
            "does every worker wear a helmet?",
            "do all people have a helmet on?",
        ),
        (
            "do all people wear helmets?",
            "are all workers wearing a helmet?",
            "does every person wear a helmet?",
        ),
    ),
    (
        r"does the worker wear a (?P<x>\w+)\?",
        ("is the worker wearing a {x}?", "does the person wear a {x}?"),
        ("is the person wearing a {x}?",),
    ),
    (
        r"how many (?P<x>\w+)s are there\?",
        ("how many {x}s can you see?", "count the {x}s"),
        ("how many {x}s do you see?",),
    ),
    (
        r"is there a (?P<x>\w+)\?",
        ("are there any {x}s?", "do you see a {x}?", "is there any {x}?"),
        ("can you see a {x}?", "do you see any {x}s?"),
    ),
    (
        r"what color is the (?P<x>\w+)\?",
        ("what is the color of the {x}?", "which color is the {x}?", "what colour is the {x}?"),
        ("which color does the {x} have?", "what is the colour of the {x}?"),
    ),
    (
        r"what does the sign say\?",
        ("what is written on the sign?", "what does it say on the sign?"),
        ("what is on the sign?",),
    ),
)

_COUNTED: Final = ("cone", "barrel", "ladder", "truck", "sign", "vest")
_THINGS: Final[dict[str, tuple[str, ...]]] = {
    "does the worker wear a {x}?": ("helmet", "vest"),
    "how many {x}s are there?": _COUNTED,
    "is there a {x}?": _COUNTED,
    "what color is the {x}?": ("helmet", "vest", "truck", "barrel", "ladder"),
}


def trained_forms(question: str) -> tuple[str, ...]:
    """Return the ways to ask a question that training uses, the question itself first.

    Example:
        >>> trained_forms("what color is the truck?")[1]
        'what is the color of the truck?'
        >>> trained_forms("why?")
        ('why?',)
    """
    return (question, *_filled(question, kept_back=False))


def kept_back_forms(question: str) -> tuple[str, ...]:
    """Return the ways to ask a question that no training has seen.

    Example:
        >>> kept_back_forms("is there a sign?")[0]
        'can you see a sign?'
    """
    return _filled(question, kept_back=True)


def first_forms() -> tuple[str, ...]:
    """Return every question that scenes ask, in the form that they ask it in.

    Example:
        >>> first_forms()[:2]
        ('how many workers are there?', 'how many workers wear a helmet?')
    """
    forms = []
    for pattern, _, _ in _FORMS:
        form = re.sub(r"\(\?P<x>\\w\+\)", "{x}", pattern).replace("\\?", "?")
        forms += [form.format(x=name) for name in _THINGS[form]] if "{x}" in form else [form]
    return tuple(forms)


def _filled(question: str, *, kept_back: bool) -> tuple[str, ...]:
    for pattern, trained, held in _FORMS:
        found = re.fullmatch(pattern, question)
        if found:
            return tuple(
                form.format(**found.groupdict()) for form in (held if kept_back else trained)
            )
    return ()


def all_words() -> frozenset[str]:
    """Return the words that the forms are made of, for a tokenizer."""
    forms = [form for _, trained, held in _FORMS for form in (*trained, *held)]
    words = " ".join(forms).replace("?", " ").split()
    return frozenset(word for word in words if "{" not in word)
