"""Codec files: what differs from the table, or lies about itself, is refused with the reason."""

import io
import os
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from pgvision.errors import CodecError
from vqvae import MaskCodec
from vqvae.checkpoint import read_tensors

Tensors = dict[str, np.ndarray]
BIAS = "decoder.0.bias"
GOOD_HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (128,), }"


def npy(array: np.ndarray) -> bytes:
    held = io.BytesIO()
    np.save(held, array)
    return held.getvalue()


def npy_start(header: str, *, version: int = 1, length: int | None = None) -> bytes:
    text = header.encode("latin-1") + b"\n"
    length = len(text) if length is None else length
    start = b"\x93NUMPY" + bytes([version, 0])
    return start + length.to_bytes(2 if version == 1 else 4, "little") + text


def archived(path: Path, tensors: Tensors, **changed: bytes) -> Path:
    """Write the tensors as np.savez does, but for the bytes of some members."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in tensors.items():
            archive.writestr(f"{name}.npy", changed.get(name, npy(value)))
    return path


@contextmanager
def at_most(num_bytes: int) -> Iterator[None]:
    """Fail if Python and numpy hold more than this at any moment."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < num_bytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({BIAS: None}, "missing"),
        ({BIAS: None, "decoder.0.offset": np.zeros(128, np.float32)}, "unknown"),
        ({BIAS: np.zeros(127, np.float32)}, "expected"),
        ({BIAS: np.zeros(128, np.float64)}, "'<f8', expected '<f4'"),
        ({BIAS: np.zeros(128, ">f4")}, "'>f4', expected '<f4'"),
        ({BIAS: np.array([{"a": 1}] * 128, object)}, "broken"),
        ({BIAS: np.zeros((), np.float32)}, r"\(\), expected \(128,\)"),
        ({BIAS: np.full(128, np.nan, np.float32)}, "NaN"),
        ({"_vq_vae._ema_w": None}, r"only a \.safetensors may leave"),
        ({"_vq_vae._ema_w": None, "_vq_vae._ema_cluster_size": None}, "only a .safetensors may"),
    ],
)
def test_tampered_tables_are_refused(
    random_tensors: Tensors, tmp_path: Path, change: dict[str, np.ndarray | None], words: str
) -> None:
    changed = random_tensors | change
    kept = {name: value for name, value in changed.items() if value is not None}
    np.savez(tmp_path / "bad.npz", **kept)  # type: ignore[arg-type]
    with pytest.raises(CodecError, match=words):
        MaskCodec.load(tmp_path / "bad.npz")


