"""Text results: captions, answers, and text read from images."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgvision.arrays import ByteArray
from pgvision.drawing import with_caption
from pgvision.errors import OptionError, require_module
from pgvision.results.answer import Answer
from pgvision.results.checks import require_number
from pgvision.results.exports import FIFTYONE

if TYPE_CHECKING:
    import fiftyone.core.labels as fol

_QUESTION = re.compile(r"answer \S+ +(.+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TextResult(Answer):
    """A text about an image: a caption, an answer, or the text in it.

    Attributes:
        text: The answer, stripped of surrounding space.
        score: Its probability in [0, 1], or None if unknown.
        language: The requested language code, or None.

    Example:
        >>> result = TextResult(image_hw=(480, 640), text="2", score=0.9, source="site.jpg")
        >>> result
        TextResult('2', score 0.90; 480x640; site.jpg#0)
    """

    text: str
    score: float | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            OptionError: If ``text`` is no str or a score is outside [0, 1].
        """
        super().__post_init__()
        if not isinstance(self.text, str):
            raise OptionError(f"text must be a str, got {self.text!r}")
        if self.score is not None:
            self._set("score", require_number(self.score, "score", most=1.0))

    def __str__(self) -> str:
        """Return the text."""
        return self.text

    def __repr__(self) -> str:
        """Return the text, its score, the image's size and its source."""
        score = "" if self.score is None else f", score {self.score:.2f}"
        return f"TextResult({self.text!r}{score}; {self._origin()})"

    @property
    def question(self) -> str | None:
        """The question in words; None for a caption or a reading.

        Example:
            >>> TextResult(image_hw=(4, 6), prefix="answer en how many?", text="2").question
            'how many?'
        """
        asked = _QUESTION.fullmatch(self.prefix.strip())
        return None if asked is None else asked[1]

    def plot(
        self,
        image: ByteArray | None = None,
        *,
        font: str | Path | None = None,
        font_size: int | None = None,
    ) -> ByteArray:
        """Draw the text into a bar below the image, under the question if there was one.

        Args:
            image: ``(h, w, 3)`` uint8 BGR; by default the result's own.
            font: A font file; by default one that has the letters is searched.
            font_size: Height of the letters in pixels; by default it fits the image.

        Returns:
            A new BGR image, taller than the image by the bar.

        Raises:
            OptionError: If there is no image.

        Example:
            >>> import numpy as np
            >>> TextResult(image_hw=(90, 160), text="a yellow helmet").plot(
            ...     np.zeros((90, 160, 3), np.uint8)
            ... ).shape[1]
            160
        """
        empty = self.rejects[0].reason if self.rejects else "(nothing)"
        lines = "\n".join(filter(None, (self.question, self.text or empty)))
        return with_caption(self.require_image(image), lines, font=font, font_size=font_size)

    def _columns(self) -> dict[str, Sequence[Any]]:
        own = {"question": self.question, "text": self.text, "score": self.score}
        return super()._columns() | {name: [value] for name, value in own.items()}

    def to_fiftyone(self) -> "fol.Classification":
        """Convert to FiftyOne's ``Classification``; needs fiftyone, and no database.

        Returns:
            The text as ``label``, the score as ``confidence`` (None if unknown).

        Raises:
            DependencyError: If fiftyone is not installed.
        """
        labels = require_module(*FIFTYONE)
        return labels.Classification(label=self.text, confidence=self.score)

    def _as_text(self) -> str:
        return self.text + "\n"
