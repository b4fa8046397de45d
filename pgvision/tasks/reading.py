"""Answers read: scored objects in pixels, merged, thresholded and limited."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import numpy as np

from pgvision.boxes import nms
from pgvision.errors import OptionError
from pgvision.images import Frame
from pgvision.results import DetectionResult, SegmentationResult
from pgvision.runtime import CheckpointCard, Generation
from pgvision.runtime.protocol import ObjectSpan
from pgvision.tasks.options import ObjectSettings
from pgvision.tasks.run import BETWEEN_ANSWERS, Answered, Ask, Window, provenance
from pgvision.tasks.tiles import Found, auto_tile, join_fragments, tiles
from pgvision.tasks.trained_on import ClassName, is_photograph
from pgvision.tokens import NUM_BINS, Reject, decode_boxes, match_label, parse_suffix
from pgvision.tokens.parsing import TRUNCATED
from pgvision.tokens.scoring import edge_spread, object_score

if TYPE_CHECKING:
    from vqvae import MaskCodec

Result = TypeVar("Result", bound=DetectionResult)

_LOG: Final = logging.getLogger(__name__)
_MERGE_IOU: Final = 0.6
_GEOMETRY: Final = re.compile(r"<(loc|seg)\d+>")  # one token
_WARNED: Final[set[tuple[str, tuple[str, ...]]]] = set()  # (checkpoint, classes)


@dataclass(frozen=True)
class ObjectTask(Generic[Result]):
    """The prompts about named objects, and how their answers are read; needs no model.

    Attributes:
        names: The classes asked for, each as given and as trained.
        settings: Which objects are kept.
        card: The checkpoint's card.
        prompts: One for each group of names, for the whole frame.
        resolution: Side in pixels of the square that the model sees.
        codec: Decodes masks; None: boxes only.
    """

    names: tuple[ClassName, ...]
    settings: ObjectSettings
    card: CheckpointCard
    prompts: tuple[Ask, ...]
    resolution: int
    codec: "MaskCodec | None" = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names as the user gave them."""
        return tuple(name.given for name in self.names)

    def plan(self, frame: Frame) -> list[Ask]:
        """Plan each prompt for the whole frame, and for its tiles if it is large.

        Raises:
            OptionError: If ``tile`` would cut the frame into too many tiles.
        """
        self._warn_about_photographs(frame)
        refused = {name.trained for name in self._refused_masks(frame)}
        prompts = [ask for ask in self.prompts if not refused.issuperset(ask.classes)]
        tile = self.settings.tile
        side = auto_tile(frame.image_hw, self.resolution) if tile == "auto" else tile
        if side is None or max(frame.image_hw) <= side:
            return prompts
        windows = [None, *tiles(frame.image_hw, side)]
        return [replace(ask, window=window) for window in windows for ask in prompts]

    def _refused_masks(self, frame: Frame) -> list[ClassName]:
        """Return the classes with masks that were trained on drawings only, on a photograph."""
        domains = self.card.masks_on if self.codec and self.settings.unknown == "refuse" else {}
        drawn = [name for name in self.names if domains.get(name.trained) == "drawings"]
        return drawn if drawn and is_photograph(frame.bgr) else []

    def _warn_about_photographs(self, frame: Frame) -> None:
        """Log once if classes that were trained on in drawings are asked of a photograph."""
        # The statistic costs milliseconds: it is computed where it matters, once for each class.
        domains = self.card.trained_on
        drawn = tuple(n.trained for n in self.names if domains.get(n.trained) == "drawings")
        key = (self.card.name, drawn)
        if not drawn or key in _WARNED or not is_photograph(frame.bgr):
            return
        _WARNED.add(key)
        _LOG.warning(
            "%s: trained on drawings only, and this image looks like a photograph: %s; expect "
            "misses and false alarms",
            self.card.name,
            ", ".join(drawn),
        )

    def read(self, frame: Frame, answers: Sequence[Answered]) -> Result:
        """Read, merge, threshold and limit; objects keep the order of the answers.

        Raises:
            OptionError: If ``conf`` is above 0 and the engine returns no probabilities.
        """
        # 1. Read all answers; their places count in the joined text. Refused classes have none.
        found: list[Found] = []
        refused = self._refused_masks(frame)
        rejects = [
            Reject(
                "",
                f"{name.given}: {self.card.name} was trained on masks of it in drawings only, and "
                "this image looks like a photograph; use Detector, or insist with "
                'unknown="ask"',
                0,
                0,
            )
            for name in refused
        ]
        offset = 0
        for ask, answer in answers:
            objects, fragments = read_answer(
                ask, answer, self.names, frame.image_hw, self.settings, offset=offset
            )
            found += objects
            rejects += fragments
            offset += len(answer.text) + len(BETWEEN_ANSWERS)
        # 2. A segmenter keeps objects with masks only.
        if self.codec is not None:
            raw = BETWEEN_ANSWERS.join(answer.text for _, answer in answers)
            rejects += [
                Reject(raw[item.start : item.end], "no mask", item.start, item.end)
                for item in found
                if not item.codes
            ]
            # A prompt of several classes may name a refused one.
            given = {name.given for name in refused}
            found = [item for item in found if item.codes and item.label not in given]
        # 3. Merge what several prompts or tiles found, then threshold and limit.
        found = self._merged(found, answers, frame.image_hw)
        presence = presence_of(answers, self.names)
        found = [item for item in found if self._is_kept(item, presence or {})]
        limit = self.settings.max_objects
        if limit is not None and len(found) > limit:
            ranked = sorted(range(len(found)), key=lambda index: -(found[index].score or 0.0))
            found = [found[index] for index in sorted(ranked[:limit])]
        return self._result(frame, answers, found, rejects, presence)

    def _merged(
        self, found: list[Found], answers: Sequence[Answered], image_hw: tuple[int, int]
    ) -> list[Found]:
        # 1. Join the fragments of tiles.
        if any(item.window is not None for item in found):
            found = join_fragments(found, image_hw)
        # 2. Suppress duplicates, which several prompts or a closed set may have.
        is_merged = len(answers) > 1 or any(ask.form and ask.form.decoy for ask, _ in answers)
        limit = _MERGE_IOU if self.settings.nms is None and is_merged else self.settings.nms
        if limit is None or not found:
            return found
        boxes = np.array([item.xyxy for item in found], np.float32)
        scores = np.array([item.score or 0.0 for item in found], np.float32)
        labels = [item.label for item in found]
        ids = np.array([labels.index(label) for label in labels])
        chosen = nms(boxes, scores, iou_threshold=limit, class_ids=ids)
        return [found[index] for index in sorted(chosen.tolist())]

    def _is_kept(self, item: Found, presence: Mapping[str, float]) -> bool:
        conf = self.settings.conf
        if item.score is None and conf not in ("auto", 0):
            raise OptionError(
                "conf: this engine returns no probabilities, so objects have no scores; use conf=0"
            )
        if conf != "auto":
            return not conf or item.score is None or item.score >= conf
        if item.class_id < 0:
            return True
        name = self.names[item.class_id]
        is_present = presence.get(name.given, 1.0) >= self.card.least_presence.get(name.trained, 0)
        return is_present and (item.score is None or item.score >= self._card_threshold(name))

    def _card_threshold(self, name: ClassName) -> float:
        """Return the card's threshold of a class, calibrated as the scores are."""
        least = self.card.thresholds.get(name.trained, 0.0)
        calibration = self.settings.calibration
        return least if calibration is None else float(calibration.apply(np.array([least]))[0])

    def _result(
        self,
        frame: Frame,
        answers: Sequence[Answered],
        found: Sequence[Found],
        rejects: Sequence[Reject],
        presence: Mapping[str, float] | None,
    ) -> Result:
        # 1. What an engine does not return is None for the whole result.
        has_scores = all(item.score is not None for item in found)
        has_spreads = all(item.edge_std is not None for item in found)
        # Bins of a tile count from its corner, so they mean nothing for the whole frame.
        is_tiled = any(ask.window is not None for ask, _ in answers)

        def rows(name: str, dtype: type, *sides: int) -> np.ndarray[Any, Any]:
            return np.array([getattr(item, name) for item in found], dtype).reshape(-1, *sides)

        fields: dict[str, Any] = {
            **provenance(frame, answers),
            "rejects": tuple(rejects),
            "xyxy": rows("xyxy", np.float32, 4),
            "scores": rows("score", np.float32) if has_scores else None,
            "labels": tuple(item.label for item in found),
            "texts": tuple(item.text for item in found),
            "class_ids": rows("class_id", np.int64),
            "classes": self.classes,
            "loc_yxyx": None if is_tiled else rows("loc_yxyx", np.int64, 4),
            "edge_std": rows("edge_std", np.float32, 4) if has_spreads else None,
            "presence": presence,
        }
        # 2. A segmenter also decodes the codes to masks.
        if self.codec is None:
            return cast("Result", DetectionResult(**fields))
        codes = rows("codes", np.int64, 16)
        logits = self.codec.decode(codes)
        return cast("Result", SegmentationResult(**fields, codes=codes, mask_logits=logits))


