"""One rule for names in folders, tar files and lists; pages; lists with broken entries."""

import io
import logging
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgvision.errors import DataError, ImageError, SourceError
from pgvision.images import Frame, FrameFailure, iter_frames, read_image, to_bgr, video_info
from pgvision.images.containers import list_tar

NAMES = ("._1.jpg", "1.jpg", "__MACOSX/._2.jpg", "2.jpg", ".trash.jpg", ".ipynb_checkpoints/1.jpg",
         "sub/3.jpg", "sub/.git/4.jpg", "1.overlay.jpg", "@eaDir/1.jpg", "Thumbs.db")  # fmt: skip
READ = ["1.jpg", "2.jpg", "sub/3.jpg"]


def jpeg(shade: int = 9, kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 48), (shade,) * 3).save(out, kind)
    return out.getvalue()


def tar(path: Path, names: tuple[str, ...], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:
        for name in names:
            about = tarfile.TarInfo(name)
            about.size = len(data := jpeg())
            file.addfile(about, io.BytesIO(data))
    return path


def sources(frames: object, **options: object) -> list[str]:
    found = list(iter_frames(frames, on_error="record", **options))
    assert all(isinstance(frame, Frame) for frame in found), found
    return [frame.source for frame in found]


def test_folder_pattern_tar_and_list_leave_out_the_same(tmp_path: Path) -> None:
    folder = tmp_path / ".cache" / "data"  # the user's own choice may be hidden
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg())
    (folder / "all.txt").write_text("\n".join(NAMES))
    expected = [f"{folder}/{name}" for name in READ]
    assert sources(folder, recursive=True) == expected
    assert sources(f"{folder}/**/*.jpg") == expected
    assert sources(folder / "all.txt") == expected
    file = tar(folder / "mac.tar", NAMES)
    assert sources(file) == [f"{file}/{name}" for name in READ]


