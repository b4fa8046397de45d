"""Parsing of one answer into scored objects in pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pgvision.arrays import FloatArray
from pgvision.boxes import clip_boxes
from pgvision.runtime import Generation
from pgvision.runtime.protocol import ObjectSpan
from pgvision.tasks.asking import Answered, Ask, Window
from pgvision.tasks.names import ClassName
from pgvision.tasks.options import ObjectSettings
from pgvision.tokens import NUM_CODES, Reject, decode_boxes, match_label, parse_suffix
from pgvision.tokens.parsing import TRUNCATED
from pgvision.tokens.scoring import edge_spread, object_score


@dataclass(frozen=True, eq=False)
class Found:
    """One object of an answer.

    Attributes:
        loc_yxyx: Bins as written: top, left, bottom, right, counted in ``window``.
        codes: The 16 codes of its mask; empty without one.
        text: The model's own words; None if it wrote none.
        class_id: Index into the classes asked for; -1 if the label is none of them.
        label: The name that the user gave, else the model's words.
        xyxy: Left, top, right, bottom in pixels of the frame.
        score: In [0, 1], calibrated; None if unknown.
        edge_std: ``(4,)`` standard deviation of each edge in pixels, in the order of ``xyxy``.
        seg_probs: ``(16, 128)``, or None without a mask or probabilities.
        window: The part of the frame that the prompt was about; None: all of it.
        start, end: Place in the answers of the frame, joined by ``BETWEEN_ANSWERS``.
    """

    loc_yxyx: tuple[int, ...] = ()
    codes: tuple[int, ...] = ()
    text: str | None = None
    class_id: int = -1
    label: str | None = None
    xyxy: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    score: float | None = None
    edge_std: FloatArray | None = None
    seg_probs: FloatArray | None = None
    window: Window | None = None
    start: int = 0
    end: int = 0


def read_answer(
    ask: Ask,
    answer: Generation,
    names: Sequence[ClassName],
    image_hw: tuple[int, int],
    settings: ObjectSettings,
    *,
    offset: int = 0,
) -> tuple[list[Found], list[Reject]]:
    """Return the objects of one answer, scored, and its fragments that are no objects.

    An answer that followed the grammar is read from the engine's spans, without parsing text; any
    other is parsed.

    Args:
        ask: The prompt.
        answer: What the model wrote.
        names: All classes of the task.
        image_hw: Height and width of the frame.
        settings: Score rule, calibration, convention.
        offset: Where this answer begins in the joined answers of the frame.
    """
    # 1. Parse the answer, from spans if its tokens follow the grammar.
    follows_grammar = answer.normalised == "allowed" and answer.spans is not None
    written, rejects = _from_spans(ask, answer) if follows_grammar else _from_text(ask, answer)
    left, top, right, bottom = window = ask.window or (0, 0, image_hw[1], image_hw[0])
    # 2. Decode bins to pixels of the frame.
    bins = np.array([item.loc_yxyx for item, _ in written], np.int64).reshape(-1, 4)
    boxes = decode_boxes(
        bins, image_hw=(bottom - top, right - left), convention=settings.convention
    ).astype(np.float64) + np.array([left, top, left, top])
    # 3. Name and score each object.
    ids = {name.trained: index for index, name in enumerate(names)}
    found: list[Found] = []
    ended = 0  # token after the last scored object
    for (item, span), box in zip(written, boxes.tolist(), strict=True):
        class_id = ids.get(ask.classes[item.class_id], -1) if item.class_id >= 0 else -1
        if item.class_id >= 0 > class_id:
            continue  # a closed set names all of its classes, asked for or not
        one = replace(
            item,
            xyxy=tuple(box),
            label=names[class_id].given if class_id >= 0 else item.text,
            class_id=class_id,
            window=ask.window,
            start=item.start + offset,
            end=item.end + offset,
        )
        if span is not None:
            one = _measured(one, span, answer, ended, window, settings)
            ended = span.label_stop
        found.append(one)
    # 4. Positions in the text of all answers together.
    moved = [replace(one, start=one.start + offset, end=one.end + offset) for one in rejects]
    return found, moved


def presence_of(answers: Sequence[Answered], names: Sequence[ClassName]) -> dict[str, float] | None:
    """Return the probability that a class is in the image, if it is known.

    That is for classes with a prompt of their own, and for those of a closed set: its answers never
    end early, so there it is the greatest likelihood of the class among the boxes.
    """
    given = {name.trained: name.given for name in names}
    found: dict[str, float] = {}
    for ask, answer in answers:
        if ask.form is not None and ask.form.decoy is not None:
            chances = _best_likelihoods(ask, answer)
        elif answer.presence is not None and len(ask.classes) == 1:
            chances = {ask.classes[0]: answer.presence}
        else:
            continue
        for name, chance in chances.items():
            key = given.get(name, name)
            found[key] = max(chance, found.get(key, 0.0))
    return found or None


def _best_likelihoods(ask: Ask, answer: Generation) -> dict[str, float]:
    if answer.logprobs is None or answer.spans is None:
        return {}
    best = dict.fromkeys(ask.classes, 0.0)
    for span in answer.spans:
        name = "".join(answer.pieces[span.mask_stop : span.label_stop]).strip()
        if name in best:
            likelihood = float(np.exp(answer.logprobs[span.mask_stop : span.label_stop].sum()))
            best[name] = max(best[name], _inside(answer) * likelihood)
    return best


def _from_spans(
    ask: Ask, answer: Generation
) -> tuple[list[tuple[Found, ObjectSpan | None]], list[Reject]]:
    """Return objects without pixels, their class as an index into the prompt's; and fragments."""
    starts = np.cumsum([0, *(len(piece) for piece in answer.pieces)]).tolist()
    written: list[tuple[Found, ObjectSpan | None]] = []
    rejects: list[Reject] = []
    for span in answer.spans or ():
        start, end = starts[span.start], starts[span.label_stop]
        if not span.is_complete:
            rejects.append(Reject(answer.text[start:end], TRUNCATED, start, end))
            continue
        text = "".join(answer.pieces[span.mask_stop : span.label_stop]).strip() or None
        row = match_label(text, ask.classes) if span.label is None else span.label
        item = Found(span.loc_yxyx, span.codes, text, row, start=start, end=end)
        written.append((item, span))
    return written, rejects


