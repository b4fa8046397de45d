"""Class names that a checkpoint was not trained on, and the trained names that mean the same."""

import difflib
import logging
from collections.abc import Mapping
from typing import Final

import numpy as np

from pgvision.boxes import box_iou
from pgvision.datasets import Dataset
from pgvision.results import Failure
from pgvision.runtime import Engine
from pgvision.tasks import Detector
from pgvision.training.data import RunData, TaskData, sample_part

_LOG = logging.getLogger(__name__)
_IMAGES: Final = 12  # training images to compare names on
_LEAST_F1: Final = 0.3  # of a trained name against an unknown one, at IoU 0.5
_SURE: Final = 0.3  # score of the objects that are compared


def match_names(engine: Engine, data: RunData) -> dict[str, str]:
    """Find for each unknown class the trained name under which the model finds its objects.

    The model is asked for its own classes on a few training images. A name that finds the
    objects of an unknown class (F1 at IoU 0.5) is a better start than a name never seen.

    Args:
        engine: Over the untrained model.
        data: Of the run.

    Returns:
        Unknown class -> trained name, each name once, best matches first.
    """
    known = engine.card.classes
    chosen = {name for one in data.tasks for name in one.config.rename.values()}
    unknown = set(data.unknown_classes(engine.card)) - chosen
    if known is None or not unknown:
        return {}
    scores: dict[tuple[str, str], float] = {}
    for one in data.tasks:
        if isinstance(one.train, Dataset):
            scores |= _scores(engine, one, unknown, [n for n in known if n not in data.classes])
    matched: dict[str, str] = {}
    for (name, other), score in sorted(scores.items(), key=lambda pair: -pair[1]):
        if score >= _LEAST_F1 and name not in matched and other not in matched.values():
            matched[name] = other
            _LOG.info(
                "class %r: asked for as %r, which finds its objects (F1 %.2f on %d images)",
                name, other, score, _IMAGES,
            )  # fmt: skip
    return matched


def _scores(
    engine: Engine, data: TaskData, unknown: set[str], known: list[str]
) -> dict[tuple[str, str], float]:
    """Return the F1 of each pair of an unknown and a trained name."""
    # 1. Detect all known classes on a sample.
    part = sample_part(data.train, _IMAGES, data.config.seed)
    if not known or not isinstance(part, Dataset):
        return {}
    counts = {(name, other): np.zeros(3) for name in unknown for other in known}
    detector = Detector(known, generator=engine, conf=_SURE, unknown="ask")
    outcomes = detector.stream([one.path for one in part.images], on_error="record")
    for image, outcome in zip(part.images, outcomes, strict=True):
        if isinstance(outcome, Failure):
            continue
        for name, other in counts:
            # 2. Count the matches of each pair of names.
            true = [o.xyxy for o in image.objects if part.names[o.category_id] == name]
            at = [k for k, label in enumerate(outcome.labels) if label == other]
            boxes = np.array(true, np.float32).reshape(-1, 4)
            overlap = box_iou(boxes, np.asarray(outcome.xyxy[at], np.float32)) >= 0.5
            hits = min(overlap.any(0).sum(), overlap.any(1).sum())
            counts[name, other] += (hits, len(true), len(at))
    return {
        pair: float(2 * hits / (true + found))
        for pair, (hits, true, found) in counts.items()
        if true + found
    }


def describe_unknown(
    data: RunData, known: tuple[str, ...] | None, matched: Mapping[str, str]
) -> str:
    """Return a line about names that stay unknown, with suggestions; "" if there is none."""
    known = known or ()
    rest = [name for name in data.classes if name not in known and name not in matched]
    if not rest or not known:
        return ""
    near = {name: difflib.get_close_matches(name, known, 1) for name in rest}
    hints = [f"{name}={other[0]}" for name, other in near.items() if other]
    words = f"names that the model was not trained on: {', '.join(rest)}"
    hint = f"; perhaps --rename '{hints[0]}'" if hints else ""
    return f"{words} (known: {', '.join(known)}){hint}"
