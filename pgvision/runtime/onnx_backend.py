"""Backend over ONNX Runtime: the default on a CPU, without torch and transformers."""

import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from pgvision.arrays import ByteArray, FloatArray, IntArray
from pgvision.errors import CheckpointError
from pgvision.runtime.checkpoint_files import StoredTensor, map_tensor, read_tensor_table
from pgvision.runtime.checkpoints import read_json
from pgvision.runtime.gemma import rotary_frequencies
from pgvision.runtime.onnx_graph import decoder_graph, sliding_layers, vision_graph
from pgvision.runtime.protocol import KeyValueCache, attention_mask

MAX_PARAMETERS: Final = 200_000_000
"""Larger checkpoints run on torch, which keeps their weights in half precision."""
_MAX_THREADS: Final = 8
_MIN_BFLOAT16: Final = 10_000_000  # parameters; a smaller image encoder does not repay loading time
_EMBEDDINGS: Final = "language_model.embed_tokens.weight"
_HEAD: Final = "lm_head.weight"
_TEXT_KEYS: Final = (
    *("hidden_size", "head_dim", "num_attention_heads", "num_key_value_heads", "intermediate_size"),
    *("num_hidden_layers", "vocab_size", "rms_norm_eps", "model_type"),
)
_IMAGE_KEYS: Final = ("image_mean", "image_std", "resample", "rescale_factor")
_VISION_KEYS: Final = (
    *("hidden_size", "image_size", "patch_size", "intermediate_size", "num_attention_heads"),
    "num_hidden_layers",
)


