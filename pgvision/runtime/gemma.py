"""One layer of Gemma and Gemma 2 as PaliGemma uses them, and their rotary positions.

A layer is written once for tensors and for ONNX graphs: `torch_backend` calls it with tensors and
transformers' own linear modules, so that LoRA and quantised layers keep working; `onnx_graph`
calls it with the outputs of graph nodes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from pgvision.arrays import FloatArray

T = TypeVar("T", bound=Any)  # has sums and products


@dataclass(frozen=True, eq=False)
class Layer(Generic[T]):
    """The parts of one layer; Gemma 2 has norms after attention and MLP, Gemma 1 has not.

    Attributes:
        before_attention: Norm of the layer's input.
        after_attention: Norm of what attention adds, or None.
        before_mlp: Norm of the MLP's input.
        after_mlp: Norm of what the MLP adds, or None.
        query, key, value, out: Projections of attention.
        gate, up, down: Projections of the MLP.
        activation: Of the gate.
        slides: Whether attention sees a sliding window of tokens.
    """

    before_attention: Callable[[T], T]
    after_attention: Callable[[T], T] | None
    before_mlp: Callable[[T], T]
    after_mlp: Callable[[T], T] | None
    query: Callable[[T], T]
    key: Callable[[T], T]
    value: Callable[[T], T]
    out: Callable[[T], T]
    gate: Callable[[T], T]
    up: Callable[[T], T]
    down: Callable[[T], T]
    activation: Callable[[T], T]
    slides: bool


def run_layer(
    layer: Layer[T],
    hidden: T,
    attend: Callable[[T, T, T], T],
    select: Callable[[T], T] | None = None,
) -> T:
    """Return the hidden states after a layer.

    Args:
        layer: Its parts.
        hidden: ``(b, t, d)``.
        attend: Attention with rotary positions and cache, of queries, keys and values before
            rotation: ``(b, t, heads * head_dim)`` each.
        select: Takes the positions that need an output: in the last layer all tokens give keys
            and values, and few need the rest.

    Returns:
        ``(b, t, d)``, or the selected positions of it.
    """
    # 1. Attention. All tokens give keys and values; only the selected ones are queries.
    normed = layer.before_attention(hidden)
    keys, values = layer.key(normed), layer.value(normed)
    if select is not None:
        hidden, normed = select(hidden), select(normed)
    seen = layer.out(attend(layer.query(normed), keys, values))
    hidden = hidden + (seen if layer.after_attention is None else layer.after_attention(seen))
    # 2. Gated MLP.
    normed = layer.before_mlp(hidden)
    added = layer.down(layer.activation(layer.gate(normed)) * layer.up(normed))
    result: T = hidden + (added if layer.after_mlp is None else layer.after_mlp(added))
    return result


def rotary_frequencies(text: Mapping[str, Any]) -> FloatArray:
    """Return the rotary frequencies of a text configuration, ``(head_dim / 2,)`` float64.

    With ``rope_type`` "llama3", long wavelengths are ``factor`` times longer, short ones stay, and
    those in between are interpolated.

    Args:
        text: ``text_config`` of ``config.json``.

    Source:
        transformers, ``modeling_rope_utils.py`` (``_compute_llama3_parameters``).

    Example:
        >>> rotary_frequencies({"head_dim": 4, "rope_parameters": {"rope_theta": 100.0}}).tolist()
        [1.0, 0.1]
    """
    # 1. One frequency for each pair of a head's dimensions.
    rope, size = text.get("rope_parameters") or {}, int(text["head_dim"])
    theta = float(rope.get("rope_theta") or text.get("rope_theta") or 10000.0)
    frequencies = theta ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    if rope.get("rope_type", "default") == "default":
        return frequencies
    # 2. Full turns within the original length decide between long and short wavelengths.
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    scaled: FloatArray = frequencies * (kept + (1 - kept) / rope["factor"])
    return scaled
