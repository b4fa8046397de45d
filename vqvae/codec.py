"""`MaskCodec`: masks to codes and back, with arrays in and arrays out."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pgvision.errors import CodecError
from vqvae.checkpoint import checkpoint_path, load_checkpoint
from vqvae.model import MASK_SIDE, NUM_CODES, NUM_TOKENS, MaskVqVae

_AT_ONCE: Final = 512  # masks


class MaskCodec:
    """Encodes 64x64 masks as 16 codes out of 128, and decodes them.

    A codec belongs to the checkpoints that were trained on its codes: Google's to Google's, ours to
    ours. Another codec's codes draw nonsense.

    Attributes:
        name: "tiny", "google", or "codebook:" and 12 hex digits: identifies the codes. It follows
            from the codebook, so a copy of a file has the name of the file.

    Example:
        >>> codec = MaskCodec.load("tiny")
        >>> disc = np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 30
        >>> codes = codec.encode(disc[None])
        >>> again = codec.decode(codes)[0] > 0
        >>> codes.shape, bool((again & disc).sum() > 0.9 * (again | disc).sum())
        ((1, 16), True)
    """

    def __init__(self, model: MaskVqVae, name: str) -> None:
        self.name = name
        self._model = model.eval().requires_grad_(requires_grad=False)

    @classmethod
    def load(cls, source: str | Path) -> "MaskCodec":
        """Load a codec; each is read once per process.

        Args:
            source: ``"tiny"``, the bundled one; ``"google"``, from ``PGVISION_CODEC_GOOGLE`` or
                the hub, checked by sha256; or the path of a ``.safetensors`` file.

        Raises:
            CodecError: If the file cannot be had, or is not a codec; the message names the reason.
        """
        # A file that was replaced is read again.
        path = checkpoint_path(source)
        stat = path.stat()
        return _load(path.resolve(), stat.st_size, stat.st_mtime_ns)

    def encode(self, masks: ArrayLike) -> NDArray[np.int64]:
        """Encode masks.

        Args:
            masks: ``(b, 64, 64)`` in [0, 1], or bool.

        Returns:
            ``(b, 16)`` codes in [0, 127]: a 4x4 grid, row by row.

        Raises:
            CodecError: If it is not an array of real numbers, the shape is another, or a value is
                NaN or outside [0, 1].
        """
        values = _float32(_numbers(masks, "masks", MASK_SIDE, MASK_SIDE, hint="; see crop_mask"))
        if not ((values >= 0) & (values <= 1)).all():
            raise CodecError("masks: expected values in [0, 1]; divide bytes by 255")
        return _in_parts(self._model.encode, values).astype(np.int64)

    def decode(self, codes: ArrayLike) -> NDArray[np.float32]:
        """Decode codes.

        Args:
            codes: ``(b, 16)`` whole numbers in [0, 127].

        Returns:
            ``(b, 64, 64)`` float32, about [-1, 1]; the mask is where they are above 0.

        Raises:
            CodecError: If it is not an array of whole numbers, the shape is another, or a code is
                out of range.
        """
        values = _numbers(codes, "codes", NUM_TOKENS)
        if values.size and not np.issubdtype(values.dtype, np.integer):
            raise CodecError(f"codes: expected whole numbers, got {values.dtype}")
        if values.size and not 0 <= values.min() <= values.max() < NUM_CODES:
            raise CodecError(f"codes: expected 0 to 127, got {values.min()} to {values.max()}")
        return _in_parts(
            lambda part: self._model.decode(self._model.quantizer.lookup(part)),
            values.astype(np.int64),
        )


def _in_parts(run: Callable[[Tensor], Tensor], values: NDArray[Any]) -> NDArray[Any]:
    """Run the network on some masks at a time: one of them takes half a megabyte."""
    starts = range(0, max(1, len(values)), _AT_ONCE)
    with torch.inference_mode():
        parts = [run(torch.from_numpy(values[start : start + _AT_ONCE])) for start in starts]
        found: NDArray[Any] = torch.cat(parts).numpy()
    return found


def _numbers(values: ArrayLike, name: str, *sides: int, hint: str = "") -> NDArray[Any]:
    shape = f"(b, {', '.join(map(str, sides))})"
    try:
        array = np.asarray(values)
    # ValueError: ragged lists. The others: tensors on a GPU, or that carry a gradient.
    except (ValueError, TypeError, RuntimeError) as error:
        raise CodecError(
            f"{name}: expected {shape} numbers in rows of equal length, got no array: {error}"
        ) from error
    if array.dtype.kind not in "buif":
        raise CodecError(f"{name}: expected {shape} real numbers, got an array of {array.dtype}")
    if array.ndim != len(sides) + 1 or array.shape[1:] != sides:
        raise CodecError(f"{name}: expected {shape}, got {array.shape}{hint}")
    return array


def _float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """Copy, since torch takes neither read-only arrays nor flipped views."""
    with np.errstate(over="ignore"):  # too large becomes infinite, which the caller refuses
        return array.astype(np.float32, order="C")


@lru_cache(maxsize=4)
def _load(path: Path, size: int, modified_ns: int) -> MaskCodec:  # noqa: ARG001
    """Read a codec; the key is the file, with its size and time, not the name that was given."""
    return MaskCodec(*load_checkpoint(path))
