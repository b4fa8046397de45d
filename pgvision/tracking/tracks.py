"""Track numbers for the objects of a video, through the optional package `trackers`."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np

from pgvision.errors import require_module
from pgvision.results import DetectionResult, Failure, SegmentationResult, TextResult

_log = logging.getLogger("pgvision.tracking")
Outcome: TypeAlias = DetectionResult | SegmentationResult | TextResult | Failure


def with_tracks(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """Number the objects of each video by track (ByteTrack); stills pass unchanged.

    Boxes, scores and their order stay as they were; an object that has no track yet gets -1.

    Args:
        outcomes: Results in the order of the frames.

    Yields:
        The same results, with ``tracker_ids`` where they belong to a video.

    Raises:
        DependencyError: If `trackers` is not installed.
    """
    trackers = require_trackers()
    source: str | None = None
    tracker, last, index, is_warned = None, 0.0, 0, False
    for outcome in outcomes:
        if not isinstance(outcome, DetectionResult):
            yield outcome
            continue
        if outcome.time is None:
            if not is_warned:
                _log.warning("tracks need a video: objects of single images are not tracked")
                is_warned = True
            yield outcome
            continue
        # Another video begins, or the same one again.
        if tracker is None or outcome.source != source or outcome.frame_index < index:
            source = outcome.source
            # A phrase's score is lower than a trained detector's: the caller's --conf decides
            # what is an object, so every box that comes here may start a track.
            tracker = trackers.ByteTrackTracker(
                track_activation_threshold=0.0, high_conf_det_threshold=0.0
            )
            last = outcome.time - 1e-3
        # Time bounds how far objects may have moved: a stride and a live source skip frames.
        last, index = max(outcome.time, last + 1e-3), outcome.frame_index
        yield _numbered(outcome, tracker, last)


def require_trackers() -> Any:
    """Import the package `trackers`.

    Raises:
        DependencyError: If it is not installed.
    """
    return require_module("trackers", "tracks need trackers: pip install '.[track]'")


def _numbered(result: DetectionResult, tracker: object, time: float) -> DetectionResult:
    detections = result.to_supervision()
    detections.data = {"row": np.arange(len(result))}
    tracked = tracker.update(detections, timestamp=time)  # type: ignore[attr-defined]
    ids = np.full(len(result), -1, dtype=np.int64)
    if len(tracked):
        ids[tracked.data["row"]] = tracked.tracker_id
    return result.with_trackers(ids)