def why_unsupported(folder: Path) -> str | None:
    """Return why a checkpoint folder cannot run on ONNX Runtime; None: it can.

    Args:
        folder: With ``config.json``, ``processor_config.json`` and safetensors.
    """
    try:
        config = read_json(folder / "config.json")
        text, vision = config["text_config"], config["vision_config"]
        images = _image_settings(folder)
        table = read_tensor_table(folder)
    except (CheckpointError, KeyError) as error:
        return f"not a plain checkpoint folder ({error})"
    # Collect reasons in the order of their importance; the first that applies is returned.
    missing = [key for key in _TEXT_KEYS if text.get(key) is None]
    missing += [key for key in _VISION_KEYS if vision.get(key) is None]
    if text.get("model_type") == "gemma2":  # None means without; a missing one has a default
        keys = ("query_pre_attn_scalar", "attn_logit_softcapping", "sliding_window")
        missing += [key for key in keys if key not in text]
    rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
    activations = {
        part.get(key, "gelu_pytorch_tanh")
        for part in (text, vision)
        for key in ("hidden_act", "hidden_activation")
    }
    size = _size(table, "")
    reasons = {
        f"config.json lacks {', '.join(missing)}": bool(missing),
        f"{text.get('model_type')} is not gemma or gemma2": text.get("model_type")
        not in ("gemma", "gemma2"),
        f"{size:,} parameters": size > MAX_PARAMETERS,
        f"rotary positions of {rope}": bool(text.get("rope_scaling"))  # of older releases
        or rope.get("rope_type", "default") not in ("default", "llama3"),
        "attention has biases": bool(text.get("attention_bias")),
        f"activations {sorted(map(str, activations))}": not activations
        <= {"gelu_pytorch_tanh", None},
        "the vision tower has a pooling head": bool(vision.get("vision_use_head", True))
        and any(name.startswith("vision_tower.head") for name in table),
        "images are not resized, rescaled and normalised": not all(
            images.get(key, True) for key in ("do_resize", "do_rescale", "do_normalize")
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _size(table: Mapping[str, StoredTensor], start: str) -> int:
    """Return the number of parameters of tensors with a name that starts so."""
    tensors = (tensor for name, tensor in table.items() if name.startswith(start))
    return sum(math.prod(tensor.shape) for tensor in tensors)


def _bfloat16_core() -> Any:
    """Return OpenVINO's core; None: it is missing, or this CPU does not multiply bfloat16."""
    try:
        import openvino
    except ImportError:  # a dependency on x86 only
        return None
    core = openvino.Core()
    return core if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else None


def default_threads() -> int:
    """Return the CPUs that this process may use, at most 8; ``OMP_NUM_THREADS`` counts."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    has_affinity = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(count, _MAX_THREADS)


class OnnxBackend:
    """A small checkpoint folder on ONNX Runtime in float32.

    On a CPU that multiplies bfloat16, OpenVINO computes larger image encoders in it, three times
    faster than ONNX Runtime, which has no bfloat16 on a CPU.

    Args:
        folder: See `why_unsupported`.
        threads: Of the CPU; None: see `default_threads`.
        dtype: "float32": the image encoder, too; None: the faster one.

    Raises:
        CheckpointError: If weights are missing, left over, damaged or of another shape.
    """

    def __init__(
        self, folder: Path, *, threads: int | None = None, dtype: str | None = None
    ) -> None:
        # 1. Settings.
        config = read_json(folder / "config.json")
        self._text, vision = config["text_config"], config["vision_config"]
        self._images = _image_settings(folder)
        self.resolution = int(vision["image_size"])
        self.num_image_tokens = (self.resolution // int(vision["patch_size"])) ** 2
        self.threads = threads or default_threads()
        # 2. Graphs; each weight must be used, or the architecture differs.
        tensors = read_tensor_table(folder)
        used: set[str] = set()
        is_large = _size(tensors, "vision_tower.") >= _MIN_BFLOAT16
        openvino = _bfloat16_core() if dtype is None and is_large else None
        # OpenVINO reads a graph that contains its weights.
        copied = None if openvino is None else folder
        width = int(self._text["hidden_size"])
        encoder = vision_graph(tensors, vision, width, used, folder=copied)
        decoders = [
            decoder_graph(tensors, self._text, used, is_cached=flag) for flag in (False, True)
        ]
        # Where they are tied, one of the two suffices.
        is_tied = config.get("tie_word_embeddings", True)
        names = [name for name in (_EMBEDDINGS, _HEAD) if name in tensors or not is_tied]
        tables = [_map_embeddings(folder, tensors, self._text, name) for name in names or [_HEAD]]
        self._table, self._head = tables[0], tables[-1]
        unused = sorted(tensors.keys() - used - {_EMBEDDINGS, _HEAD})
        if unused:
            raise CheckpointError(f"{folder}: {len(unused)} weights have no place: {unused[:3]}")
        self._prompt, self._step = (self._session(graph, folder) for graph in decoders)
        self._vision = self._encoder(encoder, folder, openvino)
        in_bfloat16 = "; image encoder: OpenVINO, bfloat16" if openvino else ""
        self.description = f"CPU, {self.threads} threads; ONNX Runtime, float32{in_bfloat16}"
        # 3. Rotary frequencies: PaliGemma counts positions from 1.
        self._frequencies = rotary_frequencies(self._text)
        self._scale = np.float32(self._text["hidden_size"] ** 0.5)
        self._slides = any(sliding_layers(self._text))
        self._float_head: FloatArray | None = None

    def _session(self, graph: bytes, folder: Path) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder)
        )
        try:
            return onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own types are many
            raise CheckpointError(f"{folder}: ONNX Runtime cannot load it ({error})") from error

    def _encoder(self, graph: bytes, folder: Path, openvino: Any) -> Callable[[FloatArray], Any]:
        """Return the image encoder; without OpenVINO's core it computes in float32."""
        if openvino is None:
            session = self._session(graph, folder)
            return lambda pixels: session.run(None, {"pixels": pixels})[0]
        options = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "INFERENCE_NUM_THREADS": self.threads,
            "ENABLE_CPU_PINNING": False,  # other processes of this machine may be pinned, too
        }
        model = openvino.compile_model(openvino.read_model(BytesIO(graph)), "CPU", options)
        lock = threading.Lock()

        def encode(pixels: FloatArray) -> Any:
            # The compiled model has one set of tensors, which a second thread would overwrite.
            with lock:
                return np.concatenate([model(image[None])[0] for image in pixels])

        return encode

    def encode(self, images: Sequence[ByteArray]) -> list[FloatArray]:
        """See `Backend.encode`."""
        features = self._vision(np.stack([self._pixels(image) for image in images]))
        # Rows of their own: a view would keep the whole batch in memory.
        return [row.copy() for row in features]

    def _pixels(self, bgr: ByteArray) -> FloatArray:
        """Return ``(3, side, side)`` as SigLIP's processor does: Pillow's resize, then scaled."""
        side, settings = self.resolution, self._images
        image = Image.fromarray(np.ascontiguousarray(bgr[..., ::-1]))
        small = np.asarray(image.resize((side, side), settings["resample"]), np.float32)
        mean, std = (np.array(settings[name], np.float32) for name in ("image_mean", "image_std"))
        scaled = (small * np.float32(settings["rescale_factor"]) - mean) / std
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))

    def allocate(self, rows: int, slots: int) -> KeyValueCache:
        """See `Backend.allocate`."""
        shape = (rows, self._text["num_key_value_heads"], slots, self._text["head_dim"])
        count = 2 * self._text["num_hidden_layers"]
        return KeyValueCache([np.zeros(shape, np.float32) for _ in range(count)])

    def run(
        self,
        feeds: Sequence[Sequence[int]],
        cache: KeyValueCache,
        *,
        starts: Sequence[int],
        prompts: Sequence[int] | None,
        features: Sequence[FloatArray] | None,
        wanted: Sequence[Sequence[int]],
    ) -> FloatArray:
        """See `Backend.run`."""
        # 1. Embed tokens and image features.
        embedded = self._embed(feeds, features)
        t, slots = embedded.shape[1], 0 if prompts is not None else cache.slots
        # 2. Positions, masks, and the wanted positions, padded to one number for all rows.
        places = np.array(starts)[:, None] + np.arange(t)
        angles = (places + 1)[..., None] * self._frequencies
        cos, sin = np.cos(angles), np.sin(angles)
        most = max(map(len, wanted))
        inputs = {
            "embedded": embedded,
            "cos": np.concatenate([cos, cos], -1, dtype=np.float32)[:, :, None],
            "sin": np.concatenate([-sin, sin], -1, dtype=np.float32)[:, :, None],
            "mask": _joined_mask(starts, t, slots, prompts),
            "wanted": np.array([[*row, *[0] * (most - len(row))] for row in wanted])[..., None],
        }
        if self._slides:
            window = int(self._text["sliding_window"])
            inputs["near"] = _joined_mask(starts, t, slots, prompts, window=window)
        # 3. Run the graph: the prompt's has no cached keys and values.
        layers = len(cache.tables) // 2
        session = self._prompt
        if prompts is None:
            session = self._step
            for number in range(layers):
                inputs[f"keys_{number}"] = cache.tables[number][: len(feeds)]
                inputs[f"values_{number}"] = cache.tables[layers + number][: len(feeds)]
        *new, hidden = session.run(None, inputs)
        # 4. Copy new keys and values to the cache, without padding.
        for table, fresh in zip(cache.tables, [*new[::2], *new[1::2]], strict=True):
            for row, (start, feed) in enumerate(zip(starts, feeds, strict=True)):
                table[row, :, start : start + len(feed)] = fresh[row, :, : len(feed)]
        found: FloatArray = np.concatenate(
            [hidden[row, : len(positions)] for row, positions in enumerate(wanted)]
        )
        return found

    def _embed(
        self, feeds: Sequence[Sequence[int]], features: Sequence[FloatArray] | None
    ) -> FloatArray:
        """Return ``(b, t, d)``: image tokens as they are, others scaled as Gemma does."""
        shape = len(feeds), max(map(len, feeds)), int(self._text["hidden_size"])
        embedded = np.zeros(shape, np.float32)
        for row, feed in enumerate(feeds):
            count = 0 if features is None else len(features[row])
            if features is not None:
                embedded[row, :count] = features[row]
            rows = _to_float32(self._table[list(feed[count:])])
            embedded[row, count : len(feed)] = rows * self._scale
        return embedded

    def logits(
        self, hidden: FloatArray, positions: Sequence[int], ids: slice | IntArray | None
    ) -> FloatArray:
        """See `Backend.logits`."""
        if self._float_head is None:
            self._float_head = _to_float32(self._head)
        rows = self._float_head if ids is None else self._float_head[ids]
        found: FloatArray = hidden[list(positions)] @ rows.T
        return found

    def synchronise(self) -> None:
        """See `Backend.synchronise`; ONNX Runtime returns when it is done."""


