"""From answers to scored objects in pixels: what each token of an object says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pgvision.arrays import FloatArray
from pgvision.boxes import clip_boxes
from pgvision.runtime import Generation
from pgvision.runtime.protocol import ObjectSpan
from pgvision.tasks.asking import Answered, Ask, Window
from pgvision.tasks.options import ObjectSettings
from pgvision.tokens import NUM_CODES, ParsedObject, Reject, parse_suffix
from pgvision.tokens.scoring import edge_spread, object_score

BETWEEN_ANSWERS = "\n"
"""Stands between the answers of several prompts in ``raw_text``."""


@dataclass(frozen=True)
class Found:
    """One object with everything that its tokens say.

    Attributes:
        parsed: The object as the parser read it, its box in pixels of the frame, its place in the
            answers of the frame joined by ``BETWEEN_ANSWERS``.
        label: The name asked for, else the model's words.
        score: In [0, 1], calibrated; None if unknown.
        edges: ``(4,)`` probability-weighted box in pixels: left, top, right, bottom.
        edge_std: ``(4,)`` standard deviation of each edge in pixels, same order.
        seg_probs: ``(16, 128)``, or None without a mask.
        window: The part of the frame that was looked at; None: all of it.
    """

    parsed: ParsedObject
    label: str | None
    score: float | None = None
    edges: FloatArray | None = None
    edge_std: FloatArray | None = None
    seg_probs: FloatArray | None = None
    window: Window | None = None

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels of the frame."""
        return self.parsed.xyxy


def read_objects(
    answers: Sequence[Answered],
    *,
    image_hw: tuple[int, int],
    classes: tuple[str, ...],
    settings: ObjectSettings,
) -> tuple[list[Found], list[Reject]]:
    """Read the objects of all answers about one frame, and what could not be read.

    Rejects are placed in the answers' texts joined by ``BETWEEN_ANSWERS``.
    """
    found: list[Found] = []
    rejects: list[Reject] = []
    offset = 0
    for ask, answer in answers:
        window = ask.window or (0, 0, image_hw[1], image_hw[0])
        left, top, right, bottom = window
        parsed = parse_suffix(
            answer.text,
            image_hw=(bottom - top, right - left),
            classes=ask.classes,
            convention=settings.convention,
        )
        trace = _Trace(answer)
        for item in parsed.objects:
            if item.class_id >= 0 and ask.classes[item.class_id] not in classes:
                continue  # a closed set names all of its classes, asked for or not
            measured = _measure(item, trace, window, settings)
            found.append(_place(measured, ask, classes, (left, top), offset))
        rejects += [
            replace(one, start=one.start + offset, end=one.end + offset) for one in parsed.rejects
        ]
        offset += len(answer.text) + len(BETWEEN_ANSWERS)
    return found, rejects


def presence_of(answers: Sequence[Answered]) -> dict[str, float] | None:
    """Return the chance that there is any at all, for each class that can be told apart.

    These are the classes with a prompt of their own, and those of a closed set: its answers never
    end early, so there it is the likelihood of the class for the box that shows it best.
    """
    found: dict[str, float] = {}
    for ask, answer in answers:
        if ask.form is not None and ask.form.decoy is not None:
            chances = _best_likelihoods(answer, ask.classes)
        elif answer.presence is not None and len(ask.classes) == 1:
            chances = {ask.classes[0]: answer.presence}
        else:
            continue
        found |= {name: max(chance, found.get(name, 0.0)) for name, chance in chances.items()}
    return found or None


def _best_likelihoods(answer: Generation, classes: Sequence[str]) -> dict[str, float]:
    if answer.logprobs is None or answer.spans is None:
        return {}
    best = dict.fromkeys(classes, 0.0)
    for span in answer.spans:
        label = slice(span.mask_stop, span.label_stop)
        name = "".join(answer.pieces[label]).strip()
        if name in best:
            best[name] = max(best[name], float(np.exp(answer.logprobs[label].sum())))
    return best


def column(
    found: Sequence[Found], value: Callable[[Found], FloatArray | None]
) -> FloatArray | None:
    """Stack one measure of all objects; None as soon as one object lacks it."""
    rows = [value(item) for item in found]
    known = [row for row in rows if row is not None]
    if len(known) != len(rows):
        return None
    return np.array(known, np.float32).reshape(-1, 4)


