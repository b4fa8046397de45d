"""`train`: from a data set to a checkpoint with figures."""

import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias, Unpack

import numpy as np
import torch

from pgvision.errors import OptionError, check_options, require_module
from pgvision.files import write_text
from pgvision.runtime import find_checkpoint
from pgvision.training.config import (
    LENGTHS,
    DataSource,
    TrainConfig,
    TrainOptions,
    load_config,
    save_config,
)
from pgvision.training.data import RunData, read_data
from pgvision.training.evaluation import (
    Shown,
    Validation,
    describe_unknown,
    join_figures,
    match_names,
    validate,
)
from pgvision.training.folder import (
    card_after,
    checkpoints,
    last_checkpoint,
    locked,
    make_repository,
    model_identity,
    push,
    require_same,
    saving,
)
from pgvision.training.losses import IGNORED, Collator, add_objective, make_objective
from pgvision.training.model import TrainedModel, choose_device
from pgvision.training.progress import ProgressBar, stop_on_signals
from pgvision.training.report import (
    CALIBRATION_NAME,
    TrainReport,
    show_sample,
    write_model_card,
    write_sheet,
)
from pgvision.training.samples import Sample, Samples
from pgvision.training.trainer import (
    ENDLESS,
    FineTuner,
    RunClock,
    make_arguments,
    memory_advice,
    set_length,
)

_LOG = logging.getLogger(__name__)
RUN_NAME: Final = "run.json"
CONFIG_NAME: Final = "run.yaml"
DataLike: TypeAlias = str | Path | DataSource | Sequence[str | Path | DataSource]
_SHEET: Final = 16
_MEAN_OF: Final = 32  # samples that lengths of answers are measured on


def train(
    data: DataLike | None = None,
    out: str | Path = "runs/train",
    *,
    config: str | Path | TrainConfig | None = None,
    device: str | None = None,
    callbacks: Sequence[Any] = (),
    progress: bool = True,
    **options: Unpack[TrainOptions],
) -> TrainReport:
    """Fine-tune a checkpoint; the same call again resumes a run that was stopped.

    Args:
        data: A data set, or several, as paths or `DataSource`; None: those of ``config``.
        out: Folder for the checkpoint, its figures and, while it runs, its states.
        config: Settings, or a YAML file of them such as the ``run.yaml`` of another run.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None: a GPU where there is one.
        callbacks: ``transformers.TrainerCallback`` objects.
        progress: Show a progress bar on stderr.
        options: Fields of `TrainConfig`; they replace those of ``config``.

    Returns:
        The report.

    Raises:
        DataError: If there is nothing to learn from, or a loss is not finite.
        OptionError: If settings do not go together, ``out`` contains a run with other settings or
            data, or memory runs out.
        DependencyError: If accelerate is missing, or what adapters need.
        CheckpointError: If the model cannot be loaded, or a state or the result cannot be written.
    """
    sources, settings = _settings(data, config, options)
    # Missing packages are refused before data and weights are read.
    require_module("accelerate", "training needs accelerate: pip install '.[train]'")
    if settings.lora is not None:
        require_module("peft", "lora needs peft: pip install '.[train]'")
    if settings.four_bit:
        require_module("bitsandbytes", "four_bit needs bitsandbytes: pip install '.[qlora]'")
    folder = Path(out)
    # Only the first of several processes writes, so only it locks the folder.
    with locked(folder) if _is_first() else nullcontext(), memory_advice(settings):
        run = _Run(sources, settings, folder, device, progress=progress)
        if run.finished is None:
            return run.execute(callbacks)
    _LOG.info(
        "%s: this run is finished; to train on, give model=%s and another out", folder, folder
    )
    if settings.push_to_hub:
        push(folder, settings.push_to_hub)
    return run.finished


def _settings(
    data: DataLike | None, config: str | Path | TrainConfig | None, options: TrainOptions
) -> tuple[tuple[DataSource, ...], TrainConfig]:
    check_options(dict.fromkeys(options), TrainConfig, "train")  # names; TrainConfig the values
    # 1. Options replace those of the file; any length replaces all lengths.
    sources: tuple[DataSource, ...] = ()
    old: dict[str, Any] = {}
    if isinstance(config, TrainConfig):
        old = vars(config)
    elif config is not None:
        sources, old = load_config(config)
    if set(LENGTHS) & set(options):
        old = {name: value for name, value in old.items() if name not in LENGTHS}
    settings = TrainConfig(**{**old, **options})
    # 2. Sources given as an argument replace those of the file.
    if data is not None:
        several = [data] if isinstance(data, str | Path | DataSource) else list(data)
        sources = tuple(
            one if isinstance(one, DataSource) else DataSource(data=Path(one)) for one in several
        )
    return sources, settings


