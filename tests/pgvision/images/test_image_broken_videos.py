"""Videos that are cut, turned, empty or no videos, through `iter_frames`."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pgvision.errors import ImageError, SourceError
from pgvision.images import FrameFailure, VideoWriter, iter_frames, video_info


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


@pytest.mark.parametrize("ending", ["mkv", "mp4", "ts"])
def test_a_video_that_starts_late_is_whole(tmp_path: Path, ending: str) -> None:
    """Recordings are cut into parts that keep the times of the whole; Matroska declares the end."""
    path = tmp_path / f"part-2.{ending}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(flat(index * 10), format="bgr24")
            frame.pts, frame.time_base = 1000 + index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    times = [frame.time for frame in iter_frames(path)]
    assert times == pytest.approx(np.arange(20) / 25, abs=0.01)
    assert video_info(path).num_frames == 20


@pytest.mark.parametrize(("ending", "share"), [("avi", 0.6), ("mkv", 0.6), ("mp4", 0.6)])
def test_a_video_cut_short_is_reported(tmp_path: Path, ending: str, share: float) -> None:
    path = noisy_video(tmp_path / f"clip.{ending}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    got = list(iter_frames(path, on_error="record"))
    assert isinstance(got[-1], FrameFailure)
    assert isinstance(got[-1].error, SourceError)
    assert str(path) in str(got[-1].error)
    assert "of 40: cut short" in str(got[-1].error)
    assert got[-1].index == len(got) - 1
    assert 10 < len(got) < 35
    with pytest.raises(SourceError, match="cut short"):
        list(iter_frames(path))


def test_an_mp4_whose_index_stands_at_its_end_gives_nothing_once_cut(tmp_path: Path) -> None:
    path = tmp_path / "camera.mp4"
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 25, (64, 48))
    for index in range(20):
        writer.write(flat(index * 10))
    writer.release()
    data = path.read_bytes()
    assert data.index(b"moov") > data.index(b"mdat")
    path.write_bytes(data[: len(data) * 6 // 10])
    (failure,) = iter_frames(path, on_error="record")
    assert "is the file whole?" in str(failure.error)


# Display matrices (a, b, u, c, d, v, x, y, w) of a quarter turn either way and of a half turn.
TURNS = {
    "right": [0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30],
    "left": [0, -(1 << 16), 0, 1 << 16, 0, 0, 0, 64 << 16, 1 << 30],
    "over": [-(1 << 16), 0, 0, 0, -(1 << 16), 0, 64 << 16, 48 << 16, 1 << 30],
}


@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_video_is_upright(tmp_path: Path, turn: str) -> None:
    """OpenCV turns frames by itself."""
    ramp = np.add.outer(np.arange(48) * 3, np.arange(64) * 1.5).astype(np.uint8)
    with VideoWriter(tmp_path / "clip.mp4", fps=25, image_hw=(48, 64)) as writer:
        writer.write(np.repeat(ramp[..., None], 3, axis=2))
    data = bytearray((tmp_path / "clip.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # after version, times, ids, layer, volume
    data[matrix : matrix + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in TURNS[turn])
    path = tmp_path / "turned.mp4"
    path.write_bytes(data)
    capture = cv2.VideoCapture(str(path))
    _, expected = capture.read()
    capture.release()
    (frame,) = iter_frames(path)
    np.testing.assert_array_equal(frame.bgr, expected)
    assert video_info(path).image_hw == frame.image_hw == expected.shape[:2]


def test_times_begin_at_the_start_of_a_transport_stream(tmp_path: Path) -> None:
    """Recordings of a broadcast begin at any time."""
    path = tmp_path / "clip.ts"
    with av.open(str(path), "w", format="mpegts") as target:
        stream = target.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(flat(index * 20), "bgr24")
            frame.pts = 50 + index
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert container.start_time > av.time_base
    times = [frame.time for frame in iter_frames(path)]
    assert times == pytest.approx([index / 25 for index in range(10)], abs=2e-3)


def test_no_video_at_all(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    for data, words in [(b"", "empty file"), (b"hello" * 500, "Invalid data.* is the file whole")]:
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


def test_a_matroska_header_longer_than_any_file(tmp_path):
    """It had ended in an OSError of a seek (found by fuzzing)."""
    path = tmp_path / "a.mkv"
    path.write_bytes(b"\x1a\x45\xdf\xa3\x01\xf0" + b"\xff" * 40)
    (failure,) = iter_frames(path, on_error="record")
    assert isinstance(failure.error, SourceError)


def test_a_video_of_an_unknown_codec(tmp_path: Path) -> None:
    """It had ended in an AttributeError of PyAV (found by fuzzing)."""
    path = video(tmp_path / "clip.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(SourceError, match="no decoder for its codec"):
        video_info(path)
    (failure,) = iter_frames(path, on_error="record")
    assert isinstance(failure.error, SourceError)
