"""Real, short training runs of the codec."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pgvision.errors import CodecError, OptionError
from vqvae import MaskCodec
from vqvae.training import TrainingSettings, _Run, train_codec


def masks(count: int = 96) -> np.ndarray:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64] + 0.5
    held = []
    for _ in range(count):
        ry, rx = rng.uniform(20, 40, 2)
        held.append(((y - 32) / ry) ** 2 + ((x - 32) / rx) ** 2 <= 1)
    return (np.array(held) * 255).astype(np.uint8)


FEW = TrainingSettings(steps=4, batch_size=8, save_every=2, bfloat16=False, seed=5)


def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    whole = train_codec(masks(), tmp_path / "whole", settings=FEW)
    broken = _Run(masks(), None, tmp_path / "parts", FEW)
    for _ in range(2):
        broken._one_step()
        broken.step += 1
    broken._save()
    resumed = train_codec(masks(), tmp_path / "parts", settings=FEW, resume=True)
    codes = np.random.default_rng(0).integers(0, 128, (4, 16))
    one, other = (MaskCodec.load(path).decode(codes) for path in (whole, resumed))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_another_recipe_does_not_resume(tmp_path: Path) -> None:
    train_codec(masks(), tmp_path, settings=FEW)
    with pytest.raises(OptionError, match="another --out"):
        train_codec(masks(), tmp_path, settings=TrainingSettings(steps=9), resume=True)


def test_the_number_of_threads_may_change(tmp_path: Path) -> None:
    train_codec(masks(), tmp_path, settings=FEW)
    again = TrainingSettings(**{**vars(FEW), "threads": 1})
    assert train_codec(masks(), tmp_path, settings=again, resume=True).exists()


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    run = _Run(masks(), None, tmp_path, TrainingSettings(steps=60, batch_size=16, bfloat16=False))
    first = float(run._one_step().split()[1])
    for _ in range(40):
        run.step += 1
        last = float(run._one_step().split()[1])
    assert last < 0.7 * first


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((0, 64, 64), np.uint8), np.zeros((3, 32, 32), np.uint8), np.zeros((3, 64, 64))],
)
def test_wrong_masks_are_refused(wrong: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(CodecError, match="masks"):
        train_codec(wrong, tmp_path)


def test_dead_codes_are_revived() -> None:
    from vqvae.quantizer import Quantizer

    quantizer = Quantizer()
    vectors = torch.randn(256, 512, generator=torch.Generator().manual_seed(0))
    quantizer._ema_cluster_size[:] = 2.0
    quantizer._ema_cluster_size[[3, 77]] = 0.0
    moved = quantizer.revive(vectors, torch.Generator().manual_seed(1), minimum=0.1)
    assert moved == 2
    for row in (3, 77):
        assert (vectors == quantizer._embedding[row]).all(1).any()
