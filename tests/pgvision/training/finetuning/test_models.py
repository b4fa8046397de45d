"""Checkpoints made ready: adapters, resolution, frozen towers."""

import pytest
import torch

from pgvision.errors import OptionError
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
        _merge(engine.model)
        torch.testing.assert_close(engine.model(**inputs).logits, moved, rtol=1e-4, atol=1e-3)
    assert not any("lora_" in name for name, _ in engine.model.named_parameters())


def test_a_layer_that_is_not_there() -> None:
    settings = FinetuneSettings(steps=1, method="lora", targets=("q_proj", "qkv"))
    with pytest.raises(OptionError, match=r"no layers named qkv; it has down_proj, gate_proj"):
        prepare(settings, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what machines without CUDA say")
def test_four_bits_need_cuda() -> None:
    with pytest.raises(OptionError, match="needs a CUDA device; use 'lora'"):
        prepare(FinetuneSettings(steps=1, method="qlora"))


def test_a_run_may_see_larger_pictures() -> None:
    engine = prepare(FinetuneSettings(steps=1, resolution=320), device="cpu")
    assert engine.resolution == 320 and engine.num_image_tokens == 400
    assert engine.input_ids("detect helmet").count(engine.vocabulary.image) == 400


def test_noise_becomes_a_word_where_it_would_be_many() -> None:
    engine = prepare(FinetuneSettings(steps=1, closed_set=True), device="cpu")
    assert len(engine.processor.tokenizer.tokenize(" <noise>")) == 1
    rows = engine.model.get_input_embeddings().weight.shape[0]
    assert rows == len(engine.processor.tokenizer) == len(load("tiny").processor.tokenizer) + 1
