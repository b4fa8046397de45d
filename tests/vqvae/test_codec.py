"""The codec against its own table: the same arithmetic, written with plain functions."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn import functional as F

import vqvae
from pgvision.errors import CodecError
from vqvae import MaskCodec
from vqvae.checkpoint import GOOGLE_BYTES
from vqvae.model import MaskVqVae

TINY_FILE = Path(vqvae.__file__).parent / "weights" / "tiny.safetensors"
Tensors = dict[str, np.ndarray]


def reference_block(x: torch.Tensor, t: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    y = F.relu(F.conv2d(x, t[f"{name}.net.0.weight"], t[f"{name}.net.0.bias"], padding=1))
    y = F.relu(F.conv2d(y, t[f"{name}.net.2.weight"], t[f"{name}.net.2.bias"], padding=1))
    return x + F.conv2d(y, t[f"{name}.net.4.weight"], t[f"{name}.net.4.bias"])


def reference_codes(masks: np.ndarray, t: dict[str, torch.Tensor]) -> np.ndarray:
    x = torch.from_numpy(masks[:, None]) * 2 - 1
    for i in (0, 2, 4, 6):
        weight, bias = t[f"encoder.{i}.weight"], t[f"encoder.{i}.bias"]
        x = F.relu(F.conv2d(x, weight, bias, stride=2, padding=1))
    for i in (8, 9):
        x = reference_block(x, t, f"encoder.{i}")
    x = F.conv2d(x, t["encoder.10.weight"], t["encoder.10.bias"])
    vectors = x.permute(0, 2, 3, 1).reshape(len(masks), 16, 512).double().numpy()
    table = t["_vq_vae._embedding"].double().numpy()
    distances = ((vectors[:, :, None] - table[None, None]) ** 2).sum(-1)
    return distances.argmin(-1)


def reference_logits(codes: np.ndarray, t: dict[str, torch.Tensor]) -> np.ndarray:
    x = t["_vq_vae._embedding"][torch.from_numpy(codes)].reshape(-1, 4, 4, 512).permute(0, 3, 1, 2)
    x = F.relu(F.conv2d(x, t["decoder.0.weight"], t["decoder.0.bias"]))
    for i in (2, 3):
        x = reference_block(x, t, f"decoder.{i}")
    for i in (4, 6, 8, 10):
        weight, bias = t[f"decoder.{i}.weight"], t[f"decoder.{i}.bias"]
        x = F.relu(F.conv_transpose2d(x, weight, bias, stride=2, padding=1))
    return F.conv2d(x, t["decoder.12.weight"], t["decoder.12.bias"])[:, 0].numpy()


def test_the_byte_size_proves_the_table(npz: Path) -> None:
    assert npz.stat().st_size == GOOGLE_BYTES == 8_479_556


def test_decoder_is_the_reference_arithmetic(codec_file: Path, random_tensors: Tensors) -> None:
    tensors = {name: torch.from_numpy(value) for name, value in random_tensors.items()}
    codes = np.random.default_rng(1).integers(0, 128, (5, 16))
    with torch.inference_mode():
        expected = reference_logits(codes, tensors)
    assert expected.std() > 0.01
    np.testing.assert_allclose(MaskCodec.load(codec_file).decode(codes), expected, atol=1e-4)


def test_encoder_codes_are_the_references(codec_file: Path, random_tensors: Tensors) -> None:
    tensors = {name: torch.from_numpy(value) for name, value in random_tensors.items()}
    masks = np.random.default_rng(2).random((6, 64, 64)).astype(np.float32)
    masks[3:] = np.kron(masks[3:, :8, :8] > 0.5, np.ones((8, 8)))
    with torch.inference_mode():
        expected = reference_codes(masks, tensors)
    assert len(np.unique(expected)) > 3
    np.testing.assert_array_equal(MaskCodec.load(codec_file).encode(masks), expected)


def test_names_say_whose_codes_these_are(
    codec_file: Path, random_tensors: Tensors, tmp_path: Path
) -> None:
    assert MaskCodec.load("tiny").name == "tiny"
    copy = shutil.copy(TINY_FILE, tmp_path / "copy.safetensors")
    assert MaskCodec.load(copy).name == "tiny"
    assert MaskCodec.load(codec_file).name.startswith("codebook:")
    mine = tmp_path / "mine.safetensors"
    model = MaskVqVae()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in random_tensors.items()})
    save_file({k: v for k, v in model.state_dict().items() if "_ema_" not in k}, mine)
    assert MaskCodec.load(mine).name == MaskCodec.load(codec_file).name  # the weights are the name
    codes = np.zeros((1, 16), int)
    np.testing.assert_array_equal(
        MaskCodec.load(mine).decode(codes), MaskCodec.load(codec_file).decode(codes)
    )


def ellipse(cy: float, cx: float, ry: float, rx: float) -> np.ndarray:
    y, x = np.mgrid[:64, :64] + 0.5
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1


@given(st.floats(26, 32), st.floats(26, 32))
@settings(max_examples=20, deadline=None)
def test_the_carried_codec_gives_full_shapes_back(ry: float, rx: float) -> None:
    codec = MaskCodec.load("tiny")
    mask = ellipse(32, 32, ry, rx)
    again = codec.decode(codec.encode(mask[None]))[0] > 0
    assert (again & mask).sum() / (again | mask).sum() > 0.9


def test_no_masks_at_all() -> None:
    codec = MaskCodec.load("tiny")
    assert codec.encode(np.zeros((0, 64, 64))).shape == (0, 16)
    assert codec.decode(np.zeros((0, 16), int)).shape == (0, 64, 64)


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (np.zeros((1, 15), int), "16"),
        (np.zeros((1, 17), int), "16"),
        (np.full((1, 16), 128), "0 to 127"),
        (np.full((1, 16), -1), "0 to 127"),
        (np.arange(-1, 15)[None], "-1 to 14"),
        (np.zeros((1, 16)), "whole"),
        (np.zeros(16, int), "16"),
    ],
)
def test_bad_codes_are_refused(codes: np.ndarray, words: str) -> None:
    with pytest.raises(CodecError, match=words):
        MaskCodec.load("tiny").decode(codes)


def test_bad_masks_are_refused() -> None:
    codec = MaskCodec.load("tiny")
    values = [np.full((1, 64, 64), value) for value in (255.0, 1.5, -0.5)]
    for masks in (np.zeros((1, 32, 32)), np.zeros((64, 64)), *values):
        with pytest.raises(CodecError, match="masks"):
            codec.encode(masks)
    with pytest.raises(CodecError, match=r"\[0, 1\]"):
        codec.encode(np.full((1, 64, 64), np.nan))


SHAPES = {"encode": (1, 64, 64), "decode": (1, 16)}


def ragged(shape: tuple[int, ...]) -> list[object]:
    rows = np.zeros(shape, int).tolist()
    rows[0] = rows[0][:-1] + [[0, 0]] if len(shape) == 2 else rows[0][:-1] + [[0]]
    return rows


@pytest.mark.parametrize("method", SHAPES)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(ragged, id="ragged"),
        pytest.param(lambda shape: "<seg001>", id="a string"),
        pytest.param(lambda shape: np.full(shape, "1"), id="strings"),
        pytest.param(lambda shape: np.ones(shape, complex), id="complex"),
        pytest.param(lambda shape: np.ones(shape, object), id="objects"),
        pytest.param(lambda shape: np.ones(shape, "m8[s]"), id="durations"),
        pytest.param(lambda shape: torch.ones(shape, requires_grad=True), id="gradient"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(
    method: str, make: Callable[[tuple[int, ...]], object]
) -> None:
    name = {"encode": "masks", "decode": "codes"}[method]
    with pytest.raises(CodecError, match=f"{name}: expected .* numbers"):
        getattr(MaskCodec.load("tiny"), method)(make(SHAPES[method]))


def test_numbers_beyond_float32_are_refused() -> None:
    with pytest.raises(CodecError, match="expected"):
        MaskCodec.load("tiny").encode(np.full((1, 64, 64), 1e300))


def test_flipped_and_read_only_arrays_are_taken() -> None:
    codec = MaskCodec.load("tiny")
    mask = ellipse(20, 40, 18, 22).astype(np.float32)[None]
    flipped = mask[:, ::-1, ::-1]
    np.testing.assert_array_equal(codec.encode(flipped), codec.encode(flipped.copy()))
    locked = np.broadcast_to(mask, (2, 64, 64))
    np.testing.assert_array_equal(codec.encode(locked), codec.encode(locked.copy()))


def test_importing_vqvae_loads_no_torch() -> None:
    program = "import sys, vqvae; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_many_masks_take_the_memory_of_a_few() -> None:
    """2,000 masks at once had taken a gigabyte; the result itself is 33 MB."""
    code = (
        "import resource, numpy as np\n"
        "from vqvae import MaskCodec\n"
        "codec = MaskCodec.load('tiny')\n"
        "codes = np.random.default_rng(0).integers(0, 128, (2000, 16))\n"
        "few = codec.decode(codes[:300])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "many = codec.decode(codes)\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert np.allclose(many[:300], few, atol=1e-4) and many.shape == (2000, 64, 64)\n"
        "print(grown >> 10)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 300
