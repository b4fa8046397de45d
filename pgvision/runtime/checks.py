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
    rows = [_check_ids(model, length, suffix) for length in lengths]
    generator = torch.Generator().manual_seed(0)
    width = model.config.text_config.hidden_size
    features = torch.randn(2, 8, width, generator=generator).to(model.device, model.dtype)
    # 2. One whole pass of transformers, and our cached passes.
    expected = [
        _whole_pass(model, row, length, one[None])
        for row, length, one in zip(rows, lengths, features, strict=True)
    ]
    found = _our_passes(LanguageModel(model), rows, lengths, features)
    # 3. Compare: norm of the difference over norm of the states.
    gap = sum(float((a - b).norm()) for a, b in zip(found, expected, strict=True))
    size = sum(float(each.norm()) for each in expected)
    return LanguageReport(gap / size, 1e-4 if model.dtype == torch.float32 else 0.05)


def _check_ids(model: Any, length: int, suffix: int) -> Tensor:
    words = torch.arange(length - 8 + suffix) * 3 + 15
    return torch.cat([torch.full((8,), model.config.image_token_id), words]).to(model.device)


def _whole_pass(model: Any, ids: Tensor, length: int, features: Tensor) -> Tensor:
    types = torch.zeros_like(ids)
    types[length:] = 1
    hidden: Tensor = model.model(
        input_ids=ids[None],
        attention_mask=torch.ones_like(ids)[None],
        token_type_ids=types[None],
        mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=features)},
        use_cache=False,
    ).last_hidden_state
    return hidden[0, length - 1 :].float()


def _our_passes(
    language: LanguageModel, rows: list[Tensor], lengths: tuple[int, ...], features: Tensor
) -> list[Tensor]:
    """Prompts with a first token of the answer, then one token, then the rest at once."""
    # Three passes: the prompt with one token, one token, then the rest as a draft.
    cache = language.allocate(len(rows), max(map(len, rows)) + 2)
    found: list[list[Tensor]] = [[] for _ in rows]
    done = 0
    for count in (1, 1, _WORDS[1] - 2):
        is_prompt = done == 0
        starts = [0 if is_prompt else length + done for length in lengths]
        stops = [length + done + count for length in lengths]
        feeds = [
            row[start:stop].tolist() for row, start, stop in zip(rows, starts, stops, strict=True)
        ]
        firsts = [length - 1 if is_prompt else 0 for length in lengths]
        wanted = [list(range(first, len(feed))) for first, feed in zip(firsts, feeds, strict=True)]
        hidden = language.run(
            language.embed(feeds, list(features) if is_prompt else None),
            cache,
            starts=starts,
            prompts=lengths if is_prompt else None,
            wanted=wanted,
        )
        for parts, part in zip(
            found, torch.split(hidden, [len(row) for row in wanted]), strict=True
        ):
            parts.append(part)
        done += count
    return [torch.cat(parts).float() for parts in found]
