"""Broken input by the million: whatever comes in, nothing but an error of ours comes out.

    python tests/fuzz/fuzz.py answers 1000000 [SEED]
    python tests/fuzz/fuzz.py pictures 100000
    python tests/fuzz/fuzz.py files 100000
    python tests/fuzz/fuzz.py codec 20000
    python tests/fuzz/fuzz.py journals 100000
    python tests/fuzz/fuzz.py videos 20000
    python tests/fuzz/fuzz.py lists 50000
    python tests/fuzz/fuzz.py codec 20000
    python tests/fuzz/fuzz.py cards 50000
    python tests/fuzz/fuzz.py service 10000

What fails is printed with the number that repeats it alone.
"""

import io
import json
import logging
import random
import struct
import sys
import tarfile
import tempfile
import traceback
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from damage import broken, broken_json, odd, resealed
from hostile import service

from pgvision.batch import merge
from pgvision.batch.items import list_items
from pgvision.batch.journal import Journal, Row
from pgvision.datasets import read_dataset, read_examples
from pgvision.errors import PgvisionError
from pgvision.images import VideoWriter, image_hw_of, iter_frames, read_image, video_info
from pgvision.runtime.checkpoints import find_checkpoint
from pgvision.tasks.trained_on import known_classes, known_question
from pgvision.tokens import parse_suffix
from vqvae import MaskCodec
from vqvae.checkpoint import load_checkpoint

warnings.simplefilter("ignore")

PIECES = (
    "<loc0001> <loc1023> <loc0000> <loc1024> <loc00> <loc <seg000> <seg127> <seg128> <seg> ; ;; "
    "helmet ; </s> <eos> <bos> <image> <pad> \n \t \0 \x85 \u2028 \u202e é 𝟘 ٣ \ud800 <loc٠٠٠١> "
    "<LOC0001> <loc-001> <loc0001 > a b < > ' \" \\ {} [] null nan inf 1e999 -1 ﬁ 😀"
).split(" ")
LOCS = tuple(f"<loc{number:04}>" for number in range(0, 1024, 7))
SEGS = tuple(f"<seg{number:03}>" for number in range(128))


def some_answer(dice: random.Random) -> str:
    """An answer like a model's, with something wrong in it now and then."""
    parts: list[str] = []
    for _ in range(dice.randrange(5)):
        parts += dice.choices(LOCS, k=dice.choice((4, 4, 4, 3, 5, 0)))
        parts += dice.choices(SEGS, k=dice.choice((0, 0, 16, 15, 17)))
        parts += [" ", dice.choice(("helmet", "head", "a b", "")), dice.choice((" ; ", ";", ""))]
    for _ in range(dice.choice((0, 0, 1, 3, 8))):
        parts.insert(dice.randrange(len(parts) + 1), dice.choice(PIECES))
    return "".join(parts)


def answers(folder: Path, dice: random.Random) -> None:
    """The parser never raises, and no text is lost: each part is an object's or a reject's."""
    text = some_answer(dice)
    parsed = parse_suffix(
        text, image_hw=(dice.randrange(1, 2000), dice.randrange(1, 2000)), classes=["helmet"]
    )
    for one in (*parsed.objects, *parsed.rejects):
        if not 0 <= one.start <= one.end <= len(text):
            raise AssertionError(f"{text!r}: {one}")


def some_pictures() -> list[tuple[str, bytes]]:
    picture = Image.fromarray(np.arange(12 * 17 * 3, dtype=np.uint8).reshape(12, 17, 3))
    found = []
    for ending, kind in (
        ("jpg", "JPEG"), ("png", "PNG"), ("gif", "GIF"), ("webp", "WEBP"), ("bmp", "BMP"),
        ("tif", "TIFF"), ("ppm", "PPM"), ("tga", "TGA"),
    ):  # fmt: skip
        stream = io.BytesIO()
        picture.save(stream, kind)
        found.append((ending, stream.getvalue()))
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(stream, "JPEG", exif=exif, progressive=True)
    return [*found, ("jpg", stream.getvalue())]


PICTURES = some_pictures()


def pictures(folder: Path, dice: random.Random) -> None:
    """A picture is read, or refused with a reason."""
    ending, data = dice.choice(PICTURES)
    path = folder / f"a.{ending}"
    path.write_bytes(broken(data, dice))
    for read in (image_hw_of, read_image):
        try:
            read(path)
        except PgvisionError as error:
            assert str(error)


