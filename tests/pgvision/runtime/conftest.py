"""Engines over a small random PaliGemma of each family, in torch and in ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgvision.runtime import Engine, load
from pgvision.runtime.onnx_backend import OnnxBackend

FAMILIES = ("gemma", "gemma2")


@pytest.fixture(scope="session")
def folders(
    tmp_path_factory: pytest.TempPathFactory, save_paligemma: Callable[[Path, str], None]
) -> dict[str, Path]:
    """A checkpoint folder of each family."""
    made = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, folder in made.items():
        save_paligemma(folder, family)
    return made


@pytest.fixture(scope="session", params=FAMILIES)
def engine(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Engine:
    """The engine in torch."""
    return load(folders[request.param], dtype="float32", device="cpu")


@pytest.fixture(scope="session", params=[f"{f}-{b}" for f in FAMILIES for b in ("torch", "onnx")])
def any_engine(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Engine:
    """The engine over each backend; transformers' model and processor are there for comparison."""
    family, backend = request.param.split("-")
    torch_engine = load(folders[family], dtype="float32", device="cpu")
    if backend == "torch":
        return torch_engine
    onnx: Any = OnnxBackend(folders[family], threads=1)
    onnx.model, onnx.processor = torch_engine.model, torch_engine.processor
    return Engine(onnx, torch_engine.tokenizer, torch_engine.card)
