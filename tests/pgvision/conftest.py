"""What tests of several rooms need: small random PaliGemmas of both families."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    Gemma2Config,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipVisionConfig,
)

from recipes.architecture import build_processor

WORDS = ("detect", "caption", "answer", "ocr", "en", "helmet", "what", "color", "is", "the")


def _text_config(family: str, vocabulary: int) -> GemmaConfig | Gemma2Config:
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    if family == "gemma":
        return GemmaConfig(**sizes)
    # A window shorter than the prompt, so that sliding layers really slide.
    return Gemma2Config(**sizes, sliding_window=64, query_pre_attn_scalar=32)


def _save(folder: Path, family: str) -> None:
    torch.manual_seed(7)
    processor = build_processor(WORDS)
    tokenizer = processor.tokenizer
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=160,
        patch_size=16,
        vision_use_head=False,
    )
    config = PaliGemmaConfig(
        vision_config=vision,
        text_config=_text_config(family, len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=48,
    )
    model = PaliGemmaForConditionalGeneration(config)
    with torch.no_grad():
        # Larger weights: answers vary with the picture, as those of a trained model do. The
        # embedding stays small, since tied output weights would repeat the last token for ever.
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed_tokens" not in name:
                parameter.mul_(10.0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.fixture(scope="session")
def save_paligemma() -> Callable[[Path, str], None]:
    """Write a random checkpoint of transformers' own classes: ``(folder, "gemma" | "gemma2")``."""
    return _save
