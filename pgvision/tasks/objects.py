"""From answers to scored objects in pixels: parsing, scores, windows, suppression, thresholds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from pgvision.arrays import FloatArray, IntArray
from pgvision.boxes import clip_boxes, nms
from pgvision.errors import OptionError
from pgvision.runtime import Generation
from pgvision.tasks.adapter import Ask
from pgvision.tokens import NUM_BINS, NUM_CODES, ParsedObject, Reject, parse_suffix
from pgvision.tokens.scoring import ScoreRule, edge_spread, object_score

_MERGE_IOU = 0.6
SEPARATOR = "\n"


@dataclass(frozen=True, kw_only=True)
class ObjectOptions:
    """What is kept of the objects that a model names.

    Attributes:
        conf: Least score; None keeps all.
        nms: Objects of one class that overlap more than this are one; None: only where several
            prompts or tiles of one image are merged.
        max_objects: At most so many, the best first; None keeps all.
        score: How token probabilities become a score: see `pgvision.tokens.scoring`.
        soft: Probability-weighted edges and masks instead of the most probable tokens.
        convention: "1024" or "1023": how location bins map to pixels.
    """

    conf: float | None = None
    nms: float | None = None
    max_objects: int | None = None
    score: ScoreRule
    soft: bool = False
    convention: str = "1024"

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            OptionError: If a threshold is outside [0, 1] or ``max_objects`` below 1.
        """
        for name in ("conf", "nms"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise OptionError(f"{name}: expected a number in [0, 1], got {value}")
        if self.max_objects is not None and self.max_objects < 1:
            raise OptionError(f"max_objects: expected at least 1, got {self.max_objects}")


@dataclass(frozen=True)
class Found:
    """One object with everything that its tokens say.

    Attributes:
        parsed: The object as the parser read it, its box in pixels of the frame.
        score: In [0, 1].
        edges: ``(4,)`` probability-weighted box in pixels: left, top, right, bottom.
        edge_std: ``(4,)`` standard deviation of each edge in pixels, same order.
        seg_probs: ``(16, 128)``, or None without a mask.
    """

    parsed: ParsedObject
    score: float | None
    edges: FloatArray | None
    edge_std: FloatArray | None
    seg_probs: FloatArray | None


Answers: TypeAlias = Sequence[tuple[Ask, Generation]]


def read_objects(
    answers: Answers, *, image_hw: tuple[int, int], classes: tuple[str, ...], options: ObjectOptions
) -> tuple[list[Found], list[Reject]]:
    """Read the objects of all answers about one frame, and what could not be read.

    Rejects are placed in the answers' texts joined by a newline.
    """
    found: list[Found] = []
    rejects: list[Reject] = []
    offset = 0
    for ask, answer in answers:
        left, top, right, bottom = ask.window or (0, 0, image_hw[1], image_hw[0])
        parsed = parse_suffix(
            answer.text,
            image_hw=(bottom - top, right - left),
            classes=ask.classes,
            convention=options.convention,
        )
        trace = _Trace(answer)
        for item in parsed.objects:
            placed = _place(item, ask, classes, (left, top))
            found.append(_measure(placed, trace, (left, top, right, bottom), options))
        rejects += [
            replace(one, start=one.start + offset, end=one.end + offset) for one in parsed.rejects
        ]
        offset += len(answer.text) + len(SEPARATOR)
    return found, rejects


def keep_best(found: Sequence[Found], options: ObjectOptions, *, merged: bool) -> list[Found]:
    """Apply threshold, suppression and limit; the order of the answers is kept."""
    kept = [
        item
        for item in found
        if options.conf is None or (item.score is not None and item.score >= options.conf)
    ]
    limit = options.nms if options.nms is not None else (_MERGE_IOU if merged else None)
    if limit is not None and kept:
        boxes = np.array([item.parsed.xyxy for item in kept], np.float32)
        scores = np.array([item.score or 0.0 for item in kept], np.float32)
        ids = np.array([item.parsed.class_id for item in kept])
        chosen = nms(boxes, scores, iou_threshold=limit, class_ids=ids)
        kept = [kept[index] for index in sorted(chosen.tolist())]
    if options.max_objects is not None and len(kept) > options.max_objects:
        ranked = sorted(range(len(kept)), key=lambda index: -(kept[index].score or 0.0))
        kept = [kept[index] for index in sorted(ranked[: options.max_objects])]
    return kept


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
    """Finds the tokens of an object by their place in the text."""

    def __init__(self, answer: Generation) -> None:
        lengths = [len(piece) for piece in answer.pieces]
        self.ends: IntArray = np.cumsum(lengths, dtype=np.int64)
        self.starts = self.ends - lengths
        self.is_loc = np.array([piece.startswith("<loc") for piece in answer.pieces], np.bool_)
        self.is_seg = np.array([piece.startswith("<seg") for piece in answer.pieces], np.bool_)
        self.answer = answer
        self._last = 0  # first token after the objects that have been read

    def tokens(self, item: ParsedObject) -> IntArray:
        inside = (self.starts >= item.start) & (self.ends <= item.end) & (self.ends > self.starts)
        return np.flatnonzero(inside)

    def presence(self, first: int) -> float:
        """Probability that the answer went on from the last object to this one."""
        ends = self.answer.eos_logprobs[self._last : first + 1]
        return float(np.prod(1.0 - np.exp(np.minimum(ends, 0.0))))

    def pass_over(self, tokens: IntArray) -> None:
        self._last = int(tokens[-1]) + 1

    def probabilities(self, tokens: IntArray, *, of_locs: bool) -> FloatArray:
        kind = self.is_loc if of_locs else self.is_seg
        table = self.answer.loc_probs if of_locs else self.answer.seg_probs
        rows = kind.cumsum() - 1
        chosen: FloatArray = table[rows[tokens[kind[tokens]]]]
        return chosen


def _place(
    item: ParsedObject, ask: Ask, classes: tuple[str, ...], corner: tuple[int, int]
) -> ParsedObject:
    left, top = corner
    x1, y1, x2, y2 = item.xyxy
    number = classes.index(ask.classes[item.class_id]) if item.class_id >= 0 else -1
    return replace(item, class_id=number, xyxy=(x1 + left, y1 + top, x2 + left, y2 + top))


def _measure(
    item: ParsedObject,
    trace: _Trace,
    window: tuple[int, int, int, int],
    options: ObjectOptions,
) -> Found:
    tokens = trace.tokens(item)
    locs = trace.probabilities(tokens, of_locs=True)
    if len(locs) != 4 or locs.shape[1] != NUM_BINS:
        # An engine without probabilities, or a text whose tokens do not fall on the object's
        # borders: unknown stays unknown.
        return Found(item, None, None, None, None)
    segs = trace.probabilities(tokens, of_locs=False) if item.codes else None
    is_word = ~(trace.is_loc | trace.is_seg)
    logprobs = trace.answer.logprobs
    score = object_score(
        presence=trace.presence(int(tokens[0])),
        loc_probs=locs,
        loc_yxyx=item.loc_yxyx,
        label_logprobs=logprobs[tokens[is_word[tokens]]],
        seg_logprobs=logprobs[tokens[trace.is_seg[tokens]]] if item.codes else None,
        rule=options.score,
    )
    trace.pass_over(tokens)
    edges, spread = _in_pixels(*edge_spread(locs), window, options.convention)
    if options.soft and edges[0] < edges[2] and edges[1] < edges[3]:
        left, top, right, bottom = (float(edge) for edge in edges)
        item = replace(item, xyxy=(left, top, right, bottom))
    whole = segs if segs is not None and segs.shape == (16, NUM_CODES) else None
    return Found(item, score, edges, spread, whole)


def _in_pixels(
    mean: FloatArray, spread: FloatArray, window: tuple[int, int, int, int], convention: str
) -> tuple[FloatArray, FloatArray]:
    left, top, right, bottom = window
    order = [1, 0, 3, 2]  # tokens say y first
    sides = np.array([right - left, bottom - top, right - left, bottom - top], np.float64)
    scale = sides / float(convention)
    edges = mean[order] * scale + np.array([left, top, left, top])
    inside = clip_boxes(edges[None].astype(np.float32), image_hw=(bottom, right))[0]
    return inside, (spread[order] * scale).astype(np.float32)


def chunks(classes: tuple[str, ...], size: int) -> Iterator[tuple[str, ...]]:
    """Split the classes into groups of at most ``size``."""
    for start in range(0, len(classes), size):
        yield classes[start : start + size]


def tiles(image_hw: tuple[int, int], side: int, overlap: float) -> list[tuple[int, int, int, int]]:
    """Cover an image with overlapping squares; the last ones are moved in from the border.

    Not supervision's ``InferenceSlicer`` (0.31): it calls back with the crops of one picture, so
    that tiles could not share a batch with the whole picture and with other prompts and frames; and
    what it merges are ``Detections``, which refuses unknown scores (``with_nms`` raises) and drops
    whatever differs from tile to tile, here the texts, the rejects and whether one was cut off.

    Args:
        image_hw: Height and width in pixels.
        side: Side of a tile in pixels.
        overlap: Share of a tile that it has in common with its neighbour, in [0, 1).

    Returns:
        Left, top, right, bottom of each tile, row by row.

    Example:
        >>> tiles((100, 250), 100, 0.2)
        [(0, 0, 100, 100), (80, 0, 180, 100), (150, 0, 250, 100)]
    """
    height, width = image_hw
    step = max(1, round(side * (1 - overlap)))

    def starts(length: int) -> list[int]:
        last = max(0, length - side)
        return sorted({min(start, last) for start in range(0, last + step, step)})

    return [
        (left, top, min(left + side, width), min(top + side, height))
        for top in starts(height)
        for left in starts(width)
    ]
