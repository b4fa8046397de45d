"""`iter_frames` over real sources of every kind."""

import gc
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pgvision.errors import ImageError, OptionError, PgvisionError, ShapeError, SourceError
from pgvision.images import (
    Frame,
    FrameFailure,
    VideoWriter,
    image_hw_of,
    iter_frames,
    read_image,
)


def flat(shade: int, hw: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*hw, 3), shade, np.uint8)


def picture(path: Path, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(flat(shade)).save(path)
    return path


def video(path: Path, num_frames: int = 20) -> Path:
    with VideoWriter(path, fps=25, image_hw=(48, 64)) as writer:
        for index in range(num_frames):
            writer.write(flat(index * 10))
    return path


def shades(frames: object, **options: object) -> list[int]:
    return [round(float(f.bgr.mean())) for f in iter_frames(frames, **options)]  # type: ignore


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("pgvision-reader")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert readers() == []


def test_arrays_pil_and_frames_in_order() -> None:
    own = Frame(flat(4), source="mine", index=9, time=1.5)
    mixed = [flat(1), flat(2)[..., 0], Image.fromarray(flat(3)), own, np.stack([flat(5), flat(6)])]
    got = list(iter_frames(mixed))
    assert [int(f.bgr[0, 0, 0]) for f in got] == [1, 2, 3, 4, 5, 6]
    assert [(f.source, f.index) for f in got] == [
        ("array", 0), ("array", 1), ("pil", 2), ("mine", 9), ("array", 0), ("array", 1),
    ]  # fmt: skip
    assert got[3] is own
    assert {f.time for f in got} == {None, 1.5}


def test_one_picture_is_one_frame(tmp_path: Path) -> None:
    assert shades(flat(3)) == shades(flat(3)[..., 0]) == shades(Image.fromarray(flat(3))) == [3]
    path = picture(tmp_path / "a.png", 8)
    (frame,) = iter_frames(path)
    assert (frame.source, frame.index, frame.time) == (str(path), 0, None)
    (from_pil,) = iter_frames(Image.open(path))
    assert from_pil.source == str(path)


def test_colour_is_of_arrays_only(tmp_path: Path) -> None:
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    Image.fromarray(red).save(tmp_path / "red.png")
    items = [red, Image.fromarray(red), tmp_path / "red.png"]
    assert all((f.bgr == (0, 0, 255)).all() for f in iter_frames(items, color="rgb"))


def test_folder_is_naturally_sorted(tmp_path: Path) -> None:
    for name, shade in {"10.png": 30, "2.png": 20, "1.PNG": 10, "sub/3.png": 40}.items():
        picture(tmp_path / name, shade)
    picture(tmp_path / ".hidden.png", 99)
    (tmp_path / "labels.txt").write_text("nothing.png")
    assert shades(tmp_path) == [10, 20, 30]
    assert shades(str(tmp_path), recursive=True) == [10, 20, 30, 40]
    assert shades(f"{tmp_path}/*") == [10, 20, 30]
    assert shades(f"{tmp_path}/**/*.png") == [20, 30, 40]


def test_names_that_look_like_patterns(tmp_path: Path) -> None:
    assert shades(picture(tmp_path / "[1]" / "a?[2]*.png", 7)) == [7]
    assert len(shades(video(tmp_path / "%02d:x.mp4"))) == 20


def test_text_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "lists" / "in" / "a.png", 1)
    other = picture(tmp_path / "b.png", 2)
    names = tmp_path / "lists" / "all.txt"
    names.write_bytes(f"\ufeff# chosen\r\nin/a.png\r\n\r\n{other}\r\ngone.png\r\n".encode())
    monkeypatch.chdir(tmp_path)
    got = list(iter_frames("lists/all.txt", on_error="record"))
    assert [f.ok for f in got] == [True, True, False]
    assert "all.txt, line 5" in str(got[2].error)
    names.write_text("# nothing\n")
    with pytest.raises(SourceError, match="contains no path"):
        list(iter_frames(names))
    names.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match="UTF-8"):
        list(iter_frames(names))


@pytest.mark.parametrize("ending", ["mp4", "avi", "mkv", "mov"])
def test_video_file(tmp_path: Path, ending: str) -> None:
    path = video(tmp_path / f"clip.{ending}")
    got = list(iter_frames(path))
    assert [f.index for f in got] == list(range(20))
    assert [f.time for f in got] == pytest.approx([i / 25 for i in range(20)], abs=2e-3)
    # Coding loses a little; under half a step of 10, each frame is still told from the next.
    assert [float(f.bgr.mean()) for f in got] == pytest.approx([i * 10 for i in range(20)], abs=4.9)
    every = list(iter_frames([path, path], stride=7))
    assert [f.index for f in every] == [0, 7, 14] * 2
    assert [float(f.bgr.mean()) for f in every[:3]] == pytest.approx([0, 70, 140], abs=4.9)


