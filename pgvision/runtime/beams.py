"""The k best answers to one request, as transformers' beam search finds them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

if TYPE_CHECKING:
    from transformers import PaliGemmaForConditionalGeneration


@torch.inference_mode()
def find_beams(
    model: "PaliGemmaForConditionalGeneration",
    prompt: Sequence[int],
    features: Tensor,
    *,
    count: int,
    limit: int,
    pad: int,
) -> list[list[int]]:
    """Return the ids of the ``count`` best answers, without keeping a score for every token.

    Args:
        model: The model.
        prompt: Ids of image, prefix and newline.
        features: ``(1, n, d)`` of the picture.
        count: How many answers, and how wide the beam.
        limit: Most tokens of an answer.
        pad: Id of the filler behind short answers.
    """
    ids = torch.tensor([prompt], device=model.device)
    found: Any = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        token_type_ids=torch.zeros_like(ids),
        mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=features)},
        num_beams=count,
        num_return_sequences=count,
        do_sample=False,
        max_new_tokens=limit,
        length_penalty=0.0,  # plain log-probability of the whole answer
    )
    return [[i for i in row if i != pad] for row in found[:, len(prompt) :].tolist()]
