"""The leak test: does a suffix token see what follows it, does the prefix see all of itself?

Leaving out ``token_type_ids`` raises nothing in transformers and gives a wrong mask, a different
one for each family and attention kernel; so we measure instead of trusting.
"""

from dataclasses import dataclass
from typing import Any

import torch


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

    before = logits(None)
    last, prefix_end = ids.shape[1] - 1, ids.shape[1] - 5
    leak = (logits(last) - before)[count + 4 : last].abs().max()
    sight = (logits(prefix_end) - before)[:prefix_end].abs().max()
    return LeakReport(float(leak), float(sight))