def _from_text(
    ask: Ask, answer: Generation
) -> tuple[list[tuple[Found, ObjectSpan | None]], list[Reject]]:
    # Pixels are computed from the bins later: any size will do here.
    # The size is a placeholder: only the bins are used here.
    parsed = parse_suffix(answer.text, image_hw=(1024, 1024), classes=ask.classes)
    starts = np.cumsum([0, *(len(piece) for piece in answer.pieces)]).tolist()
    spans = {starts[span.start]: span for span in answer.spans or ()}
    written = [
        (
            Found(
                item.loc_yxyx,
                item.codes or (),
                item.label,
                item.class_id,
                start=item.start,
                end=item.end,
            ),
            spans.get(item.start),
        )
        for item in parsed.objects
    ]
    return written, list(parsed.rejects)


def _measured(
    one: Found,
    span: ObjectSpan,
    answer: Generation,
    ended: int,
    window: Window,
    settings: ObjectSettings,
) -> Found:
    """Add score, spread and soft edges; what the engine does not return stays unknown."""
    logprobs, ends, table = answer.logprobs, answer.eos_logprobs, answer.loc_probs
    if table is None or logprobs is None or ends is None:
        return one
    # 1. Presence: the model starts a list at all, and continues from the last object to this one.
    passed = np.exp(np.minimum(ends[ended : span.start + 1], 0.0))
    presence = _inside(answer) * float(np.prod(1.0 - passed))
    # 2. Label tokens that had no alternative carry no evidence.
    label = logprobs[span.mask_stop : span.label_stop]
    if answer.forced is not None:
        label = label[~answer.forced[span.mask_stop : span.label_stop]]
    rows = table[span.loc_row : span.loc_row + 4]
    score = object_score(
        presence=presence,
        loc_probs=rows,
        loc_yxyx=one.loc_yxyx,
        label_logprobs=label,
        seg_logprobs=logprobs[span.box_stop : span.mask_stop] if one.codes else None,
        rule=settings.score,
    )
    if settings.calibration is not None:
        score = float(settings.calibration.apply(np.array([score]))[0])
    # 3. Edges as averages over bins, and their spread.
    edges, spread = _in_pixels(*edge_spread(rows), window, settings.convention)
    is_box = settings.soft and edges[0] < edges[2] and edges[1] < edges[3]
    xyxy = (edges[0], edges[1], edges[2], edges[3]) if is_box else one.xyxy
    codes = None if answer.seg_probs is None else answer.seg_probs[span.seg_row : span.seg_row + 16]
    has_codes = bool(one.codes) and codes is not None and codes.shape == (16, NUM_CODES)
    probs = codes if has_codes else None
    return replace(one, xyxy=xyxy, score=score, edge_std=spread, seg_probs=probs)


def _inside(answer: Generation) -> float:
    """Return the mass inside the grammar at the answer's start: little for a foreign prompt."""
    outside = answer.outside
    if outside is None or not len(outside) or np.isnan(outside[0]):
        return 1.0
    return 1.0 - float(outside[0])


def _in_pixels(
    mean: FloatArray, spread: FloatArray, window: Window, convention: str
) -> tuple[list[float], FloatArray]:
    left, top, right, bottom = window
    order = [1, 0, 3, 2]  # tokens are y first
    sides = np.array([right - left, bottom - top, right - left, bottom - top], np.float64)
    scale = sides / float(convention)
    edges = mean[order] * scale + np.array([left, top, left, top])
    inside = clip_boxes(edges[None].astype(np.float32), image_hw=(bottom, right))[0]
    return inside.tolist(), (spread[order] * scale).astype(np.float32)