def test_a_cut_file_is_refused(npz: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.npz"
    cut.write_bytes(npz.read_bytes()[:-5000])
    with pytest.raises(CodecError, match="broken"):
        MaskCodec.load(cut)
    half = tmp_path / "half.safetensors"
    half.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(CodecError, match="broken"):
        MaskCodec.load(half)


@pytest.mark.parametrize(
    "start",
    [
        npy_start("{'descr': '<f4', 'fortran_order': False, 'shape': (128"),  # TokenError in numpy
        npy_start("'" + GOOD_HEADER),  # SyntaxError
        npy_start("(" * 3000),
        npy_start("-" * 3000 + "1"),  # RecursionError or MemoryError
        npy_start("{[]: 1}"),  # TypeError
        npy_start("{'descr': '<f4', 'fortran_order': False, }"),
        npy_start("{'descr': '<f4', 'descr': '<f4', 'shape': (128,), }"),
        npy_start("{'descr': '<f4', 'fortran_order': False, 'shape': (128L,), }"),
        npy_start("{'descr': '<f4', 'fortran_order': 'no', 'shape': (128,), }"),
        npy_start(GOOD_HEADER, length=60_000),
        npy_start(GOOD_HEADER, version=2, length=4_000_000_000),
        npy_start(GOOD_HEADER, version=9),
        b"\x93NUMPY",
        b"\x89PNG\r\n\x1a\n",
        b"",
    ],
)
def test_broken_headers_are_refused(random_tensors: Tensors, tmp_path: Path, start: bytes) -> None:
    path = archived(tmp_path / "bad.npz", random_tensors, **{BIAS: start + bytes(4 * 128)})
    with pytest.raises(CodecError, match="broken|expected"):
        MaskCodec.load(path)


@pytest.mark.parametrize(
    "start",
    [
        npy_start(GOOD_HEADER + " " * 60),
        npy_start(GOOD_HEADER, version=2),
        npy_start(GOOD_HEADER, version=3),
        npy_start("{'shape': (128,), 'fortran_order': True, 'descr': '<f4'}"),
        npy_start("{'descr':'<f4','fortran_order':False,'shape':(128, )}"),
    ],
)
def test_headers_of_other_writers_are_read(
    random_tensors: Tensors, tmp_path: Path, start: bytes
) -> None:
    content = start + random_tensors[BIAS].tobytes()
    tensors = read_tensors(archived(tmp_path / "other.npz", random_tensors, **{BIAS: content}))
    np.testing.assert_array_equal(tensors[BIAS].numpy(), random_tensors[BIAS])


def test_fortran_order_and_packed_members_hold_the_same_numbers(
    random_tensors: Tensors, tmp_path: Path
) -> None:
    turned = {name: np.asfortranarray(value) for name, value in random_tensors.items()}
    assert b"'fortran_order': True" in npy(turned["decoder.0.weight"])
    np.savez_compressed(tmp_path / "turned.npz", **turned)  # type: ignore[arg-type]
    found = read_tensors(tmp_path / "turned.npz")
    assert found.keys() == random_tensors.keys()
    for name, value in random_tensors.items():
        np.testing.assert_array_equal(found[name].numpy(), value, err_msg=name)


@pytest.mark.parametrize("content", [bytes(4 * 128 - 1), b""])
def test_a_member_shorter_than_its_header_promises_is_refused(
    random_tensors: Tensors, tmp_path: Path, content: bytes
) -> None:
    member = npy_start(GOOD_HEADER) + content
    path = archived(tmp_path / "bad.npz", random_tensors, **{BIAS: member})
    with pytest.raises(CodecError, match="broken"):
        MaskCodec.load(path)


def with_zeros_behind(path: Path, tensors: Tensors, count: int) -> zipfile.ZipInfo:
    """Write a file whose bias goes on for ``count`` zero bytes; what its entry says is right."""
    good = npy(tensors[BIAS])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open(f"{BIAS}.npy", "w") as member:
            member.write(good)
            for _ in range(count // 1_000_000):
                member.write(bytes(1_000_000))
        for name in tensors.keys() - {BIAS}:
            archive.writestr(f"{name}.npy", npy(tensors[name]), zipfile.ZIP_STORED)
        return archive.getinfo(f"{BIAS}.npy")


def test_300_mb_behind_a_right_header_are_refused_before_they_are_read(
    random_tensors: Tensors, tmp_path: Path
) -> None:
    with_zeros_behind(tmp_path / "bomb.npz", random_tensors, 300_000_000)
    with at_most(50_000_000), pytest.raises(CodecError, match="unpacks to 308,"):
        read_tensors(tmp_path / "bomb.npz")


def test_an_entry_that_lies_about_its_size_does_not_unpack_further(
    random_tensors: Tensors, tmp_path: Path
) -> None:
    path = tmp_path / "lie.npz"
    entry = with_zeros_behind(path, random_tensors, 100_000_000)
    good = npy(random_tensors[BIAS])
    sizes = (entry.CRC, entry.compress_size, entry.file_size)
    held = path.read_bytes()
    true, lie = (
        b"".join(number.to_bytes(4, "little") for number in numbers)
        for numbers in (sizes, (zlib.crc32(good), entry.compress_size, len(good)))
    )
    directory = held.rindex(true)
    path.write_bytes(held[:directory] + lie + held[directory + 12 :])
    with at_most(50_000_000):
        assert len(read_tensors(path)) == 49


def test_a_claim_of_four_gigabytes_is_refused(random_tensors: Tensors, tmp_path: Path) -> None:
    claim = npy_start("{'descr': '<f4', 'fortran_order': False, 'shape': (1024, 1024, 1024), }")
    path = archived(tmp_path / "huge.npz", random_tensors, **{BIAS: claim})
    with pytest.raises(CodecError, match="broken"):
        read_tensors(path)


def test_a_member_that_is_there_twice_is_refused(npz: Path, tmp_path: Path) -> None:
    twice = tmp_path / "twice.npz"
    twice.write_bytes(npz.read_bytes())
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(f"{BIAS}.npy", npy(np.zeros(128, np.float32)))
    with pytest.raises(CodecError, match="twice"):
        MaskCodec.load(twice)


@pytest.mark.parametrize(
    ("name", "method", "words"),
    [
        (f"{BIAS}.NPY", zipfile.ZIP_STORED, "unknown"),
        ("notes/", zipfile.ZIP_STORED, "unknown"),
    ],
)
def test_members_of_another_kind_are_refused(
    random_tensors: Tensors, tmp_path: Path, name: str, method: int, words: str
) -> None:
    kept = {held: value for held, value in random_tensors.items() if held != BIAS}
    path = archived(tmp_path / "bad.npz", kept)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, npy(random_tensors[BIAS]), method)
    with pytest.raises(CodecError, match=words):
        MaskCodec.load(path)


@given(data=st.data())
@settings(max_examples=25)
def test_no_damage_to_an_archive_escapes_as_another_error(npz: Path, data: st.DataObject) -> None:
    held = bytearray(npz.read_bytes())
    directory = held.index(b"PK\x01\x02")
    headers = st.integers(0, 250) | st.integers(directory, len(held) - 1)
    for place in data.draw(st.lists(headers, min_size=1, max_size=3)):
        held[place] = data.draw(st.integers(0, 255))
    damaged = npz.with_name("damaged.npz")
    damaged.write_bytes(held)
    try:
        tensors = read_tensors(damaged)
    except CodecError:
        return
    assert len(tensors) == 49


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.int32, torch.float8_e5m2])
def test_safetensors_of_other_dtypes_are_refused(
    random_tensors: Tensors, tmp_path: Path, dtype: torch.dtype
) -> None:
    tensors = {name: torch.from_numpy(value) for name, value in random_tensors.items()}
    save_file(tensors | {BIAS: tensors[BIAS].to(dtype)}, tmp_path / "bad.safetensors")
    with pytest.raises(CodecError, match=f"{BIAS} is .*, expected one of F16, BF16, F32"):
        MaskCodec.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_safetensors_of_floats_are_read_and_may_lack_the_averages(
    random_tensors: Tensors, tmp_path: Path, dtype: torch.dtype
) -> None:
    tensors = {name: torch.from_numpy(value).to(dtype) for name, value in random_tensors.items()}
    del tensors["_vq_vae._ema_w"], tensors["_vq_vae._ema_cluster_size"]
    save_file(tensors, tmp_path / "good.safetensors")
    found = read_tensors(tmp_path / "good.safetensors")
    for name, value in tensors.items():
        assert torch.equal(found[name], value.float()), name
    assert MaskCodec.load(tmp_path / "good.safetensors").name.startswith("codebook:")


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


def test_codecs_are_cached_by_file_not_by_name(
    tmp_path: Path, random_tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder's file of the same name, or a file written anew, is another codec."""
    for name, value in (("one", 0.5), ("two", 0.25)):
        (tmp_path / name).mkdir()
        bias = np.full(128, value, np.float32)
        np.savez(tmp_path / name / "c.npz", **random_tensors | {BIAS: bias})

    def bias() -> float:
        return float(MaskCodec.load("c.npz").network.state_dict()[BIAS][0])

    monkeypatch.chdir(tmp_path / "one")
    assert MaskCodec.load("c.npz") is MaskCodec.load(tmp_path / "one" / "c.npz")
    assert bias() == 0.5
    monkeypatch.chdir(tmp_path / "two")
    assert bias() == 0.25
    np.savez("c.npz", **random_tensors | {BIAS: np.full(128, 0.75, np.float32)})
    os.utime("c.npz", ns=(1, 1))
    assert bias() == 0.75
