"""What the tiny checkpoint's tower says of rendered scenes, for a new tower to say the same."""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from transformers import PaliGemmaForConditionalGeneration

from pgvision.files import replaced_path
from recipes.architecture import RESOLUTION
from recipes.optimisers import has_bfloat16
from recipes.shards import load_shard

_BATCH = 32


def teacher_path(shard: Path) -> Path:
    """Return where the teacher's tokens of a shard's pictures lie."""
    return shard.with_suffix(".teacher.npy")


@torch.inference_mode()
def save_lessons(shard: Path, tiny: Path) -> None:
    """Write ``(n, 100, d)`` float16 picture tokens, as the language model is given them."""
    model = PaliGemmaForConditionalGeneration.from_pretrained(tiny, dtype=torch.float32).eval()
    images = load_shard(shard).images
    kept = []
    for start in range(0, len(images), _BATCH):
        part = [
            cv2.resize(image, (RESOLUTION, RESOLUTION), interpolation=cv2.INTER_AREA)
            for image in images[start : start + _BATCH]
        ]
        pixels = torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16("cpu")):
            seen = model.model.vision_tower(pixels).last_hidden_state
            tokens = model.model.multi_modal_projector(seen)
        kept.append(tokens.float().numpy().astype(np.float16))
    with replaced_path(teacher_path(shard)) as aside:
        np.save(aside, np.concatenate(kept))


def main() -> None:
    """Write the lessons of rendered shards: ``python -m recipes.teacher``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--tiny", type=Path, required=True)
    options = parser.parse_args()
    for path in sorted(options.cache.glob("shard_*.npz")):
        if not teacher_path(path).exists():
            save_lessons(path, options.tiny)


if __name__ == "__main__":
    main()