def _to_float32(values: Any) -> FloatArray:
    """Convert float16, or bfloat16's bits, to float32."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)  # type: ignore[no-any-return]
    return values.astype(np.float32)  # type: ignore[no-any-return]


def _joined_mask(
    starts: Sequence[int], t: int, slots: int, prompts: Sequence[int] | None, *, window: int = 0
) -> FloatArray:
    """Return ``(b, t, slots + t)``: the mask over the cache's slots, then over the new tokens."""
    # New tokens are slots, too, for the mask; here they come after the cache.
    whole = attention_mask(starts, t, max(max(starts) + t, slots), prompts, window=window)
    if whole is None:
        return np.zeros((len(starts), t, slots + t), np.float32)
    joined = np.full((len(starts), t, slots + t), -np.inf, np.float32)
    for row, start in enumerate(starts):
        joined[row, :, :start] = whole[row, :, :start]
        joined[row, :, slots:] = whole[row, :, start : start + t]
    return joined


def _image_settings(folder: Path) -> dict[str, Any]:
    """Read the image processor's settings, wherever this release of transformers wrote them."""
    paths = [folder / name for name in ("processor_config.json", "preprocessor_config.json")]
    for content in [read_json(path) for path in paths if path.is_file()]:
        settings = content.get("image_processor", content)
        if set(_IMAGE_KEYS) <= set(settings):
            return dict(settings)
    keys = ", ".join(_IMAGE_KEYS)
    raise CheckpointError(f"{folder}: has no processor_config.json with {keys}; copy its base's")


def _map_embeddings(folder: Path, tensors: Any, text: dict[str, Any], name: str) -> Any:
    shape = text["vocab_size"], text["hidden_size"]
    stored = tensors.get(name)
    if stored is None or stored.shape != shape:
        found = "is missing" if stored is None else f"is {stored.shape}"
        raise CheckpointError(f"{folder}: weights: {name} {found}, expected {shape}")
    return map_tensor(folder, stored)
