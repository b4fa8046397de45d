"""Codec files: what differs from the table, or lies about itself, is refused with the reason."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from pgvision.errors import CodecError
from vqvae import MaskCodec
from vqvae.checkpoint import read_tensors

Tensors = dict[str, np.ndarray]
BIAS = "decoder.0.bias"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({BIAS: None}, "missing"),
        ({BIAS: None, "decoder.0.offset": np.zeros(128, np.float32)}, "unknown"),
        ({BIAS: np.zeros(127, np.float32)}, r"\(127,\), expected floats \(128,\)"),
        ({BIAS: np.zeros(128, np.int32)}, "expected floats"),
        ({BIAS: np.zeros((), np.float32)}, r"\(\), expected floats \(128,\)"),
        ({BIAS: np.full(128, np.nan, np.float32)}, "NaN"),
        ({BIAS: np.full(128, np.inf, np.float32)}, "infinite"),
    ],
)
def test_tampered_tables_are_refused(
    random_tensors: Tensors, tmp_path: Path, change: dict[str, np.ndarray | None], words: str
) -> None:
    changed = random_tensors | change
    kept = {name: value for name, value in changed.items() if value is not None}
    save_file(kept, tmp_path / "bad.safetensors")
    with pytest.raises(CodecError, match=words):
        MaskCodec.load(tmp_path / "bad.safetensors")


def test_a_cut_file_is_refused(codec_file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(codec_file.read_bytes()[:-5000])
    with pytest.raises(CodecError, match="broken"):
        MaskCodec.load(cut)
    half = tmp_path / "half.safetensors"
    half.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(CodecError, match="broken"):
        MaskCodec.load(half)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_safetensors_of_floats_are_read_and_may_lack_the_averages(
    random_tensors: Tensors, tmp_path: Path, dtype: torch.dtype
) -> None:
    tensors = {name: torch.from_numpy(value).to(dtype) for name, value in random_tensors.items()}
    del tensors["_vq_vae._ema_w"], tensors["_vq_vae._ema_cluster_size"]
    save_torch_file(tensors, tmp_path / "good.safetensors")
    found = read_tensors(tmp_path / "good.safetensors")
    for name, value in tensors.items():
        assert torch.equal(found[name], value.float()), name
    assert MaskCodec.load(tmp_path / "good.safetensors").name.startswith("codebook:")


def test_google_is_checked_by_its_sha(
    npz: Path, random_tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGVISION_CODEC_GOOGLE", str(npz))  # right size, other numbers
    for source in ("google", npz):
        with pytest.raises(CodecError, match="not Google's codec: .* sha256"):
            MaskCodec.load(source)
    digest = hashlib.sha256(npz.read_bytes()).hexdigest()
    monkeypatch.setattr("vqvae.checkpoint.GOOGLE_SHA256", digest)
    for source in ("google", npz):
        codec = MaskCodec.load(source)
        assert codec.name == "google"
        for name, value in random_tensors.items():
            np.testing.assert_array_equal(codec._model.state_dict()[name].numpy(), value)
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


def test_codecs_are_cached_by_file_not_by_name(
    tmp_path: Path, random_tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder's file of the same name, or a file written anew, is another codec."""
    for name, value in (("one", 0.5), ("two", 0.25)):
        (tmp_path / name).mkdir()
        bias = np.full(128, value, np.float32)
        save_file(random_tensors | {BIAS: bias}, tmp_path / name / "c.safetensors")

    def bias() -> float:
        return float(MaskCodec.load("c.safetensors")._model.state_dict()[BIAS][0])

    monkeypatch.chdir(tmp_path / "one")
    assert MaskCodec.load("c.safetensors") is MaskCodec.load(tmp_path / "one" / "c.safetensors")
    assert bias() == 0.5
    monkeypatch.chdir(tmp_path / "two")
    assert bias() == 0.25
    save_file(random_tensors | {BIAS: np.full(128, 0.75, np.float32)}, "c.safetensors")
    os.utime("c.safetensors", ns=(1, 1))
    assert bias() == 0.75
