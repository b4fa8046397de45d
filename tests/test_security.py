"""What SECURITY.md promises, looked for in every call of the source."""

import ast
import struct
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from pgvision.errors import ImageError, PromptError
from pgvision.images import read_image
from pgvision.tokens import detect_prefix, require_classes

ROOT = Path(__file__).parents[1]
FORBIDDEN = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}


def calls():
    for package in ("pgvision", "vqvae"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    keywords = {word.arg: word.value for word in node.keywords}
                    yield (
                        f"{file.relative_to(ROOT)}:{node.lineno}",
                        ast.unparse(node.func),
                        keywords,
                    )


def is_constant(value, wanted):
    return isinstance(value, ast.Constant) and value.value is wanted


def test_nothing_unpickles():
    seen = set()
    for where, name, keywords in calls():
        if name in ("np.load", "numpy.load") or name.endswith("read_array"):
            assert is_constant(keywords.get("allow_pickle"), False), where
            seen.add("numpy")
        if name == "torch.load":
            assert is_constant(keywords.get("weights_only"), True), where
            seen.add("torch")
        assert not is_constant(keywords.get("trust_remote_code"), True), where
        assert name not in ("eval", "exec", "os.system"), where
        assert not is_constant(keywords.get("shell"), True), where
    assert seen == {"numpy", "torch"}  # the search finds what is there


def test_nothing_imports_a_pickler():
    for package in ("pgvision", "vqvae"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                assert FORBIDDEN.isdisjoint(name.partition(".")[0] for name in names), file


@pytest.mark.parametrize("side", [20_000, 65_500])
def test_a_bomb_is_refused_before_it_is_allocated(tmp_path, side):
    """A picture of a few hundred bytes that claims 0.4 and 4.3 gigapixels."""
    path = tmp_path / "bomb.jpg"
    Image.new("RGB", (16, 16), "red").save(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="too large to be read safely"):
            read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_file_of_terabytes_is_not_read(tmp_path):
    path = tmp_path / "large.jpg"
    with path.open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(ImageError, match="no picture that can be read safely"):
        read_image(path)


@pytest.mark.parametrize(
    "phrase", ["<loc0001> a", "a\nb", "<image> a", "a <seg001>", "a\r\nb", "helmet ; <loc0000>"]
)
def test_a_phrase_cannot_become_tokens(phrase):
    with pytest.raises(PromptError):
        detect_prefix(require_classes([phrase]), kind="mix")
