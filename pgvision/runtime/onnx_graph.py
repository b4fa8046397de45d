"""ONNX graphs of a PaliGemma checkpoint, built from its configuration in a few milliseconds.

No weights are copied: initialisers point into the checkpoint's safetensors files by offset, so a
graph is a few kilobytes and a checkpoint folder needs no export. An ONNX file is one protobuf
message (onnx.proto3 in the ONNX repository); the dozen fields used here are written directly,
which needs no protobuf library.
"""

import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypedDict, Unpack, cast

import numpy as np

from pgvision.errors import CheckpointError
from pgvision.runtime.checkpoint_files import StoredTensor, map_tensor
from pgvision.runtime.gemma import Layer, run_layer

_OPSET: Final = 23  # RMSNormalization
_MICROSOFT: Final = "com.microsoft"  # ONNX Runtime's own operators
_IR_VERSION: Final = 11
_FLOAT, _INT64 = 1, 7
_TYPES: Final = {"F32": 1, "F16": 10, "BF16": 16}
Side = int | str
Attribute = float | int | str | Sequence[int]


class Attributes(TypedDict, total=False):
    """Attributes of nodes, as ONNX names them."""

    approximate: str
    axis: int
    batch_dims: int
    end: int
    epsilon: float
    num_heads: int
    num_outputs: int
    perm: list[int]
    start: int
    strides: list[int]
    to: int
    transB: int  # noqa: N815


def _field(number: int, value: int | float | bytes | str) -> bytes:
    """Encode one protobuf field."""
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # negative numbers in two's complement
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, float):
        content = _field(2, value) + _field(20, 1)
    elif isinstance(value, int):
        content = _field(3, value) + _field(20, 2)
    elif isinstance(value, str):
        content = _field(4, value) + _field(20, 3)
    else:
        content = b"".join(_field(8, item) for item in value) + _field(20, 7)
    return _field(1, name) + content


class Value:
    """The output of a node; sums and products of values add nodes."""

    def __init__(self, graph: "Graph", name: str) -> None:
        self.graph, self.name = graph, name

    def __add__(self, other: "Value") -> "Value":
        return self.graph.node("Add", self, other)

    def __mul__(self, other: "Value") -> "Value":
        return self.graph.node("Mul", self, other)


