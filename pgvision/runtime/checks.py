"""Checks of a loaded model: its attention mask, and our passes against transformers' own.

Leaving out ``token_type_ids`` raises nothing in transformers and gives a wrong mask, a different
one for each family and attention kernel. And our `LanguageModel` writes out what transformers
computes between its modules; a release that computes it otherwise must be noticed.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from pgvision.runtime.torch_backend import LanguageModel

_WORDS = (4, 6)  # of prefix and suffix in the check of the language model


@dataclass(frozen=True)
class LeakReport:
    """What moved when a token was changed.

    Attributes:
        suffix_leak: Largest change of an earlier suffix logit when the last suffix token changes;
            0 is right.
        prefix_sight: Largest change of an earlier prefix position when a later prefix token
            changes; 0 means that the prefix is causal, which is wrong.
    """

    suffix_leak: float
    prefix_sight: float

    @property
    def ok(self) -> bool:
        """Whether the mask is the one that PaliGemma was trained with."""
        return self.suffix_leak <= 1e-5 and self.prefix_sight > 1e-6


def check_leaks(model: Any, *, use_types: bool = True) -> LeakReport:
    """Perturb tokens and watch which logits move.

    Args:
        model: A `PaliGemmaForConditionalGeneration`.
        use_types: Pass ``token_type_ids``, as pgvision does; False shows what happens without.

    Returns:
        The report.
    """
    # 1. Build an input with random pixels.
    config = model.config
    count = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    words = torch.arange(5, 13) + 10
    ids = torch.cat([torch.full((count,), config.image_token_id), words])[None].to(model.device)
    types = torch.zeros_like(ids)
    types[:, -4:] = 1  # four words of prefix, four of suffix
    generator = torch.Generator().manual_seed(0)
    side = config.vision_config.image_size
    pixels = torch.randn(1, 3, side, side, generator=generator).to(model.device, model.dtype)

    def logits(changed: int | None) -> torch.Tensor:
        seen = ids.clone()
        if changed is not None:
            seen[0, changed] += 40
        inputs = {"input_ids": seen, "attention_mask": torch.ones_like(seen)}
        if use_types:
            inputs["token_type_ids"] = types
        with torch.inference_mode():
            seen_logits: torch.Tensor = model(**inputs, pixel_values=pixels, use_cache=False).logits
        return seen_logits[0].float()

    # 2. Change a token of the suffix, then one of the prefix, and compare earlier logits.
    before = logits(None)
    last, prefix_end = ids.shape[1] - 1, ids.shape[1] - 5
    leak = (logits(last) - before)[count + 4 : last].abs().max()
    sight = (logits(prefix_end) - before)[:prefix_end].abs().max()
    return LeakReport(float(leak), float(sight))


@dataclass(frozen=True)
class LanguageReport:
    """How far our passes are from transformers' own.

    Attributes:
        difference: Norm of the difference of hidden states over the norm of transformers'.
        allowed: What rounding explains: 1e-4 in float32, 0.05 in half precision.
    """

    difference: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether both compute the same."""
        return self.difference <= self.allowed


@torch.inference_mode()
def check_language(model: Any) -> LanguageReport:
    """Read two short prompts and answers as pgvision does and as transformers does.

    Args:
        model: A `PaliGemmaForConditionalGeneration`.

    Returns:
        The report. A few placeholder tokens replace the image, so it takes a second at any size.
    """
    # 1. Two rows of different length, with random image features.
    prefix, suffix = _WORDS
    lengths = (8 + prefix, 8 + prefix - 2)
    image = [model.config.image_token_id] * 8
    rows = [[*image, *(15 + 3 * n for n in range(length - 8 + suffix))] for length in lengths]
    generator = torch.Generator().manual_seed(0)
    width = model.config.text_config.hidden_size
    features = torch.randn(2, 8, width, generator=generator).to(model.device, model.dtype)
    # 2. One whole pass of transformers for each row.
    expected = torch.stack(
        [
            _whole_pass(model, row, length, own[None])
            for row, length, own in zip(rows, lengths, features, strict=True)
        ]
    )
    # 3. Our cached passes: the prompt with one token of the answer, one token, then the rest.
    language, found = LanguageModel(model), []
    cache = language.allocate(2, max(map(len, rows)) + 2)
    for first, last in ((0, 1), (1, 2), (2, suffix)):
        is_prompt = first == 0
        starts = [0 if is_prompt else length + first for length in lengths]
        stops = [length + last for length in lengths]
        feeds = [row[a:b] for row, a, b in zip(rows, starts, stops, strict=True)]
        count = last - first + is_prompt  # the prompt's last token gives the first of the answer
        hidden = language.run(
            language.embed(feeds, list(features) if is_prompt else None),
            cache,
            starts=starts,
            prompts=lengths if is_prompt else None,
            wanted=[list(range(len(feed) - count, len(feed))) for feed in feeds],
        )
        found.append(hidden.view(2, count, width))
    # 4. Compare: norm of the difference over norm of the states.
    gap = float((torch.cat(found, 1).float() - expected).norm() / expected.norm())
    return LanguageReport(gap, 1e-4 if model.dtype == torch.float32 else 0.05)


def _whole_pass(model: Any, row: list[int], length: int, features: Tensor) -> Tensor:
    ids = torch.tensor([row], device=model.device)
    types = torch.zeros_like(ids)
    types[:, length:] = 1
    hidden: Tensor = model.model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        token_type_ids=types,
        mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=features)},
        use_cache=False,
    ).last_hidden_state
    return hidden[0, length - 1 :].float()
