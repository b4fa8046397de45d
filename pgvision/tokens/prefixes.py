"""Prompts in the format that each kind of checkpoint was trained on, and forms of answers.

A prefix never contains ``<image>`` or a line break: the processor adds both. Kinds are ``"pt"``
(pretrained), ``"mix"``, ``"ft"`` (fine-tuned, with the task words of ``"pt"``), ``"refcoco-seg"``
(fine-tuned on bare phrases) and ``"tiny"`` (the bundled checkpoint). Where public
documents disagree about a prompt, it is accepted.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from pgvision.errors import OptionError, PromptError

Kind = Literal["pt", "mix", "ft", "refcoco-seg", "tiny"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
SEPARATOR: Final = " ; "
LANGUAGES: Final = (
    *("ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fil", "fr"),
    *("he", "hi", "hr", "hu", "id", "it", "ja", "ko", "mi", "nl", "no", "pl"),
    *("pt", "ro", "ru", "sv", "sw", "te", "th", "tr", "uk", "vi", "zh"),
)
"""35 codes. Source: google-research/big_vision, configs/proj/paligemma/transfers/coco35l.py."""

_TASK_WORDS: Final = ("pt", "mix", "ft", "tiny")
# Certain: `cap` belongs to pt; free text to mix (an ft checkpoint
# may have been trained on bare text); refcoco-seg learnt bare phrases and nothing else. Google's
# own pages disagree with each other about `describe` and `ocr` on mix, so mix keeps them.
_PROMPT_KINDS: Final[dict[str, tuple[str, ...]]] = {
    "detect": _TASK_WORDS,
    "segment": KINDS,
    "caption": _TASK_WORDS,
    "describe": ("pt", "mix", "ft"),
    "cap": ("pt",),
    "ocr": _TASK_WORDS,
    "answer": _TASK_WORDS,
    "multiple choice": ("pt", "mix", "ft"),
    "free text": ("mix", "ft"),
}
_CLASSES_PER_PROMPT: Final = {"pt": 1, "mix": 10, "ft": 1, "refcoco-seg": 1, "tiny": 1}
_CAPTION_STYLES: Final = ("caption", "describe", "cap")
_LANGUAGES_OF: Final = {"pt": LANGUAGES, "mix": LANGUAGES, "ft": LANGUAGES, "tiny": ("en",)}
_RESERVED: Final = re.compile(r"<(?:loc|seg)|<(?:image|bos|eos|pad)>", re.IGNORECASE)


@dataclass(frozen=True)
class AnswerForm:
    """The form of an answer that names objects. Plain data: it travels with a request.

    Attributes:
        task: "detect" (boxes) or "segment" (boxes with masks).
        labels: The names that may be written.
        label: "required", or "none" for checkpoints that write no label (refcoco-seg).
        max_objects: After so many the answer ends; None: when the model ends it.
        bans: Texts of tokens that may never be written, such as "<eos>".
        decoy: A name that is weighed against the labels and never written: what a checkpoint
            calls boxes that show nothing.

    Raises:
        OptionError: If ``max_objects`` is below 1, or there is no label.

    Example:
        >>> AnswerForm("detect", ("helmet", "head")).label
        'required'
    """

    task: Literal["detect", "segment"]
    labels: tuple[str, ...]
    label: Literal["required", "none"] = "required"
    max_objects: int | None = None
    bans: tuple[str, ...] = ()
    decoy: str | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.max_objects is not None and self.max_objects < 1:
            raise OptionError(f"max_objects: expected at least 1, got {self.max_objects}")
        if not self.labels:
            raise OptionError("labels: expected at least one name, got none")
        if self.decoy in self.labels:
            raise OptionError(f"decoy: {self.decoy!r} is weighed against labels; name some others")


def classes_per_prompt(kind: str) -> int:
    """How many classes one prompt should ask for: more than this and quality falls.

    Raises:
        PromptError: If ``kind`` is not one of ``KINDS``.

    Source:
        Public experience with PaliGemma 2 (segis95/paligemma2-detection): pt 1, mix up to 10.

    Example:
        >>> classes_per_prompt("mix")
        10
    """
    return _CLASSES_PER_PROMPT[_require_kind(kind)]


def require_phrase(phrase: str, name: str = "phrase") -> str:
    """Return ``phrase`` without outer spaces, if it is valid in a list of classes.

    Args:
        phrase: A class name or a referring expression, in any script.
        name: What to call it in an error.

    Returns:
        The phrase, stripped; case and inner text as they came.

    Raises:
        PromptError: If it is not text, is empty, or contains a line break or other control
            character, a token such as ``<loc0001>`` or ``<image>``, or a semicolon (it separates).

    Example:
        >>> require_phrase(" driver's helmet ")
        "driver's helmet"
    """
    text = require_text(phrase, name)
    if ";" in text:
        raise PromptError(
            f"{name}: expected one phrase, got {text!r} with a ';', which separates objects. "
            "Pass several classes as a list."
        )
    return text


def require_classes(classes: str | Iterable[str]) -> tuple[str, ...]:
    """Return class names as a checked tuple; one name alone is a list of one.

    Raises:
        PromptError: If there are none, one is no phrase (see `require_phrase`), or one is twice.

    Example:
        >>> require_classes("helmet")
        ('helmet',)
    """
    # A text is iterable, too: its letters are not meant.
    names = (classes,) if isinstance(classes, str) else classes
    if not isinstance(names, Iterable):
        raise PromptError(f"classes: expected a name or a list of names, got {classes!r}.")
    checked = tuple(require_phrase(name, f"classes[{at}]") for at, name in enumerate(names))
    if not checked:
        raise PromptError("classes: expected at least one name, got none.")
    if len(set(checked)) < len(checked):
        twice = next(name for name in checked if checked.count(name) > 1)
        raise PromptError(f"classes: expected each name once, got {twice!r} twice. Remove one.")
    return checked


def detect_prefix(classes: str | Iterable[str], *, kind: str) -> str:
    """Ask for boxes of ``classes``.

    Any number of classes is joined; `classes_per_prompt` returns a sensible number.

    Raises:
        PromptError: If a class is invalid in a prompt or ``kind`` is unknown.

    Example:
        >>> detect_prefix(["helmet", "head"], kind="mix")
        'detect helmet ; head'
    """
    _require_prompt("detect", kind)
    return f"detect {SEPARATOR.join(require_classes(classes))}"


def segment_prefix(classes: str | Iterable[str], *, kind: str) -> str:
    """Ask for boxes and masks of ``classes``.

    Google's ``ft-refcoco-seg`` checkpoints take the bare phrase, and write no label.

    Raises:
        PromptError: If a class is invalid in a prompt, ``kind`` is unknown, or more than one
            phrase is put to a ``refcoco-seg`` checkpoint.

    Source:
        google-research/big_vision, configs/proj/paligemma/transfers/refcoco_seg.py.

    Example:
        >>> segment_prefix("helmet", kind="pt"), segment_prefix("the man", kind="refcoco-seg")
        ('segment helmet', 'the man')
    """
    _require_prompt("segment", kind)
    names = require_classes(classes)
    if kind != "refcoco-seg":
        return f"segment {SEPARATOR.join(names)}"
    if len(names) > 1:
        raise PromptError(
            f"classes: a refcoco-seg checkpoint takes one phrase a prompt, got {len(names)}. "
            f"Ask once for each."
        )
    return names[0]


def caption_prefix(language: str = "en", style: str = "caption", *, kind: str) -> str:
    """Ask for a caption.

    Args:
        language: One of the 35 codes in ``LANGUAGES`` (``tiny``: English alone).
        style: ``"caption"`` (short), ``"describe"`` (longer) or ``"cap"`` (raw, pt only).
        kind: Kind of checkpoint.

    Returns:
        The prefix.

    Raises:
        PromptError: If the language or style is unknown, or ``kind`` does not know it.

    Example:
        >>> caption_prefix("de", kind="mix")
        'caption de'
    """
    if style not in _CAPTION_STYLES:
        raise PromptError(f"style: expected one of {', '.join(_CAPTION_STYLES)}, got {style!r}.")
    _require_prompt(style, kind)
    return f"{style} {_require_language(language, kind)}"


def ocr_prefix(kind: str) -> str:
    """Ask for the text in the picture.

    Raises:
        PromptError: If ``kind`` is unknown.

    Example:
        >>> ocr_prefix("tiny")
        'ocr'
    """
    _require_prompt("ocr", kind)
    return "ocr"


def answer_prefix(
    question: str, *, language: str = "en", choices: Sequence[str] | None = None, kind: str
) -> str:
    r"""Ask a question about the picture.

    Args:
        question: The question, on one line.
        language: Language of the answer.
        choices: At least two answers to choose from, or None.
        kind: Kind of checkpoint.

    Returns:
        The prefix. With choices it has two spaces before the question, as in training.

    Raises:
        PromptError: If question, language or choices cannot be put into a prompt, or ``kind``
            was not taught to choose.

    Source:
        google-research/big_vision, configs/proj/paligemma/transfers/ai2d.py and aokvqa_mc.py.

    Example:
        >>> answer_prefix("how many workers?", kind="tiny")
        'answer en how many workers?'
        >>> answer_prefix("which colour?", choices=["red", "blue"], kind="ft")
        'answer en  which colour? choose from: red \t blue'
    """
    # 1. An open question.
    _require_prompt("answer" if choices is None else "multiple choice", kind)
    start = f"answer {_require_language(language, kind)} "
    text = require_text(question, "question")
    if choices is None:
        return start + text
    # 2. A choice: the second space and the tabs are those of the training data.
    if isinstance(choices, str) or not isinstance(choices, Sequence) or len(choices) < 2:
        raise PromptError(f"choices: expected a list of two or more answers, got {choices!r}.")
    options = [require_text(choice, f"choices[{at}]") for at, choice in enumerate(choices)]
    return f"{start} {text} choose from: " + " \t ".join(options)


def free_prefix(text: str, *, kind: str = "mix") -> str:
    """Ask in one's own words (mix; an ft checkpoint if it was trained so).

    Raises:
        PromptError: If the text cannot be put into a prompt, or ``kind`` needs a task word.

    Example:
        >>> free_prefix("what is written on the sign?")
        'what is written on the sign?'
    """
    _require_prompt("free text", kind)
    return require_text(text, "text")


def _require_kind(kind: str) -> str:
    if kind not in KINDS:
        raise PromptError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}.")
    return kind


def _require_prompt(prompt: str, kind: str) -> None:
    _require_kind(kind)
    kinds = _PROMPT_KINDS[prompt]
    if kind not in kinds:
        known = [name for name, others in _PROMPT_KINDS.items() if kind in others]
        raise PromptError(
            f"prompt: a {kind!r} checkpoint was not taught {prompt!r}; {', '.join(kinds)} know it. "
            f"{kind!r} knows {', '.join(known)}."
        )


def _require_language(language: str, kind: str) -> str:
    known = _LANGUAGES_OF[kind]
    if language not in known:
        raise PromptError(
            f"language: expected one of {', '.join(known)} for a {kind!r} checkpoint, got "
            f"{language!r}."
        )
    return language


def require_text(text: str, name: str) -> str:
    """Return ``text`` without outer spaces, if it may be part of a prompt.

    Args:
        text: Words in any script.
        name: What to call it in an error.

    Raises:
        PromptError: If it is not text, is empty, or contains a control character or a token.

    Example:
        >>> require_text(" is there a truck? ", "question")
        'is there a truck?'
    """
    if not isinstance(text, str):
        raise PromptError(f"{name}: expected text, got {type(text).__name__}.")
    # Only spaces are removed: a line break at the end is an error as inside.
    stripped = text.strip(" ")
    if not stripped.strip():
        raise PromptError(f"{name}: expected text, got {text!r}.")
    # Cc: control characters, line breaks among them; Zl, Zp: Unicode line breaks; Cs: lone
    # halves of a surrogate pair, which no tokenizer can encode.
    odd = [c for c in stripped if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs")]
    if odd:
        raise PromptError(
            f"{name}: expected one line of text, got {text!r:.80} with {odd[0]!r}. Remove it; "
            "the line break after a prompt is added for you."
        )
    reserved = _RESERVED.search(stripped)
    if reserved:
        raise PromptError(
            f"{name}: expected plain words, got {text!r:.80} with the token {reserved[0]!r}. "
            "Image, location and mask tokens are added for you."
        )
    return stripped
