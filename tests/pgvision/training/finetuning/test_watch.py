"""The average, the best weights and the patience of a run, by hand on a model of two numbers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pgvision.training.finetuning.curve import read_curve
from pgvision.training.finetuning.settings import FinetuneSettings
from pgvision.training.finetuning.watch import BEST_NAME, Watch


class Drill:
    """A run in small: its weights are set by hand, and a validation finds the figures given."""

    def __init__(self, folder: Path, figures: list[float], **settings: Any) -> None:
        self.model = nn.Linear(2, 1, bias=False)
        self.seen: list[list[float]] = []
        self.folder, self.figures = folder, figures
        recipe = FinetuneSettings(steps=9, **settings)
        self.watch = Watch(recipe, folder, every=1, shown=self.model, validate=self.validate)
        self.watch.writers = []
        self.args = SimpleNamespace(output_dir=str(folder))

    def validate(self) -> dict[str, float]:
        self.seen.append(self.weights)
        return {"ap": self.figures[len(self.seen) - 1]}

    @property
    def weights(self) -> list[float]:
        return self.model.weight.data.flatten().tolist()

    def begin(self, weights: list[float], step: int = 0) -> None:
        self.model.weight.data[0] = torch.tensor(weights)
        self.watch.on_train_begin(self.args, self.state(step), SimpleNamespace(), model=self.model)

    def state(self, step: int) -> Any:
        return SimpleNamespace(global_step=step, max_steps=99)

    def step(self, number: int, weights: list[float]) -> bool:
        """Take a step that ends with these weights; return whether the run is to stop."""
        self.model.weight.data[0] = torch.tensor(weights)
        control = SimpleNamespace(should_training_stop=False, should_save=False)
        self.watch.on_step_end(self.args, self.state(number), control, model=self.model)
        return bool(control.should_training_stop)

    def end(self) -> None:
        self.watch.on_train_end(self.args, self.state(99), SimpleNamespace())

    @property
    def kept(self) -> list[float]:
        return load_file(self.folder / BEST_NAME)["weight"].flatten().tolist()


def test_an_average_is_validated_and_kept_and_training_goes_on(tmp_path: Path) -> None:
    drill = Drill(tmp_path, [0.1, 0.3, 0.2], ema=0.5)
    drill.begin([0.0, 4.0])
    average = [0.0, 4.0]
    for number, weights in enumerate(([1.0, 4.0], [1.0, 0.0], [5.0, 5.0]), start=1):
        share = min(0.5, (1 + number) / (10 + number))  # young averages forget their start
        average = [share * a + (1 - share) * w for a, w in zip(average, weights, strict=True)]
        drill.step(number, weights)
        assert drill.weights == weights
        assert drill.seen[-1] == pytest.approx(average)
    assert drill.kept == pytest.approx(drill.seen[1])
    assert drill.watch.best == (0.3, 2)
    drill.end()


def test_a_resumed_run_takes_up_average_best_and_patience(tmp_path: Path) -> None:
    first = Drill(tmp_path, [0.4, 0.2], ema=0.5)
    first.begin([0.0, 0.0])
    first.step(1, [8.0, 0.0])
    first.step(2, [8.0, 8.0])
    (tmp_path / "checkpoint-2").mkdir()
    first.watch.on_save(first.args, first.state(2), SimpleNamespace())
    first.end()
    again = Drill(tmp_path, [0.3], ema=0.5, patience=2)
    again.begin([8.0, 8.0], step=2)
    assert again.watch.best == (0.4, 1)
    assert again.step(3, [0.0, 0.0])  # the second without a better one
    share = 4 / 13
    assert again.seen[0] == pytest.approx([share * one for one in first.seen[1]])
    again.end()


def test_what_came_after_the_state_is_forgotten(tmp_path: Path) -> None:
    first = Drill(tmp_path, [0.1, 0.9])
    first.begin([0.0, 0.0])
    first.step(1, [1.0, 0.0])
    first.step(2, [2.0, 0.0])
    first.end()
    again = Drill(tmp_path, [0.2])
    again.begin([1.0, 0.0], step=1)
    assert again.watch.best == (0.1, 1)
    again.step(2, [3.0, 0.0])
    assert again.kept == [3.0, 0.0]
    assert [line["figures"]["ap"] for line in read_curve(tmp_path)] == [0.1, 0.2]
    again.end()


def test_of_equals_the_longer_trained_is_kept_and_patience_counts_the_worse(tmp_path: Path) -> None:
    drill = Drill(tmp_path, [0.2, 0.2, 0.1, 0.15, 0.3], patience=2)
    drill.begin([0.0, 0.0])
    stops = [drill.step(number, [float(number), 0.0]) for number in range(1, 5)]
    assert stops == [False, False, False, True]
    assert drill.kept == [2.0, 0.0] and drill.watch.best == (0.2, 2)
    assert not drill.step(5, [5.0, 0.0]) and drill.kept == [5.0, 0.0]
    drill.end()
