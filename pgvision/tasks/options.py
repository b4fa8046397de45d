"""The options that tasks share, each written once; `Unpack` gives them to every signature."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, get_type_hints

from pgvision.errors import OptionError
from pgvision.evaluation import Calibration
from pgvision.images import Color
from pgvision.runtime import Drafts, Generator
from pgvision.tokens.scoring import DEFAULT_SCORE, ScoreRule, require_score_rule

Labels = Literal["asked", "open"]


class ReadOptions(TypedDict, total=False):
    """How frames are read.

    Attributes:
        color: "bgr" (OpenCV's order, the default) or "rgb", for arrays.
        recursive: Read folders with their subfolders.
        stride: Of a video use each ``stride``-th frame.
    """

    color: Color
    recursive: bool
    stride: int


class ModelOptions(TypedDict, total=False):
    """Which model answers, and how it is run.

    Attributes:
        model: Hub id, folder, ``"tiny"``, ``"small"`` or the address of an engine that serves one
            (see `pgvision.runtime.Remote`); None: ``PGVISION_MODEL``, else ``"small"``.
        revision, device, dtype, quantize, threads, compiled: See `pgvision.runtime.load`.
        batch_size: Prompts that go through the model together; None: 8, or 1 for what is live (a
            camera, an address that names no video file), whose pictures should not wait.
        drafts: "exact" (default): over video the last frame's answer is the guess at the next,
            which saves passes and changes no answer. "steady": bins that are nearly as good as
            the best stay as they were (at most 0.8% of the picture's side off), so that boxes do
            not tremble. "off".
        generator: Another engine to ask (`pgvision.runtime.Generator`).
        kind: "pt", "mix", "ft", ...: which prompts the model knows; None: what its card says.
    """

    model: str | Path | None
    revision: str | None
    device: str | None
    dtype: str | None
    quantize: str | None
    threads: int | None
    compiled: bool
    batch_size: int | None
    drafts: Drafts
    generator: Generator | None
    kind: str | None


class ObjectOptions(ModelOptions, total=False):
    """What is kept of the objects that a model names.

    Attributes:
        conf: Keep objects of at least this score, after calibration; None keeps all.
        nms: Objects of one label that overlap more than this are one; None: only where several
            prompts or tiles are merged.
        max_objects: At most so many per image, the best ones.
        score: How token probabilities become a score: see `pgvision.tokens.scoring`.
        soft: Probability-weighted edges (and masks) instead of the most probable tokens.
        classes_per_prompt: Names in one prompt; None: what suits the kind of checkpoint.
        tile: Also look at square parts of this side in pixels; for small objects in large images.
        calibrate: File with a fitted `pgvision.evaluation.Calibration` that maps scores.
        convention: "1024" (default) or "1023": how location bins map to pixels.
        labels: "asked" (default): the model can write no label but the names asked for. "open":
            any text.
        constrained: Whether answers are held to the grammar while they are written (default). False
            leaves the model alone and reads what comes.
        extra_objects: So many further objects than the model wants to name, each with the low score
            that it deserves; for recall.
        closed_set: Ask for all classes at once, as a checkpoint was trained to be asked whose card
            has a `pgvision.runtime.checkpoints.ClosedSet`: every answer has the same number of
            boxes, and the likelihood of the class is the score. None: where the card has one that
            holds all names asked for. `Detector` only.
    """

    conf: float | None
    nms: float | None
    max_objects: int | None
    score: str
    soft: bool
    classes_per_prompt: int | None
    tile: int | None
    calibrate: str | Path | None
    convention: str
    labels: Labels
    constrained: bool
    extra_objects: int
    closed_set: bool | None


@dataclass(frozen=True, kw_only=True)
class ObjectSettings:
    """`ObjectOptions` with every default filled in, checked."""

    conf: float | None
    nms: float | None
    max_objects: int | None
    score: ScoreRule
    soft: bool
    classes_per_prompt: int | None
    tile: int | None
    calibration: Calibration | None
    convention: str
    labels: Labels
    constrained: bool
    extra_objects: int
    closed_set: bool | None

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            OptionError: If one is outside its range.
        """
        for name in ("conf", "nms"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise OptionError(f"{name}: expected a number in [0, 1], got {value}")
        for name in ("max_objects", "tile", "classes_per_prompt"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name}: expected at least 1, got {value}")
        if self.extra_objects < 0:
            raise OptionError(f"extra_objects: expected 0 or more, got {self.extra_objects}")
        if self.labels not in ("asked", "open"):
            raise OptionError(f"labels: expected 'asked' or 'open', got {self.labels!r}")


def object_settings(options: ObjectOptions) -> ObjectSettings:
    """Fill in the defaults.

    Raises:
        OptionError: If an option is outside its range.
    """
    calibrate = options.get("calibrate")
    return ObjectSettings(
        conf=options.get("conf"),
        nms=options.get("nms"),
        max_objects=options.get("max_objects"),
        score=require_score_rule(options.get("score", DEFAULT_SCORE)),
        soft=options.get("soft", False),
        classes_per_prompt=options.get("classes_per_prompt"),
        tile=options.get("tile"),
        calibration=None if calibrate is None else Calibration.load(calibrate),
        convention=options.get("convention", "1024"),
        labels=options.get("labels", "asked"),
        constrained=options.get("constrained", True),
        extra_objects=options.get("extra_objects", 0),
        closed_set=options.get("closed_set"),
    )


def require_known(given: Mapping[str, object], options: type, task: str) -> None:
    """Refuse keywords that a task does not have.

    Args:
        given: The keywords.
        options: The TypedDict that lists them.
        task: Name of the task, for the error.

    Raises:
        OptionError: With the nearest name that exists.
    """
    known = list(get_type_hints(options))
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}=?" if near else f"it has {', '.join(known)}"
            raise OptionError(f"{name}: {task} has no such option; {hint}")
