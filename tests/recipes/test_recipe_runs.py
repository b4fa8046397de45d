"""A run goes on only with what it was made with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pgvision.errors import OptionError
from recipes.scene_cache import render_shard, shard_path
from recipes.shards import load_shard, save_shard
from recipes.state import data_digest
from recipes.tiny import Settings, train

SETTINGS = Settings(steps=1, num_images=1)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    save_shard(render_shard(0, resolution=160, size=2), shard_path(tmp_path / "cache", 0))
    return tmp_path / "cache"


@pytest.mark.parametrize("part", ["images", "boxes", "codes", "sentences", "classes"])
def test_other_data_has_another_digest(cache: Path, part: str) -> None:
    path = shard_path(cache, 0)
    before, shard = data_digest([path]), load_shard(path)
    save_shard(shard, path)
    assert data_digest([path]) == before
    if part == "sentences":
        save_shard(replace(shard, sentences=("[]", *shard.sentences[1:])), path)
    else:
        changed = np.array(getattr(shard, part))
        changed.flat[-1] += 1
        save_shard(replace(shard, **{part: changed}), path)
    assert data_digest([path]) != before


@pytest.mark.slow
def test_a_run_refuses_other_settings_other_data_and_other_company(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    train(SETTINGS, cache=cache, out=out)
    for changed in (replace(SETTINGS, seed=7), replace(SETTINGS, num_prompts=1)):
        with pytest.raises(OptionError, match=r"(seed|num_prompts) was"):
            train(changed, cache=cache, out=out)
    train(replace(SETTINGS, steps=2), cache=cache, out=out, free=("steps",))
    assert (out / "checkpoint-2").exists()
    train(replace(SETTINGS, steps=2), cache=cache, out=out)  # what was free is bound now
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OptionError, match="processes was 1 and is 2"):
        train(replace(SETTINGS, steps=2), cache=cache, out=out)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(OptionError, match="Launch without it"):
        train(replace(SETTINGS, steps=2), cache=cache, out=out)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    save_shard(render_shard(1, resolution=160, size=2), shard_path(cache, 0))
    with pytest.raises(OptionError, match="data was"):
        train(replace(SETTINGS, steps=2), cache=cache, out=out)
