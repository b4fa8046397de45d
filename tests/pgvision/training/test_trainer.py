"""The loop: steps, rates, averages, checkpoints, memory, devices."""

import contextlib
import json
import math
import os
import pty
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from pgvision.errors import CheckpointError, DependencyError, OptionError
from pgvision.runtime import find_checkpoint
from pgvision.training import DataSource, TrainConfig
from pgvision.training.folder import last_checkpoint, locked, model_identity, saving
from pgvision.training.model import choose_device
from pgvision.training.run import _Run
from pgvision.training.trainer import make_arguments, memory_advice, set_length

SMALL = {"batch_size": 2, "eval_limit": 2, "model": "tiny", "dtype": "float32", "eval_every": 999}
CPU = torch.device("cpu")


def trainer_of(scenes, out, callbacks=(), **options):
    """The trainer of a run as `train` makes it, with a validation that takes no time."""
    config = TrainConfig(**{**SMALL, **options})
    out.mkdir(exist_ok=True)
    one = _Run((DataSource(data=scenes),), config, out, "cpu", progress=False)
    trainer, _ = one._trainer(callbacks)
    figures = iter(range(99))
    trainer.evaluator = lambda: {"ap": next(figures) / 100, "loss": 1.0}
    return trainer


def weights_of(trainer):
    return {name: one.detach().clone() for name, one in trainer.model.named_parameters()}


def pulled(trainer):
    """Take a step of plain descent at a rate of 1; return what it did to each weight."""
    before = weights_of(trainer)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=1.0)
    trainer.train()
    return {name: one - before[name] for name, one in weights_of(trainer).items()}


def test_batches_come_by_number(scenes, tmp_path):
    trainer = trainer_of(scenes, tmp_path / "out", steps=4)
    batches = iter(trainer.get_train_dataloader())
    names = [name for _ in range(3) for name in next(batches)["names"]]
    assert names == [trainer.train_dataset[number].name for number in range(6)]


def test_accumulated_batches_are_one_large_batch_and_gradients_are_clipped(scenes, tmp_path):
    steps = []
    for size, times in ((4, 1), (2, 2)):
        trainer = trainer_of(
            scenes, tmp_path / str(times), steps=1, batch_size=size, accumulation=times, warmup=0.0
        )
        trainer.args.max_grad_norm = 0.0  # a factor would be cut away
        steps.append(pulled(trainer))
    for name, one in steps[0].items():
        most = 0.02 * float(one.abs().max()) + 1e-7
        torch.testing.assert_close(steps[1][name], one, rtol=0, atol=most, msg=name)
    clipped = pulled(trainer_of(scenes, tmp_path / "clipped", steps=1, warmup=0.0))
    norm = torch.nn.utils.get_total_norm(list(clipped.values()))
    assert float(norm) == pytest.approx(1.0, rel=0.01)


class Rates(TrainerCallback):
    def __init__(self):
        self.rates = []

    def on_pre_optimizer_step(self, *args, **kwargs):
        self.rates.append([group["lr"] for group in kwargs["optimizer"].param_groups])


def test_the_rate_rises_and_falls_as_a_cosine_and_the_tower_has_its_share(scenes, tmp_path):
    rates = Rates()
    trainer = trainer_of(
        scenes, tmp_path / "out", [rates], steps=6, batch_size=1, warmup=1 / 3, learning_rate=2e-4,
        vision_rate=0.25, rename={"helmet": "kask"},
    )  # fmt: skip
    trainer.train()
    shares = [0.0, 0.5, *((1 + np.cos(np.pi * k / 4)) / 2 for k in range(4))]
    # An unknown name's embeddings learn four times as fast.
    wanted = [sorted([2e-4 * s, 5e-5 * s, 8e-4 * s]) for s in shares]
    np.testing.assert_allclose([sorted(row) for row in rates.rates], wanted, atol=1e-12)


@pytest.mark.parametrize(("kind", "share"), [("tiny", 0.05), ("pt", 1.0)])
def test_a_pretrained_tower_of_ours_learns_slowly_and_googles_as_google_had_it(
    scenes, tmp_path, kind, share
):
    config = TrainConfig(**SMALL, steps=1)
    (tmp_path / "out").mkdir()
    one = _Run((DataSource(data=scenes),), config, tmp_path / "out", "cpu", progress=False)
    object.__setattr__(one.model.card, "kind", kind)
    trainer, _ = one._trainer(())
    groups = trainer.create_optimizer().param_groups
    tower = {id(weight) for weight in one.model.base.model.vision_tower.parameters()}
    (rate,) = {g["lr"] for g in groups for w in g["params"] if id(w) in tower}
    assert rate == pytest.approx(share * max(group["lr"] for group in groups))