def read_answer(
    ask: Ask,
    answer: Generation,
    names: Sequence[ClassName],
    image_hw: tuple[int, int],
    settings: ObjectSettings,
    *,
    offset: int,
) -> tuple[list[Found], list[Reject]]:
    """Return the objects of one answer, scored, and its fragments that are no objects.

    An answer that followed the grammar is read from the engine's spans, without parsing text; any
    other is parsed.

    Args:
        ask: The prompt.
        answer: What the model wrote.
        names: All classes of the task.
        image_hw: Height and width of the frame.
        settings: With the calibration.
        offset: Where this answer begins in the joined answers of the frame.
    """
    # 1. Parse the answer, from spans if its tokens follow the grammar.
    follows_grammar = answer.normalised == "allowed" and answer.spans is not None
    written, rejects = _from_spans(ask, answer) if follows_grammar else _from_text(ask, answer)
    left, top, right, bottom = window = ask.window or (0, 0, image_hw[1], image_hw[0])
    # 2. Decode bins to pixels of the frame.
    bins = np.array([item.loc_yxyx for item, _ in written], np.int64).reshape(-1, 4)
    boxes = decode_boxes(bins, image_hw=(bottom - top, right - left)).astype(np.float64)
    boxes += np.array([left, top, left, top])
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
        chances: dict[str, float] = {}
        if ask.form is not None and ask.form.decoy is not None:
            chances = _best_likelihoods(ask, answer)
        elif answer.presence is not None and len(ask.classes) == 1:
            chances = {ask.classes[0]: answer.presence}
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
            best[name] = max(best[name], answer.inside * likelihood)
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
    # The size is a placeholder: only the bins are used here.
    parsed = parse_suffix(answer.text, image_hw=(1024, 1024), classes=ask.classes)
    starts = np.cumsum([0, *(len(piece) for piece in answer.pieces)])
    kinds = "".join(piece[1] if _GEOMETRY.fullmatch(piece) else "t" for piece in answer.pieces)
    written: list[tuple[Found, ObjectSpan | None]] = []
    for one in parsed.objects:
        bins, codes, label, class_id = one.loc_yxyx, one.codes or (), one.label, one.class_id
        item = Found(bins, codes, label, class_id, start=one.start, end=one.end)
        # Its tokens, which may be apart: an object is four locations, then its codes and a label.
        start, stop = np.searchsorted(starts, (one.start, one.end)).tolist()
        box = start + kinds[start:stop].rfind("l") + 1
        mask = max(box, start + kinds[start:stop].rfind("s") + 1)
        span = ObjectSpan(start, box, mask, stop, loc_row=kinds.count("l", 0, start))
        is_aligned = kinds.count("l", start, stop) == 4
        written.append((item, span if is_aligned else None))
    return written, list(parsed.rejects)


def _measured(
    one: Found,
    span: ObjectSpan,
    answer: Generation,
    ended: int,
    window: Window,
    settings: ObjectSettings,
) -> Found:
    """Add score and spread; what the engine does not return stays unknown."""
    logprobs, ends, table = answer.logprobs, answer.eos_logprobs, answer.loc_probs
    if table is None or logprobs is None or ends is None:
        return one
    # 1. Presence: the model starts a list at all, and continues from the last object to this one.
    passed = np.exp(np.minimum(ends[ended : span.start + 1], 0.0))
    presence = answer.inside * float(np.prod(1.0 - passed))
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
    )
    if settings.calibration is not None:
        score = float(settings.calibration.apply(np.array([score]))[0])
    # 3. Spread of the edges in pixels; tokens are y first.
    left, top, right, bottom = window
    sides = np.array([right - left, bottom - top, right - left, bottom - top])
    spread = edge_spread(rows)[[1, 0, 3, 2]] * sides / NUM_BINS
    # As results have it: an object of just the threshold is kept.
    return replace(one, score=float(np.float32(score)), edge_std=spread.astype(np.float32))