def test_a_pattern_may_name_what_is_left_out(tmp_path: Path) -> None:
    for name in (".hidden.jpg", "1.overlay.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(jpeg())
    assert sources(f"{tmp_path}/*.overlay.jpg") == [f"{tmp_path}/1.overlay.jpg"]
    assert sources(f"{tmp_path}/.h*.jpg") == [f"{tmp_path}/.hidden.jpg"]
    assert sources(tmp_path / ".hidden.jpg") == [f"{tmp_path}/.hidden.jpg"]


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "2.jpg").write_bytes(jpeg())
    data = tmp_path / "data"
    data.mkdir()
    (data / "1.jpg").write_bytes(jpeg())
    (data / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(data)
    (data / "broken.jpg").symlink_to(tmp_path / "gone")
    found = list(iter_frames(data, recursive=True, on_error="record"))
    good = [Path(frame.source).relative_to(data).as_posix() for frame in found if frame.ok]
    assert good == ["1.jpg", "linked/2.jpg"]
    assert [Path(frame.source).name for frame in found if not frame.ok] == ["broken.jpg"]


@pytest.mark.parametrize(("name", "mode"), [("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a", "w:xz")])
def test_a_compressed_archive_is_named(tmp_path: Path, name: str, mode: str) -> None:
    with pytest.raises(ImageError, match="(gzip|xz) archive.*unpack it"):
        list(iter_frames(tar(tmp_path / name, ("1.jpg",), mode)))


def test_names_that_are_not_utf8_can_be_written(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9"
    for ending, data in ((b".jpg", jpeg()), (b".png", b"broken")):
        with open(raw + ending, "wb") as file:  # noqa: PTH123
            file.write(data)
    (tmp_path / "all.txt").write_bytes(b"caf\xe9.jpg\ncaf\xe9.png\n")
    for source in (tmp_path, tmp_path / "all.txt"):
        good, bad = iter_frames(source, on_error="record")
        assert Path(good.source).name == "caf%E9.jpg"
        assert Path(bad.source).name == "caf%E9.png"
    file = tar(tmp_path / "a.tar", (os.fsdecode(b"caf\xe9.jpg"),))
    assert sources(file) == [f"{file}/caf%E9.jpg"]


def test_one_folder_under_two_spellings_is_read_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(jpeg())
    once = [str(tmp_path / "1.jpg"), str(tmp_path / "2.jpg")]
    with caplog.at_level(logging.WARNING, "pgvision"):
        assert (
            sources([str(tmp_path), f"{tmp_path}/../{tmp_path.name}", f"{tmp_path}/*.jpg"]) == once
        )
    assert caplog.text.count("left out 2 files that were read before") == 2
    # One result for each image that is named, however often.
    assert sources([once[0], once[0], str(tmp_path)]) == [once[0], *once]


MANIFESTS = {
    "jsonl": '{"image": "a.jpg"}\n{"image": null}\nnonsense\n{"file_name": "c.jpg"}\n["a.jpg"]\n',
    "csv": "width;FileName;path\n64;x;a.jpg\n64\n64;x;\n64;x;c.jpg\n64;y;a.jpg\n",
}


@pytest.mark.parametrize(("ending", "bad"), [("jsonl", [2, 3, 5]), ("csv", [3, 4])])
def test_a_bad_entry_costs_one_entry(tmp_path: Path, ending: str, bad: list[int]) -> None:
    for name in "ac":
        (tmp_path / f"{name}.jpg").write_bytes(jpeg())
    file = tmp_path / f"list.{ending}"
    file.write_text(MANIFESTS[ending])
    found = list(iter_frames(file, on_error="record"))
    assert [Path(frame.source).name for frame in found if frame.ok] == ["a.jpg", "c.jpg"]
    failures = [frame for frame in found if isinstance(frame, FrameFailure)]
    assert [f"line {number}:" in str(one.error) for number, one in zip(bad, failures, strict=True)]
    assert all(isinstance(failure.error, DataError) for failure in failures)


def test_text_lists_of_any_encoding_and_odd_names(tmp_path: Path) -> None:
    for name in ("#1.jpg", "b\u2028\x85.jpg", "é.jpg"):
        (tmp_path / name).write_bytes(jpeg())
    lines = "#1.jpg\n# a comment\nb\u2028\x85.jpg\r\n\né.jpg"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "all.txt").write_bytes(lines.encode(encoding))
        found = [Path(source).name for source in sources(tmp_path / "all.txt")]
        assert found == ["#1.jpg", "b\u2028\x85.jpg", "é.jpg"]
    (tmp_path / "all.csv").write_text("name,width\na.jpg,3\n")
    with pytest.raises(DataError, match=r"all\.csv: expected a header with one of image"):
        list(iter_frames(tmp_path / "all.csv"))
    (tmp_path / "all.csv").write_text("image\n")
    with pytest.raises(SourceError, match="contains no path"):
        list(iter_frames(tmp_path / "all.csv"))


SHADES = (10, 120, 240)
KINDS = {"tif": {}, "gif": {"duration": [100, 300, 50]}, "png": {"duration": [100, 300, 50]},
         "webp": {"duration": [100, 300, 50], "lossless": True}}  # fmt: skip


def pages(path: Path, **options: object) -> Path:
    first, *rest = (Image.new("RGB", (64, 48), (shade,) * 3) for shade in SHADES)
    first.save(path, save_all=True, append_images=rest, **options)
    return path


@pytest.mark.parametrize("ending", KINDS)
def test_all_pages_and_frames_are_read(
    tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = pages(tmp_path / f"scan.{ending}", **KINDS[ending])
    found = list(iter_frames(path))
    assert [round(float(frame.bgr.mean())) for frame in found] == pytest.approx(SHADES, abs=2)
    assert [(frame.source, frame.index) for frame in found] == [(str(path), i) for i in range(3)]
    times = None if ending == "tif" else [0.0, 0.1, 0.4]
    assert [frame.time for frame in found] == (
        [None] * 3 if times is None else pytest.approx(times)
    )
    assert caplog.text == ""
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w") as packed:
        packed.add(path, path.name)
    assert [frame.index for frame in iter_frames(file)] == [0, 1, 2]
    # Where one image is wanted, the log reports how many there are.
    assert round(float(read_image(path).mean())) == pytest.approx(10, abs=2)
    assert f"{path}: contains 3 images" in caplog.text
    (packed,) = list_tar(str(file))
    assert packed.frame(packed.read()).index == 0


def test_mpo_and_ico_are_one_image_and_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgvision.images.reading._reported", set())
    for name in ("1.jpg", "2.mpo"):
        pages(tmp_path / name, format="MPO")
    Image.new("RGB", (64, 64)).save(tmp_path / "3.ico", sizes=[(16, 16), (64, 64)])
    found = list(iter_frames(tmp_path))
    assert [frame.image_hw for frame in found] == [(48, 64), (48, 64), (64, 64)]
    assert caplog.text.count("contains 3 images; the main one is read") == 1
    assert caplog.text.count("contains 2 images") == 1


def test_a_page_that_is_broken_costs_the_pages_from_there(tmp_path: Path) -> None:
    path = pages(tmp_path / "scan.tif", compression="tiff_lzw")
    data = bytearray(path.read_bytes())
    with Image.open(path) as image:
        image.seek(1)
        (offset,) = image.tag_v2[273][:1]  # where the strips of the second page begin
    data[offset : offset + 8] = b"\xff" * 8
    path.write_bytes(data)
    first, *_, last = iter_frames(path, on_error="record")
    assert first.ok
    assert (last.ok, last.index) == (False, 1)
    assert "image 2" in str(last.error)


def test_smaller_copies_within_a_tiff_are_no_pages(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    page, small = Image.new("L", (64, 48), 9), Image.new("L", (16, 12), 9)
    path, subfile = tmp_path / "a.tif", b"\xfe\x00\x04\x00\x01\x00\x00\x00"  # tag, type, count
    page.save(path, save_all=True, append_images=[small], tiffinfo={254: 0})
    data = bytearray(path.read_bytes())
    data[data.rindex(subfile) + 8] = 1  # NewSubfileType of the second page: reduced
    path.write_bytes(data)
    assert [frame.image_hw for frame in iter_frames(tmp_path / "a.tif")] == [(48, 64)]
    assert "contains" not in caplog.text


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_16_bit_image_of_few_bits_is_reported(
    tmp_path: Path, bits: int, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.linspace(0, 2**bits - 1, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "thermal.png")
    read_image(tmp_path / "thermal.png")
    to_bgr(values)
    assert caplog.text.count("nearly black") == (0 if bits == 16 else 2)
    assert ("thermal.png" in caplog.text) == (bits < 16)


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    """FFmpeg follows a playlist to whatever it names."""
    from pgvision.images import VideoWriter

    with VideoWriter(tmp_path / "clip.mp4", 25, (48, 64)) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile clip.mp4\n")
    (tmp_path / "hls.mp4").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n"
    )
    for name in ("list.mp4", "hls.mp4"):
        with pytest.raises(SourceError, match="cannot be opened as a video"):
            video_info(tmp_path / name)


def test_a_quoted_cell_of_a_table_may_have_several_lines(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg())
    table = tmp_path / "all.csv"
    table.write_text('\ncaption,image\r\n"two\nlines, ""quoted""",a.jpg\r\n\r\none,b.jpg\r\n')
    assert [Path(name).name for name in sources(table)] == ["a.jpg", "b.jpg"]
    # A quote that is left open takes all that follows, which must not be silent.
    table.write_text('image,caption\na.jpg,fine\nb.jpg,"open\na.jpg,fine\n')
    first, failure = iter_frames(table, on_error="record")
    assert first.ok
    assert "line 3" in str(failure.error)
    assert "quote" in str(failure.error)
