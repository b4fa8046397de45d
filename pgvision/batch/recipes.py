"""Task of a job, described so that another process or machine can run the same."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from pgvision import __version__
from pgvision.errors import OptionError
from pgvision.images import Frame, FrameFailure
from pgvision.results import DetectionResult, Failure, SegmentationResult, TextResult
from pgvision.runtime import find_revision, weights_digest

Outcome: TypeAlias = DetectionResult | SegmentationResult | TextResult | Failure
TaskName = Literal["detect", "segment", "caption", "ask", "read"]

# Options that change the speed of an answer and not the answer.
_FREE: Final = frozenset({"batch_size", "threads", "generator", "model", "revision", "drafts"})


@dataclass(frozen=True)
class Recipe:
    """A task by name, with the keywords that its class takes.

    Attributes:
        task: ``"detect"``, ``"segment"``, ``"caption"``, ``"ask"`` or ``"read"``.
        keywords: Keywords of `pgvision.Detector`, ``Segmenter``, ``Captioner``, ``Answerer`` or
            ``Reader``: ``classes``, ``language``, ``model``, ``conf``, ... For "ask" also
            ``question`` and ``choices``.

    Raises:
        OptionError: If there is no such task, or for ``drafts="steady"``: its answers depend on the
            frame before, which a resumed job does not have.

    Example:
        >>> Recipe("detect", {"classes": ["helmet"], "conf": 0.3}).settings["conf"]
        0.3
    """

    task: TaskName
    keywords: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the task."""
        if self.task not in get_args(TaskName):
            raise OptionError(
                f"task: expected one of {', '.join(get_args(TaskName))}, got {self.task!r}"
            )
        if self.keywords.get("drafts") == "steady":
            raise OptionError("drafts: expected 'exact' or 'off' for a bulk job, got 'steady'")

    @property
    def settings(self) -> dict[str, object]:
        """Everything that determines the answers, by name: task, options, digest of the weights."""
        settings = {
            name: _plain(value)
            for name, value in self.keywords.items()
            if name not in _FREE and value is not None and value is not False
        }
        if self.keywords.get("calibrate") is not None:
            path = Path(self.keywords["calibrate"])
            settings["calibrate"] = hashlib.sha256(path.read_bytes()).hexdigest()
        generator = self.keywords.get("generator")
        if generator is not None:
            weights = f"generator {generator.card.name}"
        elif "://" in str(self.keywords.get("model")):
            weights = str(self.keywords["model"])  # the weights of a server are unknown
        else:
            model, revision = self.keywords.get("model"), self.keywords.get("revision")
            kind = self.keywords.get("kind")
            weights = weights_digest(find_revision(model, revision, kind=kind), revision)
        return {"task": self.task, **settings, "weights": weights, "pgvision": __version__}

    def stream(self, frames: Iterable[Frame | FrameFailure]) -> Iterator[Outcome]:
        """Load the model and yield results in order."""
        from pgvision.tasks import Answerer, Captioner, Detector, Reader, Segmenter

        # A draft from the frame before changes the last bit of a probability now and then, and a
        # resumed job does not have that frame.
        given: dict[str, Any] = {**self.keywords, "drafts": "off"}
        if self.task == "ask":
            question, choices = given.pop("question"), given.pop("choices", None)
            asked = Answerer(**given).task(question, choices)
            return asked.stream(frames, on_error="record")
        kinds = {"detect": Detector, "segment": Segmenter, "caption": Captioner, "read": Reader}
        make: Any = kinds[self.task]
        found: Iterator[Outcome] = make(**given).stream(frames, on_error="record")
        return found


def _plain(value: object) -> object:
    if isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Iterable):
        return [_plain(element) for element in value]
    return str(value)
