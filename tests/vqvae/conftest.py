"""Codec files of random numbers that have exactly Google's names and shapes."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

ENCODER = {0: (16, 1, 4, 4), 2: (32, 16, 4, 4), 4: (64, 32, 4, 4), 6: (128, 64, 4, 4)}
DECODER = {4: (128, 128, 4, 4), 6: (128, 64, 4, 4), 8: (64, 32, 4, 4), 10: (32, 16, 4, 4)}
BLOCK = {0: (128, 128, 3, 3), 2: (128, 128, 3, 3), 4: (128, 128, 1, 1)}


def google_table() -> dict[str, tuple[int, ...]]:
    """The published names and shapes, spelled out from the public description."""
    weights = {f"encoder.{i}": shape for i, shape in ENCODER.items()}
    weights |= {f"encoder.{b}.net.{i}": shape for b in (8, 9) for i, shape in BLOCK.items()}
    weights["encoder.10"] = (512, 128, 1, 1)
    weights["decoder.0"] = (128, 512, 1, 1)
    weights |= {f"decoder.{b}.net.{i}": shape for b in (2, 3) for i, shape in BLOCK.items()}
    weights |= {f"decoder.{i}": shape for i, shape in DECODER.items()}
    weights["decoder.12"] = (1, 16, 1, 1)
    transposed = {f"decoder.{i}" for i in DECODER}
    table: dict[str, tuple[int, ...]] = {}
    for name, shape in weights.items():
        table[f"{name}.weight"] = shape
        table[f"{name}.bias"] = (shape[1 if name in transposed else 0],)
    return table | {
        "_vq_vae._embedding": (128, 512),
        "_vq_vae._ema_cluster_size": (128,),
        "_vq_vae._ema_w": (128, 512),
    }


@pytest.fixture(scope="session")
def random_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in google_table().items():
        scale = 1.6 / np.sqrt(np.prod(shape[1:])) if len(shape) == 4 else 0.3
        tensors[name] = (rng.normal(size=shape) * scale).astype(np.float32)
    return tensors


@pytest.fixture(scope="session")
def npz(tmp_path_factory: pytest.TempPathFactory, random_tensors: dict[str, np.ndarray]) -> Path:
    path = tmp_path_factory.mktemp("codec") / "random.npz"
    np.savez(path, **random_tensors)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="session")
def codec_file(npz: Path, random_tensors: dict[str, np.ndarray]) -> Path:
    path = npz.with_suffix(".safetensors")
    save_file(random_tensors, path)
    return path