def test_a_run_by_the_clock_ends_in_time_and_its_rate_with_it(scenes, tmp_path):
    rates = Rates()
    trainer = trainer_of(scenes, tmp_path / "out", [rates], minutes=0.05, eval_every=None)
    trainer.train()
    assert trainer.clock.seconds < 20 and trainer.state.global_step > 0
    assert trainer.clock.share(0, 1) == 1.0
    evaluated = [e for e in trainer.state.log_history if "eval_ap" in e]
    assert 1 <= len(evaluated) <= 5
    assert rates.rates[-1][0] <= max(row[0] for row in rates.rates)


class _Watch(TrainerCallback):
    def __init__(self, call):
        self.call = call

    def on_step_end(self, *args, **kwargs):
        self.call()


def test_the_best_weights_come_back_and_of_equals_those_with_the_lower_loss(scenes, tmp_path):
    trainer = trainer_of(scenes, tmp_path / "out", steps=3, eval_every=1, learning_rate=1e-3)
    found = iter([(0.5, 3.0), (0.5, 2.0), (0.1, 1.0)])
    trainer.evaluator = lambda: dict(zip(("ap", "loss"), next(found), strict=True))
    seen = []
    trainer.add_callback(_Watch(lambda: seen.append(weights_of(trainer))))
    trainer.train()
    assert trainer.state.best_global_step == 2
    for name, weight in weights_of(trainer).items():
        torch.testing.assert_close(weight, seen[1][name], rtol=0, atol=0)
    kept = {path.name for path in (tmp_path / "out").glob("checkpoint-*")}
    assert kept == {"checkpoint-2", "checkpoint-3"}


def test_patience_ends_a_run(scenes, tmp_path):
    trainer = trainer_of(scenes, tmp_path / "out", steps=9, eval_every=1, patience=2)
    trainer.evaluator = lambda: {"ap": 0.5, "loss": 1.0}
    trainer.train()
    assert trainer.state.global_step == 3


def test_patience_counts_on_after_a_resume(scenes, tmp_path):
    """It began anew, so that a stopped run took more steps than an undisturbed one."""
    options = {"steps": 9, "eval_every": 1, "patience": 3}
    first = trainer_of(scenes, tmp_path / "out", **options)
    first.evaluator = lambda: {"ap": 0.5, "loss": 1.0}
    first.add_callback(
        _Watch(lambda: setattr(first.clock, "is_stopped", first.state.global_step == 3))
    )
    first.train()
    assert first.state.global_step == 4  # the stop skips a validation
    second = trainer_of(scenes, tmp_path / "out", **options)
    second.evaluator = lambda: {"ap": 0.5, "loss": 1.0}
    checkpoint = tmp_path / "out" / "checkpoint-4"
    second.clock.restore(checkpoint, 0.0)
    assert not second.restore(checkpoint)
    second.train(resume_from_checkpoint=str(checkpoint))
    assert second.state.global_step == 5


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"steps": 2, "eval_every": 1}, 2), ({"steps": 9, "eval_every": 1, "patience": 2}, 3)],
)
def test_a_run_without_a_step_left_takes_none(scenes, tmp_path, options, steps):
    """It was killed while its result was written; transformers takes one more step."""
    out = tmp_path / "out"
    first = trainer_of(scenes, out, **options)
    first.evaluator = lambda: {"ap": 0.5, "loss": 1.0}
    first.train()
    checkpoint = out / f"checkpoint-{steps}"
    moved = out.rename(tmp_path / "moved") / checkpoint.name  # it may have moved meanwhile
    again = trainer_of(scenes, tmp_path / "moved", **options)
    again.clock.restore(moved, 0.0)
    assert again.restore(moved) and again.clock.is_over
    assert again.state.global_step == steps and again.state.best_global_step == 1
    for name, weight in weights_of(again).items():
        torch.testing.assert_close(weight, weights_of(first)[name], rtol=0, atol=0)
    longer = trainer_of(scenes, tmp_path / "moved", steps=12, eval_every=1)
    longer.clock.restore(moved, 0.0)
    assert not longer.restore(moved)


def test_a_signal_in_the_last_step_finishes_the_run(scenes, tmp_path):
    trainer = trainer_of(scenes, tmp_path / "out", steps=1)
    trainer.clock.is_stopped = True
    trainer.train()
    assert trainer.clock.is_over and trainer.state.best_global_step == 1


def test_folders_that_are_no_checkpoints_stay(scenes, tmp_path):
    """A user's copy was removed with the states, and its name ended a resume."""
    out = tmp_path / "out"
    trainer = trainer_of(scenes, out, steps=3, eval_every=1)
    (out / "checkpoint-0-copy").mkdir()
    trainer.train()
    assert {path.name for path in out.glob("checkpoint-*")} == {
        "checkpoint-0-copy", "checkpoint-2", "checkpoint-3",
    }  # fmt: skip
    assert last_checkpoint(out).name == "checkpoint-3"


