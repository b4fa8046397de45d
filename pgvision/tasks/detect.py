"""`Detector` and `Segmenter`: names in, scored boxes in pixels (and masks) out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, Unpack, cast

import numpy as np

from pgvision.arrays import FloatArray
from pgvision.boxes import nms
from pgvision.errors import CodecError, OptionError
from pgvision.images import Frame
from pgvision.results import DetectionResult, SegmentationResult
from pgvision.runtime import CheckpointCard
from pgvision.tasks.asking import BETWEEN_ANSWERS, Answered, Ask, Task, provenance
from pgvision.tasks.domain import warn_about_photographs
from pgvision.tasks.names import ClassName, known_classes
from pgvision.tasks.options import (
    ImageOptions,
    ObjectOptions,
    ObjectSettings,
    ReadOptions,
    check_options,
    object_settings,
)
from pgvision.tasks.reading import Found, presence_of, read_answer
from pgvision.tasks.run import Predictor, Runner, card_of
from pgvision.tasks.tiles import auto_tile, join_fragments, tiles
from pgvision.tokens import (
    AnswerForm,
    Reject,
    classes_per_prompt,
    detect_prefix,
    require_classes,
    segment_prefix,
)
from pgvision.tokens.scoring import DEFAULT_SCORE

if TYPE_CHECKING:
    from vqvae import MaskCodec

Result = TypeVar("Result", bound=DetectionResult)

_MERGE_IOU: Final = 0.6
_TOKENS_PER_OBJECT: Final = 12  # of a closed set's answer, at most: a box, a label, a separator


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
        warn_about_photographs(frame, self.card, [name.trained for name in self.names])
        tile = self.settings.tile
        side = auto_tile(frame.image_hw, self.resolution) if tile == "auto" else tile
        if side is None or max(frame.image_hw) <= side:
            return list(self.prompts)
        windows = [None, *tiles(frame.image_hw, side)]
        return [replace(ask, window=window) for window in windows for ask in self.prompts]

    def read(self, frame: Frame, answers: Sequence[Answered]) -> Result:
        """Read, merge, threshold and limit; objects keep the order of the answers.

        Raises:
            OptionError: If ``conf`` is above 0 and the engine returns no probabilities.
        """
        # 1. Read all answers; their places count in the joined text.
        found: list[Found] = []
        rejects: list[Reject] = []
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
            found = [item for item in found if item.codes]
        # 3. Merge what several prompts or tiles found, then threshold and limit.
        found = self._merged(found, answers, frame.image_hw)
        found = [item for item in found if self._is_kept(item)]
        limit = self.settings.max_objects
        if limit is not None and len(found) > limit:
            ranked = sorted(range(len(found)), key=lambda index: -(found[index].score or 0.0))
            found = [found[index] for index in sorted(ranked[:limit])]
        return self._result(frame, answers, found, rejects)

    def _merged(
        self, found: list[Found], answers: Sequence[Answered], image_hw: tuple[int, int]
    ) -> list[Found]:
        # 1. Join the fragments of tiles.
        is_tiled = any(item.window is not None for item in found)
        if is_tiled:
            found = join_fragments(found, image_hw)
        # 2. Suppress duplicates, which several prompts or a closed set may have.
        is_merged = len(answers) > 1 or any(ask.form and ask.form.decoy for ask, _ in answers)
        limit = self.settings.nms
        if limit is None:
            limit = _MERGE_IOU if is_merged else None
        if limit is None or not found:
            return found
        boxes = np.array([item.xyxy for item in found], np.float32)
        scores = np.array([item.score or 0.0 for item in found], np.float32)
        labels = [item.label for item in found]
        ids = np.array([labels.index(label) for label in labels])
        chosen = nms(boxes, scores, iou_threshold=limit, class_ids=ids)
        return [found[index] for index in sorted(chosen.tolist())]

    def _is_kept(self, item: Found) -> bool:
        conf = self.settings.conf
        if conf == "auto":
            least = self._card_threshold(item)
            return item.score is None or item.score >= least
        if item.score is None and conf > 0:
            raise OptionError(
                "conf: this engine returns no probabilities, so objects have no scores; use conf=0"
            )
        return conf == 0 or (item.score or 0.0) >= conf

    def _card_threshold(self, item: Found) -> float:
        """Return the card's threshold of a class, measured with the default score rule."""
        if item.class_id < 0 or self.settings.score != DEFAULT_SCORE:
            return 0.0
        least = self.card.thresholds.get(self.names[item.class_id].trained, 0.0)
        calibration = self.settings.calibration
        return least if calibration is None else float(calibration.apply(np.array([least]))[0])

    def _result(
        self,
        frame: Frame,
        answers: Sequence[Answered],
        found: Sequence[Found],
        rejects: Sequence[Reject],
    ) -> Result:
        known = [item.score for item in found if item.score is not None]
        spreads = [item.edge_std for item in found if item.edge_std is not None]
        # Bins of a tile count from its corner, so they mean nothing for the whole frame.
        is_tiled = any(ask.window is not None for ask, _ in answers)
        bins = np.array([item.loc_yxyx for item in found], np.int64).reshape(-1, 4)
        fields: dict[str, Any] = {
            **provenance(frame, answers),
            "rejects": tuple(rejects),
            "xyxy": np.array([item.xyxy for item in found], np.float32).reshape(-1, 4),
            "scores": np.array(known, np.float32) if len(known) == len(found) else None,
            "labels": tuple(item.label for item in found),
            "texts": tuple(item.text for item in found),
            "class_ids": np.array([item.class_id for item in found], np.int64),
            "classes": self.classes,
            "loc_yxyx": None if is_tiled else bins,
            "edge_std": np.array(spreads, np.float32).reshape(-1, 4)
            if len(spreads) == len(found)
            else None,
            "presence": presence_of(answers, self.names),
        }
        # A segmenter also decodes the codes to masks.
        if self.codec is None:
            return cast("Result", DetectionResult(**fields))
        codes = np.array([item.codes for item in found], np.int64).reshape(-1, 16)
        logits = self._mask_logits(self.codec, found, codes)
        return cast("Result", SegmentationResult(**fields, codes=codes, mask_logits=logits))

    def _mask_logits(
        self, codec: "MaskCodec", found: Sequence[Found], codes: np.ndarray[Any, Any]
    ) -> FloatArray:
        probs = [item.seg_probs for item in found if item.seg_probs is not None]
        if not found:
            return np.zeros((0, 64, 64), np.float32)
        if self.settings.soft and len(probs) == len(found):
            return codec.decode_soft(np.array(probs, np.float32))
        return codec.decode(codes)