COCO = json.dumps({
    "images": [{"id": 1, "file_name": "a.png", "width": 17, "height": 12}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0,
         "segmentation": [[1, 2, 4, 2, 4, 6]]},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 17, 12], "iscrowd": 1,
         "segmentation": {"size": [12, 17], "counts": [100, 4, 100]}},
    ],
    "categories": [{"id": 1, "name": "helmet"}],
}).encode()  # fmt: skip
VOC = (
    b"<annotation><filename>a.png</filename><size><width>17</width><height>12</height>"
    b"<depth>3</depth></size><object><name>helmet</name><bndbox><xmin>1</xmin><ymin>2</ymin>"
    b"<xmax>8</xmax><ymax>9</ymax></bndbox></object></annotation>"
)
LABELME = json.dumps({
    "imagePath": "a.png", "imageHeight": 12, "imageWidth": 17,
    "shapes": [{"label": "helmet", "shape_type": "rectangle", "points": [[1, 2], [8, 9]]},
               {"label": "helmet", "shape_type": "polygon", "points": [[1, 2], [8, 9], [3, 9]]}],
}).encode()  # fmt: skip
JSONL = b'{"image": "a.png", "prefix": "detect helmet", "suffix": "<loc0001><loc0002><loc0500>'
JSONL += b'<loc0600> helmet"}\n{"image": "a.png", "prefix": "caption en", "suffix": "a site"}\n'


def files(folder: Path, dice: random.Random) -> None:
    """Annotation files of every format are read, or refused with a reason."""
    (folder / "a.png").write_bytes(PICTURES[1][1])
    kind = dice.randrange(5)
    if kind == 0:
        path, reads = folder / "coco.json", [read_dataset]
        path.write_bytes(broken_json(COCO, dice))
    elif kind == 1:
        path, reads = folder / "voc", [read_dataset]
        path.mkdir(exist_ok=True)
        (path / "a.xml").write_bytes(broken(VOC, dice))
        (path / "a.png").write_bytes(PICTURES[1][1])
    elif kind == 2:
        path, reads = folder / "labelme", [read_dataset]
        path.mkdir(exist_ok=True)
        (path / "a.json").write_bytes(broken_json(LABELME, dice))
        (path / "a.png").write_bytes(PICTURES[1][1])
    elif kind == 3:
        path, reads = folder / "examples.jsonl", [read_dataset, read_examples]
        lines = JSONL.splitlines()
        lines[0] = odd(lines[0], dice)
        path.write_bytes(b"\n".join(lines) if dice.randrange(2) else broken(JSONL, dice))
    else:
        path, reads = folder / "yolo", [read_dataset]
        for name in ("images", "labels"):
            (path / name).mkdir(parents=True, exist_ok=True)
        (path / "images" / "a.png").write_bytes(PICTURES[1][1])
        which = dice.randrange(2)
        yaml = b"names: [helmet, head]\ntrain: images\n"
        labels = b"0 0.5 0.5 0.2 0.3\n1 .1 .1 .2 .2\n"
        (path / "data.yaml").write_bytes(broken(yaml, dice) if which else yaml)
        (path / "labels" / "a.txt").write_bytes(labels if which else broken(labels, dice))
    for read in reads:
        try:
            read(path)
        except PgvisionError as error:
            assert str(error)


