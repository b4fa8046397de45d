"""Videos that are cut, turned, empty or no videos, through `iter_frames`."""

from pathlib import Path

import numpy as np
import pytest

from pgvision.errors import ImageError, SourceError
from pgvision.images import FrameFailure, VideoWriter, iter_frames


def flat(shade: int, hw: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*hw, 3), shade, np.uint8)


def video(path: Path, num_frames: int = 20) -> Path:
    with VideoWriter(path, fps=25, image_hw=(48, 64)) as writer:
        for index in range(num_frames):
            writer.write(flat(index * 10))
    return path


def noisy_video(path: Path) -> Path:
    rng = np.random.default_rng(0)
    with VideoWriter(path, fps=25, image_hw=(48, 64)) as writer:
        for _ in range(40):
            writer.write(rng.integers(0, 255, (48, 64, 3), np.uint8))
    return path


@pytest.mark.parametrize(("ending", "share"), [("avi", 0.6), ("mkv", 0.6), ("mp4", 0.6)])
def test_a_video_cut_short_is_reported(tmp_path: Path, ending: str, share: float) -> None:
    path = noisy_video(tmp_path / f"clip.{ending}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    got = list(iter_frames(path, on_error="record"))
    assert isinstance(got[-1], FrameFailure)
    assert isinstance(got[-1].error, SourceError)
    assert str(path) in str(got[-1].error)
    assert "cut short" in str(got[-1].error)
    assert got[-1].index == len(got) - 1
    if ending != "mp4":  # whose index stands at its end: nothing can be read
        assert 10 < len(got) < 35
    with pytest.raises(SourceError, match="cut short"):
        list(iter_frames(path))


def front_loaded(data: bytes) -> bytes:
    """Move an MP4's index before its data ("faststart"), offsets corrected."""
    boxes, position = {}, 0
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        boxes[data[position + 4 : position + 8]] = data[position : position + size]
        position += size
    moov = bytearray(boxes[b"moov"])
    at = moov.index(b"stco") + 8
    for entry in range(int.from_bytes(moov[at : at + 4], "big")):
        where = at + 4 + 4 * entry
        offset = int.from_bytes(moov[where : where + 4], "big") + len(moov)
        moov[where : where + 4] = offset.to_bytes(4, "big")
    rest = b"".join(box for name, box in boxes.items() if name not in (b"ftyp", b"moov"))
    return boxes[b"ftyp"] + bytes(moov) + rest


def test_a_front_loaded_mp4_cut_in_its_data(tmp_path: Path) -> None:
    data = front_loaded(noisy_video(tmp_path / "clip.mp4").read_bytes())
    path = tmp_path / "fast.mp4"
    path.write_bytes(data)
    assert len(list(iter_frames(path))) == 40
    path.write_bytes(data[: len(data) * 6 // 10])
    got = list(iter_frames(path, on_error="record"))
    assert 10 < len(got) < 35
    assert "of 40: cut short" in str(got[-1].error)


def test_a_turned_video_is_upright(tmp_path: Path) -> None:
    data = bytearray(video(tmp_path / "clip.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # after version, times, ids, layer, volume
    quarter = [0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30]
    data[matrix : matrix + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in quarter)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data)
    assert {f.image_hw for f in iter_frames(path)} == {(64, 48)}


def test_no_video_at_all(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    for data, words in [(b"", "empty file"), (b"hello" * 500, "no video that FFmpeg knows")]:
        path.write_bytes(data)
        with pytest.raises(SourceError, match=words) as caught:
            list(iter_frames(path))
        assert str(path) in str(caught.value)
    unknown = tmp_path / "notes.dat"
    unknown.write_bytes(b"hello" * 500)
    with pytest.raises(ImageError, match="nor is it a video"):
        list(iter_frames(unknown))


def test_a_video_without_frames(tmp_path: Path) -> None:
    data = bytearray(video(tmp_path / "clip.avi").read_bytes())
    start, end = data.index(b"movi") + 4, data.index(b"idx1")
    data[start:end] = bytes(end - start)
    path = tmp_path / "none.avi"
    path.write_bytes(data)
    (failure,) = iter_frames(path, on_error="record")
    assert isinstance(failure.error, SourceError)
    assert str(path) in str(failure.error)
