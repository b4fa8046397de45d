"""Weights in pieces (FSDP): two processes over gloo learn, save and resume what one does."""

import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import PaliGemmaForConditionalGeneration

from pgvision.errors import OptionError
from pgvision.images import read_image
from pgvision.runtime import load
from pgvision.tasks import Detector
from pgvision.training.finetuning import FinetuneSettings
from pgvision.training.finetuning.binding import bind
from pgvision.training.finetuning.curve import read_curve
from pgvision.training.finetuning.sharding import require_shardable

PYTHON = [sys.executable, "-m"]
PIECES = [
    *(*PYTHON, "accelerate.commands.launch", "--use_fsdp", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m"),
]


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As a launcher of two processes with FSDP leaves it."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("WORLD_SIZE", "2")
    return monkeypatch


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "qlora"}, "leave out --four-bit"),
    ],
)
def test_what_cannot_be_split_is_refused_by_name(
    pieces: pytest.MonkeyPatch, options: dict[str, object], told: str
) -> None:
    settings = FinetuneSettings(steps=1, **options)
    with pytest.raises(OptionError, match=f"FSDP: {told}"):
        require_shardable(settings)
    pieces.delenv("ACCELERATE_USE_FSDP")
    require_shardable(settings)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("WORLD_SIZE", "1", "FSDP: one process has none to share with"),
        ("FSDP_OFFLOAD_PARAMS", "true", "FSDP: leave out --fsdp_offload_params"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "FSDP: .*here it is --checkpointing"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed: .*--use_fsdp"),
    ],
)
def test_what_a_launcher_cannot_have_is_refused_by_name(
    pieces: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    for method in ("full", "lora"):
        require_shardable(FinetuneSettings(steps=1, method=method, ema=0.9))
    pieces.setenv(name, value)
    with pytest.raises(OptionError, match=told):
        require_shardable(FinetuneSettings(steps=1))


def test_a_run_in_pieces_is_bound_to_be_one(tmp_path: Path, pieces: pytest.MonkeyPatch) -> None:
    assert bind(tmp_path / "out", {"seed": 0}, lambda: 3) == 3
    assert bind(tmp_path / "out", {"seed": 0}, lambda: 7) == 3
    pieces.delenv("ACCELERATE_USE_FSDP")
    with pytest.raises(OptionError, match="sharded was True and is None"):
        bind(tmp_path / "out", {"seed": 0}, lambda: 3)


def losses(folder: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_curve(folder) if "loss" in line}


def figures(folder: Path) -> list[dict[str, float]]:
    return [line["figures"] for line in read_curve(folder) if "figures" in line]


def start(launcher: list[str], scenes: Path, out: Path, *options: str) -> "subprocess.Popen[bytes]":
    size = "2" if launcher is PIECES else "4"
    command = [*launcher, "pgvision.training", str(scenes), "--out", str(out), "--batch-size", size]
    command += ["--model", "tiny", "--device", "cpu", "--dtype", "float32", "--eval-limit", "1"]
    with out.with_suffix(".log").open("wb") as log:
        no_gpu = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen([*command, *options], stdout=log, stderr=log, env=no_gpu)


def ended(process: "subprocess.Popen[bytes]", out: Path) -> str:
    code = process.wait(400)
    told = out.with_suffix(".log").read_text(encoding="utf-8")
    assert code == 0, told
    return told


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--ema", "0.5"), ("--lora", "4", "--accumulation", "2")])
def test_two_processes_with_pieces_learn_what_one_learns(
    scenes: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    shared = ("--steps", "4", "--eval-every", "2", *options)
    ended(start(PYTHON, scenes, one, *shared), one)
    told = ended(start(PIECES, scenes, two, *shared), two)
    assert list(losses(two)) == [1, 2, 3, 4]
    np.testing.assert_allclose(list(losses(two).values()), list(losses(one).values()), rtol=1e-6)
    assert figures(two) == figures(one) and len(figures(one)) == 2
    whole, pieces = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert whole.keys() == pieces.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(pieces[name], weight, rtol=1e-4, atol=1e-6, msg=name)
    each_holds_half(two, told)
    PaliGemmaForConditionalGeneration.from_pretrained(two)
    image = read_image(next((scenes / "valid" / "images").iterdir()))
    answers = [Detector("helmet", model=folder)(image) for folder in (one, two)]
    assert answers[0].raw_text == answers[1].raw_text


def each_holds_half(folder: Path, told: str) -> None:
    """Of the weights, as each process counted its own, and of Adam's states, as they were saved."""
    held = [(int(a), int(b)) for a, b in re.findall(r"holds (\d+) of (\d+) trained", told)]
    assert len(held) == 2 and held[0][1] == held[1][1] == sum(own for own, _ in held)
    assert max(own for own, _ in held) < 0.55 * held[0][1]
    states = (folder / "checkpoint-4" / "optimizer_0").glob("*.distcp")
    sizes = [path.stat().st_size for path in states]
    half = 4 * held[0][1]  # of two moments of 4 bytes; beside them lie names and shapes
    assert len(sizes) == 2 and half < min(sizes) and max(sizes) < 1.1 * half + 2**20


@pytest.mark.slow
def test_pieces_of_two_types_learn_and_stop_as_one_process_does(
    scenes: Path, tmp_path: Path
) -> None:
    """Weights rest in bfloat16, adapters in float32; what the first finds worse stops both."""
    options = ("--dtype", "bfloat16", "--lora", "4", "--checkpointing", "--accumulation", "2")
    options += ("--steps", "6", "--eval-every", "1", "--patience", "2", "--learning-rate", "3e-2")
    one, two = tmp_path / "one", tmp_path / "two"
    ended(start(PYTHON, scenes, one, *options), one)
    ended(start(PIECES, scenes, two, *options), two)
    assert list(losses(two)) == list(losses(one)) == [1, 2, 3]
    np.testing.assert_allclose(list(losses(two).values()), list(losses(one).values()), rtol=0.02)


def processes(launched: "subprocess.Popen[bytes]", out: Path) -> list[psutil.Process]:
    """Return those that train, once they have saved a state."""
    deadline = time.monotonic() + 240
    while not (out / "checkpoint-3" / "whole").exists():
        assert launched.poll() is None, "ended before it could be stopped"
        assert time.monotonic() < deadline, "no state"
        time.sleep(0.02)
    return psutil.Process(launched.pid).children()


@pytest.mark.slow
def test_a_killed_run_in_pieces_goes_on_as_if_nothing_had_happened(
    scenes: Path, tmp_path: Path
) -> None:
    shared = ("--steps", "9", "--eval-every", "3", "--ema", "0.9")
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    ended(start(PIECES, scenes, whole, *shared), whole)
    launched = start(PIECES, scenes, out, *shared)
    two = processes(launched, out)
    time.sleep(0.4)  # somewhere in or behind the next step
    for one in two:
        one.kill()
    assert launched.wait(60) != 0
    ended(start(PIECES, scenes, out, *shared), out)
    assert losses(out) == losses(whole) and len(losses(whole)) == 9
    assert figures(out) == figures(whole) and len(figures(whole)) == 3
    one, other = (load(folder).model.state_dict() for folder in (whole, out))
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=0, atol=0)


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_process_leaves_the_state_before(
    scenes: Path, tmp_path: Path
) -> None:
    """The second process may write no file of the size of its piece from step 4 on."""
    out = tmp_path / "out"
    launched = start(PIECES, scenes, out, "--steps", "9", "--eval-every", "3", "--lora", "4")
    second = processes(launched, out)[1]
    resource.prlimit(second.pid, resource.RLIMIT_FSIZE, (500_000, 500_000))
    assert launched.wait(300) != 0
    told = out.with_suffix(".log").read_text(encoding="utf-8")
    assert told.count("checkpoint-6: cannot be written: OSError") == 2 and "make room" in told
    assert (out / "checkpoint-3" / "whole").exists()
    assert not (out / "checkpoint-6" / "whole").exists()
