"""`finetune`: from a data set to a checkpoint with an AP."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from pgvision.datasets import Dataset
from pgvision.errors import DependencyError
from pgvision.evaluation import Calibration
from pgvision.runtime import Engine, engine_of
from pgvision.runtime.checkpoints import CheckpointCard, ClosedSet, find_checkpoint
from pgvision.training.finetuning.binding import (
    bind,
    count_steps,
    figures_before,
    is_first,
    num_processes,
    own_gpu,
)
from pgvision.training.finetuning.collator import Collator
from pgvision.training.finetuning.credits import credits_told, write_picture_credits
from pgvision.training.finetuning.curve import read_curve
from pgvision.training.finetuning.data import Mixture, Parts, read_mixture
from pgvision.training.finetuning.exporting import (
    CALIBRATION_NAME,
    calibration_told,
    export,
    knowledge_told,
    write_curves,
    write_model_card,
)
from pgvision.training.finetuning.lengths import answers_too_long
from pgvision.training.finetuning.models import prepare
from pgvision.training.finetuning.objectives import losses_of, usual_length
from pgvision.training.finetuning.saving import last_checkpoint, load_trained, saving
from pgvision.training.finetuning.settings import DataPlaces, FinetuneSettings
from pgvision.training.finetuning.sharding import (
    require_shardable,
    shard_options,
    to_be_trained,
)
from pgvision.training.finetuning.trainer import FinetuneTrainer, arguments
from pgvision.training.finetuning.validation import Validation, score_objects, score_texts
from pgvision.training.finetuning.watch import BEST_NAME, Watch
from pgvision.training.noise import CLOSED_PREFIX, NOISE

_LOG = logging.getLogger(__name__)
_Validate: TypeAlias = Callable[[int | None], Validation]


@dataclass(frozen=True)
class FinetuneReport:
    """What came of a run.

    Attributes:
        folder: The checkpoint; ``Detector(model=folder)`` loads it.
        steps: How many were taken.
        before: Figures on the whole validation part, before the first step.
        after: The same of the weights that were written: the best ones.
        best_step: When these were reached.
        seconds: How long this call took.
        unread: Pictures that could not be read, with the reason.
        too_long: Pictures with an answer of more tokens than the checkpoint writes by default.
        finished: Whether it went to its end; False where it was asked to stop.
    """

    folder: Path
    steps: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    best_step: int
    seconds: float
    unread: Mapping[str, str]
    too_long: Mapping[str, int]
    finished: bool


def finetune(
    places: DataPlaces | Sequence[DataPlaces],
    out: str | Path,
    settings: FinetuneSettings,
    *,
    device: str | None = None,
    progress: Callable[[int, int, float | None], None] | None = None,
) -> FinetuneReport:
    """Fine-tune a checkpoint; the same call again goes on where it was killed.

    Args:
        places: The data; several data sets are drawn from by their weights.
        out: Folder for the checkpoint, its curve and, while it runs, its states.
        settings: The run.
        device: Where to train; None: the best there is.
        progress: Called with ``(step, steps in all, last loss)``.

    Returns:
        The report.

    Raises:
        DataError: If there is nothing to learn from, or a loss is no number.
        OptionError: If ``out`` holds a run with other settings, data or number of processes, or the
            launcher asks for what cannot be had.
        DependencyError: If accelerate is missing.
        CheckpointError: If the model cannot be loaded, or a state or the result not written.
    """
    started = time.monotonic()
    folder = Path(out)
    _require_accelerate()
    require_shardable(settings)
    data = read_mixture([places] if isinstance(places, DataPlaces) else places, settings)
    engine = prepare(settings, device=device or own_gpu())
    rate = settings.rate_for(engine.card.kind, knows=data.is_known(engine.card))
    engine = engine_of(engine.model, engine.processor, _card(engine.card, data))
    validate = _validation(engine, data)
    too_long = answers_too_long(data, engine, _collator(engine)) if is_first() else {}
    trainer, watch = _trainer(folder, engine, data, settings, validate, rate)
    watch.progress = progress or watch.progress
    before = figures_before(folder, lambda: validate(None).figures)
    resumed = last_checkpoint(folder)
    trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    done = int(trainer.state.global_step)
    finished = not watch.is_stopped or done == trainer.args.max_steps
    after = _best(trainer, watch, validate) if finished else Validation({})
    best_step = watch.best[1] if watch.best else 0
    unread = trainer.train_dataset.unread
    seconds = time.monotonic() - started
    report = FinetuneReport(
        folder, done, before, after.figures, best_step, seconds, unread, too_long, finished
    )
    if finished and is_first():
        _write(report, engine, settings, data, after.calibration)
        _tell_worse(report)
    return report


def _tell_worse(report: FinetuneReport) -> None:
    """Warn where the start was better: on few pictures a checkpoint can lose what it knows."""
    name, value = next(iter(report.before.items()))
    if report.after[name] < value:
        _LOG.warning(
            "%s was %.3f before the first step and is %.3f now: what you began with was better. "
            "Take a lower --learning-rate, fewer steps, or more pictures",
            name, value, report.after[name],
        )  # fmt: skip


def _best(trainer: FinetuneTrainer, watch: Watch, validate: _Validate) -> Validation:
    """Put the best weights into the model that answers, and measure them on the whole part."""
    watch.note(trainer.state, trainer.model)
    if not is_first():
        return Validation({})
    load_trained(watch.shown, watch.folder / BEST_NAME)
    return validate(None)


def _trainer(
    folder: Path,
    engine: Engine,
    data: Mixture,
    settings: FinetuneSettings,
    validate: _Validate,
    rate: float,
) -> tuple[FinetuneTrainer, Watch]:
    samples = data.samples(engine.card, 0, settings.seed)
    collator = _collator(engine)
    steps = bind(
        folder,
        {**settings.as_json(), "data": data.digest},
        lambda: count_steps(settings, engine, samples, collator),
    )
    size = settings.batch_size * settings.accumulation * num_processes()
    watch = Watch(
        settings,
        folder,
        every=settings.eval_every or max(1, steps // 5),
        shown=engine.model,
        validate=lambda: validate(settings.eval_limit).figures,
    )
    samples = replace(samples, count=steps * size)
    usual = usual_length(samples, collator) if settings.counts_tokens else 0.0
    trainer = FinetuneTrainer(
        settings,
        losses_of(settings, collator, data.codec, usual=usual),
        model=to_be_trained(engine.model),
        args=arguments(
            settings,
            folder,
            steps=steps,
            device=engine.model.device.type,
            rate=rate,
            pieces=shard_options(engine.model),
        ),
        train_dataset=samples,
        data_collator=collator,
        callbacks=[watch, *watch.writers],
    )
    return trainer, watch


def _write(
    report: FinetuneReport,
    engine: Engine,
    settings: FinetuneSettings,
    data: Mixture,
    calibration: Calibration | None,
) -> None:
    folder = report.folder
    if calibration is not None:
        calibration.save(folder / CALIBRATION_NAME)
    with saving(folder):
        export(engine.model, engine.processor, engine.card, settings, folder)
    write_curves(read_curve(folder), folder)
    write_picture_credits(folder, data.parts)
    told: dict[str, Any] = {
        "title": engine.card.about,
        **{f"data, {one.name}": one.told for one in data.parts},
        "digest of the data": data.digest,
        "figures before": report.before,
        "figures": report.after,
        "calibration": calibration_told(calibration),
        "what it knows": knowledge_told(engine.card),
        "credits": credits_told(find_checkpoint(settings.model), data.parts),
        "pictures left out": report.unread,
        "answers longer than it writes by default, in tokens": report.too_long,
    }
    write_model_card(folder, settings, told={name: one for name, one in told.items() if one})
    (folder / BEST_NAME).unlink()


def _require_accelerate() -> None:
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise DependencyError("training needs accelerate: pip install '.[train]'") from error


def _collator(engine: Engine) -> Collator:
    places = int(engine.model.config.text_config.max_position_embeddings)
    return Collator(engine.processor, max_length=places)


def _card(card: CheckpointCard, data: Mixture) -> CheckpointCard:
    about = f"{card.name}, fine-tuned {data.about}"
    classes, questions = card.classes, card.questions
    if classes is not None:
        classes = tuple(dict.fromkeys((*classes, *data.classes)))
    if questions is not None:
        questions = tuple(dict.fromkeys((*questions, *data.questions)))
    closed = card.closed_set
    if (part := data.closed) is not None:
        closed = ClosedSet(CLOSED_PREFIX, part.classes, part.num_objects, NOISE)
    return replace(
        card, about=about, classes=classes, questions=questions, closed_set=closed, notes=None
    )


def _validation(engine: Engine, data: Mixture) -> _Validate:
    """Return what gives a part's figures, or those of several under the mean of the first ones."""

    def figures(one: Parts, limit: int | None) -> Validation:
        if isinstance(one.valid, Dataset):
            return score_objects(engine, one.valid, one.settings, limit=limit)
        return score_texts(engine, one.valid, limit=limit)

    def validate(limit: int | None) -> Validation:
        if len(data.parts) == 1:
            return figures(data.parts[0], limit)
        found, firsts = dict[str, float](), list[float]()
        # A map of scores holds for one task and set of classes.
        calibrations = list[Calibration]()
        for one in data.parts:
            own, fitted = (told := figures(one, limit)).figures, told.calibration
            calibrations += [] if fitted is None else [fitted]
            firsts.append(next(iter(own.values())))
            label = f"{one.settings.task} {one.name}"
            found |= {f"{label}: {name}": value for name, value in own.items()}
        only = calibrations[0] if len(calibrations) == 1 else None
        return Validation({"mean": round(sum(firsts) / len(firsts), 4), **found}, only)

    return validate