def _is_first() -> bool:
    # As launchers set it: some checks come before torch's process group.
    return os.environ.get("RANK", "0") == "0"


class _Run:
    """One call of `train`: binds the folder, prepares, trains, writes."""

    def __init__(
        self,
        sources: tuple[DataSource, ...],
        config: TrainConfig,
        folder: Path,
        device: str | None,
        *,
        progress: bool,
    ) -> None:
        self.started = time.monotonic()
        self.config, self.folder, self.sources = config, folder, sources
        self.is_first = _is_first()
        self.processes = int(os.environ.get("WORLD_SIZE", "1"))
        self.progress = progress and self.is_first
        self.last: list[Validation] = []
        # 1. Folder: what was recorded in it, and the checkpoint to resume from.
        self.record = self._read_record()
        self.resumed = last_checkpoint(folder, remove=self.is_first)
        self.args = make_arguments(config, folder, choose_device(device))
        # 2. Data: read, checked, described.
        self.base_card = find_checkpoint(config.model)
        self.data = read_data(sources, config)
        self.finished = self._check_record()
        if self.finished is not None:
            return
        for one in self.data.tasks:
            self._say(", ".join(f"{name}: {text}" for name, text in one.summary.items()))
        if config.push_to_hub and self.is_first:
            make_repository(config.push_to_hub)
        # 3. Model; unknown names get the best trained one.
        self.model = TrainedModel(config, self.args.device)
        if config.keep_adapter and self.model.card.base is not None:
            raise OptionError(
                f"keep_adapter: {self.model.card.name} is an adapter itself; merge it first: "
                f"pgvision export --model {self.model.card.name} --out DIR"
            )
        if self.resumed is None:
            self.data = self.data.renamed(self._match_names())
        self.is_known = self.data.is_known(self.base_card)
        self.card = card_after(self.model.card, self.data)
        self.collator = Collator(self.model.processor, max_length=self.model.max_length)
        self._bind()
        self.data = RunData(tuple(one.fitting(self.collator) for one in self.data.tasks))

    def execute(self, callbacks: Sequence[Any]) -> TrainReport:
        """Train and write."""
        # 1. Build the trainer.
        trainer, clock = self._trainer(callbacks)
        # 2. Evaluate the start, and estimate the run time.
        before, seconds = self._before(trainer)
        if clock.limit is not None:
            clock.limit = max(1.0, clock.limit - 1.2 * seconds)  # kept for the last validation
        if self.resumed is None:
            self._estimate(trainer, seconds)
        trainer.before = before
        clock.restore(self.resumed, time.monotonic() - self.started)
        # 3. Train, or resume.
        if self.resumed is None or not trainer.restore(self.resumed):
            with stop_on_signals(clock), self.bar or nullcontext():
                trainer.train(resume_from_checkpoint=str(self.resumed) if self.resumed else None)
        step = int(trainer.state.global_step)
        left_out = {k: v for one in self.data.tasks for k, v in one.left_out.items()}
        for unread in (trainer.unread, *(one.unread for one in self.last)):
            left_out |= unread
        report = TrainReport(self.folder, step, before, {}, 0, clock.seconds, left_out, False)
        if clock.is_stopped and not clock.is_over:
            self._say(f"stopped at step {step}; the same command resumes")
            return report
        # 4. Evaluate the best weights, which the trainer has loaded; the last validation may have.
        best = int(trainer.state.best_global_step or step)
        after = self.figures if trainer.measured_at == best else self._evaluate()
        seconds = round(clock.seconds, 1)
        report = replace(report, after=after, best_step=best, seconds=seconds, finished=True)
        if self.is_first:
            self._write(report)
        trainer.accelerator.wait_for_everyone()
        return report

    def _say(self, text: str) -> None:
        if self.is_first:
            _LOG.info("%s", text)

    def _read_record(self) -> dict[str, Any]:
        """Return what an earlier call has recorded in the folder.

        Raises:
            OptionError: If the folder contains other files, and no run.
        """
        content: Any = None
        with suppress(OSError, ValueError):
            content = json.loads((self.folder / RUN_NAME).read_text(encoding="utf-8"))
        if isinstance(content, dict) and "identity" in content:
            return content
        # Only the first process looks: a later one may find what the first has written already.
        if self.is_first and any(path.name[0] != "." for path in self.folder.iterdir()):
            raise OptionError(
                f"out: {self.folder} is not empty and contains no run; give a new one"
            )
        return {}

    def _check_record(self) -> TrainReport | None:
        """Compare with what is recorded; return the report of a run that is finished.

        Raises:
            OptionError: If the folder contains a run or a state of other settings or data.
        """
        if self.resumed is None and "report" not in self.record:
            return None
        self.data = self.data.renamed(self.record["names"])
        require_same(self.folder, self.record["identity"], self._identity())
        report = self.record.get("report")
        return None if report is None else TrainReport.from_dict(report, self.folder)

    def _identity(self) -> dict[str, Any]:
        about = {"data": self.data.digest, "model": model_identity(self.base_card)}
        return self.config.identity(self.processes) | about

    def _save_record(self, **entries: object) -> None:
        self.record |= entries
        if self.is_first:
            with saving(self.folder / RUN_NAME):
                write_text(self.folder / RUN_NAME, json.dumps(self.record, indent=1) + "\n")

    def _match_names(self) -> dict[str, str]:
        """Return the trained names for unknown classes; the first process finds them."""
        if not self.config.match_names or self.data.closed is not None:
            return {}
        matched: list[Any] = [{}]
        if self.is_first:
            with self.model.answering() as engine:
                matched = [match_names(engine, self.data)]
            if words := describe_unknown(self.data, self.model.card.classes, matched[0]):
                _LOG.warning("%s", words)
        if self.processes > 1:
            torch.distributed.broadcast_object_list(matched)
        return dict(matched[0])

    def _bind(self) -> None:
        """Record what the run is; metrics of another start are outdated."""
        identity = self._identity()
        if self.record.get("identity") != identity:
            self.record = {}
        matched = {k: v for k, v in self.data.asked_as.items() if k not in self.config.rename}
        self._save_record(identity=identity, names=matched)
        if self.is_first:
            with saving(self.folder / CONFIG_NAME):
                save_config(self.folder / CONFIG_NAME, self.config, self.sources)

    def _trainer(self, callbacks: Sequence[Any]) -> tuple[FineTuner, RunClock]:
        config, model = self.config, self.model
        side = 2 * model.resolution  # the processor halves it with antialiasing
        sources = [one.train_source(self.card, side, self.collator) for one in self.data.tasks]
        weights = [one.source.weight for one in self.data.tasks]
        samples = Samples(sources, ENDLESS, config.seed, weights)
        set_length(self.args, config, sum(map(len, sources)))
        # Of objects every token has equal weight: by samples, the one token of an empty answer
        # would weigh as much as a crowd.
        mean_length = self._mean_length(samples)
        if config.task in ("caption", "ask", "read"):
            mean_length = 0.0
        objective = make_objective(config, self.collator, mean_length=mean_length)
        add_objective(model.base, objective)
        # Learning rates: Google's vision tower has the rate of the language model, as Google
        # trained it; names that were never trained need more from the embeddings.
        vision_rate = config.vision_rate
        if vision_rate is None:
            vision_rate = 0.05 if model.card.kind == "tiny" else 1.0
        embedding = 4.0 if self.data.unknown_classes(self.base_card) else 1.0
        clock = RunClock(config)
        self.bar = ProgressBar(clock) if self.progress else None
        trainer = FineTuner(
            config,
            rate=config.rate_for(self.card.kind, is_known=self.is_known),
            shares={"vision_tower": vision_rate, "embed_tokens": embedding, "lm_head": embedding},
            model=model,
            args=self.args,
            samples=samples,
            collator=self.collator,
            clock=clock,
            callbacks=[*callbacks, *([self.bar] if self.bar else [])],
            evaluator=self._evaluate,
        )
        return trainer, clock

    def _mean_length(self, samples: Samples) -> float:
        """Return the mean tokens of an answer, of samples that are drawn on a sheet."""
        some = [samples[number] for number in range(_MEAN_OF)]
        lengths = (self.collator(some)["labels"] != IGNORED).sum(1)
        if self.is_first:
            images, titles = zip(*map(show_sample, some[:_SHEET]), strict=True)
            write_sheet(self.folder / "train_samples.jpg", titles, images)
            # Answers that the model would cut off by default.
            budget = self.card.longest_answer(self.model.resolution)
            if (longest := int(lengths.max())) > budget:
                _LOG.warning(
                    "an answer has %d tokens, and the model writes %d by default: ask with "
                    "max_new_tokens or tiles", longest, budget,
                )  # fmt: skip
        return float(lengths.float().mean())

    def _evaluate(self) -> dict[str, float]:
        """Validate by generation and by the loss, and write the sheet of predictions."""
        from accelerate.utils import gather_object

        args, found = self.args, []
        gather = gather_object if args.world_size > 1 else None
        with self.model.answering(self.card) as engine:
            for one in self.data.tasks:
                share = (args.process_index, args.world_size)
                found.append((one, validate(engine, one, share=share, gather=gather)))
        self.last = [validation for _, validation in found]
        for validation in self.last:
            for path, reason in validation.unread.items():
                _LOG.warning("validation leaves out %s: %s", path, reason)
        self.figures = join_figures(found) | {"loss": round(self._loss(), 4)}
        if self.is_first:
            shown: list[Shown] = [one for validation in self.last for one in validation.shown]
            write_sheet(self.folder / "predictions.jpg", shown[:_SHEET])
        return self.figures

    @torch.no_grad()
    def _loss(self) -> float:
        """Return the teacher-forced loss on a fixed sample of validation images."""
        model, losses = self.model, []
        with model.answering():
            for one in self.data.tasks:
                source = one.valid_source(self.card, 2 * model.resolution, self.collator)
                count = min(len(source), self.config.eval_limit, 4 * self.config.batch_size)
                # A fixed seed: the same samples at each validation.
                samples = Samples([source], count, self.config.seed)
                for start in range(0, count, self.config.batch_size):
                    numbers = range(start, min(count, start + self.config.batch_size))
                    losses.append(float(self._batch_loss([samples[k] for k in numbers])))
        return float(np.mean(losses))

    def _batch_loss(self, samples: Sequence[Sample]) -> torch.Tensor:
        device, dtype = self.args.device, torch.bfloat16 if self.args.bf16 else torch.float16
        batch = self.collator(samples)
        inputs = {k: v.to(device) for k, v in batch.items() if torch.is_tensor(v)}
        with torch.autocast(device.type, dtype, enabled=self.args.bf16 or self.args.fp16):
            loss: torch.Tensor = self.model.trained(**inputs)["loss"]
        return loss

    def _before(self, trainer: FineTuner) -> tuple[dict[str, float], float]:
        """Return the figures of the start, which a resumed run has noted, and their seconds."""
        # The model has its starting weights until the trainer loads those of a checkpoint.
        how = [getattr(self.config, name) for name in ("eval_limit", "eval_all")]
        if "before" not in self.record or self.record.get("measured_on") != how:
            start = time.monotonic()
            trainer.evaluate()
            seconds = time.monotonic() - start
            self._save_record(before=self.figures, seconds=seconds, measured_on=how)
            main, value = next(iter(self.figures.items()))
            self._say(f"before the first step: {main} {value:.3f}")
        return dict(self.record["before"]), float(self.record["seconds"])

    def _estimate(self, trainer: FineTuner, seconds: float) -> None:
        """Log how long the run will take; one step is measured."""
        samples = [trainer.train_dataset[k] for k in range(self.config.batch_size)]
        start = time.monotonic()
        self._batch_loss(samples).backward()  # type: ignore[no-untyped-call]
        if self.args.device.type == "cuda":
            torch.cuda.synchronize()
        step = (time.monotonic() - start) * self.config.accumulation * 1.1
        self.model.trained.zero_grad(set_to_none=True)
        minutes, times = self.config.minutes, 7
        if minutes is not None:
            steps = int(max(0.0, 60 * minutes - times * seconds) / step)
        else:
            steps, times = self.args.max_steps, 2 + self.args.max_steps // int(self.args.eval_steps)
            minutes = (steps * step + times * seconds) / 60
        self._say(
            f"about {minutes:.1f} minutes: {steps} steps of {step:.1f} s and {times} validations "
            f"of {seconds:.0f} s"
        )

    def _write(self, report: TrainReport) -> None:
        # 1. Weights, card and report; from here on the run is finished.
        with saving(self.folder):
            if len(self.last) == 1 and self.last[0].calibration is not None:
                self.last[0].calibration.save(self.folder / CALIBRATION_NAME)
            self.model.export(self.folder, self.card)
            write_model_card(report, self.config, self.data, self.base_card, self.card)
        self._save_record(report=report.to_dict())
        # 2. What is left to do.
        if not self.config.keep_states:
            for path in checkpoints(self.folder):
                shutil.rmtree(path)
        for name in report.worse:
            _LOG.warning(
                "%s was %.3f before the first step and is %.3f now: take a lower learning rate, "
                "fewer steps, or more images", name, report.before[name], report.after[name],
            )  # fmt: skip
        if self.config.push_to_hub:
            push(self.folder, self.config.push_to_hub)