class _Trace:
    """Finds the tokens of an object by where its first character stands."""

    def __init__(self, answer: Generation) -> None:
        self.answer = answer
        starts = np.cumsum([0, *(len(piece) for piece in answer.pieces)])
        self._spans = {int(starts[span.start]): span for span in answer.spans or ()}
        self._last = 0  # first token after the objects that have been read
        ids = answer.pieces
        self._locs = np.cumsum([piece.startswith("<loc") for piece in ids])
        self._segs = np.cumsum([piece.startswith("<seg") for piece in ids])

    def span(self, item: ParsedObject) -> ObjectSpan | None:
        """Return the tokens of an object, or None if they were not told apart."""
        return self._spans.get(item.start)

    def presence(self, span: ObjectSpan, ends: FloatArray) -> float:
        """Probability that the answer went on from the last object to this one."""
        passed = ends[self._last : span.start + 1]
        self._last = span.label_stop
        return float(np.prod(1.0 - np.exp(np.minimum(passed, 0.0))))

    def loc_rows(self, span: ObjectSpan) -> FloatArray | None:
        """Return ``(4, 1024)`` over bins, or None."""
        table = self.answer.loc_probs
        first = int(self._locs[span.start]) - 1
        return None if table is None else table[first : first + 4]

    def seg_rows(self, span: ObjectSpan) -> FloatArray | None:
        """Return ``(16, 128)`` over codes, or None without a mask."""
        table = self.answer.seg_probs
        if table is None or span.mask_stop == span.box_stop:
            return None
        first = int(self._segs[span.box_stop]) - 1
        rows: FloatArray = table[first : first + 16]
        return rows if rows.shape == (16, NUM_CODES) else None


def _place(
    one: Found, ask: Ask, classes: tuple[str, ...], corner: tuple[int, int], offset: int
) -> Found:
    """Move an object of one answer to where it stands in the frame and in all answers."""
    (left, top), item = corner, one.parsed
    x1, y1, x2, y2 = item.xyxy
    number = classes.index(ask.classes[item.class_id]) if item.class_id >= 0 else -1
    placed = replace(
        item,
        class_id=number,
        xyxy=(x1 + left, y1 + top, x2 + left, y2 + top),
        start=item.start + offset,
        end=item.end + offset,
    )
    label = classes[number] if number >= 0 else item.label
    return replace(one, parsed=placed, label=label, window=ask.window)


def _measure(item: ParsedObject, trace: _Trace, window: Window, settings: ObjectSettings) -> Found:
    """Score an object and its edges; what the engine did not say stays unknown."""
    span, logprobs, ends = trace.span(item), trace.answer.logprobs, trace.answer.eos_logprobs
    locs = None if span is None else trace.loc_rows(span)
    if span is None or locs is None or logprobs is None or ends is None:
        return Found(item, item.label)
    label = logprobs[span.mask_stop : span.label_stop]
    if trace.answer.forced is not None:  # what had to come says nothing
        label = label[~trace.answer.forced[span.mask_stop : span.label_stop]]
    score = object_score(
        presence=trace.presence(span, ends),
        loc_probs=locs,
        loc_yxyx=item.loc_yxyx,
        label_logprobs=label,
        seg_logprobs=logprobs[span.box_stop : span.mask_stop] if item.codes else None,
        rule=settings.score,
    )
    if settings.calibration is not None:
        score = float(settings.calibration.apply(np.array([score]))[0])
    edges, spread = _in_pixels(*edge_spread(locs), window, settings.convention)
    if settings.soft and edges[0] < edges[2] and edges[1] < edges[3]:
        left, top, right, bottom = (float(edge) for edge in edges)
        # Places are counted from the window's corner until `_place`.
        x, y = window[:2]
        item = replace(item, xyxy=(left - x, top - y, right - x, bottom - y))
    return Found(item, item.label, score, edges, spread, trace.seg_rows(span))


def _in_pixels(
    mean: FloatArray, spread: FloatArray, window: Window, convention: str
) -> tuple[FloatArray, FloatArray]:
    left, top, right, bottom = window
    order = [1, 0, 3, 2]  # tokens say y first
    sides = np.array([right - left, bottom - top, right - left, bottom - top], np.float64)
    scale = sides / float(convention)
    edges = mean[order] * scale + np.array([left, top, left, top])
    inside = clip_boxes(edges[None].astype(np.float32), image_hw=(bottom, right))[0]
    return inside, (spread[order] * scale).astype(np.float32)
