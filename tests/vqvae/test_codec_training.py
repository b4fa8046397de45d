"""Real, short training runs of the codec: whole, stopped, killed, resumed."""

import logging
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vqvae
from pgvision.errors import CodecError, OptionError
from vqvae import MaskCodec
from vqvae.checkpoint import read_tensors
from vqvae.training import TrainingSettings, _Run, read_mask_file, train_codec

TINY_FILE = Path(vqvae.__file__).parent / "weights" / "tiny.safetensors"


def masks(count: int = 96) -> np.ndarray:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64] + 0.5
    held = []
    for _ in range(count):
        ry, rx = rng.uniform(20, 40, 2)
        held.append(((y - 32) / ry) ** 2 + ((x - 32) / rx) ** 2 <= 1)
    return (np.array(held) * 255).astype(np.uint8)


FEW = TrainingSettings(steps=4, batch_size=8, save_every=2, bfloat16=False, seed=5)


def test_a_folder_that_cannot_be_made_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(_Run, "go", lambda self: pytest.fail("a step was taken"))
    with pytest.raises(FileExistsError):
        train_codec(masks(), tmp_path / "file", settings=FEW)


def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    whole = train_codec(masks(), tmp_path / "whole", settings=FEW)
    parts = tmp_path / "parts"
    broken = _Run(masks(), None, parts, FEW)
    for _ in range(2):
        broken._one_step()
        broken.step += 1
    broken._save()
    resumed = train_codec(masks(), parts, settings=FEW, resume=True)
    codes = np.random.default_rng(0).integers(0, 128, (4, 16))
    one, other = (MaskCodec.load(path).decode(codes) for path in (whole, resumed))
    np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("steps", {"settings": replace(FEW, steps=9)}),
        ("seed", {"settings": replace(FEW, seed=6)}),
        ("masks", {"masks": masks()[::-1].copy()}),
        ("masks", {"masks": masks()[:-1], "weights": np.ones(95)}),
        ("weights", {"weights": np.arange(96.0)}),
    ],
)
def test_another_run_does_not_resume_and_says_what_differs(
    tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    given = {"masks": masks(), "settings": FEW}
    train_codec(out=tmp_path, **given)
    with pytest.raises(OptionError, match=rf"another one: {name} was .*, is .*another --out"):
        train_codec(out=tmp_path, resume=True, **given | changes)
    with pytest.raises(OptionError, match="a run is there already.*--resume"):
        train_codec(out=tmp_path, **given)
    train_codec(out=tmp_path, resume=True, **given)  # finished: nothing is left to do


def test_the_number_of_threads_may_change(tmp_path: Path) -> None:
    train_codec(masks(), tmp_path, settings=FEW)
    again = replace(FEW, threads=1)
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


@pytest.mark.parametrize(
    "weights", [np.ones(3), np.zeros(96), np.full(96, np.nan), np.array([-1.0] + 95 * [1.0])]
)
def test_wrong_weights_are_refused(weights: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(CodecError, match="weights: expected"):
        train_codec(masks(), tmp_path, settings=FEW, weights=weights)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"steps": 0}, {"steps": 1.5}, {"batch_size": 0}, {"save_every": 0}, {"threads": -1}),
        *({"learning_rate": 0.0}, {"learning_rate": float("nan")}),
    ],
)
def test_wrong_numbers_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        TrainingSettings(**wrong)


def test_a_training_that_diverges_ends_with_an_error(tmp_path: Path) -> None:
    """It had gone on to the last step, and written a codec that cannot be read."""
    settings = replace(FEW, steps=60, learning_rate=1e18)
    with pytest.raises(CodecError, match="the loss is .*; lower the learning rate"):
        train_codec(masks(), tmp_path, settings=settings)
    assert not (tmp_path / "codec.safetensors").exists()


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(CodecError, match=r"state\.pt: damaged"):
        train_codec(masks(), tmp_path, settings=FEW, resume=True)


@pytest.mark.parametrize("damage", ["empty", "changed"])
def test_a_damaged_mask_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "masks.npz"
    np.savez_compressed(path, masks=masks())
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(byte ^ 0xFF for byte in data[200:260])
    path.write_bytes(b"" if damage == "empty" else bytes(data))
    with pytest.raises(CodecError, match=r"masks\.npz: expected an \.npz"):
        read_mask_file(path)


def test_the_rate_in_the_log_counts_the_masks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run of 4 steps had been logged as if 50 had been taken in its time."""
    started = time.time()
    with caplog.at_level(logging.INFO, "vqvae"):
        train_codec(masks(), tmp_path, settings=FEW)
    rate = float(caplog.messages[-1].split()[-2])
    # Setting up counts in the time that is measured here, and not in the rate.
    assert 32 <= 1.05 * rate * (caplog.records[-1].created - started) < 5 * 32


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_where_an_unbroken_one_ends(tmp_path: Path) -> None:
    # Past step 150, where the codebook starts: its running averages must come back, too.
    settings = TrainingSettings(steps=180, batch_size=8, save_every=10, threads=1)
    np.savez(tmp_path / "masks.npz", masks=masks())
    words = ["--steps", "180", "--batch-size", "8", "--save-every", "10", "--threads", "1"]
    words += ["--masks", str(tmp_path / "masks.npz"), "--out", str(tmp_path / "killed")]
    command = [sys.executable, "-m", "vqvae", "train", *words]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    state = tmp_path / "killed" / "state.pt"
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    step = torch.load(state, weights_only=True)["step"]
    assert 0 < step < 180
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True)
    assert f"resumed at step {step}" in done.stderr
    whole = read_tensors(train_codec(masks(), tmp_path / "whole", settings=settings))
    for name, value in read_tensors(tmp_path / "killed" / "codec.safetensors").items():
        torch.testing.assert_close(value, whole[name], msg=name)
