"""Starting weights that spare a small model from learning that coordinates are ordered."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    PaliGemmaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from pgvision.errors import CheckpointError


@torch.no_grad()
def set_location_start(embedding: Tensor, location_ids: Sequence[int], *, seed: int = 0) -> None:
    """Make the rows of ``<loc>`` tokens Fourier features of their bin, as large as other rows.

    Args:
        embedding: ``(v, d)``, tied or not.
        location_ids: Ids of ``<loc0000>`` to ``<loc1023>``.
        seed: Of the directions in which the features lie.
    """
    width = embedding.shape[1]
    count = width // 3
    cycles = np.geomspace(0.5, 48.0, count)
    angles = 2 * np.pi * np.arange(len(location_ids))[:, None] / len(location_ids) * cycles
    # The slow waves carry most of the weight: far bins differ much, near ones little.
    weights = cycles**-0.35
    features = np.concatenate([np.cos(angles) * weights, np.sin(angles) * weights], 1)
    mixing = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]
    rows = features @ mixing[: 2 * count]
    rows *= float(embedding.std()) / rows.std()
    embedding[list(location_ids)] = torch.from_numpy(rows.astype(np.float32))


# A new word begins as one that is used alike.
_LIKE = {
    **{"person": "worker", "people": "workers", "persons": "workers", "hat": "helmet"},
    **{"someone": "worker", "somebody": "worker", "anyone": "worker", "everyone": "workers"},
    **{"everybody": "workers", "wearing": "wear", "wears": "wear", "have": "wear", "not": "no"},
    **{"colour": "color", "red blood cell": "barrel", "platelet": "cone", "cell": "barrel"},
}


@torch.no_grad()
def start_text_from(
    model: PaliGemmaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Begin with another checkpoint's language model; rows of its table go by their piece.

    Args:
        model: Has a language model of the same shapes, and any table.
        tokenizer: Of ``model``.
        folder: The other checkpoint.

    Raises:
        CheckpointError: If its language model has other shapes.
    """
    held = PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    old = AutoTokenizer.from_pretrained(folder).get_vocab()
    state = held.model.language_model.state_dict()
    table = state.pop("embed_tokens.weight")
    own = model.get_input_embeddings().weight
    scale = float(table.std()) / float(own.std())
    own.mul_(scale * 0.5)
    for piece, row in tokenizer.get_vocab().items():
        word = piece.removeprefix("\u2581")
        like = piece.replace(word, _LIKE[word]) if word in _LIKE else piece
        found = old.get(piece, old.get(like))
        if found is not None:
            own[row] = table[found] + (own[row] * 0.5 if piece not in old else 0.0)
    missing, unexpected = model.model.language_model.load_state_dict(state, strict=False)
    if unexpected or [name for name in missing if "embed_tokens" not in name]:
        raise CheckpointError(f"{folder}: its language model has other shapes: {missing}")
    model.tie_weights()
