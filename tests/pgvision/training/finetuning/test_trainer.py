"""The loop of a run: its batches, its rates, its steps, and how it goes on."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import TrainerCallback

from pgvision.runtime import find_checkpoint
from pgvision.training.finetuning.binding import count_steps
from pgvision.training.finetuning.curve import read_curve
from pgvision.training.finetuning.data import read_mixture
from pgvision.training.finetuning.models import prepare
from pgvision.training.finetuning.runs import _card, _trainer
from pgvision.training.finetuning.samples import Samples
from pgvision.training.finetuning.saving import last_checkpoint
from pgvision.training.finetuning.settings import DataPlaces, FinetuneSettings
from pgvision.training.finetuning.trainer import FinetuneTrainer
from pgvision.training.finetuning.validation import Validation
from pgvision.training.finetuning.watch import Watch

SMALL = {"batch_size": 2, "eval_limit": 2, "model": "tiny", "dtype": "float32"}


def trainer_of(scenes: Path, out: Path, **options: object) -> FinetuneTrainer:
    """The trainer of a run as `finetune` makes it, with a validation that takes no time."""
    settings = FinetuneSettings(**{**SMALL, **options})
    data = read_mixture([DataPlaces(data=scenes)], settings)
    engine = prepare(settings, device="cpu")
    figures = iter(range(99))
    rate = settings.rate_for(engine.card.kind)
    trainer, _ = _trainer(
        out, engine, data, settings, lambda limit: Validation({"ap": next(figures) / 100}), rate
    )
    return trainer


def weights_of(trainer: FinetuneTrainer) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in trainer.model.named_parameters()}


def test_batches_come_by_number_and_every_token_counts_alike(scenes: Path, tmp_path: Path) -> None:
    trainer = trainer_of(scenes, tmp_path, steps=4, loc_sigma=0.0)
    batches = list(trainer.get_train_dataloader())
    names = [trainer.train_dataset[number].name for number in range(8)]
    assert [name for one in batches for name in one["names"]] == names
    usual = np.mean([int((row != -100).sum()) for one in batches for row in one["labels"]])
    batch = batches[0]
    inputs = ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
    logits = trainer.model(**{name: batch[name] for name in inputs}, use_cache=False).logits
    total = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum"
    )
    ours = trainer.compute_loss(trainer.model, batch).item()
    assert ours == pytest.approx(total.item() / 2 / usual, rel=1e-4)


def pulled(trainer: FinetuneTrainer) -> dict[str, torch.Tensor]:
    """Take a step of plain descent at a rate of 1; return what it did to each weight."""
    before = weights_of(trainer)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=1.0)
    trainer.train()
    assert trainer.state.global_step == 1
    return {name: one - before[name] for name, one in weights_of(trainer).items()}


def test_accumulated_batches_are_one_large_batch(scenes: Path, tmp_path: Path) -> None:
    steps = []
    for size, times in ((4, 1), (2, 2)):
        trainer = trainer_of(
            scenes, tmp_path / str(times), steps=1, batch_size=size, accumulation=times, warmup=0.0
        )  # fmt: skip
        trainer.args.max_grad_norm = 0.0  # a factor would be cut away
        steps.append(pulled(trainer))
    for name, one in steps[0].items():
        most = 0.02 * float(one.abs().max()) + 1e-7
        torch.testing.assert_close(steps[1][name], one, rtol=0, atol=most, msg=name)


def test_gradients_are_cut_to_norm_1(scenes: Path, tmp_path: Path) -> None:
    step = pulled(trainer_of(scenes, tmp_path, steps=1, warmup=0.0))
    norm = torch.nn.utils.get_total_norm(list(step.values()))
    assert float(norm) == pytest.approx(1.0, rel=0.01)


class _Rates(TrainerCallback):
    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def on_pre_optimizer_step(self, *args: object, **kwargs: Any) -> None:
        self.rates.append([group["lr"] for group in kwargs["optimizer"].param_groups])


def test_the_rate_rises_and_falls_as_a_cosine(scenes: Path, tmp_path: Path) -> None:
    trainer = trainer_of(
        scenes, tmp_path, steps=6, batch_size=1, warmup=0.3, learning_rate=2e-4, vision_share=0.25
    )
    told = _Rates()
    trainer.add_callback(told)
    trainer.train()
    shares = [0.0, 0.5, *((1 + np.cos(np.pi * k / 4)) / 2 for k in range(4))]
    np.testing.assert_allclose(told.rates, [[2e-4 * s, 5e-5 * s] for s in shares], atol=1e-12)


def test_a_run_that_was_asked_to_stop_goes_on_as_if_it_had_not(
    scenes: Path, tmp_path: Path
) -> None:
    options = {"steps": 4, "batch_size": 1, "ema": 0.9, "eval_every": 2}
    whole = trainer_of(scenes, tmp_path / "whole", **options)
    whole.train()
    out = tmp_path / "parts"
    first = trainer_of(scenes, out, **options)
    watch = next(one for one in first.callback_handler.callbacks if isinstance(one, Watch))

    def stop(step: int, steps: int, loss: float | None) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    watch.progress = stop
    first.train()
    assert first.state.global_step == 2 and last_checkpoint(out) == out / "checkpoint-2"
    second = trainer_of(scenes, out, **options)
    second.train(resume_from_checkpoint=str(out / "checkpoint-2"))
    curves = [
        [(line["step"], line["loss"]) for line in read_curve(folder) if "loss" in line]
        for folder in (out, tmp_path / "whole")
    ]
    assert curves[0] == curves[1] and len(curves[0]) == 4
    for name, weight in weights_of(whole).items():
        assert torch.equal(weights_of(second)[name], weight), name
    averages = [
        load_file(folder / "checkpoint-4" / "average.safetensors")
        for folder in (tmp_path / "whole", out)
    ]
    for name, weight in averages[0].items():
        assert torch.equal(averages[1][name], weight), name


def test_epochs_are_counted_in_steps_of_all_batches() -> None:
    settings = FinetuneSettings(epochs=2.0, batch_size=2, accumulation=2)
    samples = Samples([[None] * 6, [None] * 4], 0, 0)
    assert count_steps(settings, None, samples, None) == 5


def test_a_new_class_is_known_beside_the_old_ones(scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "train" / "instances.json").read_text(encoding="utf-8"))
    content["categories"][0]["name"] = "dragon"
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    places = DataPlaces(data=file, images=scenes / "train")
    own = find_checkpoint("tiny")
    card = _card(own, read_mixture([places], FinetuneSettings(steps=1)))
    assert set(card.classes) == {*own.classes, "dragon"} and card.questions == own.questions
