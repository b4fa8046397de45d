"""Another resolution: positions against scipy, and a folder that others load."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from transformers import PaliGemmaForConditionalGeneration

from pgvision import Detector
from pgvision.errors import OptionError
from pgvision.runtime import Engine, check_leaks, engine_of, load
from pgvision.training.model import resample, set_resolution
from recipes.scenes import render_scene


@pytest.fixture
def engine() -> Engine:
    held = load("tiny")
    return engine_of(deepcopy(held.model), deepcopy(held.processor), held.card)


def test_positions_are_those_of_big_vision() -> None:
    table = np.random.default_rng(0).normal(size=(49, 6))
    found = resample(torch.from_numpy(table), 11).numpy().reshape(11, 11, 6)
    # resample_posemb of big_vision's models/vit.py
    expected = ndimage.zoom(table.reshape(7, 7, 6), (11 / 7, 11 / 7, 1), order=1)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_same_resolution_changes_nothing(engine: Engine) -> None:
    before = {name: one.clone() for name, one in engine.model.state_dict().items()}
    config = engine.model.config.to_dict()
    set_resolution(engine.model, engine.processor, engine.resolution)
    assert engine.model.config.to_dict() == config
    after = engine.model.state_dict()
    assert all(torch.equal(one, after[name]) for name, one in before.items())
    table = engine.model.model.vision_tower.embeddings.position_embedding.weight
    assert torch.equal(resample(table, 10), table)


def test_a_larger_picture_is_seen_by_everybody_who_loads_it(engine: Engine, tmp_path: Path) -> None:
    others = {
        name: one.clone()
        for name, one in engine.model.state_dict().items()
        if "position_embedding" not in name
    }
    set_resolution(engine.model, engine.processor, 224)
    engine.model.save_pretrained(tmp_path)
    engine.processor.save_pretrained(tmp_path)
    (tmp_path / "pgvision.json").write_bytes(
        (Path(engine.card.location) / "pgvision.json").read_bytes()
    )
    detector = Detector("helmet", model=tmp_path)
    scene = render_scene(60_000_001).image
    found = detector(scene)
    assert detector.predict([scene])[0].raw_text == found.raw_text
    plain = PaliGemmaForConditionalGeneration.from_pretrained(tmp_path)
    weights = plain.state_dict()
    assert all(torch.equal(one, weights[name]) for name, one in others.items())
    position = plain.model.vision_tower.embeddings.position_embedding.weight
    assert position.shape == (196, plain.config.vision_config.hidden_size)
    live = engine.model.model.vision_tower.embeddings
    assert torch.equal(position, live.position_embedding.weight)
    pixels = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        seen = engine.model.get_image_features(pixels).pooler_output
        assert seen.shape[1] == 196
        assert torch.equal(seen, plain.get_image_features(pixels).pooler_output)
    assert check_leaks(plain).ok


def test_gradients_and_half_precision_are_kept(engine: Engine) -> None:
    model = engine.model.to(torch.bfloat16)
    model.requires_grad_(requires_grad=False)
    set_resolution(model, engine.processor, 80)
    table = model.model.vision_tower.embeddings.position_embedding.weight
    assert table.dtype == torch.bfloat16 and not table.requires_grad and len(table) == 25


@pytest.mark.parametrize("resolution", [0, 8, 100, -160])
def test_parts_of_a_patch_are_refused(engine: Engine, resolution: int) -> None:
    with pytest.raises(OptionError, match="multiple of the patch, 16 px"):
        set_resolution(engine.model, engine.processor, resolution)
