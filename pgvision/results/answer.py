"""What all answers have in common: where they come from and what the model wrote."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePath
from typing import Any, ClassVar, TypeVar

import numpy as np

from pgvision.arrays import ByteArray
from pgvision.errors import DataError, OptionError, PgvisionError
from pgvision.results.checks import (
    frozen_image,
    require_count,
    require_seconds,
    require_timings,
)
from pgvision.tokens.bins import require_image_hw
from pgvision.tokens.parsing import Reject

_Result = TypeVar("_Result", bound="Answer")


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """The fields that every answer has. Frozen and checked; `None` always means unknown.

    Attributes:
        image_hw: Height and width of the original image, in pixels.
        prefix: What the model was asked.
        raw_text: What it wrote, unchanged.
        rejects: Fragments of ``raw_text`` that could not be read, each with its reason.
        truncated: Whether the answer was cut off before the model ended it.
        timings: Seconds per phase.
        passes: How often the model ran for this answer; None if unknown.
        source: Path, address, ``"array"`` ...; None if unknown.
        frame_index: 0-based position within the source; 0 for a still.
        time: Seconds from the start of a video; None for a still.
        image: ``(h, w, 3)`` uint8 BGR, a read-only view, or None. It serves `plot` and is neither
            compared nor written by `to_dict`.

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

    # Fields that files written by 0.1.0 lack; reading such a file back leaves them unknown.
    _newer: ClassVar[frozenset[str]] = frozenset({"passes"})

    def __post_init__(self) -> None:
        """Check every field and replace it by its own frozen form."""
        self._set("image_hw", require_image_hw(self.image_hw))
        for name in ("prefix", "raw_text"):
            if not isinstance(getattr(self, name), str):
                raise OptionError(f"{name} must be a str, got {getattr(self, name)!r}")
        self._set("rejects", tuple(self.rejects))
        self._set("truncated", bool(self.truncated))
        self._set("timings", require_timings(self.timings))
        if self.passes is not None:
            self._set("passes", require_count(self.passes, "passes"))
        self._set("source", None if self.source is None else str(self.source))
        self._set("frame_index", require_count(self.frame_index, "frame_index"))
        if self.time is not None:
            self._set("time", require_seconds(self.time, "time"))
        if self.image is not None:
            self._set("image", frozen_image(self.image, self.image_hw))

    def __eq__(self, other: object) -> bool:
        """Equal if of one class and equal in every field but ``image``, arrays by value."""
        if type(other) is not type(self):
            return NotImplemented
        names = [each.name for each in fields(self) if each.name != "image"]
        return all(_same(getattr(self, name), getattr(other, name)) for name in names)

    @property
    def ok(self) -> bool:
        """True: this is an answer, not a `Failure`."""
        return True

    def with_image(self: _Result, bgr: ByteArray | None) -> _Result:
        """Give a result its picture, so that `plot` and `save` need none; None takes it away.

        A result holds on to its picture: of a video, 2.8 MB for each frame of 720p. Where many
        results are kept, ``[one.with_image(None) for one in detector.stream("site.mp4")]``.

        Args:
            bgr: ``(h, w, 3)`` uint8 BGR of the size ``image_hw``. It is viewed, not copied.

        Returns:
            A new result; this one is unchanged.

        Raises:
            ShapeError: If the picture has another size or dtype.

        Example:
            >>> answer = Answer(image_hw=(4, 6)).with_image(np.zeros((4, 6, 3), np.uint8))
            >>> answer.image.shape
            (4, 6, 3)
        """
        return replace(self, image=bgr)

    def require_picture(self, image: ByteArray | None = None) -> ByteArray:
        """Choose the picture to work on: the one passed, else the result's own.

        Args:
            image: ``(h, w, 3)`` uint8 BGR of the size ``image_hw``, or None.

        Returns:
            ``(h, w, 3)`` uint8 BGR, read-only.

        Raises:
            OptionError: If there is neither.
            ShapeError: If the picture has another size or dtype.

        Example:
            >>> Answer(image_hw=(4, 6)).require_picture(np.zeros((4, 6, 3), np.uint8)).shape
            (4, 6, 3)
        """
        if image is not None:
            return frozen_image(image, self.image_hw)
        if self.image is None:
            raise OptionError(
                "this result carries no picture: pass image= (BGR), or use result.with_image(bgr)"
            )
        return self.image

    def to_dict(self) -> dict[str, object]:
        """Write every field but ``image`` as plain Python values, ready for ``json.dumps``.

        Numbers are exact: `from_dict` gives back an equal result.

        Returns:
            A dict whose keys are the names of the fields, and ``type``, the class's name.

        Example:
            >>> Answer(image_hw=(4, 6)).to_dict()["image_hw"]
            [4, 6]
        """
        return {
            "type": type(self).__name__,
            "image_hw": list(self.image_hw),
            "prefix": self.prefix,
            "raw_text": self.raw_text,
            "rejects": [
                {"text": each.text, "reason": each.reason, "start": each.start, "end": each.end}
                for each in self.rejects
            ],
            "truncated": self.truncated,
            "timings": dict(self.timings),
            "passes": self.passes,
            "source": self.source,
            "frame_index": self.frame_index,
            "time": self.time,
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """`to_dict` as JSON: one line, fit for a JSONL file, unless ``indent`` is given.

        Returns:
            JSON text without a newline at its end.

        Example:
            >>> Answer(image_hw=(4, 6)).to_json()[:16]
            '{"type": "Answer'
        """
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=indent)

    @classmethod
    def from_dict(cls: type[_Result], data: Mapping[str, object]) -> _Result:
        """Read back what `to_dict` wrote.

        Args:
            data: The dict, from `to_dict` or ``json.loads``. Keys beyond the fields are ignored.

        Returns:
            A result equal to the one written; its ``image`` is None.

        Raises:
            DataError: If it is another kind of result, or a field is missing or broken.

        Example:
            >>> answer = Answer(image_hw=(4, 6), prefix="ocr", raw_text="EXIT")
            >>> Answer.from_dict(json.loads(answer.to_json())) == answer
            True
        """
        if not isinstance(data, Mapping) or data.get("type") != cls.__name__:
            got = data.get("type") if isinstance(data, Mapping) else type(data).__name__
            raise DataError(f"expected a dict with type {cls.__name__!r}, got {got!r}")
        names = [each.name for each in fields(cls) if each.name != "image"]
        if missing := [name for name in names if name not in {*data, *cls._newer}]:
            raise DataError(f"a {cls.__name__} needs {', '.join(missing)}, which the dict lacks")
        try:
            return cls(**cls._decoded({name: data[name] for name in names if name in data}))
        except (PgvisionError, TypeError, ValueError, KeyError) as error:
            raise DataError(f"cannot read a {cls.__name__} back: {error}") from error

    @classmethod
    def _decoded(cls, values: dict[str, Any]) -> dict[str, Any]:
        values["rejects"] = tuple(
            Reject(text=each["text"], reason=each["reason"], start=each["start"], end=each["end"])
            for each in values["rejects"]
        )
        return values

    def _set(self, name: str, value: object) -> None:
        # The one way to store a checked value in a frozen dataclass.
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


def _same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        both = isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
        return both and np.array_equal(one, other)  # type: ignore[arg-type]
    return one == other
