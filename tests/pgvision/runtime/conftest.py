"""An engine over a small random PaliGemma of each family."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pgvision.runtime import Engine, load


@pytest.fixture(scope="session", params=["gemma", "gemma2"])
def engine(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    save_paligemma: Callable[[Path, str], None],
) -> Engine:
    folder = tmp_path_factory.mktemp(request.param)
    save_paligemma(folder, request.param)
    return load(folder, dtype="float32", device="cpu")