def test_a_base_is_known_by_its_content(tmp_path):
    """Fine-tuned copies have one size: adapters went on over another base."""
    names = []
    for place in (None, 0, 2_500_000, 4_999_999):
        folder = tmp_path / str(place)
        folder.mkdir()
        content = bytearray(5_000_000)
        if place is not None:
            content[place] = 1
        (folder / "model.safetensors").write_bytes(content)
        card = replace(find_checkpoint("tiny"), name="a", location=str(folder), is_local=True)
        names.append(model_identity(card))
    assert len(set(names)) == 4


def test_an_incomplete_checkpoint_is_ignored(tmp_path):
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text('{"step": 1')
    assert last_checkpoint(tmp_path, remove=False).name == "checkpoint-2"
    assert (tmp_path / "checkpoint-10").exists()
    last_checkpoint(tmp_path)
    assert not (tmp_path / "checkpoint-10").exists()


def test_write_errors_and_memory_errors_name_the_way_out(tmp_path):
    with (
        pytest.raises(CheckpointError, match="cannot be written: No space.*make room"),
        saving(tmp_path),
    ):
        raise OSError("No space left on device")
    advice = r"batch_size=4 with accumulation=2.*checkpointing, lora"
    with pytest.raises(OptionError, match=advice), memory_advice(TrainConfig()):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(OptionError, match="out of memory"), memory_advice(TrainConfig()):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate")
    with pytest.raises(RuntimeError, match="shape"), memory_advice(TrainConfig()):
        raise RuntimeError("shape mismatch")


def test_a_folder_has_one_run_at_a_time(tmp_path):
    with locked(tmp_path / "out"):
        with (
            pytest.raises(OptionError, match="another process trains in"),
            locked(tmp_path / "out"),
        ):
            pass
        with locked(tmp_path / "other"):
            pass
    assert not list(tmp_path.iterdir())  # nothing was written
    with locked(tmp_path / "out"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="file is no folder"), locked(tmp_path / "file"):
        pass


def test_an_integration_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DependencyError, match="report_to: wandbb is unknown or not installed"):
        make_arguments(TrainConfig(report_to="wandbb"), tmp_path, CPU)


BAR = """
from pgvision.training import TrainConfig
from pgvision.training.progress import ProgressBar
from pgvision.training.trainer import RunClock
with ProgressBar(RunClock(TrainConfig())):
    raise RuntimeError("out of memory")
"""


def test_a_terminal_has_its_cursor_back_after_an_error():
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", BAR]
    with subprocess.Popen(command, stderr=follower, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(follower)
        shown = b""
        with contextlib.suppress(OSError):  # Linux: the end of a terminal
            while part := os.read(leader, 4096):
                shown += part
    os.close(leader)
    assert process.returncode == 1 and b"RuntimeError" in shown
    assert 0 <= shown.rfind(b"\x1b[?25l") < shown.rfind(b"\x1b[?25h")


def test_one_process_never_uses_dataparallel(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    args = make_arguments(TrainConfig(steps=1, batch_size=2), tmp_path, CPU)
    args._n_gpu = 2  # as transformers sets it on a machine with two GPUs
    fresh = make_arguments(TrainConfig(steps=1, batch_size=2), tmp_path, CPU)
    assert fresh.n_gpu <= 1 and fresh.train_batch_size == 2


NO_MPS = [] if torch.backends.mps.is_available() else ["mps"]


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "cuda:x", "cpu:0", "meta", *NO_MPS])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(OptionError, match="device: "):
        choose_device(name)
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_launchers_that_split_weights_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "true")
    with pytest.raises(OptionError, match=f"{name}: .*Launch without it"):
        make_arguments(TrainConfig(), tmp_path, CPU)


def test_lengths_become_steps(tmp_path):
    for options, steps, every in (
        ({"steps": 50}, 50, 10), ({"epochs": 2, "batch_size": 4}, 50, 10),
        ({"steps": 50, "eval_every": 7}, 50, 7),
    ):  # fmt: skip
        config = TrainConfig(**options)
        args = make_arguments(config, tmp_path, CPU)
        set_length(args, config, 100)
        assert (args.max_steps, args.eval_steps) == (steps, every)


def test_workers_give_the_same_batches(scenes, tmp_path):
    batches = [
        next(iter(trainer_of(scenes, tmp_path / str(n), steps=2, workers=n).get_train_dataloader()))
        for n in (0, 1)
    ]
    for name in ("input_ids", "labels", "pixel_values"):
        torch.testing.assert_close(batches[0][name], batches[1][name], rtol=0, atol=0)


def test_a_stop_by_signal_saves_and_asks_for_no_validation(scenes, tmp_path):
    trainer = trainer_of(scenes, tmp_path / "out", steps=9)
    trainer.add_callback(_Watch(lambda: setattr(trainer.clock, "is_stopped", True)))
    trainer.evaluator = lambda: math.nan  # never called
    trainer.train()
    assert trainer.state.global_step < 9
    state = next((tmp_path / "out").glob("checkpoint-*/trainer_state.json"))
    assert json.loads(Path(state).read_text())["global_step"] == trainer.state.global_step
