"""The codec against its own table: the same arithmetic, written with plain functions."""

import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import vqvae
from pgvision.errors import CodecError
from vqvae import MaskCodec
from vqvae.checkpoint import GOOGLE_BYTES, save_checkpoint
from vqvae.model import MaskVqVae

TINY_FILE = Path(vqvae.__file__).parent / "weights" / "tiny.safetensors"
ENCODER = {0: (16, 1, 4, 4), 2: (32, 16, 4, 4), 4: (64, 32, 4, 4), 6: (128, 64, 4, 4)}
DECODER = {4: (128, 128, 4, 4), 6: (128, 64, 4, 4), 8: (64, 32, 4, 4), 10: (32, 16, 4, 4)}
BLOCK = {0: (128, 128, 3, 3), 2: (128, 128, 3, 3), 4: (128, 128, 1, 1)}


def google_table() -> dict[str, tuple[int, ...]]:
    """The published names and shapes, spelled out from the public description."""
    weights = {f"encoder.{i}": shape for i, shape in ENCODER.items()}
    weights |= {f"encoder.{b}.net.{i}": shape for b in (8, 9) for i, shape in BLOCK.items()}
    weights["encoder.10"] = (512, 128, 1, 1)
    weights["decoder.0"] = (128, 512, 1, 1)
    weights |= {f"decoder.{b}.net.{i}": shape for b in (2, 3) for i, shape in BLOCK.items()}
    weights |= {f"decoder.{i}": shape for i, shape in DECODER.items()}
    weights["decoder.12"] = (1, 16, 1, 1)
    transposed = {f"decoder.{i}" for i in DECODER}
    table: dict[str, tuple[int, ...]] = {}
    for name, shape in weights.items():
        table[f"{name}.weight"] = shape
        table[f"{name}.bias"] = (shape[1 if name in transposed else 0],)
    return table | {
        "_vq_vae._embedding": (128, 512),
        "_vq_vae._ema_cluster_size": (128,),
        "_vq_vae._ema_w": (128, 512),
    }


def random_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in google_table().items():
        scale = 1.6 / np.sqrt(np.prod(shape[1:])) if len(shape) == 4 else 0.3
        tensors[name] = (rng.normal(size=shape) * scale).astype(np.float32)
    return tensors


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codec") / "random.npz"
    np.savez(path, **random_tensors())
    return path


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


def test_decoder_is_the_reference_arithmetic(npz: Path) -> None:
    tensors = {name: torch.from_numpy(value) for name, value in random_tensors().items()}
    codes = np.random.default_rng(1).integers(0, 128, (5, 16))
    with torch.inference_mode():
        expected = reference_logits(codes, tensors)
    assert expected.std() > 0.01
    np.testing.assert_allclose(MaskCodec.load(npz).decode(codes), expected, atol=1e-4)


def test_encoder_codes_are_the_references(npz: Path) -> None:
    tensors = {name: torch.from_numpy(value) for name, value in random_tensors().items()}
    masks = np.random.default_rng(2).random((6, 64, 64)).astype(np.float32)
    masks[3:] = np.kron(masks[3:, :8, :8] > 0.5, np.ones((8, 8)))
    with torch.inference_mode():
        expected = reference_codes(masks, tensors)
    assert len(np.unique(expected)) > 3
    np.testing.assert_array_equal(MaskCodec.load(npz).encode(masks), expected)


def test_soft_decoding_of_certain_codes_is_decoding(npz: Path) -> None:
    codec = MaskCodec.load(npz)
    codes = np.random.default_rng(3).integers(0, 128, (3, 16))
    certain = np.eye(128, dtype=np.float32)[codes]
    np.testing.assert_allclose(codec.decode_soft(certain * 7), codec.decode(codes), atol=1e-5)


def test_names_say_whose_codes_these_are(npz: Path, tmp_path: Path) -> None:
    assert MaskCodec.load("tiny").name == "tiny"
    copy = shutil.copy(TINY_FILE, tmp_path / "copy.safetensors")
    assert MaskCodec.load(copy).name == "tiny"
    assert MaskCodec.load(npz).name.startswith("codebook:")
    mine = tmp_path / "mine.safetensors"
    model = MaskVqVae()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in random_tensors().items()})
    save_checkpoint(model, mine, bookkeeping=False)
    assert MaskCodec.load(mine).name == MaskCodec.load(npz).name  # the weights are the name
    codes = np.zeros((1, 16), int)
    np.testing.assert_array_equal(
        MaskCodec.load(mine).decode(codes), MaskCodec.load(npz).decode(codes)
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
        (np.zeros((1, 16)), "whole"),
        (np.zeros(16, int), "16"),
    ],
)
def test_bad_codes_are_refused(codes: np.ndarray, words: str) -> None:
    with pytest.raises(CodecError, match=words):
        MaskCodec.load("tiny").decode(codes)


