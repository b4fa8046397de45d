"""Read and write codec weights; every file is checked before it is used.

Google's ``vae-oid.npz``, known by its sha256, and ``.safetensors`` files contain the same 49
tensors under the same names. The table below is the contract; a file that differs is refused.
"""

import hashlib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pgvision.errors import CodecError
from pgvision.files import replaced_path
from pgvision.hub import hub_if_it_answers
from vqvae.model import NUM_CODES, MaskVqVae

GOOGLE_FILE = "vae-oid.npz"
GOOGLE_BYTES = 8_479_556
GOOGLE_SHA256 = "5586010257b8536dddefab65e7755077f21d5672d5674dacf911f73ae95a4447"
GOOGLE_VARIABLE = "PGVISION_CODEC_GOOGLE"
_GOOGLE_SPACE = "big-vision/paligemma-hf"
# First 12 hex digits of the sha256 of the bundled codebook; it identifies the codec.
_TINY_CODEBOOK = "88364f8eb56f"
_TINY_PATH = Path(__file__).parent / "weights" / "tiny.safetensors"
# Running averages that only training needs; a released file may leave them out.
_BOOKKEEPING = frozenset({"_vq_vae._ema_cluster_size", "_vq_vae._ema_w"})


@cache
def tensor_table() -> Mapping[str, tuple[int, ...]]:
    """Return the name and shape of each of the 49 tensors of a codec.

    Source:
        google-research/big_vision reads exactly these names from ``vae-oid.npz``.

    Example:
        >>> tensor_table()["decoder.4.weight"], tensor_table()["_vq_vae._embedding"]
        ((128, 128, 4, 4), (128, 512))
    """
    with torch.device("meta"):
        shapes = {name: tuple(held.shape) for name, held in MaskVqVae().state_dict().items()}
    return MappingProxyType(shapes)


def checkpoint_path(source: str | Path) -> Path:
    """Return the file of a codec; see `load_checkpoint`.

    Raises:
        CodecError: If there is none.
    """
    if source == "google":
        return find_google()
    path = _TINY_PATH if source == "tiny" else Path(source)
    if not path.is_file():
        raise CodecError(f"codec weights: expected 'tiny', 'google' or a file; {path} is missing")
    return path


def load_checkpoint(source: str | Path) -> tuple[MaskVqVae, str]:
    """Load codec weights.

    Args:
        source: ``"tiny"`` (bundled with the package), ``"google"`` (`find_google`), or the path of
            a ``.safetensors`` file or of Google's ``.npz``; see `read_tensors`.

    Returns:
        The model in eval mode, and the identity of its codebook: ``"google"``, ``"tiny"``, or
        ``"codebook:"`` and 12 hex digits. The identity follows from the codebook, so a copy of
        a file, or one with only its decoder fine-tuned, reads the same codes.

    Raises:
        CodecError: If there is no such file, or it is not a whole, plain codec.
    """
    path = checkpoint_path(source)
    tensors = read_tensors(path)
    model = MaskVqVae()
    if _BOOKKEEPING - tensors.keys():
        # As if every code had been chosen once a step: the averages then equal the codebook.
        tensors["_vq_vae._ema_cluster_size"] = torch.ones(NUM_CODES)
        tensors["_vq_vae._ema_w"] = tensors["_vq_vae._embedding"].clone()
    model.load_state_dict(tensors)
    if path.suffix == ".npz":
        name = "google"
    else:
        digest = hashlib.sha256(tensors["_vq_vae._embedding"].numpy().tobytes()).hexdigest()[:12]
        name = "tiny" if digest == _TINY_CODEBOOK else f"codebook:{digest}"
    return model.eval().requires_grad_(False), name


def save_checkpoint(model: MaskVqVae, path: str | Path) -> None:
    """Write a codec as float32 safetensors, aside and then renamed.

    Args:
        model: The codec.
        path: Where to; must end in ``.safetensors``.

    Raises:
        CodecError: If the path has another ending.
    """
    if Path(path).suffix != ".safetensors":
        raise CodecError(f"a codec is written as .safetensors, got {path}")
    tensors = {k: v.detach().float().contiguous() for k, v in model.state_dict().items()}
    with replaced_path(path) as aside:
        save_file(tensors, aside, metadata={"format": "pgvision-mask-codec"})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a codec and check every tensor against the table.

    Args:
        path: A ``.safetensors`` of float numbers, which may leave out the two running averages
            (``_ema_cluster_size``, ``_ema_w``) that only training needs; or Google's ``.npz``.

    Returns:
        The tensors by name, in float32.

    Raises:
        CodecError: If the file is missing, broken or of another format, if an ``.npz`` is not
            Google's, or a tensor differs from the table in name or shape, is not of float numbers,
            or contains NaN or infinite numbers.
    """
    path = checkpoint_path(path)
    if path.suffix == ".npz":
        require_google(path)
        with np.load(path, allow_pickle=False) as arrays:
            tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    elif path.suffix == ".safetensors":
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise CodecError(f"{path}: broken or cut off ({error})") from error
    else:
        raise CodecError(f"codec weights: expected .safetensors or Google's .npz, got {path}")
    _require_table(tensors, path)
    return {name: tensor.float() for name, tensor in tensors.items()}


def _require_table(tensors: Mapping[str, Tensor], path: Path) -> None:
    missing = sorted(tensor_table().keys() - tensors.keys() - _BOOKKEEPING)
    extra = sorted(tensors.keys() - tensor_table().keys())
    if missing or extra:
        raise CodecError(
            f"{path}: not a mask codec: missing tensors {missing[:4]}, unknown {extra[:4]}"
        )
    for name, tensor in tensors.items():
        shape, expected = tuple(tensor.shape), tensor_table()[name]
        if shape != expected or not tensor.is_floating_point():
            raise CodecError(
                f"{path}: tensor {name} is {tensor.dtype} {shape}, expected floats {expected}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CodecError(f"{path}: tensor {name} contains NaN or infinite numbers")


def find_google() -> Path:
    """Find ``vae-oid.npz``: ``PGVISION_CODEC_GOOGLE``, else the hub's cache, else the hub.

    Raises:
        CodecError: If it is not found and cannot be downloaded; names the place to put it.
    """
    # 1. Where the user has put it.
    named = os.environ.get(GOOGLE_VARIABLE)
    if named:
        path = Path(named)
        path = path / GOOGLE_FILE if path.is_dir() else path
        if not path.is_file():
            raise CodecError(f"{GOOGLE_VARIABLE}={named}: there is no {GOOGLE_FILE} there")
        return path
    # 2. The hub, or its cache.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        with hub_if_it_answers():
            return Path(hf_hub_download(_GOOGLE_SPACE, GOOGLE_FILE, repo_type="space"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CodecError(
            f"Google's mask codec could not be downloaded from the hub space {_GOOGLE_SPACE} "
            f"({type(error).__name__}). Get {GOOGLE_FILE} ({GOOGLE_BYTES:,} bytes) from there or "
            f"from gs://big_vision/paligemma/{GOOGLE_FILE} on a machine with a network, and set "
            f"{GOOGLE_VARIABLE} to its path"
        ) from error


def require_google(path: Path) -> None:
    """Refuse a file that is not byte for byte Google's ``vae-oid.npz``.

    Raises:
        CodecError: If its sha256 differs.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != GOOGLE_SHA256:
        raise CodecError(
            f"{path}: not Google's codec: expected {GOOGLE_BYTES:,} bytes with sha256 "
            f"{GOOGLE_SHA256}, got {path.stat().st_size:,} bytes with {digest}. Download it again; "
            "write other codecs as .safetensors"
        )
