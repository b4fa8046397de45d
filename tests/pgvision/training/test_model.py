"""Checkpoints made ready for training: adapters, resolution, frozen towers, 4-bit weights."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from pgvision.runtime import load
from pgvision.training import TrainConfig
from pgvision.training.model import TrainedModel

CPU = torch.device("cpu")


def made(**options):
    return TrainedModel(TrainConfig(model="tiny", **options), CPU)


def inputs_of(engine):
    image = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)
    batch = engine.processor(
        images=Image.fromarray(image), text="<image>detect helmet", return_tensors="pt"
    )
    batch.pop("labels", None)
    return dict(batch)


def test_nobody_elses_weights_are_trained():
    assert made().base is not load("tiny").model


def test_adapters_start_as_nothing_and_alone_are_trained():
    plain, model = load("tiny"), made(lora=8)
    trained = [name for name, one in model.trained.named_parameters() if one.requires_grad]
    assert len(trained) == 2 * 7 * 6 and all("lora_" in name for name in trained)
    inputs = inputs_of(plain)
    with torch.no_grad():
        before = plain.model(**inputs).logits
        torch.testing.assert_close(model.base(**inputs).logits, before)
        for name, weight in model.base.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))
        moved = model.base(**inputs).logits
        assert float((moved - before).abs().max()) > 0.01
        name = "model.language_model.layers.1.mlp.up_proj"
        layer = model.base.get_submodule(name)
        low, high = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        whole = layer.weight + 2.0 * high @ low  # twice, whatever the rank
        merged = model._merged()
        torch.testing.assert_close(merged.get_submodule(name).weight, whole)
        torch.testing.assert_close(merged(**inputs).logits, moved, rtol=1e-4, atol=1e-3)


def test_the_frozen_base_has_the_type_that_was_asked_for():
    """On a CPU it was float32: 12 GB for a checkpoint of 3 billion weights."""
    model = made(lora=4, dtype="bfloat16")
    kinds = {weight.requires_grad: weight.dtype for weight in model.trained.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    assert {weight.dtype for weight in made(lora=4).base.parameters()} == {torch.float32}


def test_a_frozen_tower_learns_nothing():
    for frozen in (False, True):
        model = made(vision_rate=0.0 if frozen else None).base
        learning = {n.split(".")[1] for n, one in model.named_parameters() if one.requires_grad}
        assert ("vision_tower" in learning) != frozen
        assert {"language_model", "multi_modal_projector"} <= learning


def test_recomputed_activations_give_the_same_gradients():
    gradients = []
    for again in (False, True):
        model = made(checkpointing=again).base.train()
        passes = []
        layer = model.model.language_model.layers[2]
        layer.mlp.register_forward_pre_hook(lambda *args, seen=passes: seen.append(1))
        inputs = inputs_of(load("tiny"))
        model(**inputs, use_cache=False).logits.logsumexp(-1).sum().backward()
        assert len(passes) == (2 if again else 1)
        gradients.append(layer.self_attn.q_proj.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="the extra qlora")
def test_four_bits():
    layer = made(lora=8, four_bit=True).base.model.language_model.layers[0].mlp.up_proj.base_layer
    assert layer.weight.dtype == torch.uint8


def test_a_seed_gives_the_same_adapters():
    name = "model.language_model.layers.0.mlp.up_proj.lora_A.default.weight"
    one, same, other = (made(lora=8, seed=seed).base.get_parameter(name).data for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_resolution_and_noise_token():
    larger = made(resolution=320)
    with larger.answering() as engine:
        assert engine.resolution == 320 and engine.num_image_tokens == 400
    closed = made(closed_set=True)
    assert len(closed.processor.tokenizer.tokenize(" <noise>")) == 1
    rows = closed.base.get_input_embeddings().weight.shape[0]
    assert rows == len(load("tiny").processor.tokenizer) + 1


def test_a_model_that_answers_is_not_in_training_meanwhile():
    model = made()
    for was in (True, False):
        model.base.train(was)
        with model.answering() as engine:
            assert not engine.model.training
        assert model.base.training == was
