"""From a checkpoint to ONNX: the vision tower, and one graph that reads prompts and writes answers.

The output layer is in the second graph, the embedding beside it as numbers of its own: a lookup
needs no graph, and one that lies in both would be there twice.
"""

import json
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from pgvision.errors import CheckpointError, DependencyError, OptionError
from pgvision.files import write_text
from pgvision.runtime.checkpoints import CARD_NAME
from pgvision.runtime.engine import Engine
from pgvision.runtime.loading import load
from pgvision.runtime.onnx_files import DECODER, EMBEDDINGS, SETTINGS, VISION
from pgvision.runtime.onnx_weights import WeightForm, half_bytes, pack, require_form

_COPIED = ("config.json", CARD_NAME, "tokenizer.json", "tokenizer_config.json")
_AUTO = torch.export.Dim.AUTO


def export_onnx(model: str | Path | None, out: Path, *, weights: WeightForm | None = None) -> Path:
    """Write a checkpoint as a folder that onnxruntime answers from, without torch.

    Args:
        model: See `pgvision.runtime.load`.
        out: A new folder; tasks take it as ``model=``.
        weights: What they are written in: ``"float32"``, ``"float16"``, ``"bfloat16"`` or
            ``"int8"`` (rounded: other answers now and then). None: what the checkpoint has.

    Returns:
        ``out``.

    Raises:
        DependencyError: If onnx and onnxscript are missing.
        OptionError: If ``out`` is not empty, or there is no such form of weights.
        CheckpointError: If the checkpoint has no folder of whole weights.
    """
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise DependencyError(f"export needs {package}: pip install 'pgvision[onnx]'")
    if weights is not None:
        require_form(weights)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"{out}: expected a new or an empty folder; name another")
    engine = load(model, device="cpu", dtype="float32")
    if not engine.card.is_local or engine.card.base is not None:
        name = engine.card.name
        raise CheckpointError(f"{name}: expected a folder with whole weights; save it to one")
    form = weights or _form_of(Path(engine.card.location))
    out.mkdir(parents=True, exist_ok=True)
    aside = out / ".aside"
    aside.mkdir()
    try:
        _write(engine, aside, form)
        for file in aside.iterdir():
            file.replace(out / file.name)
    finally:
        shutil.rmtree(aside)
    return out


def _form_of(folder: Path) -> WeightForm:
    """Return what most numbers of a checkpoint are written in."""
    from safetensors import safe_open

    names = {"F16": "float16", "BF16": "bfloat16"}
    counts: dict[str, int] = {}
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, "numpy") as file:
            for key in file.keys():  # noqa: SIM118  (it is no mapping)
                part = file.get_slice(key)
                kind = names.get(part.get_dtype(), "float32")
                counts[kind] = counts.get(kind, 0) + int(np.prod(part.get_shape()))
    return cast("WeightForm", max(counts, key=lambda kind: counts[kind], default="float32"))


@torch.no_grad()
def _write(engine: Engine, folder: Path, form: WeightForm) -> None:
    model = engine.model
    pixels = torch.randn(1, 3, engine.resolution, engine.resolution)
    _export(_Vision(model), (pixels,), folder / VISION, ["pixels"], ["features"], None)
    decoder = _Decoder(model)
    example, shapes = _decoder_inputs(decoder, model.config.text_config)
    names = ["logits", "new_keys", "new_values"]
    _export(decoder, example, folder / DECODER, list(shapes), names, shapes)
    for name in (VISION, DECODER):
        pack(folder / name, form)
    _write_embeddings(model.model.language_model.embed_tokens.weight.numpy(), folder, form)
    source = Path(engine.card.location)
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if not (source / CARD_NAME).is_file():  # the kind was in the folder's name
        told = {"kind": engine.card.kind, "codec": engine.card.codec}
        write_text(folder / CARD_NAME, json.dumps(told) + "\n")
    write_text(folder / SETTINGS, json.dumps(_settings(engine), indent=1) + "\n")


def _decoder_inputs(
    decoder: "_Decoder", text: Any
) -> tuple[tuple[Tensor, ...], dict[str, dict[int, Any]]]:
    """Return example inputs, and which of their sides may have any length, in order."""
    shapes: dict[str, dict[int, Any]] = {
        "embedded": {1: _AUTO},
        "cos": {0: _AUTO},
        "sin": {0: _AUTO},
        "mask": {0: _AUTO, 1: _AUTO},
        "near": {0: _AUTO, 1: _AUTO},
        "keys": {2: _AUTO},
        "values": {2: _AUTO},
        "wanted": {0: _AUTO},
    }
    size, width = text.head_dim, text.hidden_size
    kept = torch.randn(text.num_hidden_layers, text.num_key_value_heads, 7, size)
    # Numbers that differ, so that no two lengths are taken for one.
    example = {
        "embedded": torch.randn(1, 5, width),
        "cos": torch.randn(5, size),
        "sin": torch.randn(5, size),
        "mask": torch.zeros(5, 12),
        "near": torch.zeros(5, 12),
        "keys": kept,
        "values": kept.clone(),
        "wanted": torch.tensor([0, 2, 4]),
    }
    return tuple(example.values()), shapes


