"""`Detector` and `Segmenter`: names in, scored boxes in pixels (and masks) out."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, Unpack, cast

from pgvision.errors import CodecError, OptionError, check_options
from pgvision.results import DetectionResult, SegmentationResult
from pgvision.runtime import CheckpointCard
from pgvision.tasks.options import Conf, ObjectOptions, ObjectSettings, object_settings
from pgvision.tasks.reading import ObjectTask
from pgvision.tasks.run import Ask, Predictor, Runner, Task, card_of
from pgvision.tasks.trained_on import ClassName, known_classes
from pgvision.tokens import (
    AnswerForm,
    classes_per_prompt,
    detect_prefix,
    require_classes,
    segment_prefix,
)

if TYPE_CHECKING:
    from vqvae import MaskCodec

Result = TypeVar("Result", bound=DetectionResult)

_LOG: Final = logging.getLogger(__name__)
_TOKENS_PER_OBJECT: Final = 12  # of a closed set's answer, at most: a box, a label, a separator


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
        names: The classes, from `pgvision.tasks.trained_on.known_classes`.
        settings: Which objects are kept.
        card: The checkpoint's card.
        resolution: Side in pixels of the square that the model sees.
        codec: The mask codec; None: boxes only.

    Raises:
        PromptError: If a name cannot be asked for.
        OptionError: If the closed set is asked for and cannot be had.
    """
    if codec is not None and settings.closed_set:
        raise OptionError("closed_set: has boxes only; leave it out, or use Detector")
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
            labels=group,
            label="none" if card.kind == "refcoco-seg" else "required",
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
    known = closed_set.classes if closed_set else ()
    strangers = [name for name in names if name not in known]
    if settings.closed_set and (not settings.constrained or strangers):
        reason = (
            "its answers follow the grammar; leave constrained out"
            if not strangers
            else f"this checkpoint's has no {', '.join(map(repr, strangers))}; it has "
            f"{', '.join(known) or 'none'}"
        )
        raise OptionError(f"closed_set: {reason}")
    # 2. Unless asked for explicitly, use it only where it is possible.
    if closed_set is None or settings.closed_set is False or strangers or not settings.constrained:
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
        codec: "MaskCodec | str | Path | None" = None,
        *,
        has_masks: bool = False,
    ) -> None:
        # 1. Refuse unknown options and names, and another codec, before the weights are read.
        check_options(options, ObjectOptions, type(self).__name__)
        given: ObjectOptions = dict(options)  # type: ignore[assignment]
        settings = object_settings(given)
        phrases, card = require_classes(classes), card_of(given)
        known_classes(phrases, card, unknown=settings.unknown)
        if has_masks and card.sure_kind:
            _require_codec(codec, card)
        # 2. Load. A checkpoint on the hub has its own card, which counts.
        runner = Runner(given)
        names = known_classes(phrases, runner.card, unknown=settings.unknown)
        loaded = _require_codec(codec, runner.card) if has_masks else None
        # The engine's, or PaliGemma's smallest.
        resolution = int(getattr(runner.generator, "resolution", 224))
        task: ObjectTask[Result] = object_task(
            names, settings, runner.card, resolution=resolution, codec=loaded
        )
        super().__init__(task, runner, phrases, *((codec,) if has_masks else ()))
        self.classes = task.classes
        self.notes = tuple(
            f"{name.given!r} is asked for as {name.trained!r}"
            for name in names
            if name.given != name.trained
        )
        for note in self.notes:
            _LOG.info("%s", note)

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
            OptionError: If the task has a ``revision``, and see there.
            SourceError, DataError, DependencyError, CheckpointError: See there.
        """
        if self._runner.options.get("revision"):
            raise OptionError("revision: training takes a hub id's main branch; name a folder")
        # By name: training is above tasks, and is loaded only when it is wanted.
        train = import_module("pgvision.training").train
        given = {} if minutes is None else {"minutes": minutes}
        task = "detect" if self._task.codec is None else "segment"
        model = self._runner.options.get("model") or self._runner.card.name
        device = self._runner.options.get("device")
        return train(data, out, config=config, model=str(model), task=task, device=device, **given)

    def _with_conf(self, conf: Conf) -> Task[Result]:
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
        super().__init__(classes, options)


class Segmenter(ObjectPredictor[SegmentationResult]):
    """Finds objects by name, with masks.

    Args:
        classes: A name, a referring phrase, or several names.
        codec: The mask codec; None: the one that belongs to the checkpoint. A path or a loaded
            `vqvae.MaskCodec`; the codec of another checkpoint is refused.
        options: As for `pgvision.Detector`.

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
        super().__init__(classes, options, codec, has_masks=True)
        self.codec = cast("MaskCodec", self._task.codec)


def _require_codec(codec: "MaskCodec | str | Path | None", card: CheckpointCard) -> "MaskCodec":
    from vqvae import MaskCodec

    loaded = codec if isinstance(codec, MaskCodec) else MaskCodec.load(codec or card.codec)
    if loaded.name != card.codec:
        raise CodecError(
            f"codec: {card.name} writes the codes of the {card.codec!r} codec, got "
            f"{loaded.name!r}; leave codec= out, or name a checkpoint of that codec"
        )
    return loaded
