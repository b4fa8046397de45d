"""Files of a checkpoint, read without torch: tensors by their place in safetensors, tokenizer."""

import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pgvision.errors import CheckpointError
from pgvision.hub import fetch_file
from pgvision.runtime.checkpoints import read_json
from pgvision.runtime.protocol import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MAX_HEADER: Final = 100 * 2**20  # bytes; safetensors' own limit
_SIZES: Final = {"F32": 4, "F16": 2, "BF16": 2}
_INDEX: Final = "model.safetensors.index.json"
_SPECIALS: Final = ("bos_token", "eos_token", "pad_token", "unk_token")
# Older and newer releases of transformers nest the same modules differently; peft adds a prefix.
_SPELLINGS: Final = (
    (re.compile(r"^(base_model\.model\.)?(model\.)?"), ""),
    (re.compile(r"^language_model\.model\."), "language_model."),
    (re.compile(r"^language_model\.lm_head\."), "lm_head."),
    (re.compile(r"^vision_tower\.vision_model\."), "vision_tower."),
)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file.

    Attributes:
        file: Name of the file in the checkpoint's folder.
        offset: Of its first byte in the file.
        size: In bytes.
        dtype: As safetensors writes it: "F32", "F16", "BF16".
        shape: Of the tensor.
    """

    file: str
    offset: int
    size: int
    dtype: str
    shape: tuple[int, ...]


def weight_files(folder: Path) -> list[Path]:
    """Return the files with a folder's weights.

    Raises:
        CheckpointError: If there are none, or the index of a checkpoint in several files cannot be
            read or names a file that is missing or in another folder.
    """
    # As in transformers: saving one file over several removes these, and leaves their index.
    index, whole = folder / _INDEX, folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        raise CheckpointError(f"{folder}: has no model.safetensors; copy the weights there")
    parts = read_json(index).get("weight_map")
    names = sorted(set(map(str, parts.values()))) if isinstance(parts, dict) else []
    for part in names or ["no weight_map"]:
        if not (folder / part).is_file() or part != PureWindowsPath(part).name:
            raise CheckpointError(f"{index}: names {part!r:.80}, which is no file of this folder")
    return [folder / name for name in names]


def read_tensor_table(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor of a checkpoint by its name, in one spelling for all releases.

    Args:
        folder: Of the checkpoint.

    Raises:
        CheckpointError: If a file is missing, damaged, or shorter than its table.
    """
    table: dict[str, StoredTensor] = {}
    for path in weight_files(folder):
        table |= {respell(name): stored for name, stored in _read_header(path)}
    return table


def respell(name: str) -> str:
    """Return a tensor's name in one spelling for all releases, of adapters as of checkpoints.

    Example:
        >>> respell("model.language_model.norm.weight")
        'language_model.norm.weight'
    """
    for pattern, spelling in _SPELLINGS:
        name = pattern.sub(spelling, name)
    return name


def _read_header(path: Path) -> Iterable[tuple[str, StoredTensor]]:
    try:
        # 1. Read the header; its length is untrusted.
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, _MAX_HEADER):
                raise ValueError(f"a header of {length} bytes")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        # 2. Check that each tensor is inside the file and has the stated size.
        tensors = []
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            shape = tuple(int(side) for side in entry["shape"])
            wanted = int(np.prod(shape, dtype=np.int64)) * _SIZES.get(entry["dtype"], 0)
            if end > size - 8 - length or (wanted and wanted != end - begin):
                raise ValueError(f"{name} ends at {end}, the data at {size - 8 - length}")
            offset = 8 + length + begin
            tensors.append(
                (name, StoredTensor(path.name, offset, end - begin, entry["dtype"], shape))
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise CheckpointError(f"{path}: damaged or cut off ({error}); copy it again") from error
    return tensors


def map_tensor(folder: Path, stored: StoredTensor) -> "np.ndarray[Any, Any]":
    """Return a tensor as a read-only array over its file; bfloat16 as uint16, its bits."""
    kinds: dict[str, str] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    return np.memmap(
        folder / stored.file, kinds[stored.dtype], "r", stored.offset, shape=stored.shape
    )


def read_tokenizer(source: str, revision: str | None) -> Tokenizer:
    """Read a checkpoint's tokenizer, from ``tokenizer.json`` where there is one.

    Args:
        source: Folder or hub id.
        revision: Branch, tag or commit on the hub.

    Raises:
        CheckpointError: If it is not PaliGemma's.
    """
    from tokenizers import Tokenizer as Table

    table, settings = (
        _find(source, name, revision) for name in ("tokenizer.json", "tokenizer_config.json")
    )
    if table is None or settings is None:  # SentencePiece alone: transformers converts it
        from transformers import AutoTokenizer

        try:
            return wrap_tokenizer(AutoTokenizer.from_pretrained(source, revision=revision), source)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{source}: has no tokenizer.json; copy it there") from error
    # 1. Special tokens.
    content = read_json(settings)
    named = {key: content[key] for key in _SPECIALS if content.get(key) is not None}
    specials = {
        key: str(token["content"] if isinstance(token, dict) else token)
        for key, token in named.items()
    }
    # 2. The tokenizers library reads the table without transformers.
    try:
        read = Table.from_file(str(table))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{table}: cannot be read ({error}); copy it again") from error
    # 3. Padding and truncation are the engine's.
    read.no_padding()
    read.no_truncation()
    return Tokenizer(read, specials, source)


def wrap_tokenizer(tokenizer: "PreTrainedTokenizerBase", name: str) -> Tokenizer:
    """Use the table of a tokenizer of transformers.

    Raises:
        CheckpointError: If it is not PaliGemma's.
    """
    specials = {key: value for key in _SPECIALS if (value := getattr(tokenizer, key)) is not None}
    return Tokenizer(tokenizer.backend_tokenizer, specials, name)


def _find(source: str, name: str, revision: str | None) -> Path | None:
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    return fetch_file(source, name, revision)
