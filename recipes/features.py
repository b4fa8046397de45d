"""What frozen blocks see, kept as files, so that what is above them trains at its own speed."""

import argparse
import logging
import time
from pathlib import Path

import numpy as np
import torch
from transformers import SiglipVisionModel

from pgvision.arrays import FloatArray
from pgvision.files import replaced_path
from recipes.optimisers import has_bfloat16
from recipes.shards import load_shard
from recipes.vision_tower import load_eyes

_LOG = logging.getLogger(__name__)
_BATCH = 16


def features_path(shard: Path) -> Path:
    """Return where the features of a shard's pictures lie."""
    return shard.with_suffix(".features.npy")


def relit(
    images: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", rng: np.random.Generator
) -> FloatArray:
    """Change the light of pictures ``(n, h, w, 3)`` a little and scale them to [-1, 1]."""
    count = len(images)
    gain = rng.uniform(0.85, 1.15, (count, 1)) * rng.uniform(0.96, 1.04, (count, 3))
    shift = rng.uniform(-12, 12, (count, 1))
    light = images * gain[:, None, None].astype(np.float32) + shift[:, None, None].astype(
        np.float32
    )
    scaled: FloatArray = (np.clip(light, 0, 255) / np.float32(127.5) - 1).astype(np.float32)
    return scaled


@torch.inference_mode()
def save_features(shard: Path, tower: SiglipVisionModel, *, seed: int = 0) -> None:
    """Write ``(n, p, d)`` float16 features of a shard's pictures beside it.

    Args:
        shard: A file that `save_shard` wrote.
        tower: The frozen blocks; what its last block gives is kept, before the last norm.
        seed: Of the light.
    """
    images = load_shard(shard).images
    rng = np.random.default_rng(seed)
    config = tower.config
    shape = (len(images), (config.image_size // config.patch_size) ** 2, config.hidden_size)
    device = next(tower.parameters()).device
    with replaced_path(features_path(shard)) as aside:
        kept = np.lib.format.open_memmap(aside, "w+", np.float16, shape)
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            pixels = torch.from_numpy(relit(part, rng)).permute(0, 3, 1, 2).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device)):
                seen = tower(pixels, output_hidden_states=True).hidden_states[-1]
            kept[start : start + len(part)] = seen.float().cpu().numpy()
        kept.flush()


def main() -> None:
    """Cache the features that are missing: ``python -m recipes.features``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder of shards")
    parser.add_argument("--eyes", type=Path, required=True, help="DINOv2's weights, safetensors")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--first", nargs="*", default=[], help="names of shards that come first")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    tower = load_eyes(options.eyes, blocks=options.blocks).to(options.device).eval()
    names = [one.name for one in sorted(options.cache.glob("*.npz"))]
    for name in sorted(names, key=lambda one: (one.removesuffix(".npz") not in options.first, one)):
        path, started = options.cache / name, time.monotonic()
        if not features_path(path).exists():
            save_features(path, tower, seed=len(name))
            _LOG.info("%s in %.0f s", features_path(path), time.monotonic() - started)


if __name__ == "__main__":
    main()
