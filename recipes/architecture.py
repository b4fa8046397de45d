"""The small PaliGemma that the package carries: its tokenizer, processor and shapes.

Only transformers' own classes are used, so that ``AutoProcessor`` and
``PaliGemmaForConditionalGeneration`` load the result without pgvision.
"""

import string
from collections.abc import Iterable
from typing import Final

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import (
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

RESOLUTION: Final = 160
PATCH: Final = 16
VISION_WIDTH: Final = 256
TEXT_WIDTH: Final = 192
TEXT_LAYERS: Final = 6
NUM_IMAGE_TOKENS: Final = (RESOLUTION // PATCH) ** 2
_SPACE: Final = "\u2581"
_SPECIAL: Final = ("<pad>", "<eos>", "<bos>", "<unk>", "<image>")


def build_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Build a tokenizer with whole words, letters and bytes, and every ``<loc>`` and ``<seg>``.

    Like Gemma's, it writes a space as the start of the next piece and falls back to bytes, so
    that every text can be written and read back. Special tokens have Gemma's order (pad 0, eos 1,
    bos 2, unk 3) but the table is our own: look ids up, never hard-code them.

    Args:
        words: The words that deserve a piece of their own.

    Example:
        >>> tokenizer = build_tokenizer(["detect", "helmet"])
        >>> tokenizer.tokenize("detect helmet<loc0007>")
        ['detect', '▁helmet', '<loc0007>']
    """
    pieces = [
        *_SPECIAL,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\n",
        _SPACE,
        f"{_SPACE};{_SPACE}",
    ]
    pieces += string.ascii_letters + string.digits + string.punctuation
    for word in sorted(set(words)):
        pieces += [word, _SPACE + word]
    unique = list(dict.fromkeys(pieces))
    # Every piece costs the same, so the segmentation with the fewest pieces wins.
    model = models.Unigram([(piece, -1.0) for piece in unique], unk_id=3, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in _SPECIAL])
    table = [f"<loc{bin_:04d}>" for bin_ in range(1024)] + [
        f"<seg{code:03d}>" for code in range(128)
    ]
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in table])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_processor(
    words: Iterable[str], *, resolution: int = RESOLUTION, patch: int = PATCH
) -> PaliGemmaProcessor:
    """Build the processor: the small tokenizer and a squeeze to a square, scaled to [-1, 1]."""
    images = SiglipImageProcessorPil(
        size={"height": resolution, "width": resolution},
        resample=2,  # Pillow's bilinear: it averages when it shrinks, as the training data did
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    images.image_seq_length = (resolution // patch) ** 2
    return PaliGemmaProcessor(image_processor=images, tokenizer=build_tokenizer(words))


TINY_EYES: Final = SiglipVisionConfig(
    hidden_size=VISION_WIDTH,
    intermediate_size=768,
    num_hidden_layers=6,
    num_attention_heads=8,
    image_size=RESOLUTION,
    patch_size=PATCH,
    vision_use_head=False,
)


def build_config(
    tokenizer: PreTrainedTokenizerFast, vision: SiglipVisionConfig = TINY_EYES
) -> PaliGemmaConfig:
    """Return the shapes: the vision tower's, and 6 language layers 192 wide."""
    vocabulary = len(tokenizer)
    text = GemmaConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=576,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    return PaliGemmaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=TEXT_WIDTH,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
