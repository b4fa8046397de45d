"""`VideoWriter` and `video_info` on real files."""

import math
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pgvision.errors import OptionError, ShapeError, SourceError
from pgvision.images import VideoWriter, iter_frames, video_info

HW = (48, 64)


def flat(shade: int, hw: tuple[int, int] = HW) -> np.ndarray:
    return np.full((*hw, 3), shade, np.uint8)


def write(path: Path, count: int = 10, fps: float = 25, hw: tuple[int, int] = HW) -> Path:
    with VideoWriter(path, fps, hw) as writer:
        for index in range(count):
            writer.write(flat(index * 20, hw))
    return path


@pytest.mark.parametrize("ending", ["mp4", "mov", "m4v", "mkv", "avi"])
@pytest.mark.parametrize("fps", [25, 30000 / 1001])
def test_round_trip(tmp_path: Path, ending: str, fps: float) -> None:
    path = write(tmp_path / "made" / f"clip.{ending}", fps=fps)
    info = video_info(path)
    assert (info.num_frames, info.image_hw) == (10, HW)
    assert info.fps == pytest.approx(fps, rel=1e-3)
    means = [float(frame.bgr.mean()) for frame in iter_frames(path)]
    assert means == pytest.approx([index * 20 for index in range(10)], abs=4)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_colours_stay_where_they_are(tmp_path: Path) -> None:
    blue = np.zeros((*HW, 3), np.uint8)
    blue[..., 0] = 255
    with VideoWriter(tmp_path / "blue.mp4", 25, HW) as writer:
        writer.write(blue)
    (frame,) = iter_frames(tmp_path / "blue.mp4")
    assert abs(frame.bgr.astype(int) - blue).mean() < 6


@pytest.mark.parametrize("hw", [HW, (720, 1280)])  # players guess untagged colours by the size
def test_the_file_says_how_its_colours_are_meant(tmp_path: Path, hw: tuple[int, int]) -> None:
    orange = np.full((*hw, 3), (0, 140, 250), np.uint8)
    with VideoWriter(tmp_path / "clip.mp4", 25, hw) as writer:
        writer.write(orange)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.colorspace, context.color_range) == ("h264", 1, 1)
        seen = next(container.decode(video=0)).to_ndarray(format="bgr24")
    assert abs(seen.astype(int) - orange).max() <= 8


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_frames_are_shown_at_their_own_times(tmp_path: Path, ending: str) -> None:
    times = [0.0, 0.033, 0.067, 0.5, 0.9, 0.9, 2.0]  # one comes twice: it moves, and is not lost
    with VideoWriter(tmp_path / f"clip.{ending}", 30, HW) as writer:
        for index, time in enumerate(times):
            writer.write(flat(index * 30), time)
    with av.open(str(tmp_path / f"clip.{ending}")) as container:
        shown = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
        seconds = container.duration / av.time_base
    assert shown == pytest.approx(times, abs=2e-3)
    assert seconds == pytest.approx(2.0, abs=0.04)  # players stop at the end that a file declares
    assert shown == sorted(set(shown))
    read = [frame.time for frame in iter_frames(tmp_path / f"clip.{ending}")]
    assert read == pytest.approx(times, abs=2e-3)


def test_an_index_comes_first_so_that_a_page_can_play_at_once(tmp_path: Path) -> None:
    data = write(tmp_path / "clip.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_odd_sides_lose_a_row_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "odd.mp4", hw=(49, 65))
    assert video_info(path).image_hw == HW
    assert "odd size" in caplog.text


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"older")
    with pytest.raises(ZeroDivisionError), VideoWriter(path, 25, HW) as writer:
        writer.write(flat(1))
        raise ZeroDivisionError
    assert path.read_bytes() == b"older"
    with pytest.raises(OptionError, match="no frame was written"), VideoWriter(path, 25, HW):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(
    "frame", [flat(1, (48, 66)), flat(1)[..., 0], flat(1).astype(float), None, flat(1)[None]]
)
def test_frames_of_another_shape_are_refused(tmp_path: Path, frame: object) -> None:
    with (
        pytest.raises(ShapeError, match=r"clip\.mp4"),
        VideoWriter(tmp_path / "clip.mp4", 25, HW) as writer,
    ):
        writer.write(frame)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [0, -1, math.nan, math.inf, 5000, "25", None, True])
def test_rates_are_checked(tmp_path: Path, fps: object) -> None:
    with pytest.raises(OptionError, match="fps"):
        VideoWriter(tmp_path / "clip.mp4", fps, HW)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "hw"), [("a.gif", HW), ("a", HW), ("a.mp4", (1, 1)), ("a.mp4", (20, 30_000))]
)
def test_endings_and_sizes_are_checked(tmp_path: Path, name: str, hw: tuple[int, int]) -> None:
    with pytest.raises(OptionError):
        VideoWriter(tmp_path / name, 25, hw)


def test_writing_outside_the_block(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "clip.mp4", 25, HW)
    with pytest.raises(OptionError, match="with VideoWriter"):
        writer.write(flat(1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs setrlimit and /proc")
def test_a_full_disk_is_noticed(tmp_path: Path) -> None:
    code = f"""
import resource, signal, numpy as np
from pgvision.images import VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
rng = np.random.default_rng(0)
try:
    with VideoWriter({str(tmp_path / "full.mp4")!r}, 25, (240, 320)) as writer:
        for _ in range(60):
            writer.write(rng.integers(0, 255, (240, 320, 3), np.uint8))
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "SourceError" in done.stdout
    assert "disk full" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_info_of_what_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        video_info(tmp_path / "gone.mp4")
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(SourceError, match="cannot be opened as a video"):
        video_info(tmp_path / "text.mp4")


def test_opencv_reads_what_we_write(tmp_path: Path) -> None:
    capture = cv2.VideoCapture(str(write(tmp_path / "clip.mp4")))
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == 10
    capture.release()


@pytest.mark.parametrize("time", [float("nan"), float("inf")])
def test_a_time_that_is_no_number_is_refused(tmp_path: Path, time: float) -> None:
    with (
        pytest.raises(OptionError, match="time must be seconds"),
        VideoWriter(tmp_path / "a.mp4", fps=10, image_hw=(48, 64)) as writer,
    ):
        writer.write(np.zeros((48, 64, 3), np.uint8), time=time)