def test_bad_masks_and_probabilities_are_refused() -> None:
    codec = MaskCodec.load("tiny")
    for masks in (np.zeros((1, 32, 32)), np.zeros((64, 64)), np.full((1, 64, 64), 255.0)):
        with pytest.raises(CodecError, match="masks"):
            codec.encode(masks)
    with pytest.raises(CodecError, match=r"\[0, 1\]"):
        codec.encode(np.full((1, 64, 64), np.nan))
    for value in (np.nan, -1.0, 0.0):
        with pytest.raises(CodecError, match="probs"):
            codec.decode_soft(np.full((1, 16, 128), value))
    with pytest.raises(CodecError, match="128"):
        codec.decode_soft(np.ones((1, 16, 127)))


def rewritten(npz: Path, target: Path, change: dict[str, object]) -> Path:
    tensors: dict[str, object] = dict(random_tensors())
    for name, value in change.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    np.savez(target, **tensors)  # type: ignore[arg-type]
    return target


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decoder.0.bias": None}, "missing"),
        ({"decoder.0.bias": None, "decoder.0.offset": np.zeros(128, np.float32)}, "unknown"),
        ({"decoder.0.bias": np.zeros(127, np.float32)}, "expected"),
        ({"decoder.0.bias": np.zeros(128, np.float64)}, "float32"),
        ({"decoder.0.bias": np.array([{"a": 1}] * 128, object)}, "object|float32|broken"),
    ],
)
def test_tampered_tables_are_refused(
    npz: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    with pytest.raises(CodecError, match=words):
        MaskCodec.load(rewritten(npz, tmp_path / "bad.npz", change))


def test_a_cut_file_is_refused(npz: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.npz"
    cut.write_bytes(npz.read_bytes()[:-5000])
    with pytest.raises(CodecError, match="broken"):
        MaskCodec.load(cut)
    half = tmp_path / "half.safetensors"
    half.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(CodecError, match="broken"):
        MaskCodec.load(half)


def test_a_tensor_shorter_than_its_header_is_refused(npz: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.npz"
    with zipfile.ZipFile(npz) as whole, zipfile.ZipFile(short, "w") as archive:
        for name in whole.namelist():
            held = whole.read(name)
            archive.writestr(name, held[:-100] if name == "decoder.0.bias.npy" else held)
    with pytest.raises(CodecError, match="broken"):
        MaskCodec.load(short)


def test_a_claim_of_four_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    head = io.BytesIO()
    claim = {"descr": "<f4", "fortran_order": False, "shape": (1024, 1024, 1024)}
    np.lib.format.write_array_header_1_0(head, claim)
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("decoder.0.bias.npy", head.getvalue())
    program = (
        "import resource, sys\nfrom pgvision.errors import CodecError\n"
        "from vqvae import MaskCodec\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: MaskCodec.load(sys.argv[1])\n"
        "except CodecError: pass\n"
        "else: sys.exit(3)\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "sys.exit(4 if after - before > 1_000_000 else 0)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "huge.npz")]
    assert subprocess.run(command, check=False).returncode == 0


def test_google_is_checked_by_size_and_sha(npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGVISION_CODEC_GOOGLE", str(npz))  # right size, other numbers
    with pytest.raises(CodecError, match="sha256"):
        MaskCodec.load("google")
    monkeypatch.setenv("PGVISION_CODEC_GOOGLE", "/no/such/file.npz")
    with pytest.raises(CodecError, match="vae-oid"):
        MaskCodec.load("google")


def test_without_network_google_says_where_to_put_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGVISION_CODEC_GOOGLE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CodecError, match="PGVISION_CODEC_GOOGLE"):
        MaskCodec.load("google")


@pytest.mark.parametrize("name", ["nothing", "a/b.npz", "README.md"])
def test_unknown_sources_are_named(name: str) -> None:
    with pytest.raises(CodecError, match="codec"):
        MaskCodec.load(name)


def test_importing_vqvae_loads_no_torch() -> None:
    program = "import sys, vqvae; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
