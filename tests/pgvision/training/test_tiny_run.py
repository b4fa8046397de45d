"""A real, short training run: stopped by a kill, resumed, and equal to an unbroken one."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration

from pgvision.training.scene_cache import render_shard, save_shard, shard_path
from pgvision.training.tiny import Settings, train

SETTINGS = Settings(steps=4, num_images=2, warmup=2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    save_shard(render_shard(0, resolution=160, size=8), shard_path(folder, 0))
    return folder


def test_a_resumed_run_equals_an_unbroken_one(cache: Path, tmp_path: Path) -> None:
    whole = train(SETTINGS, cache=cache, out=tmp_path / "whole")
    train(SETTINGS, cache=cache, out=tmp_path / "parts", until=2)
    state = torch.load(tmp_path / "parts" / "state.pt", weights_only=True)
    assert state["step"] == 2
    resumed = train(SETTINGS, cache=cache, out=tmp_path / "parts")
    assert resumed.step == whole.step == 4
    ended = [
        torch.load(tmp_path / name / "state.pt", weights_only=True)["model"]
        for name in ("whole", "parts")
    ]
    for name, value in ended[0].items():
        torch.testing.assert_close(ended[1][name], value)


def test_the_checkpoint_loads_with_plain_transformers(cache: Path, tmp_path: Path) -> None:
    trainer = train(Settings(steps=1, num_images=1), cache=cache, out=tmp_path)
    model = PaliGemmaForConditionalGeneration.from_pretrained(tmp_path / "checkpoint")
    processor = AutoProcessor.from_pretrained(tmp_path / "checkpoint")
    assert model.dtype == torch.float16
    assert type(processor).__name__ == "PaliGemmaProcessor"
    again = train(
        Settings(steps=1, num_images=1, warmup=1, learning_rate=0.0),
        cache=cache,
        out=tmp_path / "again",
        start_from=tmp_path / "checkpoint",
    )
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value, msg=name)
    sizes = sum(parameter.numel() for parameter in model.parameters())
    assert sizes <= 12e6
    assert len(processor.tokenizer) == len(trainer.processor.tokenizer)


@pytest.mark.slow
def test_a_killed_run_goes_on(cache: Path, tmp_path: Path) -> None:
    words = ["--cache", str(cache), "--out", str(tmp_path), "--steps", "100000"]
    command = [sys.executable, "-m", "pgvision.training.tiny", *words]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not (tmp_path / "state.pt").exists():
        time.sleep(1)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    step = torch.load(tmp_path / "state.pt", weights_only=True)["step"]
    assert step > 0
    same = Settings(steps=100_000, compiled=True)  # a run goes on with what it was made with
    trainer = train(same, cache=cache, out=tmp_path, until=step + 1)
    assert trainer.step == step + 1
