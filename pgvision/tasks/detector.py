"""`Detector`: names in, scored boxes in pixels out."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pgvision.errors import OptionError
from pgvision.evaluation import Calibration
from pgvision.images import Frame
from pgvision.results import DetectionResult, Failure
from pgvision.runtime import Generation, Generator
from pgvision.tasks.adapter import Adapter, Ask, Color, ModelChoice, OnError
from pgvision.tasks.objects import (
    SEPARATOR,
    Found,
    ObjectOptions,
    chunks,
    column,
    keep_best,
    read_objects,
    tiles,
)
from pgvision.tokens import Reject, classes_per_prompt, detect_prefix, require_classes
from pgvision.tokens.scoring import DEFAULT_SCORE, require_score_rule

_OVERLAP = 0.2


class Detector(Adapter[DetectionResult]):
    """Finds objects by name.

    Args:
        classes: A name, or several: ``"helmet"``, ``["helmet", "head"]``.
        model: Hub id, folder, or ``"tiny"``; None: ``PGVISION_MODEL``, else ``"tiny"``.
        revision, device, dtype: See `pgvision.runtime.load`.
        conf: Keep objects of at least this score; None keeps all.
        nms: Objects of one class that overlap more than this are one; None: only where several
            prompts or tiles are merged.
        max_objects: At most so many per image, the best ones.
        score: How token probabilities become a score: see `pgvision.tokens.scoring`.
        soft: Probability-weighted edges instead of the most probable bins.
        classes_per_prompt: Names in one prompt; None: what suits the kind of checkpoint.
        tile: Also look at square parts of this side in pixels; for small objects in large images.
        calibrate: File with a fitted `pgvision.evaluation.Calibration` that maps scores.
        convention: "1024" (default) or "1023": how location bins map to pixels.
        batch_size: Prompts that go through the model together; None: 8, or 1 for what is live (a
            camera, an address that names no video file), whose pictures should not wait.
        generator, kind: Another engine to ask, and which prompts it knows.

    Raises:
        PromptError: If a name cannot be asked for.
        OptionError: If an option is outside its range, or ``revision`` is given with a folder.
        CheckpointError: If the model cannot be loaded.

    Example:
        >>> from pgvision.scenes import render_scene
        >>> detector = Detector("helmet")
        >>> result = detector(render_scene(20_000_000).image)
        >>> result.xyxy.shape[1], set(result.labels) <= {"helmet"}
        (4, True)
    """

    def __init__(
        self,
        classes: str | Iterable[str],
        *,
        model: str | Path | None = None,
        revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        conf: float | None = None,
        nms: float | None = None,
        max_objects: int | None = None,
        score: str = DEFAULT_SCORE,
        soft: bool = False,
        classes_per_prompt: int | None = None,
        tile: int | None = None,
        calibrate: str | Path | None = None,
        convention: str = "1024",
        batch_size: int | None = None,
        generator: Generator | None = None,
        kind: str | None = None,
    ) -> None:
        self.classes = require_classes(classes)
        self.options = ObjectOptions(
            conf=conf,
            nms=nms,
            max_objects=max_objects,
            score=require_score_rule(score),
            soft=soft,
            convention=convention,
        )
        for name, value in (("tile", tile), ("classes_per_prompt", classes_per_prompt)):
            if value is not None and value < 1:
                raise OptionError(f"{name}: expected at least 1, got {value}")
        self._tile, self._per_prompt = tile, classes_per_prompt
        self._calibration = Calibration.load(calibrate) if calibrate is not None else None
        super().__init__(
            ModelChoice(
                model=model,
                revision=revision,
                device=device,
                dtype=dtype,
                batch_size=batch_size,
                generator=generator,
                kind=kind,
            )
        )

    def __call__(self, image: Any, *, color: Color = "bgr") -> DetectionResult:
        """Find the objects of one image: an array (BGR unless ``color`` says), PIL or a path."""
        return self._one(image, color)

    def predict(
        self,
        frames: Any,
        *,
        color: Color = "bgr",
        recursive: bool = False,
        stride: int = 1,
        on_error: OnError = "raise",
    ) -> list[DetectionResult | Failure]:
        """Return one result per image, in order; see `stream` for the arguments."""
        return list(
            self.stream(frames, color=color, recursive=recursive, stride=stride, on_error=on_error)
        )

    def stream(
        self,
        frames: Any,
        *,
        color: Color = "bgr",
        recursive: bool = False,
        stride: int = 1,
        on_error: OnError = "raise",
    ) -> Iterator[DetectionResult | Failure]:
        """Yield one result per image, lazily and in constant memory.

        Args:
            frames: Whatever `pgvision.images.iter_frames` takes: arrays, PIL images, paths,
                folders, videos, cameras, and iterables of these.
            color: "bgr" (OpenCV's order) or "rgb", for arrays.
            recursive: Read folders with their subfolders.
            stride: Of a video use each ``stride``-th frame.
            on_error: "raise", "skip" (logged) or "record" (a `Failure` takes the place).

        Returns:
            Results as they come, with the image attached, for ``result.plot()``. If ``frames``
            raises midway, what it gave before is answered first, and then its exception comes.
        """
        return self._stream(
            frames, color=color, recursive=recursive, stride=stride, on_error=on_error
        )

    def _prefix(self, names: Sequence[str]) -> str:
        return detect_prefix(names, kind=self.kind)

    def _asks(self, frame: Frame) -> list[Ask]:
        size = self._per_prompt or classes_per_prompt(self.kind)
        windows: list[tuple[int, int, int, int] | None] = [None]
        if self._tile is not None and max(frame.image_hw) > self._tile:
            windows += tiles(frame.image_hw, self._tile, _OVERLAP)
        return [
            Ask(self._prefix(names), names, window)
            for window in windows
            for names in chunks(self.classes, size)
        ]

    def _result(self, frame: Frame, answered: Sequence[tuple[Ask, Generation]]) -> DetectionResult:
        found, rejects = read_objects(
            answered, image_hw=frame.image_hw, classes=self.classes, options=self.options
        )
        kept = keep_best(found, self.options, merged=len(answered) > 1)
        return self._make(frame, answered, kept, rejects)

    def _make(
        self,
        frame: Frame,
        answered: Sequence[tuple[Ask, Generation]],
        found: Sequence[Found],
        rejects: Sequence[Reject],
    ) -> DetectionResult:
        return DetectionResult(**self._fields(frame, answered, found, rejects))

    def _fields(
        self,
        frame: Frame,
        answered: Sequence[tuple[Ask, Generation]],
        found: Sequence[Found],
        rejects: Sequence[Reject],
    ) -> dict[str, Any]:
        known = [item.score for item in found if item.score is not None]
        scores = np.array(known, np.float32) if len(known) == len(found) else None
        if scores is not None and self._calibration is not None:
            scores = self._calibration.apply(scores).astype(np.float32)
        # Bins are a tile's own, so they mean nothing for the whole frame.
        tiled = any(ask.window is not None for ask, _ in answered)
        bins = np.array([item.parsed.loc_yxyx for item in found], np.int64).reshape(-1, 4)
        return {
            **provenance(frame, answered),
            "rejects": tuple(rejects),
            "xyxy": np.array([i.parsed.xyxy for i in found], np.float32).reshape(-1, 4),
            "scores": scores,
            "labels": tuple(item.parsed.label for item in found),
            "class_ids": np.array([item.parsed.class_id for item in found], np.int64),
            "classes": self.classes,
            "loc_yxyx": None if tiled else bins,
            "edge_std": column(found, lambda item: item.edge_std),
        }


def provenance(frame: Frame, answered: Sequence[tuple[Ask, Generation]]) -> dict[str, Any]:
    """Return the fields that every result has, from a frame and its answers."""
    timings: dict[str, float] = {}
    for _, answer in answered:
        for phase, seconds in answer.timings.items():
            timings[phase] = timings.get(phase, 0.0) + seconds
    return {
        "image_hw": frame.image_hw,
        "prefix": SEPARATOR.join(ask.prefix for ask, _ in answered),
        "raw_text": SEPARATOR.join(answer.text for _, answer in answered),
        "truncated": any(not answer.finished for _, answer in answered),
        "timings": timings,
        "source": frame.source,
        "frame_index": frame.index,
        "time": frame.time,
        "image": frame.bgr,
    }