class Graph:
    """An ONNX graph under construction.

    Args:
        tensors: The checkpoint's tensors by name.
        used: Gets the names of those that the graph uses.
        folder: The checkpoint's folder, to copy weights into the graph; None: the graph refers to
            the safetensors files.
    """

    def __init__(
        self, tensors: dict[str, StoredTensor], used: set[str], folder: Path | None = None
    ) -> None:
        self._tensors, self._used, self._folder = tensors, used, folder
        self._nodes: list[bytes] = []
        self._initialisers: dict[str, bytes] = {}
        self._inputs: list[bytes] = []
        self._outputs: list[bytes] = []
        self._count = 0

    def node(
        self, kind: str, *inputs: Value, domain: str = "", **attributes: Unpack[Attributes]
    ) -> Value:
        """Add a node with one output."""
        return self.nodes(kind, 1, *inputs, domain=domain, **attributes)[0]

    def nodes(
        self,
        kind: str,
        outputs: int,
        *inputs: Value,
        domain: str = "",
        **attributes: Unpack[Attributes],
    ) -> list[Value]:
        """Add a node with several outputs; attributes have ONNX's names."""
        names = [f"{kind}_{self._count + number}" for number in range(outputs)]
        self._count += outputs
        self._nodes.append(
            b"".join(_field(1, value.name) for value in inputs)
            + b"".join(_field(2, name) for name in names)
            + _field(4, kind)
            + b"".join(
                _field(5, _attribute(*item)) for item in cast("dict[str, Any]", attributes).items()
            )
            + _field(7, domain)
        )
        return [Value(self, name) for name in names]

    def input(self, name: str, *shape: Side, kind: int = _FLOAT) -> Value:
        """Add an input; sides that are text have any length."""
        self._inputs.append(_value_info(name, shape, kind))
        return Value(self, name)

    def output(self, value: Value, name: str, *shape: Side) -> None:
        """Make a value an output."""
        self._nodes.append(_field(1, value.name) + _field(2, name) + _field(4, "Identity"))
        self._outputs.append(_value_info(name, shape, _FLOAT))

    def constant(self, array: Any) -> Value:
        """Add a small constant, stored in the graph."""
        array = np.asarray(array)
        kind = _INT64 if array.dtype.kind == "i" else _FLOAT
        data = array.astype(np.int64 if kind == _INT64 else np.float32)
        name = f"constant_{kind}_{data.shape}_{data.tobytes().hex()}"
        return self._initialiser(name, data.shape, kind, _field(9, data.tobytes()))

    def weight(self, name: str, *shape: int) -> Value:
        """Add a tensor of the checkpoint, in float32.

        Raises:
            CheckpointError: If it is missing or has another shape or an unknown type.
        """
        stored = self._tensors.get(name)
        if stored is None or stored.shape != shape or stored.dtype not in _TYPES:
            found = "is missing" if stored is None else f"is {stored.dtype} {stored.shape}"
            raise CheckpointError(f"weights: {name} {found}, expected {shape}")
        self._used.add(name)
        if self._folder is None:  # external data: weights are not copied
            entries = {"location": stored.file, "offset": stored.offset, "length": stored.size}
            data = _field(14, 1) + b"".join(
                _field(13, _field(1, key) + _field(2, str(value))) for key, value in entries.items()
            )
        else:
            data = _field(9, map_tensor(self._folder, stored).tobytes())
        value = self._initialiser(name, shape, _TYPES[stored.dtype], data)
        return value if stored.dtype == "F32" else self.node("Cast", value, to=_FLOAT)

    def _initialiser(self, name: str, shape: Sequence[int], kind: int, data: bytes) -> Value:
        sides = b"".join(_field(1, side) for side in shape)
        self._initialisers[name] = sides + _field(2, kind) + _field(8, name) + data
        return Value(self, name)

    def reshape(self, value: Value, *shape: int) -> Value:
        """Reshape; 0 keeps a side, -1 is inferred."""
        return self.node("Reshape", value, self.constant(np.array(shape)))

    def linear(self, value: Value, name: str, rows: int, columns: int, *, bias: bool) -> Value:
        """Multiply ``(m, columns)`` by a weight of the checkpoint: ``(m, rows)``."""
        inputs = [value, self.weight(f"{name}.weight", rows, columns)]
        if bias:
            inputs.append(self.weight(f"{name}.bias", rows))
        return self.node("Gemm", *inputs, transB=1)

    def serialise(self) -> bytes:
        """Return the model as the bytes of an ONNX file."""
        graph = (
            b"".join(_field(1, node) for node in self._nodes)
            + _field(2, "pgvision")
            + b"".join(_field(5, content) for content in self._initialisers.values())
            + b"".join(_field(11, info) for info in self._inputs)
            + b"".join(_field(12, info) for info in self._outputs)
        )
        opsets = [_field(2, _OPSET), _field(1, _MICROSOFT) + _field(2, 1)]
        # OpenVINO recognises a model by three different fields: the opsets come last.
        return (
            _field(1, _IR_VERSION)
            + _field(2, "pgvision")
            + _field(7, graph)
            + b"".join(_field(8, opset) for opset in opsets)
        )


def _value_info(name: str, shape: Sequence[Side], kind: int) -> bytes:
    sides = b"".join(
        _field(1, _field(1, side) if isinstance(side, int) else _field(2, side)) for side in shape
    )
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, sides)))


