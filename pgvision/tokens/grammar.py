"""The forms of answers: what a request expects, and what a training target may contain."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from pgvision.errors import OptionError, require_choice
from pgvision.tokens.bins import CODES_PER_MASK, LOCS_PER_BOX, NUM_BINS, NUM_CODES

TASKS: Final = ("detect", "segment", "text", "any")


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


_TOKEN: Final = re.compile(
    r"(?P<loc><loc[0-9]*>)|(?P<seg><seg[0-9]*>)|(?P<separator> ; )"
    r"|(?P<text>(?:(?!<(?:loc|seg)[0-9]*>| ; ).)+)",
    re.DOTALL,
)
_SIZES: Final = {"loc": (4, NUM_BINS), "seg": (3, NUM_CODES)}
_SPECIAL: Final = re.compile(r"<(?:eos|bos|pad|image)>")


def check_suffix(text: str, task: str) -> list[str]:
    """List what is wrong with a training target; an empty list means nothing.

    Stricter than the parser: this is what a model would learn to write. An empty target for a
    task with boxes is right (nothing to find).

    Args:
        text: The suffix, without ``<eos>`` (the processor adds it).
        task: ``"detect"``, ``"segment"``, ``"text"`` or ``"any"``.

    Returns:
        One sentence for each problem, with its place in the text.

    Raises:
        OptionError: If ``task`` is unknown.

    Example:
        >>> check_suffix("<loc0010><loc0010><loc0200><loc0300> helmet", "detect")
        []
        >>> check_suffix("<loc0010><loc0010><loc0200> helmet", "detect")
        ['at 27: expected loc, got text']
    """
    require_choice("task", task, TASKS)
    # 1. Characters that the processor adds.
    problems = [
        f"at {m.start()}: {m[0]} is added by the processor" for m in _SPECIAL.finditer(text)
    ]
    if text != text.strip():
        problems.append("spaces or line breaks at the start or end")
    if "\n" in text.strip():
        problems.append(f"at {text.index(chr(10))}: a line break inside")
    # 2. Walk over the tokens; the first one that may not come ends the check.
    written: list[str] = []  # kinds of the tokens of this object
    bins: list[int] = []
    is_first = True
    for match in _TOKEN.finditer(text):
        kind, token, at = str(match.lastgroup), match[0], match.start()
        allowed = _allowed(task, written, is_first=is_first)
        if kind not in allowed:
            return [*problems, f"at {at}: expected {' or '.join(allowed)}, got {kind}"]
        problems.extend(_token_problems(kind, token, at, has_boxes=task != "text"))
        if kind == "loc":
            bins.append(int(token[4:-1] or 0))
        if len(bins) == LOCS_PER_BOX:
            if bins[2] <= bins[0] or bins[3] <= bins[1]:
                problems.append(
                    f"at {at}: the box that ends here has no area (top, left, bottom, right)"
                )
            bins = []
        written = [] if kind == "separator" else [*written, kind]
        is_first = False
    # 3. The end.
    allowed = _allowed(task, written, is_first=is_first)
    if "end" not in allowed:
        problems.append(f"at {len(text)}: expected {' or '.join(allowed)}, got the end")
    if task == "text" and not text.strip():
        problems.append("empty text")
    return problems


def _allowed(task: str, written: list[str], *, is_first: bool) -> list[str]:
    """Return the kinds of token that may come next in an object, sorted."""
    if task == "text" or written[-1:] == ["text"]:
        return ["end", "separator", "text"]
    if not written and is_first:
        return ["end", "loc"]  # an empty list is valid
    if len(written) < LOCS_PER_BOX:
        return ["loc"]
    num_codes = len(written) - LOCS_PER_BOX
    if 0 < num_codes < CODES_PER_MASK or (task == "segment" and not num_codes):
        return ["seg"]
    if task == "detect":
        return ["text"]  # a label is required
    return ["end", *(["seg"] if not num_codes else []), "separator", "text"]


def _token_problems(kind: str, token: str, at: int, *, has_boxes: bool) -> Iterator[str]:
    if kind in _SIZES:
        digits, size = _SIZES[kind]
        if len(token) != digits + 5 or int(token[4:-1]) >= size:
            yield f"at {at}: {token} is no token (there are {size}, written with {digits} digits)"
    elif kind == "text" and has_boxes and (not token.startswith(" ") or ";" in token):
        yield f"at {at}: {token!r} should be one space and a label, and ' ; ' between objects"