def codec(folder: Path, dice: random.Random) -> None:
    """A codec's file is loaded, or refused with a reason."""
    source = next(iter(sorted((Path(sys.modules["vqvae"].__file__).parent / "weights").glob("*"))))
    data = bytearray(source.read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    head = broken(bytes(data[8 : 8 + length]), dice)
    size = dice.choice((length, len(head), 2**63, 0, len(data)))
    path = folder / f"a{source.suffix}"
    path.write_bytes(struct.pack("<Q", size) + head + data[8 + length :])
    for load in (load_checkpoint, MaskCodec.load):
        try:
            load(path)
        except PgvisionError as error:
            assert str(error)


def some_journal() -> bytes:
    failure = {"type": "Failure", "source": "a.png", "index": 0, "error": "E", "message": "m"}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.journal"
        with Journal(path, {"task": "read", "shard": None}) as journal:
            journal.list_items(["a.png", "b.png"], listing="x", num_listed=2, places=[0, 1])
            journal.add(Row("a.png", (1, 2, "3"), None, json.dumps(failure), True))
            journal.add(Row("b.png", (1, 2, "3"), 3, json.dumps(failure), True))
            journal.add(Row("b.png"))
        return path.read_bytes()


JOURNAL = some_journal()


def journals(folder: Path, dice: random.Random) -> None:
    """A journal gives its answers, or is refused with a reason."""
    path = folder / "a.journal"
    path.write_bytes(broken(JOURNAL, dice))
    try:
        merge([path], partial=True).write_json_lines(folder / "out.jsonl")
    except (PgvisionError, OSError) as error:
        assert str(error)


def some_videos() -> list[tuple[str, bytes]]:
    found = []
    with tempfile.TemporaryDirectory() as name:
        for ending in ("mp4", "avi", "mkv", "mov"):
            path = Path(name) / f"a.{ending}"
            with VideoWriter(path, 10.0, (16, 32)) as writer:
                for number in range(5):
                    writer.write(np.full((16, 32, 3), 40 * number, np.uint8))
            found.append((ending, path.read_bytes()))
    return found


@cache
def videos_at_hand() -> list[tuple[str, bytes]]:
    return some_videos()


def videos(folder: Path, dice: random.Random) -> None:
    """A video's frames are read, or refused with a reason; five frames do not become thousands."""
    ending, data = dice.choice(videos_at_hand())
    path = folder / f"a.{ending}"
    # Most of the damage where the header is, or (MP4) the index at the end.
    cut = dice.choice((0, 0, len(data) // 2, max(0, len(data) - 900)))
    path.write_bytes(data[:cut] + broken(data[cut:], dice))
    for number, _ in enumerate(iter_frames(str(path), on_error="record", prefetch=0)):
        assert number < 1000, "endless"
    try:
        video_info(path)
    except PgvisionError as error:
        assert str(error)


def a_tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in (("./a.png", PICTURES[1][1]), ("b" * 200 + ".jpg", b"x"), ("c.txt", b"")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()[:6144]


TAR = a_tar()


def lists(folder: Path, dice: random.Random) -> None:
    """Manifests and tar files are listed and read, or refused with a reason."""
    (folder / "a.png").write_bytes(PICTURES[1][1])
    kind = dice.choice(("txt", "jsonl", "tar", "tar"))
    path = folder / f"a.{kind}"
    if kind == "txt":
        path.write_bytes(broken(b"a.png\n# b.png\n./a.png\n", dice))
    elif kind == "jsonl":
        path.write_bytes(broken(b'{"image": "a.png"}\n{"file_name": "./a.png", "id": 3}\n', dice))
    else:
        path.write_bytes(resealed(TAR, dice) if dice.randrange(2) else broken(TAR, dice))
    try:
        for item in list_items([str(path)]):
            assert item.name
    except PgvisionError as error:
        assert str(error)
    for outcome in iter_frames(str(path), on_error="record", prefetch=0):
        assert outcome.ok or str(outcome.error)


CARD = json.dumps({
    "kind": "ft", "codec": "tiny", "about": "a", "classes": ["helmet"], "questions": ["is it?"],
    "max_new_tokens": 12, "notes": "n",
    "closed_set": {"prefix": "detect", "classes": ["helmet"], "num_objects": 3, "noise": "noise"},
}).encode()  # fmt: skip
ADAPTER = b'{"base_model_name_or_path": "tiny", "revision": null, "r": 4}'


def cards(folder: Path, dice: random.Random) -> None:
    """What lies beside weights is read, or refused with a reason."""
    for name, data in (("config.json", b"{}"), ("pgvision.json", CARD)):
        (folder / name).write_bytes(data)
    name, data = dice.choice((("pgvision.json", CARD), ("adapter_config.json", ADAPTER)))
    (folder / name).write_bytes(broken_json(data, dice))
    try:
        card = find_checkpoint(folder)
        known_question("is it", card, unknown="ask")
        known_classes(["helmet"], card, unknown="ask")
    except PgvisionError as error:
        assert str(error)
    finally:
        (folder / name).unlink()


TARGETS: dict[str, Callable[[Path, random.Random], None]] = {
    one.__name__: one
    for one in (answers, pictures, files, codec, journals, videos, lists, cards, service)
}


def run(target: str, count: int, first: int = 0) -> int:
    """Run a target; return how many inputs broke it."""
    crashes = 0
    with tempfile.TemporaryDirectory() as name:
        for number in range(first, first + count):
            try:
                TARGETS[target](Path(name), random.Random(f"{target} {number}"))
            except Exception:  # noqa: BLE001  (this is what is looked for)
                crashes += 1
                if crashes <= 10:
                    sys.stderr.write(f"{target} {number}:\n{traceback.format_exc()}\n")
    return crashes


if __name__ == "__main__":
    logging.disable()
    words = sys.argv[1:]
    found = run(words[0], int(words[1]), int(words[2]) if len(words) > 2 else 0)
    sys.stdout.write(f"{words[0]}: {words[1]} inputs, {found} crashes\n")
    sys.exit(1 if found else 0)
