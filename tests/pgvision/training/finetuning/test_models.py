"""Checkpoints made ready: adapters, resolution, frozen towers."""

import importlib.util

import pytest
import torch

from pgvision.errors import DependencyError, OptionError
from pgvision.runtime import load
from pgvision.training.finetuning import FinetuneSettings
from pgvision.training.finetuning.exporting import _merge
from pgvision.training.finetuning.models import prepare


def test_nobody_elses_weights_are_trained() -> None:
    assert prepare(FinetuneSettings(steps=1), device="cpu").model is not load("tiny").model


def test_adapters_start_as_nothing_and_alone_are_trained() -> None:
    plain, engine = load("tiny"), prepare(FinetuneSettings(steps=1, method="lora"), device="cpu")
    trained = [name for name, one in engine.model.named_parameters() if one.requires_grad]
    assert len(trained) == 2 * 7 * 6 and all("lora_" in name for name in trained)
    ids = torch.tensor([plain.input_ids("detect helmet")])
    side = plain.resolution
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "pixel_values": pixels, "token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        before = plain.model(**inputs).logits
        torch.testing.assert_close(engine.model(**inputs).logits, before)
        for name, weight in engine.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))
        moved = engine.model(**inputs).logits
        assert float((moved - before).abs().max()) > 0.01
        name = "model.language_model.layers.1.mlp.up_proj"
        layer = engine.model.get_submodule(name)
        low, high = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        whole = layer.weight + 2.0 * high @ low  # twice, whatever the rank
        _merge(engine.model)
        torch.testing.assert_close(engine.model.get_submodule(name).weight, whole)
        torch.testing.assert_close(engine.model(**inputs).logits, moved, rtol=1e-4, atol=1e-3)
    assert not any("lora_" in name for name, _ in engine.model.named_parameters())


def test_a_frozen_tower_learns_nothing() -> None:
    for frozen in (False, True):
        model = prepare(FinetuneSettings(steps=1, freeze_vision=frozen), device="cpu").model
        learning = {
            name.split(".")[1] for name, one in model.named_parameters() if one.requires_grad
        }
        assert ("vision_tower" in learning) != frozen
        assert {"language_model", "multi_modal_projector"} <= learning


def test_recomputed_activations_give_the_same_gradients() -> None:
    gradients = []
    for again in (False, True):
        engine = prepare(FinetuneSettings(steps=1, checkpointing=again), device="cpu")
        model = engine.model.train()
        ids = torch.tensor([engine.input_ids("detect helmet")])
        side = engine.resolution
        pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        inputs = {"input_ids": ids, "pixel_values": pixels, "token_type_ids": 0 * ids}
        passes = 0

        def count(*args: object) -> None:
            nonlocal passes
            passes += 1

        layer = model.model.language_model.layers[2]
        layer.mlp.register_forward_pre_hook(count)
        model(**inputs, use_cache=False).logits.logsumexp(-1).sum().backward()
        assert passes == (2 if again else 1)
        gradients.append(layer.self_attn.q_proj.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_layer_that_is_not_there() -> None:
    settings = FinetuneSettings(steps=1, method="lora", targets=("q_proj", "qkv"))
    with pytest.raises(OptionError, match=r"no layers named qkv; it has down_proj, gate_proj"):
        prepare(settings, device="cpu")


def test_four_bits_need_bitsandbytes() -> None:
    settings = FinetuneSettings(steps=1, method="qlora")
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(DependencyError, match="bitsandbytes: .*; or use 'lora'"):
            prepare(settings, device="cpu")
        return
    model = prepare(settings, device="cpu").model
    layer = model.model.language_model.layers[0].mlp.up_proj.base_layer
    assert layer.weight.dtype == torch.uint8
    whole = load("tiny").model.model.language_model.layers[0].mlp.up_proj.weight.detach()
    x = torch.randn(5, whole.shape[1], generator=torch.Generator().manual_seed(0))
    gap = (layer(x).detach() - x @ whole.T).norm() / (x @ whole.T).norm()
    assert 0.01 < float(gap) < 0.2
    model.eval()
    with torch.no_grad():
        layer(x)  # a validation between two steps
    model.train()
    layer(x.requires_grad_()).sum().backward()
    rows = layer(torch.eye(whole.shape[1])).T.detach()
    torch.testing.assert_close(x.grad, rows.sum(0).expand(5, -1), rtol=1e-3, atol=1e-3)


def test_a_seed_gives_the_same_adapters() -> None:
    name = "model.language_model.layers.0.mlp.up_proj.lora_A.default.weight"
    one, same, other = (
        prepare(FinetuneSettings(steps=1, method="lora", seed=seed), device="cpu")
        .model.get_parameter(name)
        .data
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_run_may_see_larger_pictures() -> None:
    engine = prepare(FinetuneSettings(steps=1, resolution=320), device="cpu")
    assert engine.resolution == 320 and engine.num_image_tokens == 400
    assert engine.input_ids("detect helmet").count(engine.vocabulary.image) == 400


def test_noise_becomes_a_word_where_it_would_be_many() -> None:
    engine = prepare(FinetuneSettings(steps=1, closed_set=True), device="cpu")
    assert len(engine.processor.tokenizer.tokenize(" <noise>")) == 1
    rows = engine.model.get_input_embeddings().weight.shape[0]
    assert rows == len(engine.processor.tokenizer) == len(load("tiny").processor.tokenizer) + 1
