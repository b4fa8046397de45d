"""Fields and methods of all results, text results, and failures in their place."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from pgvision.arrays import ByteArray, to_plain
from pgvision.drawing import with_caption
from pgvision.errors import DataError, OptionError, PgvisionError, require_count, require_module
from pgvision.files import readable_name, write_text
from pgvision.results import exports
from pgvision.results.checks import frozen_image, require_number, require_numbers
from pgvision.tokens.bins import require_image_hw
from pgvision.tokens.parsing import Reject

if TYPE_CHECKING:
    import fiftyone.core.labels as fol

_Result = TypeVar("_Result", bound="Answer")
_QUESTION = re.compile(r"answer \S+ +(.+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """Base of results: the fields that all have. Frozen and checked; `None` means unknown.

    Attributes:
        image_hw: Height and width of the original image, in pixels.
        prefix: The prompt.
        raw_text: The model's output, unchanged.
        rejects: Fragments of ``raw_text`` that could not be parsed, each with its reason.
        truncated: Whether the output was cut off before its end.
        timings: Seconds per phase.
        passes: How often the model ran for this result; None if unknown.
        source: Path, address, ``"array"`` ...; None if unknown.
        frame_index: 0-based position within the source; 0 for a single image.
        time: Seconds from the start of a video; None for a single image.
        image: ``(h, w, 3)`` uint8 BGR, a read-only view, or None. It is used by `plot`, and is
            neither compared nor written by `to_dict`.
        ok: True: this is a result, not a `Failure`.

    Example:
        >>> answer = Answer(image_hw=(480, 640), prefix="ocr", raw_text="EXIT")
        >>> answer.ok, answer.source
        (True, None)
    """

    image_hw: tuple[int, int]
    prefix: str = ""
    raw_text: str = ""
    rejects: tuple[Reject, ...] = ()
    truncated: bool = False
    timings: Mapping[str, float] = field(default_factory=dict)
    passes: int | None = None
    source: str | None = None
    frame_index: int = 0
    time: float | None = None
    image: ByteArray | None = field(default=None, repr=False)
    ok: ClassVar[bool] = True

    # Neither compared nor written by `to_dict`.
    _apart: ClassVar[frozenset[str]] = frozenset({"image"})
    _endings: ClassVar[tuple[str, ...]] = (*exports.IMAGE_ENDINGS, ".json", ".txt")

    def __post_init__(self) -> None:
        """Check every field and replace it by its frozen form."""
        # 1. The output: what was asked, what came back, how long it took.
        self._set("image_hw", require_image_hw(self.image_hw))
        for name in ("prefix", "raw_text"):
            if not isinstance(getattr(self, name), str):
                raise OptionError(f"{name} must be a str, got {getattr(self, name)!r}")
        self._set("rejects", tuple(self.rejects))
        self._set("truncated", bool(self.truncated))
        self._set("timings", require_numbers(self.timings, "timings"))
        if self.passes is not None:
            self._set("passes", require_count("passes", self.passes))
        # 2. The origin, and the image.
        if self.source is not None:
            self._set("source", readable_name(str(self.source)))
        self._set("frame_index", require_count("frame_index", self.frame_index))
        if self.time is not None:
            self._set("time", require_number(self.time, "time"))
        if self.image is not None:
            self._set("image", frozen_image(self.image, self.image_hw))

    def __eq__(self, other: object) -> bool:
        """Equal if of one class and equal in every field but ``image``, arrays by value."""
        if type(other) is not type(self):
            return NotImplemented
        names = {field.name for field in fields(self)} - self._apart
        return all(_is_same(getattr(self, name), getattr(other, name)) for name in names)

    def with_image(self: _Result, bgr: ByteArray | None) -> _Result:
        """Return this result with an image, so that `plot` and `save` need none; None removes it.

        The image of a result stays in memory: 2.8 MB for each frame of a 720p video. To keep many
        results, use ``[result.with_image(None) for result in detector.stream("site.mp4")]``.

        Args:
            bgr: ``(h, w, 3)`` uint8 BGR of the size ``image_hw``. It is viewed, not copied.

        Returns:
            A new result; this one is unchanged.

        Raises:
            ShapeError: If the image has another size or dtype.

        Example:
            >>> answer = Answer(image_hw=(4, 6)).with_image(np.zeros((4, 6, 3), np.uint8))
            >>> answer.image.shape
            (4, 6, 3)
        """
        return replace(self, image=bgr)

    def require_image(self, image: ByteArray | None = None) -> ByteArray:
        """Return the image to work on: the one passed, else the result's own.

        Args:
            image: ``(h, w, 3)`` uint8 BGR of the size ``image_hw``, or None.

        Returns:
            ``(h, w, 3)`` uint8 BGR, read-only.

        Raises:
            OptionError: If there is neither.
            ShapeError: If the image has another size or dtype.

        Example:
            >>> Answer(image_hw=(4, 6)).require_image(np.zeros((4, 6, 3), np.uint8)).shape
            (4, 6, 3)
        """
        if image is not None:
            return frozen_image(image, self.image_hw)
        if self.image is None:
            raise OptionError(
                "this result has no image: pass image= (BGR), or use result.with_image(bgr)"
            )
        return self.image

    def plot(self, image: ByteArray | None = None) -> ByteArray:
        """Draw the result on a copy of the image; the base class draws nothing.

        Args:
            image: ``(h, w, 3)`` uint8 BGR of the size ``image_hw``; by default the result's own.

        Returns:
            A new BGR image.
        """
        return self.require_image(image).copy()

    def show(self, image: ByteArray | None = None) -> None:
        """Show the plotted image: inline in a notebook, elsewhere in a window.

        A window stays open until a key is pressed. An image with a side below 480 pixels is
        enlarged.

        Args:
            image: ``(h, w, 3)`` uint8 BGR; by default the result's own.

        Raises:
            OptionError: If there is no image.
            DependencyError: If there is no display.
        """
        exports.show_image(self.plot(image), PurePath(self.source or "result").name)

    def save(self, path: str | Path, *, image: ByteArray | None = None) -> Path:
        """Write the plotted image, all fields, or a text, by the ending of ``path``.

        The file is renamed into place when it is complete.

        Args:
            path: ``.jpg``, ``.jpeg``, ``.png``, ``.bmp``, ``.webp``: the plotted image. ``.json``:
                all fields but the image. ``.txt``: the text of a `TextResult`, else a YOLO label
                file (see `DetectionResult.to_yolo`).
            image: ``(h, w, 3)`` uint8 BGR; by default the result's own.

        Returns:
            ``path``.

        Raises:
            OptionError: If the ending is unknown, an image is needed and there is none, or the
                format cannot contain an image of this size.

        Example:
            >>> import tempfile
            >>> path = Answer(image_hw=(4, 6)).save(Path(tempfile.mkdtemp()) / "a.json")
            >>> path.name
            'a.json'
        """
        target = Path(path)
        ending = exports.require_ending(target, self._endings)
        if ending == ".json":
            write_text(target, self.to_json(indent=2) + "\n")
        elif ending == ".txt":
            write_text(target, self._as_text())
        else:
            exports.write_image(target, self.plot(image))
        return target

    def to_dict(self) -> dict[str, object]:
        """Return every field but ``image`` as plain Python values, ready for ``json.dumps``.

        Numbers are exact: `from_dict` returns an equal result.

        Returns:
            A dict with the fields, and ``type``, the class's name. Each array is a list of ``n``
            entries, so ``data["xyxy"]`` reads like ``result.xyxy``; unknown is None.

        Example:
            >>> Answer(image_hw=(4, 6)).to_dict()["image_hw"]
            [4, 6]
        """
        return {"type": type(self).__name__, **to_plain(self, without=self._apart)}

    def to_json(self, *, indent: int | None = None) -> str:
        """`to_dict` as JSON: one line, fit for a JSONL file, unless ``indent`` is given.

        Returns:
            JSON text without a newline at its end.

        Example:
            >>> Answer(image_hw=(4, 6)).to_json()[:16]
            '{"type": "Answer'
        """
        text = json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=indent)
        return readable_name(text)

    @classmethod
    def from_dict(cls: type[_Result], data: Mapping[str, object]) -> _Result:
        """Build a result from what `to_dict` returned.

        Args:
            data: The dict, from `to_dict` or ``json.loads``. Keys beyond the fields are ignored.

        Returns:
            A result equal to the written one; its ``image`` is None.

        Raises:
            DataError: If it is another kind of result, or a field is missing or broken.

        Example:
            >>> answer = Answer(image_hw=(4, 6), prefix="ocr", raw_text="EXIT")
            >>> Answer.from_dict(json.loads(answer.to_json())) == answer
            True
        """
        # 1. The class and its fields.
        if not isinstance(data, Mapping) or data.get("type") != cls.__name__:
            got = data.get("type") if isinstance(data, Mapping) else type(data).__name__
            raise DataError(f"expected a dict with type {cls.__name__!r}, got {got!r}")
        names = [field.name for field in fields(cls) if field.name not in cls._apart]
        if missing := [name for name in names if name not in data]:
            raise DataError(
                f"a {cls.__name__} needs {', '.join(missing)}; the dict has no such key"
            )
        # 2. Every value is checked as for a new result.
        try:
            return cls(**cls._decoded(data, {name: data[name] for name in names}))
        except (PgvisionError, TypeError, ValueError, KeyError, ArithmeticError) as error:
            raise DataError(f"cannot read a {cls.__name__} back: {error}") from error

    @classmethod
    def _decoded(cls, data: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of the class; ``values`` are the fields that ``data`` contains."""
        values["rejects"] = tuple(
            Reject(*(entry[field.name] for field in fields(Reject))) for entry in values["rejects"]
        )
        return values

    def to_rows(self) -> list[dict[str, Any]]:
        """Convert to dicts of plain values for tables: one for each object, or for the text.

        Returns:
            Dicts with ``source``, ``frame_index`` and ``time``; of a text also ``question``,
            ``text`` and ``score``; of an object ``label``, ``text``, ``class_id``, ``score``,
            ``left`` ... ``bottom`` (pixels), ``tracker_id``, ``left_std`` ... and, with masks,
            ``area``. None if unknown.
        """
        columns = self._columns()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _columns(self) -> dict[str, Sequence[Any]]:
        """Return the columns of `to_rows`, by name."""
        return self._origin_columns(1)

    def _origin_columns(self, count: int) -> dict[str, Sequence[Any]]:
        origin = {"source": self.source, "frame_index": self.frame_index, "time": self.time}
        return {name: [value] * count for name, value in origin.items()}

    def _as_text(self) -> str:
        return self.raw_text + "\n"

    def _repr_jpeg_(self) -> bytes | None:
        # A notebook keeps what it shows: the PNG of a photograph is four times larger.
        return None if self.image is None else exports.encode_image(self.plot())

    def _set(self, name: str, value: object) -> None:
        # A frozen dataclass has no other way to store a checked value.
        object.__setattr__(self, name, value)

    def _origin(self) -> str:
        height, width = self.image_hw
        parts = [f"{height}x{width}"]
        if self.source is not None:
            parts.append(f"{PurePath(self.source).name or self.source}#{self.frame_index}")
        if self.rejects:
            parts.append(f"{len(self.rejects)} rejected")
        if self.truncated:
            parts.append("truncated")
        return "; ".join(parts)


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
        labels = require_module(*exports.FIFTYONE)
        return labels.Classification(label=self.text, confidence=self.score)

    def _as_text(self) -> str:
        return self.text + "\n"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An image that could not be read or answered, recorded instead of raised.

    Attributes:
        source: Path, address or name of the image.
        index: 0-based position within its source.
        error: The error that ``on_error="raise"`` would have raised.
        ok: False: there is no result.

    Example:
        >>> from pgvision.errors import ImageError
        >>> failure = Failure(source="a.jpg", index=0, error=ImageError("0 bytes"))
        >>> failure.ok, failure.to_dict()["message"]
        (False, '0 bytes')
    """

    source: str
    index: int
    error: PgvisionError
    ok: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            OptionError: If ``error`` is not one of pgvision's, or ``index`` no whole number.
        """
        object.__setattr__(self, "source", readable_name(str(self.source)))
        require_count("index", self.index)
        if not isinstance(self.error, PgvisionError):
            raise OptionError(f"error must be a PgvisionError, got {self.error!r}")

    def to_dict(self) -> dict[str, object]:
        """Return the failure as plain Python values, ready for ``json.dumps``.

        Returns:
            ``type``, ``source``, ``index``, ``error`` (the error's class) and ``message``.

        Example:
            >>> from pgvision.errors import ImageError
            >>> Failure(source="a.jpg", index=0, error=ImageError("0 bytes")).to_dict()["error"]
            'ImageError'
        """
        return {
            "type": "Failure",
            "source": self.source,
            "index": self.index,
            "error": type(self.error).__name__,
            "message": readable_name(str(self.error)),
        }


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)  # type: ignore[arg-type]
    return one == other
