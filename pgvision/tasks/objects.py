"""What Detector and Segmenter share: names to prompts, answers to the objects that are kept."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from pgvision.boxes import nms
from pgvision.errors import OptionError
from pgvision.images import Frame
from pgvision.runtime.checkpoints import CheckpointCard, ClosedSet
from pgvision.runtime.knowledge import unknown_classes
from pgvision.tasks.asking import Answered, Ask
from pgvision.tasks.notices import warn_once
from pgvision.tasks.options import ObjectSettings
from pgvision.tasks.reading import BETWEEN_ANSWERS, Found, column, presence_of, read_objects
from pgvision.tasks.tiles import join_fragments, tiles
from pgvision.tokens import AnswerForm, Reject, classes_per_prompt, require_classes

_MERGE_IOU: Final = 0.6
_TOKENS_PER_OBJECT: Final = 12  # of a closed set's answer, at most: a box, a label, a separator


@dataclass(frozen=True)
class ObjectTask:
    """The questions about named objects, and the reading of their answers.

    Attributes:
        classes: The names asked for.
        settings: What is kept.
        prompts: For each group of names its ask, for the whole frame.
    """

    classes: tuple[str, ...]
    settings: ObjectSettings
    prompts: tuple[Ask, ...]

    def plan(self, frame: Frame) -> list[Ask]:
        """Ask every prompt about the whole frame, and about its tiles where it is large."""
        side = self.settings.tile
        if side is None or max(frame.image_hw) <= side:
            return list(self.prompts)
        windows = [None, *tiles(frame.image_hw, side)]
        return [replace(ask, window=window) for window in windows for ask in self.prompts]

    def found(
        self, frame: Frame, answers: Sequence[Answered], *, masks: bool = False
    ) -> tuple[list[Found], list[Reject]]:
        """Read, threshold, merge and limit; objects keep the order of the answers.

        Args:
            frame: The frame.
            answers: All of its answers.
            masks: Keep objects with a mask alone; the others become rejects.

        Raises:
            OptionError: If ``conf`` is set and the generator gives no probabilities.
        """
        found, rejects = read_objects(
            answers, image_hw=frame.image_hw, classes=self.classes, settings=self.settings
        )
        if masks:
            raw = BETWEEN_ANSWERS.join(answer.text for _, answer in answers)
            rejects += [_maskless(item, raw) for item in found if item.parsed.codes is None]
            found = [item for item in found if item.parsed.codes is not None]
        merged = len(answers) > 1 or any(ask.form and ask.form.decoy for ask, _ in answers)
        return self._kept(found, frame.image_hw, merged=merged), rejects

    def _kept(self, found: list[Found], image_hw: tuple[int, int], *, merged: bool) -> list[Found]:
        settings = self.settings
        if settings.conf is not None:
            found = [item for item in found if _known_score(item) >= settings.conf]
        if any(item.window is not None for item in found):
            found = join_fragments(found, image_hw)
        limit = settings.nms if settings.nms is not None else (_MERGE_IOU if merged else None)
        if limit is not None and found:
            boxes = np.array([item.xyxy for item in found], np.float32)
            scores = np.array([item.score or 0.0 for item in found], np.float32)
            labels = [item.label for item in found]
            ids = np.array([labels.index(label) for label in labels])
            chosen = nms(boxes, scores, iou_threshold=limit, class_ids=ids)
            found = [found[index] for index in sorted(chosen.tolist())]
        if settings.max_objects is not None and len(found) > settings.max_objects:
            ranked = sorted(range(len(found)), key=lambda index: -(found[index].score or 0.0))
            found = [found[index] for index in sorted(ranked[: settings.max_objects])]
        return found

    def fields(
        self,
        frame: Frame,
        answers: Sequence[Answered],
        found: Sequence[Found],
        rejects: Sequence[Reject],
    ) -> dict[str, Any]:
        """Return the fields of a `DetectionResult`."""
        known = [item.score for item in found if item.score is not None]
        # Bins are a tile's own, so they mean nothing for the whole frame.
        tiled = any(ask.window is not None for ask, _ in answers)
        bins = np.array([item.parsed.loc_yxyx for item in found], np.int64).reshape(-1, 4)
        return {
            **provenance(frame, answers),
            "rejects": tuple(rejects),
            "xyxy": np.array([item.xyxy for item in found], np.float32).reshape(-1, 4),
            "scores": np.array(known, np.float32) if len(known) == len(found) else None,
            "labels": tuple(item.label for item in found),
            "texts": tuple(item.parsed.label for item in found),
            "class_ids": np.array([item.parsed.class_id for item in found], np.int64),
            "classes": self.classes,
            "loc_yxyx": None if tiled else bins,
            "edge_std": column(found, lambda item: item.edge_std),
            "presence": presence_of(answers),
        }


def object_task(
    classes: str | Iterable[str],
    settings: ObjectSettings,
    card: CheckpointCard,
    *,
    task: Literal["detect", "segment"],
    prefix: Callable[[Sequence[str]], str],
) -> ObjectTask:
    """Make the prompts once, so that frames only repeat them.

    Args:
        classes: A name or several.
        settings: What is kept.
        card: Whose prompts they are; names that it does not know are said, once.
        task: Boxes alone or masks too.
        prefix: Writes the prompt of some names.

    Raises:
        PromptError: If a name cannot be asked for.
        OptionError: If the closed set is asked for and cannot be had.
    """
    names = require_classes(classes)
    warn_once(unknown_classes(names, card))
    closed_set = card.closed_set if task == "detect" else None
    chosen = _chosen(closed_set, names, settings)
    if chosen is not None:
        return ObjectTask(names, settings, (_closed_ask(chosen),))
    size = settings.classes_per_prompt or classes_per_prompt(card.kind)
    groups = [names[start : start + size] for start in range(0, len(names), size)]
    prompts = tuple(
        Ask(
            prefix(group),
            group,
            form=AnswerForm(
                task=task,
                labels=group if settings.labels == "asked" else None,
                label="none" if card.kind == "refcoco-seg" else "required",
                past_end=settings.extra_objects,
            ),
            constrained=settings.constrained,
        )
        for group in groups
    )
    return ObjectTask(names, settings, prompts)


def provenance(frame: Frame, answers: Sequence[Answered]) -> dict[str, Any]:
    """Return the fields that every result has, from a frame and its answers."""
    timings: dict[str, float] = {}
    for _, answer in answers:
        for phase, seconds in answer.timings.items():
            timings[phase] = timings.get(phase, 0.0) + seconds
    return {
        "image_hw": frame.image_hw,
        "prefix": BETWEEN_ANSWERS.join(ask.prefix for ask, _ in answers),
        "raw_text": BETWEEN_ANSWERS.join(answer.text for _, answer in answers),
        "truncated": any(not answer.finished for _, answer in answers),
        "timings": timings,
        "source": frame.source,
        "frame_index": frame.index,
        "time": frame.time,
        "image": frame.bgr,
    }


def _chosen(
    closed_set: ClosedSet | None, names: Sequence[str], settings: ObjectSettings
) -> ClosedSet | None:
    """Return the closed set if all classes are asked for at once.

    Raises:
        OptionError: If the settings say that they must be and they cannot.
    """
    known = () if closed_set is None else closed_set.classes
    strangers = [name for name in names if name not in known]
    is_held = settings.constrained and settings.labels == "asked"
    if settings.closed_set and (strangers or not is_held):
        reason = (
            "its answers are held to its classes; leave constrained and labels as they are"
            if not strangers
            else f"this checkpoint's has no {', '.join(map(repr, strangers))}; it has "
            f"{', '.join(known) or 'none'}"
        )
        raise OptionError(f"closed_set: {reason}")
    return closed_set if settings.closed_set is not False and is_held and not strangers else None


def _closed_ask(closed_set: ClosedSet) -> Ask:
    form = AnswerForm(
        task="detect",
        labels=closed_set.classes,
        max_objects=closed_set.num_objects,
        bans=("<eos>",),
        decoy=closed_set.noise,
    )
    return Ask(
        closed_set.prefix,
        closed_set.classes,
        form=form,
        max_new_tokens=_TOKENS_PER_OBJECT * closed_set.num_objects,
    )


def _maskless(item: Found, raw: str) -> Reject:
    start, end = item.parsed.start, item.parsed.end
    return Reject(raw[start:end], "no mask", start, end)


def _known_score(item: Found) -> float:
    if item.score is None:
        raise OptionError(
            "conf: this generator gives no probabilities, so no object has a score; leave conf out"
        )
    return item.score
