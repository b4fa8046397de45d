"""Change of a checkpoint's resolution: PaliGemma's second stage, from 224 px to 448."""

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody uses)

from pgvision.errors import OptionError

_TEXT: Final = 512  # tokens; longest text in addition to the image
if TYPE_CHECKING:
    from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor


@torch.no_grad()
def set_resolution(
    model: "PaliGemmaForConditionalGeneration", processor: "PaliGemmaProcessor", resolution: int
) -> None:
    """Change a model's image resolution, in place.

    Position embeddings are interpolated, corner patches keep theirs; all other weights stay. The
    model answers at once, but has to be trained on before it answers well. At the resolution that
    it has already, nothing changes.

    Args:
        model: With or without gradients; before an optimiser is made of its parameters.
        processor: Of the model; it will write as many image tokens as the model sees.
        resolution: Side in pixels, a multiple of the vision tower's patch.

    Raises:
        OptionError: If it is no such multiple.

    Source:
        google-research/big_vision, models/vit.py (``resample_posemb``); PaliGemma, arXiv
        2407.07726, section 3.2.

    Example:
        >>> from pgvision.runtime import load
        >>> from copy import deepcopy
        >>> engine = load("tiny")
        >>> model, processor = deepcopy(engine.model), deepcopy(engine.processor)
        >>> set_resolution(model, processor, 224)
        >>> model.config.vision_config.image_size, processor.image_seq_length
        (224, 196)
    """
    # 1. Check the resolution.
    vision = model.config.vision_config
    if resolution < vision.patch_size or resolution % vision.patch_size:
        near = max(1, round(resolution / vision.patch_size)) * vision.patch_size
        raise OptionError(
            f"resolution: expected a multiple of the patch, {vision.patch_size} px, such as "
            f"{near}; got {resolution}"
        )
    if resolution == vision.image_size:
        return
    # 2. Resample the position embeddings.
    side = resolution // vision.patch_size
    seen = model.model.vision_tower.embeddings
    held = seen.position_embedding.weight
    table = nn.Embedding(side**2, held.shape[1], _weight=resample(held, side))
    seen.position_embedding = table.requires_grad_(held.requires_grad)
    seen.position_ids = torch.arange(side**2, device=held.device)[None]
    seen.image_size = vision.image_size = resolution
    seen.num_patches = seen.num_positions = side**2
    # 3. Update everything that counts image tokens.
    text = model.config.text_config
    text.num_image_tokens = side**2
    # Rotary positions have no end; other engines take this number for one.
    text.max_position_embeddings = max(text.max_position_embeddings, side**2 + _TEXT)
    processor.image_processor.size = {"height": resolution, "width": resolution}
    processor.image_processor.image_seq_length = processor.image_seq_length = side**2


def resample(table: Tensor, side: int) -> Tensor:
    """Return ``(side * side, d)`` position embeddings from a square ``(p * p, d)`` of them.

    Bilinear, corner on corner: what depends on the position linearly still does.
    """
    held = round(len(table) ** 0.5)
    grid = table.T.reshape(1, -1, held, held)
    if grid.dtype != torch.float64:
        grid = grid.float()  # half precision would round the positions between
    larger = F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=True)
    return larger[0].flatten(1).T.to(table.dtype).contiguous()
