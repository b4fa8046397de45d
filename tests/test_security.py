"""What SECURITY.md promises, looked for in every call of the source."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import bombs

from pgvision.datasets import read_dataset, read_examples
from pgvision.errors import CheckpointError, ImageError, PgvisionError, PromptError, SourceError
from pgvision.images import iter_frames, read_image
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


MEASURED = """
import logging, resource, sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import bombs
from pgvision.errors import PgvisionError
from pgvision.images import decode_image, image_hw_of, iter_frames, read_image, video_info

logging.disable()
folder = Path(tempfile.mkdtemp())

def refuses(read, *words):
    try:
        return read(*words) and False
    except PgvisionError:
        return True

def grown(what):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = what()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, said

if sys.argv[2] == "pictures":
    for make in bombs.PICTURES:
        path = folder / ("a." + make.__name__.partition("_")[0])
        path.write_bytes(make())
        assert path.stat().st_size < 300_000
        megabytes, refused = grown(lambda: (refuses(image_hw_of, path), refuses(read_image, path)))
        print(make.__name__, round(megabytes), *refused, sep="\t")
else:
    bombs.film(folder / "warm.mp4")
    list(iter_frames(str(folder / "warm.mp4"), prefetch=0))
    for name, make in bombs.VIDEOS.items():
        path = folder / ("v." + name[:3])
        path.write_bytes(make(folder))
        def look():
            refuses(video_info, path)
            found = list(iter_frames(str(path), on_error="record", prefetch=0))
            # What is not refused is what the stream itself says.
            return not found[-1].ok or all(one.bgr.shape == (32, 48, 3) for one in found)
        print(name, *grown(look), True, sep="\t")
"""


@pytest.mark.parametrize("kind", ["pictures", "videos"])
def test_bombs_are_refused_before_they_are_allocated(kind):
    """Files below 300 kB that claim 0.3 gigapixels to 1.1 terapixels; a process is measured."""
    words = [sys.executable, "-c", MEASURED, str(ROOT / "tests"), kind]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(rows) == len(bombs.PICTURES if kind == "pictures" else bombs.VIDEOS)
    for name, megabytes, *refused in rows:
        assert float(megabytes) < 32, (name, megabytes)
        assert refused == ["True", "True"], (name, refused)


def test_a_video_of_too_large_frames_is_refused_by_name(tmp_path):
    path = tmp_path / "a.avi"
    path.write_bytes(bombs.mjpeg(tmp_path))
    with pytest.raises(SourceError, match="256000000 pixels"):
        list(iter_frames(path))


# Where a file names another: (what is written, how it is read).
def coco(name):
    image = {"id": 1, "file_name": name, "width": 17, "height": 12}
    return "a.json", json.dumps({"images": [image], "annotations": [], "categories": []})


def voc(name):
    size = "<size><width>17</width><height>12</height></size>"
    return "in/a.xml", f"<annotation><filename>{escape(name)}</filename>{size}</annotation>"


def labelme(name):
    sides = {"imageHeight": 12, "imageWidth": 17}
    return "in/a.json", json.dumps({"imagePath": name, "shapes": [], **sides})


def jsonl(name):
    return "a.jsonl", json.dumps({"image": name, "prefix": "caption en", "suffix": "a"})


def yolo(name):
    return "data.yaml", json.dumps({"names": ["helmet"], "train": name})


OUTSIDE = (
    "../../../secret.png", "in/../../../../secret.png", "{outside}", "..\\..\\..\\secret.png",
    "C:\\secret.png", "\\\\host\\share\\secret.png", "file://{outside}", "~/secret.png", "a\0.png",
)  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", [coco, voc, labelme, jsonl, yolo])
def test_no_name_leaves_the_data_set(tmp_path, kind, name, monkeypatch):
    """What lies outside is a picture that could be read: only the name stands in its way.

    A name may climb to a neighbour (``../images/a.png``), as YOLO's and VOC's do, and no further.
    """
    outside = tmp_path / "secret.png"
    Image.new("RGB", (17, 12)).save(outside)
    monkeypatch.setenv("HOME", str(tmp_path))
    data = tmp_path / "home" / "mine" / "data"
    (data / "in").mkdir(parents=True)
    file, text = kind(name.format(outside=outside))
    (data / file).write_text(text)
    place = (
        data / file if kind in (coco, jsonl) else data / "in" if kind in (voc, labelme) else data
    )
    try:
        found = read_examples(place) if kind is jsonl else read_dataset(place).images
    except PgvisionError as error:
        assert str(error)
    else:
        paths = [one.image if kind is jsonl else one.path for one in found]
        assert [path for path in paths if Path(os.path.realpath(path)) == outside] == []


def test_weights_in_parts_are_named_by_their_index_alone(tmp_path):
    """``model.safetensors.index.json`` may not reach for a file elsewhere."""
    from safetensors.torch import load_file, save_file

    from pgvision.runtime import load
    from pgvision.runtime.checkpoints import TINY_FOLDER

    folder = tmp_path / "model"
    shutil.copytree(TINY_FOLDER, folder)
    weights = load_file(folder / "model.safetensors")
    save_file(weights, tmp_path / "outside.safetensors", {"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "../outside.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError):
        load(folder)


def test_a_file_of_terabytes_is_not_read(tmp_path):
    path = tmp_path / "large.jpg"
    with path.open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(ImageError, match="too many for an image"):
        read_image(path)


@pytest.mark.parametrize(
    "phrase", ["<loc0001> a", "a\nb", "<image> a", "a <seg001>", "a\r\nb", "helmet ; <loc0000>"]
)
def test_a_phrase_cannot_become_tokens(phrase):
    with pytest.raises(PromptError):
        detect_prefix(require_classes([phrase]), kind="mix")
