"""From a checkpoint to ONNX: the vision tower, and one graph that reads prompts and writes answers.

The output layer is in the second graph, the embedding beside it as numbers of its own: a lookup
needs no graph, and one that lies in both would be there twice.
"""

import json
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pgvision.errors import CheckpointError, DependencyError, OptionError
from pgvision.files import write_text
from pgvision.runtime.checkpoints import CARD_NAME
from pgvision.runtime.engine import Engine
from pgvision.runtime.loading import load
from pgvision.runtime.onnx_files import DECODER, EMBEDDINGS, SETTINGS, VISION

_MOST_BYTES = 2**31 - 2**24  # protobuf holds no file of 2 GB
_COPIED = ("config.json", CARD_NAME, "tokenizer.json", "tokenizer_config.json")


def export_onnx(model: str | Path | None, out: Path) -> Path:
    """Write a checkpoint as a folder that onnxruntime answers from, without torch.

    Args:
        model: See `pgvision.runtime.load`.
        out: A new folder; tasks take it as ``model=``.

    Returns:
        ``out``.

    Raises:
        DependencyError: If onnx and onnxscript are missing.
        OptionError: If ``out`` is not empty.
        CheckpointError: If the checkpoint is PaliGemma 2, has no folder, or is above 2 GB.
    """
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise DependencyError(f"export needs {package}: pip install 'pgvision[onnx]'")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"{out}: expected a new or an empty folder; name another")
    engine = load(model, device="cpu", dtype="float32")
    _require_exportable(engine)
    out.mkdir(parents=True, exist_ok=True)
    aside = out / ".aside"
    aside.mkdir()
    try:
        _write(engine, aside)
        for file in aside.iterdir():
            file.replace(out / file.name)
    finally:
        shutil.rmtree(aside)
    return out


def _require_exportable(engine: Engine) -> None:
    text, card = engine.model.config.text_config, engine.card
    if text.model_type != "gemma" or text.num_key_value_heads != 1:
        raise CheckpointError(f"{card.name}: only PaliGemma 1 and the carried ones are exported")
    if not card.is_local or card.base is not None:
        raise CheckpointError(f"{card.name}: expected a folder with whole weights; save it to one")
    size = 4 * sum(each.numel() for each in engine.model.parameters())
    if size > _MOST_BYTES:
        raise CheckpointError(f"{card.name}: {size / 1e9:.1f} GB in float32; ONNX files hold 2 GB")


@torch.no_grad()
def _write(engine: Engine, folder: Path) -> None:
    model, text = engine.model, engine.model.config.text_config
    layers, size, width = text.num_hidden_layers, text.head_dim, text.hidden_size
    pixels = torch.randn(1, 3, engine.resolution, engine.resolution)
    _export(_Vision(model), (pixels,), folder / VISION, ["pixels"], ["features"], None)
    auto = torch.export.Dim.AUTO
    shapes = {
        "embedded": {1: auto},
        "cos": {0: auto},
        "sin": {0: auto},
        "mask": {0: auto, 1: auto},
        "keys": {1: auto},
        "values": {1: auto},
        "wanted": {0: auto},
    }
    kept = torch.randn(layers, 7, size)
    # Numbers that differ, so that no two lengths are taken for one.
    example = (
        torch.randn(1, 5, width),
        torch.randn(5, size),
        torch.randn(5, size),
        torch.zeros(5, 12),
        kept,
        kept.clone(),
        torch.tensor([0, 2, 4]),
    )
    names = ["logits", "new_keys", "new_values"]
    _export(_Decoder(model), example, folder / DECODER, list(shapes), names, shapes)
    table = engine.machine.language.embed(torch.arange(text.vocab_size)[None])[0]
    np.save(folder / EMBEDDINGS, table.float().numpy())
    source, images = Path(engine.card.location), engine.processor.image_processor
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if not (source / CARD_NAME).is_file():  # the kind was in the folder's name
        told = {"kind": engine.card.kind, "codec": engine.card.codec}
        write_text(folder / CARD_NAME, json.dumps(told) + "\n")
    settings = {
        "resolution": engine.resolution,
        "num_image_tokens": engine.num_image_tokens,
        "layers": layers,
        "head_dim": size,
        "frequencies": model.model.language_model.rotary_emb.inv_freq.tolist(),
        "resample": int(images.resample),
        "rescale": images.rescale_factor,
        "mean": list(images.image_mean),
        "std": list(images.image_std),
    }
    write_text(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")


def _export(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
    shapes: Any,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own packages
        torch.onnx.export(
            module.eval(),
            example,
            str(path),
            dynamo=True,
            external_data=False,
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
    """Gemma over t new tokens and p in the cache, written out as in `LanguageModel`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text, self.head = model.model.language_model, model.lm_head

    def forward(
        self,
        embedded: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
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
            keys: ``(layers, p, head_dim)``.
            values: The same.
            wanted: ``(w,)`` places among the t.
        """
        hidden, all_keys, all_values = embedded[0], [], []
        for number, layer in enumerate(self.text.layers):
            attention, mlp = layer.self_attn, layer.mlp
            x = _normed(hidden, layer.input_layernorm)
            size = attention.head_dim
            queries = _rotated(attention.q_proj(x).view(x.shape[0], -1, size), cos, sin)
            fresh = _rotated(attention.k_proj(x)[:, None], cos, sin)[:, 0]
            key = torch.cat([keys[number], fresh])
            value = torch.cat([values[number], attention.v_proj(x)])
            weights = queries.transpose(0, 1) @ key.T * attention.scaling + mask
            seen = (weights.softmax(-1) @ value).transpose(0, 1)
            hidden = hidden + attention.o_proj(seen.reshape(x.shape[0], -1))
            x = _normed(hidden, layer.post_attention_layernorm)
            hidden = hidden + mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))
            all_keys.append(key)
            all_values.append(value)
        logits = self.head(_normed(hidden[wanted], self.text.norm))
        return logits, torch.stack(all_keys), torch.stack(all_values)


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = heads.shape[-1] // 2
    turned = torch.cat([heads[..., half:], heads[..., :half]], -1)
    return heads * cos[:, None] + turned * sin[:, None]


def _normed(hidden: Tensor, norm: Any) -> Tensor:
    return nn.functional.rms_norm(hidden, norm.weight.shape, norm.weight + 1.0, norm.eps)