def object_task(
    names: Sequence[ClassName],
    settings: ObjectSettings,
    card: CheckpointCard,
    *,
    resolution: int,
    codec: "MaskCodec | None" = None,
) -> ObjectTask[Any]:
    """Make the prompts once, so that frames only repeat them.

    Args:
        names: The classes, from `pgvision.tasks.names.known_classes`.
        settings: Which objects are kept.
        card: The checkpoint's card.
        resolution: Side in pixels of the square that the model sees.
        codec: The mask codec; None: boxes only.

    Raises:
        PromptError: If a name cannot be asked for.
        OptionError: If the closed set is asked for and cannot be had.
    """
    names = tuple(names)
    trained = [name.trained for name in names]
    # 1. A closed set asks for all classes in one prompt.
    closed = _closed_set_ask(card, trained, settings) if codec is None else None
    if closed is not None:
        return ObjectTask(names, settings, card, (closed,), resolution, codec)
    # 2. Otherwise group the classes, as many per prompt as the kind was trained on.
    size = settings.classes_per_prompt or classes_per_prompt(card.kind)
    write = detect_prefix if codec is None else segment_prefix
    task: Literal["detect", "segment"] = "detect" if codec is None else "segment"
    prompts: list[Ask] = []
    for start in range(0, len(trained), size):
        group = tuple(trained[start : start + size])
        form = AnswerForm(
            task=task,
            labels=group if settings.labels == "asked" else None,
            label="none" if card.kind == "refcoco-seg" else "required",
            past_end=settings.extra_objects,
        )
        prefix = write(group, kind=card.kind)
        prompts.append(Ask(prefix, group, form=form, constrained=settings.constrained))
    return ObjectTask(names, settings, card, tuple(prompts), resolution, codec)


def _closed_set_ask(
    card: CheckpointCard, names: Sequence[str], settings: ObjectSettings
) -> Ask | None:
    """Return the prompt for all classes of the card's closed set, where it is to be used."""
    # 1. A closed set needs the grammar, and all names in its list.
    closed_set = card.closed_set
    follows_grammar = settings.constrained and settings.labels == "asked"
    known = closed_set.classes if closed_set else ()
    strangers = [name for name in names if name not in known]
    if settings.closed_set and (not follows_grammar or strangers):
        reason = (
            "its answers follow the grammar; leave constrained and labels out"
            if not strangers
            else f"this checkpoint's has no {', '.join(map(repr, strangers))}; it has "
            f"{', '.join(known) or 'none'}"
        )
        raise OptionError(f"closed_set: {reason}")
    # 2. Unless asked for explicitly, use it only where it is possible.
    if closed_set is None or settings.closed_set is False or not follows_grammar or strangers:
        return None
    # 3. Ban the end token: each answer has the same number of objects.
    form = AnswerForm(
        task="detect",
        labels=closed_set.classes,
        max_objects=closed_set.num_objects,
        bans=("<eos>",),
        decoy=closed_set.noise,
    )
    limit = _TOKENS_PER_OBJECT * closed_set.num_objects
    return Ask(closed_set.prefix, closed_set.classes, form=form, max_new_tokens=limit)


