"""Real eyes: a vision tower that begins as DINOv2 and takes pixels in [-1, 1]."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the name everybody uses)
from transformers import SiglipVisionConfig, SiglipVisionModel

from pgvision.errors import CheckpointError

# What DINOv2 was trained to subtract and divide by: ImageNet's mean and deviation.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def eyes_config(*, blocks: int, resolution: int) -> SiglipVisionConfig:
    """Return the shapes of a ViT-S/14 with ``blocks`` blocks."""
    return SiglipVisionConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=blocks,
        num_attention_heads=6,
        image_size=resolution,
        patch_size=14,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-6,
        vision_use_head=False,
    )


def eyes_weights(path: Path, *, blocks: int, resolution: int) -> dict[str, Tensor]:
    """Read DINOv2's weights as the state of a ``SiglipVisionModel`` of `eyes_config`.

    The position table is resized to the grid; ImageNet's mean and deviation become part of the
    patch kernel, so that pixels come in [-1, 1]; the last norm begins as plain standardisation.

    Args:
        path: A safetensors file with DINOv2's weights under SiglipVisionModel's names, LayerScale
            folded in, and a square position table without the class token.
        blocks: How many blocks to keep.
        resolution: Side of the picture, in pixels: a multiple of 14.

    Raises:
        CheckpointError: If the file lacks a weight of the tower.
    """
    held = {name: value.float() for name, value in load_file(path).items()}
    needed = (
        *("position_embedding", "patch_embedding.weight", "patch_embedding.bias"),
        *(f"layers.{number}.mlp.fc2.weight" for number in range(blocks)),
    )
    for name in needed:
        if name not in held:
            raise CheckpointError(
                f"{path}: lacks {name}; expected {blocks} blocks of DINOv2 under "
                f"SiglipVisionModel's names"
            )
    table, kernel = held["position_embedding"], held["patch_embedding.weight"]
    state = {
        f"encoder.{name}": value
        for name, value in held.items()
        if name.startswith("layers.") and int(name.split(".")[1]) < blocks
    }
    mean, deviation = torch.tensor(_MEAN), torch.tensor(_DEVIATION)
    state["embeddings.patch_embedding.weight"] = kernel * (0.5 / deviation)[:, None, None]
    shift = (kernel * ((0.5 - mean) / deviation)[:, None, None]).sum((1, 2, 3))
    state["embeddings.patch_embedding.bias"] = held["patch_embedding.bias"] + shift
    state["embeddings.position_embedding.weight"] = _resized(table, resolution // 14)
    state["post_layernorm.weight"] = torch.ones(kernel.shape[0])
    state["post_layernorm.bias"] = torch.zeros(kernel.shape[0])
    return state


def _resized(table: Tensor, side: int) -> Tensor:
    """Resize ``(p, d)`` rows of a square grid to ``(side * side, d)``."""
    held = round(len(table) ** 0.5)
    grid = table.reshape(held, held, -1).permute(2, 0, 1)[None]
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", antialias=True)
    return grid[0].permute(1, 2, 0).reshape(side * side, -1)


def load_eyes(path: Path, *, blocks: int, resolution: int = 224) -> SiglipVisionModel:
    """Return a tower that begins as DINOv2; see `eyes_weights`."""
    tower = SiglipVisionModel(eyes_config(blocks=blocks, resolution=resolution))
    state = eyes_weights(path, blocks=blocks, resolution=resolution)
    prefix = "vision_model." if next(iter(tower.state_dict())).startswith("vision_model.") else ""
    tower.load_state_dict({prefix + name: value for name, value in state.items()})
    return tower