def test_video_without_an_ending(tmp_path: Path) -> None:
    clip = video(tmp_path / "clip.mp4").rename(tmp_path / "clip")
    assert len(shades(clip)) == 20
    still = picture(tmp_path / "a.png", 7).rename(tmp_path / "still.mp4")
    assert shades(still) == [7]


def test_a_reused_buffer_does_not_mix_frames() -> None:
    def camera() -> Iterator[np.ndarray]:
        buffer = flat(0)
        for shade in range(12):
            buffer[:] = shade
            yield buffer

    assert shades(camera()) == list(range(12))


def test_iterables_nest_once() -> None:
    assert shades([[flat(1), flat(2)], (flat(s) for s in (3, 4)), flat(5)]) == [1, 2, 3, 4, 5]
    assert shades(np.array([], object)) == shades([]) == []
    with pytest.raises(OptionError, match="one level"):
        shades([[[flat(1)]]])
    with pytest.raises(OptionError, match="nested lists"):
        shades([[[0, 0, 0], [1, 1, 1]]])


@pytest.mark.parametrize(
    "frames",
    [None, {"a": 1}, b"bytes", {1, 2}, -1, True, 1.5, object(), np.int64(-3), torch.zeros(3, 4, 4)],
)
def test_what_is_no_source_is_refused_at_once(frames: object) -> None:
    with pytest.raises(OptionError, match="expected"):
        iter_frames(frames)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"stride": 0}, {"stride": 1.5}, {"prefetch": -1}, {"on_error": "ignore"}, {"color": "hsv"}],
)
def test_options_are_checked_at_once(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        iter_frames([], **options)  # type: ignore[arg-type]


def test_one_bad_picture_does_not_lose_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = tmp_path / "b.jpg"
    bad.write_bytes(b"")
    good = [picture(tmp_path / name, 5) for name in ("a.png", "c.png")]
    items = [good[0], bad, "gone.png", None, np.zeros((0, 3)), good[1]]
    got = list(iter_frames(items, on_error="record"))
    assert [f.ok for f in got] == [True, False, False, False, False, True]
    kinds = [type(f.error) for f in got if isinstance(f, FrameFailure)]
    assert kinds == [ImageError, SourceError, OptionError, ShapeError]
    assert got[1].source == str(bad)
    assert got[4].index == 4
    with caplog.at_level(logging.WARNING, "pgvision.images"):
        assert shades(items, on_error="skip") == [5, 5]
    assert str(bad) in caplog.text
    assert shades(tmp_path, on_error="skip") == [5, 5]
    stream = iter_frames(tmp_path)
    assert next(stream).ok
    with pytest.raises(ImageError, match=r"b\.jpg"):
        next(stream)


def test_empty_and_missing_places(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="recursive=True"):
        list(iter_frames(tmp_path))
    for missing in (tmp_path / "no", f"{tmp_path}/*.jpg", "ftp://host/a.jpg", "a\0.png"):
        with pytest.raises(SourceError):
            list(iter_frames(missing))
    for empty in ("", "  "):
        with pytest.raises(OptionError, match="empty"):
            list(iter_frames(empty))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_unreadable_folder(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    picture(locked / "a.png", 1)
    locked.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # root reads everything
            os.seteuid(65534)
        with pytest.raises(SourceError, match=r"locked|Permission"):
            list(iter_frames(str(locked)))
    finally:
        os.seteuid(user)
        locked.chmod(0o700)


def test_no_camera_and_no_address() -> None:
    for device in (63, "63", np.int64(63)):
        with pytest.raises(SourceError, match="camera:63"):
            list(iter_frames(device))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"rtsp://me:secret@127.0.0.1:{unused.getsockname()[1]}/live"
        (failure,) = iter_frames(address, on_error="record")
    assert "secret" not in f"{failure} {failure.source}"
    assert isinstance(failure.error, SourceError)


def test_video_over_http(tmp_path: Path) -> None:
    video(tmp_path / "clip.mp4")
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            port = server.stdout.readline().split("port ")[1].split()[0]
            address = f"http://127.0.0.1:{port}/clip.mp4"
            got = list(iter_frames(address, stride=5))
        finally:
            server.terminate()
    assert [(f.source, f.index) for f in got] == [(address, i) for i in (0, 5, 10, 15)]


def test_stopping_early_ends_the_thread_and_frees_the_file(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4")
    for _ in range(20):
        stream = iter_frames([path, path])
        next(stream)
        assert len(readers()) == 1
        stream.close()  # type: ignore[attr-defined]
        assert readers() == []
    held = Path("/proc/self/fd")
    if held.exists():
        assert not [
            fd for fd in held.iterdir() if fd.is_symlink() and path.name in str(fd.readlink())
        ]
    iter_frames(path)  # never started: no thread
    assert readers() == []


def test_reading_runs_ahead_but_not_away() -> None:
    asked: list[int] = []

    def camera() -> Iterator[np.ndarray]:
        for index in range(100):
            asked.append(index)
            yield flat(index)

    stream = iter_frames(camera(), prefetch=3)
    next(stream)
    deadline = time.monotonic() + 5
    while len(asked) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    assert len(asked) == 4
    stream.close()  # type: ignore[attr-defined]
    asked.clear()
    lazy = iter_frames(camera(), prefetch=0)
    next(lazy)
    assert len(asked) == 1
    assert readers() == []


@pytest.mark.parametrize("prefetch", [0, 4])
def test_the_callers_own_exception_comes_in_its_turn(prefetch: int) -> None:
    def camera() -> Iterator[np.ndarray]:
        yield flat(1)
        yield flat(2)
        raise ZeroDivisionError("mine")

    seen = []
    with pytest.raises(ZeroDivisionError, match="mine"):
        for frame in iter_frames(camera(), prefetch=prefetch, on_error="skip"):
            seen.append(int(frame.bgr[0, 0, 0]))
    assert seen == [1, 2]


def test_memory_does_not_grow() -> None:
    size = 240 * 320 * 3

    def peak(count: int) -> int:
        tracemalloc.start()
        for _ in iter_frames((flat(0, (240, 320)) for _ in range(count)), prefetch=4):
            pass
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    few, many = peak(20), peak(600)
    assert many < 12 * size
    assert many < few + 3 * size


@pytest.mark.parametrize("library", ["libxcb.so.1", "libGL.so.1"])
def test_missing_opencv_libraries_name_the_command(tmp_path: Path, library: str) -> None:
    message = f"{library}: cannot open shared object file: No such file or directory"
    (tmp_path / "cv2.py").write_text(f"raise ImportError({message!r})")
    code = (
        "import pgvision.images as i\n"
        "try: i.iter_frames\nexcept ImportError as e: print(type(e), e)"
    )
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "DependencyError" in done.stdout
    assert library in done.stdout
    assert "apt-get install -y libgl1 libglib2.0-0 libxcb1" in done.stdout
    assert "opencv-python-headless" in done.stdout


def test_importing_is_light() -> None:
    code = (
        "import sys, pgvision.images as i\nassert 'cv2' not in sys.modules\ni.iter_frames\n"
        "print([m for m in ('torch', 'supervision', 'transformers', 'av') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_frame_is_checked() -> None:
    for bad in (
        np.zeros((2, 2), np.uint8),
        np.zeros((2, 2, 3)),
        np.zeros((0, 2, 3), np.uint8),
        None,
    ):
        with pytest.raises(ShapeError, match="to_bgr"):
            Frame(bad, source="array")  # type: ignore[arg-type]
    assert issubclass(ShapeError, PgvisionError)


def test_a_name_that_begins_with_a_tilde_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "~nobody.png", 30)
    (tmp_path / "all.txt").write_text("~nobody.png\n")
    assert shades(["~nobody.png", "all.txt", "~nob*.png"]) == [30, 30]  # the pattern: read before
    assert int(read_image("~nobody.png").mean()) == 30
    assert image_hw_of("~nobody.png") == (48, 64)


def test_brackets_in_the_name_of_a_folder_are_no_pattern(tmp_path: Path) -> None:
    for index, folder in enumerate(("site [2024]", "site 2")):
        picture(tmp_path / folder / "a.png", 10 + index)
    assert shades(str(tmp_path / "site [2024]" / "*.png")) == [10]
    assert shades(str(tmp_path / "site [0-9]" / "*.png")) == [11]  # no such folder: a pattern


def test_a_link_to_nothing_fails_in_a_folder_and_in_a_pattern(tmp_path: Path) -> None:
    """Links of git-annex and DVC whose data are not there; patterns left them out."""
    picture(tmp_path / "1.png", 20)
    (tmp_path / "2.png").symlink_to(tmp_path / "gone.png")
    for source in (tmp_path, str(tmp_path / "*.png")):
        assert [frame.ok for frame in iter_frames(source, on_error="record")] == [True, False]


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", 20)
    os.mkfifo(tmp_path / "2.png")
    good, bad = iter_frames(tmp_path, on_error="record")
    assert good.ok
    with pytest.raises(SourceError, match="is a pipe or device"):
        raise bad.error


def test_a_source_that_never_answers_does_not_keep_the_program_from_ending() -> None:
    """As a camera hangs; the reader's thread is abandoned."""
    program = """
import threading
import numpy as np
from pgvision.images import iter_frames, sources
sources._CLOSE_SECONDS = 0.1

def camera():
    yield np.zeros((4, 6, 3), np.uint8)
    threading.Event().wait()

frames = iter_frames(camera(), prefetch=2)
print(next(frames).image_hw)
frames.close()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout == "(4, 6)\n"
    assert "was abandoned" in ended.stderr