class ObjectPredictor(Predictor[Result]):
    """A task that finds objects by name: `Detector` or `Segmenter`."""

    _task: ObjectTask[Result]

    def __init__(
        self,
        classes: str | Iterable[str],
        options: Mapping[str, Any],
        codec: "MaskCodec | None",
        *made_of: object,
    ) -> None:
        check_options(options, ObjectOptions, type(self).__name__)
        given: ObjectOptions = dict(options)  # type: ignore[assignment]
        settings = object_settings(given)
        phrases = require_classes(classes)
        # Refuse unknown names before the weights are read.
        known_classes(phrases, card_of(given), unknown=settings.unknown)
        runner = Runner(given)
        names = known_classes(phrases, runner.card, unknown=settings.unknown)
        # The engine's, or PaliGemma's smallest.
        resolution = int(getattr(runner.generator, "resolution", 224))
        task: ObjectTask[Result] = object_task(
            names, settings, runner.card, resolution=resolution, codec=codec
        )
        super().__init__(task, runner, phrases, *made_of)
        self.classes = task.classes
        self.notes = tuple(
            f"{name.given!r} is asked for as {name.trained!r}"
            for name in names
            if name.given != name.trained
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.classes)}, {self._runner})"

    def train(
        self,
        data: Any,
        out: str | Path = "runs/train",
        *,
        minutes: float | None = None,
        config: Any = None,
    ) -> Any:
        """Fine-tune this task's checkpoint on a data set; the task itself stays as it is.

        Args:
            data: A data set, or several: see `pgvision.training.train`.
            out: Folder of the new checkpoint and its figures.
            minutes: Wall-clock time, validation included; None: that of ``config``, else 10.
            config: A `pgvision.training.TrainConfig`, or a YAML file of one.

        Returns:
            The `pgvision.training.TrainReport`, with AP on held-out images; its ``folder`` is the
            new checkpoint: ``Detector("helmet", model=report.folder)``.

        Raises:
            SourceError, DataError, OptionError, DependencyError, CheckpointError: See there.
        """
        # By name: training is above tasks, and is loaded only when it is wanted.
        train = import_module("pgvision.training").train
        given = {} if minutes is None else {"minutes": minutes}
        task = "detect" if self._task.codec is None else "segment"
        model = self._runner.options.get("model") or self._runner.card.name
        device = self._runner.options.get("device")
        return train(data, out, config=config, model=str(model), task=task, device=device, **given)

    def _for_call(self, how: ImageOptions | ReadOptions) -> Task[Result]:
        check_options(how, ReadOptions, type(self).__name__)
        conf = how.get("conf")
        if conf is None:
            return self
        return replace(self._task, settings=replace(self._task.settings, conf=conf))


class Detector(ObjectPredictor[DetectionResult]):
    """Finds objects by name.

    Args:
        classes: A name, or several: ``"helmet"``, ``["helmet", "head"]``. A synonym of the
            checkpoint's card ("hard hat") is sent as the trained name; results have yours.
        options: ``model``, ``device``, ``conf``, ``tile``, ``drafts`` and the others: see
            `pgvision.tasks.options.ObjectOptions` and ``ModelOptions``.

    Raises:
        UnknownNameError: If the checkpoint was not trained on a class; ``unknown="ask"`` insists.
        PromptError: If a name cannot be asked for.
        OptionError: If an option is unknown, of another type or outside its range.
        CheckpointError: If the model cannot be loaded.

    Example:
        >>> from pgvision import samples
        >>> detector = Detector("hard hat")
        >>> result = detector(samples.load("site-01"), conf=0.3)
        >>> result.xyxy.shape[1], set(result.labels) <= {"hard hat"}
        (4, True)
    """

    def __init__(self, classes: str | Iterable[str], **options: Unpack[ObjectOptions]) -> None:
        super().__init__(classes, options, None)


class Segmenter(ObjectPredictor[SegmentationResult]):
    """Finds objects by name, with masks.

    Args:
        classes: A name, a referring phrase, or several names.
        codec: The mask codec; None: the one that belongs to the checkpoint. A path or a loaded
            `vqvae.MaskCodec`; the codec of another checkpoint is refused.
        options: As for `pgvision.Detector`; ``soft`` also decodes probability-weighted masks.

    Raises:
        CodecError: If the codec is not the checkpoint's; checked before weights are read.
        UnknownNameError, PromptError, OptionError, CheckpointError: As for `pgvision.Detector`.

    Example:
        >>> from pgvision import samples
        >>> result = Segmenter("helmet")(samples.load("site-01"))
        >>> result.masks.shape[1:]
        (480, 640)
    """

    def __init__(
        self,
        classes: str | Iterable[str],
        codec: "MaskCodec | str | Path | None" = None,
        **options: Unpack[ObjectOptions],
    ) -> None:
        check_options(options, ObjectOptions, "Segmenter")
        self.codec = _require_codec(codec, card_of(options))
        super().__init__(classes, options, self.codec, codec)


def _require_codec(codec: "MaskCodec | str | Path | None", card: CheckpointCard) -> "MaskCodec":
    from vqvae import MaskCodec

    loaded = codec if isinstance(codec, MaskCodec) else MaskCodec.load(codec or card.codec)
    if loaded.name != card.codec:
        raise CodecError(
            f"codec: {card.name} writes the codes of the {card.codec!r} codec, got "
            f"{loaded.name!r}; leave codec= out, or name a checkpoint of that codec"
        )
    return loaded