def vision_graph(
    tensors: dict[str, StoredTensor],
    vision: dict[str, Any],
    width: int,
    used: set[str],
    *,
    folder: Path | None = None,
) -> bytes:
    """Build image encoder (SigLIP) and projector: ``pixels`` (b, 3, side, side) to ``features``.

    Args:
        tensors: See `read_tensor_table`.
        vision: The configuration's ``vision_config``.
        width: Of the projector's output.
        used: Gets the names of the tensors that are used.
        folder: The checkpoint's folder, to copy its weights into the graph.

    Returns:
        The ONNX file's bytes; ``features`` are ``(b, n, width)``.

    Raises:
        CheckpointError: If a tensor is missing or has another shape.
    """
    graph = Graph(tensors, used, folder)
    side, patch, d = vision["image_size"], vision["patch_size"], vision["hidden_size"]
    inner, heads, eps = (
        vision["intermediate_size"],
        vision["num_attention_heads"],
        float(vision.get("layer_norm_eps", 1e-6)),
    )
    count = (side // patch) ** 2

    def norm(value: Value, name: str) -> Value:
        weight, bias = graph.weight(f"{name}.weight", d), graph.weight(f"{name}.bias", d)
        return graph.node("LayerNormalization", value, weight, bias, axis=-1, epsilon=eps)

    # 1. Patches and their positions.
    pixels = graph.input("pixels", "b", 3, side, side)
    kernel = graph.weight("vision_tower.embeddings.patch_embedding.weight", d, 3, patch, patch)
    bias = graph.weight("vision_tower.embeddings.patch_embedding.bias", d)
    patches = graph.node("Conv", pixels, kernel, bias, strides=[patch, patch])
    hidden = graph.node("Transpose", graph.reshape(patches, 0, d, count), perm=[0, 2, 1])
    hidden += graph.weight("vision_tower.embeddings.position_embedding.weight", count, d)
    hidden = graph.reshape(hidden, -1, d)  # rows of all images: products are two-dimensional

    # 2. Transformer blocks.
    for number in range(vision["num_hidden_layers"]):
        block = f"vision_tower.encoder.layers.{number}"
        normed = norm(hidden, f"{block}.layer_norm1")
        parts = [
            graph.reshape(
                graph.linear(normed, f"{block}.self_attn.{part}_proj", d, d, bias=True),
                *(-1, count, d),
            )
            for part in "qkv"
        ]
        seen = graph.node("MultiHeadAttention", *parts, domain=_MICROSOFT, num_heads=heads)
        seen = graph.reshape(seen, -1, d)
        hidden += graph.linear(seen, f"{block}.self_attn.out_proj", d, d, bias=True)
        normed = norm(hidden, f"{block}.layer_norm2")
        thought = graph.linear(normed, f"{block}.mlp.fc1", inner, d, bias=True)
        thought = graph.node("Gelu", thought, approximate="tanh")
        hidden += graph.linear(thought, f"{block}.mlp.fc2", d, inner, bias=True)

    # 3. Projector.
    hidden = norm(hidden, "vision_tower.post_layernorm")
    features = graph.linear(hidden, "multi_modal_projector.linear", width, d, bias=True)
    graph.output(graph.reshape(features, -1, count, width), "features", "b", count, width)
    return graph.serialise()


def decoder_graph(
    tensors: dict[str, StoredTensor], text: dict[str, Any], used: set[str], *, is_cached: bool
) -> bytes:
    """Build Gemma or Gemma 2 over ``t`` new tokens of ``b`` rows.

    Inputs: ``embedded`` (b, t, d); ``cos`` and ``sin`` (b, t, 1, head_dim), the first half of the
    sines negated; ``mask`` and, where layers have a sliding window, ``near`` (b, t, s + t), 0 or
    minus infinity; ``wanted`` (b, w, 1), positions that need hidden states; with
    ``is_cached`` for each layer ``keys_0``, ``values_0`` (b, kv_heads, s, head_dim).

    Outputs: ``hidden`` (b, w, d) after the last norm; for each layer ``new_keys_0``,
    ``new_values_0`` (b, kv_heads, t, head_dim).

    Args:
        tensors: See `read_tensor_table`.
        text: The configuration's ``text_config``.
        used: Gets the names of the tensors that are used.
        is_cached: Whether there are earlier tokens.

    Returns:
        The ONNX file's bytes.

    Raises:
        CheckpointError: If a tensor is missing or has another shape.
    """
    return _DecoderGraph(Graph(tensors, used), text, is_cached=is_cached).build()


def sliding_layers(text: dict[str, Any]) -> list[bool]:
    """Return for each layer whether its attention has a sliding window."""
    count = text["num_hidden_layers"]
    if text["model_type"] != "gemma2" or not text.get("sliding_window"):
        return [False] * count
    kinds = text.get("layer_types")
    return (
        [kind == "sliding_attention" for kind in kinds]
        if kinds
        else [number % 2 == 0 for number in range(count)]
    )


class _DecoderGraph:
    def __init__(self, graph: Graph, text: dict[str, Any], *, is_cached: bool) -> None:
        self.graph, self.text, self.is_cached = graph, text, is_cached
        self.width, self.size = text["hidden_size"], text["head_dim"]
        self.heads, self.kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
        self.is_gemma2 = text["model_type"] == "gemma2"
        self.slides = sliding_layers(text)

    def build(self) -> bytes:
        # 1. Inputs.
        graph, size = self.graph, self.size
        seen = "s + t" if self.is_cached else "t"
        hidden = graph.input("embedded", "b", "t", self.width)
        self.turn = [graph.input(name, "b", "t", 1, size) for name in ("cos", "sin")]
        masks = {False: graph.input("mask", "b", "t", seen)}
        if any(self.slides):
            masks[True] = graph.input("near", "b", "t", seen)
        wanted = graph.input("wanted", "b", "w", 1, kind=_INT64)
        # 2. Layers; the last one computes wanted positions only.
        for number, slides in enumerate(self.slides):
            is_last = number == len(self.slides) - 1
            mask, turn, select = masks[slides], self.turn, None
            if is_last:

                def select(value: Value) -> Value:
                    return graph.node("GatherND", value, wanted, batch_dims=1)

                mask, turn = select(mask), [select(part) for part in turn]
            attend = partial(self._attend, number=number, mask=mask, turn=turn)
            hidden = run_layer(self._layer(number, slides), hidden, attend, select)
        # 3. Final norm.
        hidden = self._norm("language_model.norm")(hidden)
        graph.output(hidden, "hidden", "b", "w", self.width)
        return graph.serialise()

    def _layer(self, number: int, slides: bool) -> Layer[Value]:
        text, d, name = self.text, self.width, f"language_model.layers.{number}"
        inner, heads = text["intermediate_size"], self.heads * self.size
        kv = self.kv_heads * self.size

        def linear(part: str, rows: int, columns: int) -> Callable[[Value], Value]:
            return partial(self._linear, name=f"{name}.{part}", rows=rows, columns=columns)

        # Gemma 2 has two more norms; Gemma's post-attention norm is the one before its MLP.
        after = self._norm(f"{name}.post_attention_layernorm")
        return Layer(
            before_attention=self._norm(f"{name}.input_layernorm"),
            after_attention=after if self.is_gemma2 else None,
            before_mlp=self._norm(f"{name}.pre_feedforward_layernorm") if self.is_gemma2 else after,
            after_mlp=self._norm(f"{name}.post_feedforward_layernorm") if self.is_gemma2 else None,
            query=linear("self_attn.q_proj", heads, d),
            key=linear("self_attn.k_proj", kv, d),
            value=linear("self_attn.v_proj", kv, d),
            out=linear("self_attn.o_proj", d, heads),
            gate=linear("mlp.gate_proj", inner, d),
            up=linear("mlp.up_proj", inner, d),
            down=linear("mlp.down_proj", d, inner),
            activation=lambda value: self.graph.node("Gelu", value, approximate="tanh"),
            slides=slides,
        )

    def _linear(self, value: Value, *, name: str, rows: int, columns: int) -> Value:
        """Multiply ``(b, t, columns)``: Gemm takes two sides, and prepares its weights."""
        graph = self.graph
        shape = graph.node("Shape", value)
        sides = graph.node(
            "Concat",
            graph.node("Slice", shape, *map(graph.constant, ([0], [2]))),
            graph.constant([rows]),
            axis=0,
        )
        flat = graph.linear(graph.reshape(value, -1, columns), name, rows, columns, bias=False)
        return graph.node("Reshape", flat, sides)

    def _norm(self, name: str) -> Callable[[Value], Value]:
        def norm(value: Value) -> Value:
            # Gemma stores what is to be added to one.
            factors = self.graph.weight(f"{name}.weight", self.width) + self.graph.constant(1.0)
            return self.graph.node(
                "RMSNormalization",
                value,
                factors,
                axis=-1,
                epsilon=float(self.text["rms_norm_eps"]),
            )

        return norm

    def _rotated(self, value: Value, count: int, turn: Sequence[Value]) -> Value:
        """Rotate ``(b, t, count * size)`` by position: ``(b, count, t, size)``."""
        graph = self.graph
        value = graph.reshape(value, 0, 0, count, self.size)
        halves = graph.nodes("Split", 2, value, axis=-1, num_outputs=2)
        rolled = graph.node("Concat", *reversed(halves), axis=-1)
        return graph.node("Transpose", value * turn[0] + rolled * turn[1], perm=[0, 2, 1, 3])

    def _attend(
        self,
        queries: Value,
        keys: Value,
        values: Value,
        *,
        number: int,
        mask: Value,
        turn: Sequence[Value],
    ) -> Value:
        graph, kv, size = self.graph, self.kv_heads, self.size
        group = self.heads // kv
        # 1. Rotate queries and keys; the new keys and values are outputs of the graph.
        queries = self._rotated(queries, self.heads, turn)
        # Heads that share keys are one matrix: nothing is repeated.
        queries = graph.reshape(queries, 0, kv, -1, size)
        keys = self._rotated(keys, kv, self.turn)
        values = graph.node("Transpose", graph.reshape(values, 0, 0, kv, size), perm=[0, 2, 1, 3])
        for name, value in (("keys", keys), ("values", values)):
            graph.output(value, f"new_{name}_{number}", "b", kv, "t", size)
        past = []
        if self.is_cached:
            past = [
                graph.input(f"{name}_{number}", "b", kv, "s", size) for name in ("keys", "values")
            ]
        # 2. Scores of earlier and new tokens, joined: keys of the cache are not copied.
        scale = (self.text["query_pre_attn_scalar"] if self.is_gemma2 else size) ** -0.5
        queries = queries * graph.constant(scale)
        parts = [
            graph.node("MatMul", queries, graph.node("Transpose", part, perm=[0, 1, 3, 2]))
            for part in (*past[:1], keys)
        ]
        scores = graph.node("Concat", *parts, axis=-1) if past else parts[0]
        # Gemma 2 caps its attention logits.
        cap = self.text.get("attn_logit_softcapping") if self.is_gemma2 else None
        if cap:
            capped = graph.node("Tanh", scores * graph.constant(1.0 / cap))
            scores = capped * graph.constant(float(cap))
        # 3. Mask and softmax, with a side for the heads that share keys.
        flat = graph.node("Shape", scores)
        split = graph.node(
            "Concat",
            graph.constant([0, 0, group, -1]),
            graph.node("Slice", flat, graph.constant([3]), graph.constant([4])),
            axis=0,
        )
        scores = graph.node("Reshape", scores, split)
        scores += graph.node("Unsqueeze", mask, graph.constant([1, 2]))
        weights = graph.node("Reshape", graph.node("Softmax", scores, axis=-1), flat)
        seen = self._weighted(weights, past, values)
        seen = graph.node(
            "Transpose", graph.reshape(seen, 0, self.heads, -1, size), perm=[0, 2, 1, 3]
        )
        return graph.reshape(seen, 0, 0, self.heads * size)

    def _weighted(self, weights: Value, past: Sequence[Value], values: Value) -> Value:
        """Return weighted values of earlier and of new tokens."""
        graph = self.graph
        if past:
            slots = graph.node("Shape", past[1], start=2, end=3)
            last, axis = graph.constant([2**31]), graph.constant([3])
            before = graph.node("Slice", weights, graph.constant([0]), slots, axis)
            new = graph.node("Slice", weights, slots, last, axis)
            return graph.node("MatMul", before, past[1]) + graph.node("MatMul", new, values)
        return graph.node("MatMul", weights, values)
