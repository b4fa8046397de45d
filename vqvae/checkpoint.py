"""Read and write codec weights; every file is checked before it is used.

Two formats contain the same 49 tensors under the same names: Google's ``.npz`` and our
``.safetensors``. The table below is the contract; a file that differs from it is refused.
"""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from tokenize import TokenError
from types import MappingProxyType

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
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
_SAFETENSORS_DTYPES = ("F16", "BF16", "F32")
# What zipfile, zlib and numpy's reader raise on damaged archives. RuntimeError: a member is
# encrypted; MemoryError: a header promises a huge array.
NPZ_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError, KeyError),
    *(SyntaxError, TokenError, TypeError, MemoryError, UserWarning),
)
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
            a ``.safetensors`` or ``.npz`` file, see `read_tensors`. A path is checked by its
            tensors only; ``"google"`` also by the size and sha256 of Google's file.

    Returns:
        The model in eval mode, and the identity of its codebook: ``"google"``, ``"tiny"``, or
        ``"codebook:"`` and 12 hex digits. The identity follows from the codebook, so a copy of
        a file, or one with only its decoder fine-tuned, reads the same codes.

    Raises:
        CodecError: If there is no such file, or it is not a whole, plain codec.
    """
    # 1. Find the file and check its tensors.
    path = checkpoint_path(source)
    if source == "google":
        require_google(path)
    tensors = read_tensors(path)
    # 2. The network; running averages may be missing.
    model = MaskVqVae()
    if _BOOKKEEPING - tensors.keys():
        # As if every code had been chosen once a step: the averages then equal the codebook.
        tensors["_vq_vae._ema_cluster_size"] = torch.ones(NUM_CODES)
        tensors["_vq_vae._ema_w"] = tensors["_vq_vae._embedding"].clone()
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False), _identity(path, tensors["_vq_vae._embedding"])


def save_checkpoint(model: MaskVqVae, path: str | Path, *, bookkeeping: bool = True) -> None:
    """Write a codec as float32 safetensors, aside and then renamed.

    Args:
        model: The codec.
        path: Where to; must end in ``.safetensors``.
        bookkeeping: Keep the running averages too (needed to train on, not to use).

    Raises:
        CodecError: If the path has another ending.
    """
    if Path(path).suffix != ".safetensors":
        raise CodecError(f"a codec is written as .safetensors, got {path}")
    tensors = {
        name: held.detach().float().contiguous()
        for name, held in model.state_dict().items()
        if bookkeeping or name not in _BOOKKEEPING
    }
    with replaced_path(path) as aside:
        save_file(tensors, aside, metadata={"format": "pgvision-mask-codec"})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a ``.safetensors`` or ``.npz`` codec and check every tensor against the table.

    Args:
        path: An ``.npz`` has all 49 tensors, as Google's has, in float32 and in C or Fortran order.
            A ``.safetensors`` is in float16, bfloat16 or float32, and may leave out the two running
            averages (``_ema_cluster_size``, ``_ema_w``) that only training needs.

    Returns:
        The tensors by name, in float32.

    Raises:
        CodecError: If the file is missing, truncated, of another format, or differs from the
            table in a name, shape or dtype, or a tensor is there twice, or is larger or smaller
            than its header promises (found before it is read), or contains NaN or infinite numbers.
    """
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors}
    if path.suffix not in readers:
        raise CodecError(f"codec weights: expected .safetensors or .npz, got {path}")
    tensors = readers[path.suffix](checkpoint_path(path))
    for name, held in tensors.items():
        if not bool(torch.isfinite(held).all()):
            raise CodecError(f"{path}: tensor {name} contains NaN or infinite numbers")
    return tensors


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
        CodecError: If its size or sha256 differs.
    """
    size = path.stat().st_size
    if size != GOOGLE_BYTES:
        hint = "; the download was cut short" if size < GOOGLE_BYTES else ""
        raise CodecError(f"{path}: expected {GOOGLE_BYTES:,} bytes, got {size:,}{hint}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != GOOGLE_SHA256:
        raise CodecError(
            f"{path}: expected sha256 {GOOGLE_SHA256}, got {digest}; this is not Google's codec. "
            "To use it all the same, give its path instead of 'google'"
        )


def _identity(path: Path, codebook: Tensor) -> str:
    may_be_googles = path.suffix == ".npz" and path.stat().st_size == GOOGLE_BYTES
    if may_be_googles and hashlib.sha256(path.read_bytes()).hexdigest() == GOOGLE_SHA256:
        return "google"
    digest = hashlib.sha256(codebook.numpy().tobytes()).hexdigest()[:12]
    return "tiny" if digest == _TINY_CODEBOOK else f"codebook:{digest}"


def _require_names(names: Collection[str], path: Path) -> None:
    spare = _BOOKKEEPING if path.suffix == ".safetensors" else frozenset[str]()
    missing = sorted(tensor_table().keys() - set(names) - spare)
    extra = sorted(set(names) - tensor_table().keys())
    if missing or extra:
        only_spare = missing and _BOOKKEEPING.issuperset(missing)
        hint = "; only a .safetensors may leave these out" if only_spare else ""
        raise CodecError(
            f"{path}: not a mask codec: missing tensors {missing[:4]}, unknown {extra[:4]}{hint}"
        )


def _require_shape(name: str, shape: tuple[int, ...], path: Path) -> None:
    expected = tensor_table()[name]
    if shape != expected:
        raise CodecError(f"{path}: tensor {name} is {shape}, expected {expected}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as held:
            names = list(held.keys())
            _require_names(names, path)
            for name in names:
                piece = held.get_slice(name)
                if piece.get_dtype() not in _SAFETENSORS_DTYPES:
                    raise CodecError(
                        f"{path}: tensor {name} is {piece.get_dtype()}, expected one of "
                        f"{', '.join(_SAFETENSORS_DTYPES)}; convert it to float32"
                    )
                _require_shape(name, tuple(piece.get_shape()), path)
            return {name: held.get_tensor(name).float() for name in names}
    except (SafetensorError, OSError) as error:
        raise CodecError(f"{path}: broken or cut off ({error})") from error


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        # Sizes first: a small archive may unpack to gigabytes.
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            num_members = len(archive.infolist())
        if unpacked > 2 * GOOGLE_BYTES:
            raise CodecError(f"{path}: unpacks to {unpacked:,} bytes, expected {GOOGLE_BYTES:,}")
        with np.load(path, allow_pickle=False) as arrays:
            _require_names(arrays.files, path)
            if num_members != len(set(arrays.files)):
                raise CodecError(f"{path}: has a tensor twice; write the file with np.savez")
            tensors = {name: arrays[name] for name in arrays.files}
    except CodecError:  # a subclass of ValueError with a better message
        raise
    except NPZ_ERRORS as error:
        raise CodecError(f"{path}: broken or cut off ({error!s:.80})") from error
    for name, tensor in tensors.items():
        dtype = getattr(tensor, "dtype", np.dtype("V"))  # bytes, where a member is no .npy
        if dtype != np.dtype("<f4"):
            raise CodecError(f"{path}: tensor {name} is {dtype.str!r}, expected '<f4'")
        _require_shape(name, tensor.shape, path)
    return {name: torch.from_numpy(tensor.copy("C")) for name, tensor in tensors.items()}
