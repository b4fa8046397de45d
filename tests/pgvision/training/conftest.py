"""A little data set of rendered scenes: COCO and JSONL, a training and a validation part."""

from pathlib import Path

import pytest

from recipes.scenes.export import export_scenes

TRAIN, VALID = 6, 2


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    export_scenes(folder / "train", count=TRAIN, seed=31_000_000, image_hw=(240, 320))
    export_scenes(folder / "valid", count=VALID, seed=31_000_500, image_hw=(240, 320))
    return folder
