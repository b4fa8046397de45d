"""Names of the files of an exported checkpoint."""

from pathlib import Path
from typing import Final

VISION: Final = "vision.onnx"
DECODER: Final = "decoder.onnx"
EMBEDDINGS: Final = "embeddings.npy"
SETTINGS: Final = "onnx.json"


def is_exported(folder: Path) -> bool:
    """Whether a folder holds what `pgvision export` wrote."""
    return (folder / SETTINGS).is_file()
