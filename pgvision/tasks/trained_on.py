"""What a checkpoint was trained on: names, questions and kinds of image; others are refused.

Text tasks of the bundled models were trained on drawings only; on photographs they invent. A pixel
statistic tells the two apart: a logistic regression on quantiles of gradients, Laplacians, chroma
and lightness of a small copy of the image, independent of any model's weights. Fit and ROC:
``tests/benchmarks/bench_text_domain.py``.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pgvision.arrays import ByteArray, FloatArray
from pgvision.errors import PromptError, UnknownNameError
from pgvision.images.pixels import cv2
from pgvision.runtime import CheckpointCard
from pgvision.tasks.options import Unknown
from pgvision.tokens.parsing import UNMATCHED, match_loosely
from pgvision.tokens.prefixes import require_text

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
            hint = f"the nearest are {near}" if near else "it was trained on none"
            raise UnknownNameError(
                f"{card.name} was not trained on the class {stranger!r}; {hint}: {_REMEDY}. "
                "google/paligemma2-3b-mix-448 takes any phrase"
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
        PromptError: If it is not one line of text.

    Example:
        >>> from pgvision.runtime import find_checkpoint
        >>> known_question("Is there a truck", find_checkpoint("tiny"))
        'is there a truck?'
    """
    require_text(question, "question")
    if not card.questions:
        return question
    # The trained wording of the same question, or a refusal with the nearest ones.
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


# --- photograph or drawing ----------------------------------------------------------------------

_SIDE: Final = 128  # pixels of the small copy's longer side
_GRADIENT_QUANTILES: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97)
_LAPLACIAN_QUANTILES: Final = (0.25, 0.5, 0.75, 0.95)
_CHROMA_QUANTILES: Final = (0.1, 0.5, 0.9, 0.98)
_LIGHTNESS_QUANTILES: Final = (0.05, 0.5, 0.95)
_BIAS: Final = 3.845
# fmt: off
_WEIGHTS: Final = (  # one a feature
    0.104,     0.419,     1.1,     0.96,     -0.568,     -2.26,     -0.0439,     1.31,
    0.836,     0.777,     -1.56,     -3.97,     0.00227,     1.11,     3.86,     3.39,
    -3.39,     -2.2,     -0.867,     -0.64,     0.152,     0.792,     -2.33,     -1.23,
    1.96,     -0.0331,     0.344,     -0.0144,     -1.37,     -1.39,     -1.92,     0.948,
    0.353,     -0.48,     -1.04,     1.18,     0.192,     1.2,     -0.739,     -1.59,     1.29,
    2.93,     0.3,     -3.51,     1.41,     2.78,     -8.81,     7.8,     2.56,
)
# fmt: on
_THRESHOLD: Final = 0.5


def domain_features(bgr: ByteArray) -> FloatArray:
    """Return the ``(49,)`` features of an image that tell photographs from drawings.

    Args:
        bgr: ``(h, w, 3)`` uint8 BGR.
    """
    # 1. A small copy, in a space that separates lightness and colour.
    height, width = bgr.shape[:2]
    scale = _SIDE / max(height, width)
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(bgr, size, interpolation=interpolation).astype(np.float32) / 255
    lab = cv2.cvtColor(small, cv2.COLOR_BGR2Lab)
    lightness, green_red, blue_yellow = (np.ascontiguousarray(lab[..., c]) for c in range(3))
    parts = [_gradients(green_red), _gradients(blue_yellow)]
    # 2. Three octaves of lightness: drawings stay flat between their edges at every scale.
    level = lightness
    for _ in range(3):
        laplacian = np.abs(cv2.Laplacian(level, cv2.CV_32F))
        parts += [_gradients(level), np.log(np.quantile(laplacian, _LAPLACIAN_QUANTILES) + 0.05)]
        level = cv2.pyrDown(level)
    # 3. How colourful, how dark and how bright.
    chroma = np.hypot(green_red, blue_yellow)
    parts.append(np.quantile(chroma, _CHROMA_QUANTILES) / 50)
    parts.append(np.quantile(lightness, _LIGHTNESS_QUANTILES) / 100)
    features: FloatArray = np.concatenate(parts)
    return features


def _gradients(channel: NDArray[Any]) -> FloatArray:
    across = cv2.Sobel(channel, cv2.CV_32F, 1, 0)
    down = cv2.Sobel(channel, cv2.CV_32F, 0, 1)
    sizes: FloatArray = np.log(np.quantile(np.hypot(across, down) / 8, _GRADIENT_QUANTILES) + 0.05)
    return sizes


def photograph_score(bgr: ByteArray) -> float:
    """Return how likely an image is a photograph rather than a rendered scene, in [0, 1].

    Drawings of another kind (charts, cartoons, screenshots) may score as high as photographs: they
    are as far from what the bundled models were trained on.

    Args:
        bgr: ``(h, w, 3)`` uint8 BGR.

    Example:
        >>> from pgvision import samples
        >>> [photograph_score(samples.load(name)) > 0.5 for name in ("astronaut", "site-01")]
        [True, False]
    """
    logit = float(domain_features(bgr) @ np.array(_WEIGHTS)) + _BIAS
    return float(1.0 / (1.0 + np.exp(-np.clip(logit, -50.0, 50.0))))


def is_photograph(bgr: ByteArray) -> bool:
    """Whether an image is rather a photograph than a rendered scene."""
    return photograph_score(bgr) > _THRESHOLD
