"""A real, short training run: stopped by a kill, resumed, and equal to an unbroken one."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, PaliGemmaForConditionalGeneration

from recipes.architecture import NUM_IMAGE_TOKENS, build_processor
from recipes.batches import BatchMaker
from recipes.scene_cache import render_shard, save_shard, shard_path
from recipes.state import WEIGHTS_NAME, checkpoint_step, last_checkpoint
from recipes.tiny import Settings, TinyRecipe, train, words_of

SETTINGS = Settings(steps=4, num_images=2, warmup=2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    save_shard(render_shard(0, resolution=160, size=8), shard_path(folder, 0))
    return folder


def test_a_resumed_run_equals_an_unbroken_one(cache: Path, tmp_path: Path) -> None:
    whole = train(SETTINGS, cache=cache, out=tmp_path / "whole")
    train(SETTINGS, cache=cache, out=tmp_path / "parts", until=2)
    assert last_checkpoint(tmp_path / "parts") == tmp_path / "parts" / "checkpoint-2"
    resumed = train(SETTINGS, cache=cache, out=tmp_path / "parts")
    for name, held in (("whole", whole), ("parts", resumed)):
        stored = load_file(tmp_path / name / "checkpoint-4" / WEIGHTS_NAME)
        # The checkpoint is in half precision by now; the heads are as they ended.
        torch.testing.assert_close(stored["head.layers.weight"], held.head.layers.weight.data)
    ended = [
        load_file(tmp_path / name / "checkpoint-4" / WEIGHTS_NAME) for name in ("whole", "parts")
    ]
    assert ended[0].keys() == ended[1].keys()
    for name, value in ended[0].items():
        assert torch.equal(ended[1][name], value), name


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
    command = [sys.executable, "-m", "recipes.tiny", *words]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("checkpoint-*/complete")):
        time.sleep(1)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = last_checkpoint(tmp_path)
    assert left is not None
    step = checkpoint_step(left)
    same = Settings(steps=100_000, compiled=True)  # a run goes on with what it was made with
    train(same, cache=cache, out=tmp_path, until=step + 1)
    assert last_checkpoint(tmp_path) == tmp_path / f"checkpoint-{step + 1}"


@pytest.mark.slow
def test_two_processes_learn_from_the_mean_of_their_gradients(tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "run"
    shards = [render_shard(number, resolution=160, size=4) for number in (0, 1)]
    for number, shard in enumerate(shards):
        save_shard(shard, shard_path(cache, number))
    words = [*("--cache", str(cache), "--out", str(out), "--steps", "2"), "--no-compile"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    subprocess.run([*launcher, "recipes.tiny", *words], check=True, timeout=300)
    # By hand: each process has a shard of its own, and draws what is its own of it.
    processor = build_processor(words_of(shards[0].sentences))
    makers = [BatchMaker([one], processor.tokenizer, NUM_IMAGE_TOKENS) for one in shards]
    settings = Settings(steps=2)
    recipe = TinyRecipe(settings, processor, makers[0])
    recipe.set_starting_weights()
    optimisers = recipe.optimisers()
    for step in range(2):
        batches = [
            maker.draw((1, step, process), num_images=16, num_prompts=2)
            for process, maker in enumerate(makers)
        ]
        mean = torch.stack([sum(recipe(batch).values()) for batch in batches]).mean()
        recipe.zero_grad()
        mean.backward()
        torch.nn.utils.clip_grad_norm_(recipe.model.parameters(), 1.0)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(step, group)
            optimiser.step()
    stored = load_file(out / "checkpoint-2" / WEIGHTS_NAME)
    moved = dict(recipe.named_parameters())
    assert stored.keys() == moved.keys()
    for name, value in stored.items():
        torch.testing.assert_close(value, moved[name].data, rtol=0, atol=2e-5, msg=name)
