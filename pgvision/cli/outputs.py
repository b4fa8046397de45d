"""Where results go: lines on stdout, a JSONL file, annotated pictures. One class for each."""

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, TypeAlias

import cv2

from pgvision.arrays import ByteArray
from pgvision.batch import describe_origin
from pgvision.cli.console import say
from pgvision.cli.options import ColorBy
from pgvision.files import replaced_path
from pgvision.results import DetectionResult, Failure, SegmentationResult, TextResult

Result: TypeAlias = DetectionResult | SegmentationResult | TextResult
Outcome: TypeAlias = Result | Failure
Draw: TypeAlias = Callable[[Result], ByteArray]


class Output(Protocol):
    """Something that takes each result as it comes, and ends well or not at all."""

    def __enter__(self) -> "Output":
        """Open what is written to."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put files in their places, or, after an error, leave none."""

    def write(self, outcome: Outcome) -> None:
        """Take one result, or one failure."""


class Lines:
    """One line a picture on stdout: JSON for machines, or what a person would want to read.

    Args:
        as_json: Write `to_dict` as JSON, failures included.
    """

    def __init__(self, *, as_json: bool) -> None:
        """Keep the choice."""
        self._as_json = as_json

    def __enter__(self) -> "Lines":
        """Nothing to open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to close."""

    def write(self, outcome: Outcome) -> None:
        """Print one line at once, so that a pipe sees it."""
        if self._as_json:
            line = json.dumps(outcome.to_dict(), ensure_ascii=False, allow_nan=False)
        elif isinstance(outcome, Failure):
            return  # the summary on stderr names it
        else:
            line = f"{describe_origin(outcome)}: {describe(outcome)}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


class JsonLinesFile:
    """All results in one file, one JSON object a line.

    Args:
        path: The file; it appears when all is written.
    """

    def __init__(self, path: Path) -> None:
        """Keep the path."""
        self.path = path
        self._stack = ExitStack()
        self._file: IO[str] | None = None

    def __enter__(self) -> "JsonLinesFile":
        """Open the file aside."""
        with ExitStack() as stack:
            aside = stack.enter_context(replaced_path(self.path))
            self._file = stack.enter_context(aside.open("w", encoding="utf-8"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the file in its place."""
        self._stack.__exit__(kind, error, trace)
        if error is None:
            say(f"wrote {self.path}")

    def write(self, outcome: Outcome) -> None:
        """Append one line."""
        if self._file is not None:
            data = outcome.to_dict()
            self._file.write(json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n")


class Pictures:
    """An annotated copy of each still picture: ``<name>.overlay.jpg``.

    Args:
        folder: Where they go.
        draw: Makes the annotated copy.
    """

    def __init__(self, folder: Path, draw: Draw) -> None:
        """Keep the folder."""
        self.folder = folder
        self._draw = draw
        self.num_written = 0
        self._names = OverlayNames(folder)

    def __enter__(self) -> "Pictures":
        """Nothing to open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say how many there are."""
        if self.num_written:
            noun = "picture" if self.num_written == 1 else "pictures"
            say(f"wrote {self.num_written} annotated {noun} to {self.folder}/")

    def write(self, outcome: Outcome) -> None:
        """Draw and save one picture; video frames are not this one's business."""
        if isinstance(outcome, Failure) or outcome.time is not None:
            return
        path = self._names.path_for(outcome.source or "picture", ".jpg")
        with replaced_path(path) as aside:
            cv2.imwrite(str(aside), self._draw(outcome))
        self.num_written += 1


class OverlayNames:
    """Names for annotated copies: near the source's own, and never twice.

    Args:
        folder: Where the copies go.

    Example:
        >>> names = OverlayNames(Path("out"))
        >>> [names.path_for(source, ".jpg").as_posix() for source in ("a/1.png", "b/1.png")]
        ['out/1.overlay.jpg', 'out/1-2.overlay.jpg']
    """

    def __init__(self, folder: Path) -> None:
        """Start with no name taken."""
        self._folder = folder
        self._taken: set[str] = set()

    def path_for(self, source: str, ending: str) -> Path:
        """Name the annotated copy of ``source``.

        Returns:
            ``folder/<stem>.overlay<ending>``, with a number if the stem came before.
        """
        stem = Path(source.rstrip("/")).stem.replace(":", "-") or "picture"
        name, number = stem, 1
        while name in self._taken:
            number += 1
            name = f"{stem}-{number}"
        self._taken.add(name)
        return self._folder / f"{name}.overlay{ending}"


def draw_result(result: Result, *, color_by: ColorBy | None = None) -> ByteArray:
    """Draw a result on its own picture.

    Args:
        result: With its picture.
        color_by: What shares a colour; None: a track where there are tracks, else a class.

    Returns:
        ``(h, w, 3)`` uint8 BGR; taller for a text, which stands below.
    """
    if isinstance(result, TextResult):
        return result.plot()
    tracked = result.tracker_ids is not None
    if color_by == "track" and not tracked:
        color_by = "class"  # a still among videos
    return result.plot(color_by=color_by or ("track" if tracked else "class"))


def describe(result: Result) -> str:
    """Say in one line what was found.

    Returns:
        Names with scores, or the text.
    """
    if isinstance(result, TextResult):
        answers = result.alternatives or ((result.text, result.score),)
        return "; ".join(_with_score(text or "(nothing)", score) for text, score in answers)
    asked = result[result.class_ids >= 0]
    notes = [_count_names(asked) if len(asked) else "nothing found"]
    if others := _count_names(result[result.class_ids < 0]):
        notes.append(f"not asked for: {others}")
    if result.rejects:
        notes.append(f"{len(result.rejects)} fragments unread")
    if result.truncated:
        notes.append("answer cut off")
    return "; ".join(notes)


def _with_score(text: str, score: float | None) -> str:
    return text if score is None else f"{text}  ({score:.2f})"


def _count_names(result: DetectionResult) -> str:
    scores = result.scores
    found: dict[str, list[str]] = {}
    for row, label in enumerate(result.labels):
        found.setdefault(label or "unnamed", []).append(
            "" if scores is None else f"{scores[row]:.2f}"
        )
    return ", ".join(
        f"{len(values)} {label}" + (f" ({' '.join(values)})" if scores is not None else "")
        for label, values in found.items()
    )
