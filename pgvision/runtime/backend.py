"""Backends of an engine: their interface, the cache of keys and values, and what they share.

A layer of Gemma is written once for tensors and for ONNX graphs: `torch_backend` calls it with
tensors and transformers' own linear modules, so that LoRA and quantised layers keep working;
`onnx_graph` calls it with the outputs of graph nodes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from pgvision.arrays import ByteArray, FloatArray, IntArray

T = TypeVar("T", bound=Any)  # has sums and products


class KeyValueCache:
    """Keys and values of every layer; a row is one answer, a slot one token of it.

    Args:
        tables: Arrays or tensors ``(rows, kv_heads, slots, head_dim)``, the keys of all layers and
            then the values of all layers.
    """

    def __init__(self, tables: Sequence[Any]) -> None:
        self.tables = tuple(tables)
        self.rows, _, self.slots, _ = self.tables[0].shape

    def part(self, start: int, stop: int) -> "KeyValueCache":
        """Return the rows ``[start, stop)`` as a cache over the same memory."""
        return KeyValueCache([table[start:stop] for table in self.tables])

    def copy_from(self, smaller: "KeyValueCache") -> None:
        """Copy the contents of a cache with no more rows and slots."""
        for mine, theirs in zip(self.tables, smaller.tables, strict=True):
            mine[: smaller.rows, :, : smaller.slots] = theirs

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first ``length`` slots to a free row."""
        for table in self.tables:
            table[target, :, :length] = table[source, :, :length]


class Backend(Protocol):
    """A model on a device: the only part of an engine that differs between libraries.

    Attributes:
        description: Library, device, number type and threads, for logs and errors.
        resolution: Image resolution of the model: pixels of a side.
        num_image_tokens: Tokens of an image in the prompt.
        vocabulary_size: Rows of the output layer.
    """

    description: str
    resolution: int
    num_image_tokens: int
    vocabulary_size: int

    def encode(self, images: Sequence[ByteArray]) -> Sequence[Any]:
        """Return ``(n, d)`` image tokens of each ``(h, w, 3)`` uint8 BGR image."""
        ...

    def allocate(self, rows: int, slots: int) -> KeyValueCache:
        """Return an empty cache, filled with zeros."""
        ...

    def run(
        self,
        feeds: Sequence[Sequence[int]],
        cache: KeyValueCache,
        *,
        starts: Sequence[int],
        prompts: Sequence[int] | None,
        features: Sequence[Any] | None,
        wanted: Sequence[Sequence[int]],
    ) -> Any:
        """Read tokens into the cache and return hidden states.

        Token i of row r goes to slot ``starts[r] + i``. It sees the slots before it and itself, and
        in a prompt the whole prompt. To take tokens back, start lower at the next pass.

        Args:
            feeds: Token ids of each row; rows 0 to b - 1 of the cache.
            cache: Of `allocate`.
            starts: Slots that are filled already.
            prompts: Lengths of the prompts that the feeds begin with; None: no prompts.
            features: Image tokens that replace the first ids of each prompt; None: no prompts.
            wanted: For each row the positions in its feed that need hidden states.

        Returns:
            Hidden states of all wanted positions in order, for `logits`.
        """
        ...

    def logits(
        self, hidden: Any, positions: Sequence[int], ids: "slice | IntArray | None"
    ) -> FloatArray:
        """Return ``(len(positions), len(ids))`` float32 logits; None: of the whole vocabulary."""
        ...

    def synchronise(self) -> None:
        """Wait for the device, so that a clock read next is right."""
        ...

    def find_beams(
        self, prompt: Sequence[int], features: Any, *, count: int, limit: int, pad: int
    ) -> list[list[int]]:
        """Return the ids of the best answers to one prompt, as transformers' beam search does.

        Args:
            prompt: Ids of image, prefix and newline.
            features: Image tokens.
            count: How many answers, and how wide the beam.
            limit: Most tokens of an answer.
            pad: Id of the padding after short answers.
        """
        ...


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
    normed = layer.before_attention(hidden)
    keys, values = layer.key(normed), layer.value(normed)
    if select is not None:
        hidden, normed = select(hidden), select(normed)
    seen = layer.out(attend(layer.query(normed), keys, values))
    hidden = hidden + (seen if layer.after_attention is None else layer.after_attention(seen))
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
    rope, size = text.get("rope_parameters") or {}, int(text["head_dim"])
    theta = float(rope.get("rope_theta") or text.get("rope_theta") or 10000.0)
    frequencies = theta ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    if rope.get("rope_type", "default") == "default":
        return frequencies
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    scaled: FloatArray = frequencies * (kept + (1 - kept) / rope["factor"])
    return scaled


def attention_mask(
    starts: Sequence[int],
    length: int,
    slots: int,
    prompts: Sequence[int] | None,
    *,
    window: int = 0,
) -> FloatArray | None:
    """Return ``(b, length, slots)``: 0 where a new token sees a slot, else minus infinity.

    Args:
        starts: Slots in use of each row; new token i goes to slot ``start + i``.
        length: New tokens of a row, with padding.
        slots: Number of cache slots that are read.
        prompts: Lengths of the prompts that the new tokens begin with; their tokens attend to each
            other; None: no prompts.
        window: Of sliding attention; a prompt still sees all of itself. 0: none.

    Returns:
        The mask; None if every token sees every slot.

    Example:
        >>> (attention_mask([0], 3, 3, [2]) == 0).astype(int)[0].tolist()
        [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    """
    places = np.array(starts)[:, None, None] + np.arange(length)[:, None]
    prompt = np.array(prompts if prompts is not None else [0] * len(starts))[:, None, None]
    keys = np.arange(slots)
    seen = keys < np.maximum(places + 1, prompt)
    if window:
        seen &= (keys > places - window) | (places < prompt)
    return None if seen.all() else np.where(seen, np.float32(0.0), np.float32(-np.inf))