def _write_embeddings(weight: "np.ndarray[Any, Any]", folder: Path, form: WeightForm) -> None:
    """Write the table as it is stored, unscaled; bfloat16, which numpy lacks, as its bits."""
    if form == "bfloat16":
        weight = np.frombuffer(half_bytes(weight, form), np.uint16).reshape(weight.shape)
    elif form != "float32":
        weight = weight.astype(np.float16)
    np.save(folder / EMBEDDINGS, weight, allow_pickle=False)


def _settings(engine: Engine) -> dict[str, Any]:
    text, images = engine.model.config.text_config, engine.processor.image_processor
    inner = engine.model.model.language_model
    return {
        "resolution": engine.resolution,
        "num_image_tokens": engine.num_image_tokens,
        "layers": text.num_hidden_layers,
        "kv_heads": text.num_key_value_heads,
        "head_dim": text.head_dim,
        "window": getattr(text, "sliding_window", None) or 0,
        "embed_scale": float(inner.embed_tokens.embed_scale),
        "frequencies": inner.rotary_emb.inv_freq.tolist(),
        "resample": int(images.resample),
        "rescale": images.rescale_factor,
        "mean": list(images.image_mean),
        "std": list(images.image_std),
    }


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
    shapes: Any,
) -> None:
    size = 4 * sum(each.numel() for each in module.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own packages
        torch.onnx.export(
            module.eval(),
            example,
            str(path),
            dynamo=True,
            external_data=size > 2**30,
            verbose=False,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
        )


class _Vision(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Return ``(1, n, d)`` image tokens."""
        seen: Tensor = self.model.get_image_features(pixels).pooler_output
        return seen


class _Decoder(nn.Module):
    """Gemma or Gemma 2 over t new tokens and p in the cache, written out as in `LanguageModel`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text, self.head = model.model.language_model, model.lm_head

    def forward(
        self,
        embedded: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        near: Tensor,
        keys: Tensor,
        values: Tensor,
        wanted: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits at the wanted places, and all keys and values.

        Args:
            embedded: ``(1, t, d)``.
            cos: ``(t, head_dim)`` of the tokens' places.
            sin: The same, signed so that rotating half is a roll.
            mask: ``(t, p + t)``, 0 or minus infinity.
            near: The same for layers that slide.
            keys: ``(layers, kv_heads, p, head_dim)``.
            values: The same.
            wanted: ``(w,)`` places among the t.
        """
        hidden, all_keys, all_values = embedded[0], [], []
        for number, layer in enumerate(self.text.layers):
            slides = getattr(layer.self_attn, "sliding_window", None) is not None
            seen, key, value = _attended(
                layer.self_attn,
                _normed(hidden, layer.input_layernorm),
                (cos, sin, near if slides else mask),
                (keys[number], values[number]),
            )
            hidden = _thought(layer, hidden, seen)
            all_keys.append(key)
            all_values.append(value)
        logits = self.head(_normed(hidden[wanted], self.text.norm))
        return logits, torch.stack(all_keys), torch.stack(all_values)


def _attended(
    attention: Any, x: Tensor, plan: tuple[Tensor, Tensor, Tensor], cache: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    cos, sin, mask = plan
    size, heads = attention.head_dim, cache[0].shape[0]
    t = x.shape[0]
    queries = _rotated(attention.q_proj(x).view(t, -1, size), cos, sin).transpose(0, 1)
    fresh = _rotated(attention.k_proj(x).view(t, heads, size), cos, sin).transpose(0, 1)
    key = torch.cat([cache[0], fresh], 1)
    value = torch.cat([cache[1], attention.v_proj(x).view(t, heads, size).transpose(0, 1)], 1)
    # Heads that share keys are one entry: nothing is repeated.
    queries = queries.reshape(heads, -1, t, size)
    weights = queries @ key[:, None].transpose(2, 3) * attention.scaling
    cap = getattr(attention, "attn_logit_softcapping", None)
    if cap:
        weights = (weights / cap).tanh() * cap
    seen = (weights + mask).softmax(-1) @ value[:, None]
    seen = seen.reshape(-1, t, size).transpose(0, 1).reshape(t, -1)
    return attention.o_proj(seen), key, value


def _thought(layer: Any, hidden: Tensor, seen: Tensor) -> Tensor:
    mlp, after = layer.mlp, layer.post_attention_layernorm
    before_mlp = getattr(layer, "pre_feedforward_layernorm", None)
    hidden = hidden + (seen if before_mlp is None else _normed(seen, after))
    x = _normed(hidden, after if before_mlp is None else before_mlp)
    thought: Tensor = mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))
    if before_mlp is not None:
        thought = _normed(thought, layer.post_feedforward_layernorm)
    return hidden + thought


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = heads.shape[-1] // 2
    turned = torch.cat([heads[..., half:], heads[..., :half]], -1)
    return heads * cos[:, None] + turned * sin[:, None]


def _normed(hidden: Tensor, norm: Any) -> Tensor:
    return nn.functional.rms_norm(hidden, norm.weight.shape, norm.weight + 1.0, norm.eps)
