"""What is live: the newest frame each time, and a source that is killed and comes back."""

import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from camera import camera, free_port, number_in
from mjpeg import interrupted, pictures, serving

from pgvision.errors import OptionError, SourceError
from pgvision.images import Frame, FrameFailure, Live, VideoWriter


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pgvision-live"]


def film(path: Path, num_frames: int, fps: float) -> Path:
    with VideoWriter(path, fps, (48, 64)) as writer:
        for index in range(num_frames):
            writer.write(np.full((48, 64, 3), 8 * index, np.uint8))
    return path


def test_who_is_slow_sees_the_newest_frame_and_no_queue_grows() -> None:
    port = free_port()
    with camera(port, fps=30, count=90):
        live = Live(f"http://127.0.0.1:{port}/live")
        numbers, gaps = [], []
        for frame in live:
            taken = time.monotonic()
            assert number_in(frame.bgr) == frame.index
            numbers.append(frame.index)
            time.sleep(0.2)
            newer = live.num_read - 1 - frame.index
            gaps.append(newer - 30 * (time.monotonic() - taken))
    assert live.num_read == 90
    assert live.num_dropped == 90 - len(numbers) > 50
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 89
    # As many newer ones are there as were sent meanwhile, at the end of the film as at its start.
    assert max(gaps) < 15
    assert not threads()


@pytest.mark.parametrize(("scheme", "script"), [("http", "camera.py"), ("rtsp", "rtsp.py")])
def test_a_camera_that_is_killed_and_comes_back_goes_on(scheme: str, script: str) -> None:
    port = free_port()
    live = Live(f"{scheme}://127.0.0.1:{port}/live", patience=None)
    frames: list[Frame | FrameFailure] = []
    with camera(port, script=script) as first:
        watching = iter(live)
        frames += [next(watching) for _ in range(5)]
        first.kill()
    back = threading.Event()

    def come_back() -> None:
        time.sleep(1.0)
        with camera(port, script=script):
            back.wait(60)

    helper = threading.Thread(target=come_back)
    helper.start()
    try:
        while live.num_reconnects == 0:
            frames.append(next(watching))
        frames += [next(watching) for _ in range(5)]
    finally:
        watching.close()
        back.set()
        helper.join()
    assert all(isinstance(frame, Frame) for frame in frames)
    indices, times = [f.index for f in frames], [f.time for f in frames]
    assert indices == sorted(set(indices))
    assert times == sorted(set(times))
    assert max(np.diff(times)) > 1.0  # the time that it was away
    # It counts from 0 again, and its frames go on where they were.
    assert number_in(frames[-1].bgr) < frames[-1].index
    assert not threads()


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    live = Live(f"http://127.0.0.1:{port}/live", patience=1.0)
    with camera(port) as first:
        watching = iter(live)
        next(watching)
        first.kill()
    began = time.monotonic()
    *_, last = watching
    assert isinstance(last, FrameFailure)
    assert "not back within 1 s" in str(last.error)
    assert time.monotonic() - began < 5.0


@pytest.mark.parametrize("patience", [0.0, None])
def test_a_source_that_was_never_there_is_an_error_at_once(patience: float | None) -> None:
    (failure,) = Live(f"http://127.0.0.1:{free_port()}/live", patience=patience)
    assert isinstance(failure, FrameFailure)
    assert isinstance(failure.error, SourceError)


def test_patience_waits_for_a_camera_that_starts_later() -> None:
    """A unit that boots before its camera; ended by its patience if the camera never comes."""
    port, events = free_port(), []
    live = Live(f"http://127.0.0.1:{port}/live", patience=60.0, on_event=events.append)
    watching = iter(live)

    def start() -> None:
        time.sleep(0.8)
        with camera(port):
            back.wait(60)

    back = threading.Event()
    helper = threading.Thread(target=start)
    helper.start()
    try:
        assert number_in(next(watching).bgr) >= 0
    finally:
        watching.close()
        back.set()
        helper.join()
    assert [event.kind for event in events] == ["lost", "reconnected"]
    assert live.num_reconnects == 0
    (failure,) = Live(f"http://127.0.0.1:{free_port()}/live", patience=0.6)
    assert "not back within 0.6 s" in str(failure.error)


def flapping(num_frames: int, connections: list[float]) -> object:
    """Send a few frames to each client and hang up."""

    def film(handler: object) -> None:
        connections.append(time.monotonic())
        for index in range(num_frames):
            handler.picture(index)

    return film


def test_a_flapping_camera_is_reported_at_once_and_not_flooded() -> None:
    connections: list[float] = []
    events = []
    with serving(flapping(3, connections)) as address:
        live = Live(address, patience=None, limit=4.0, on_event=events.append)
        frames = list(live)
        # 0.5 s, 1 s and 2 s of waiting: four connections, one for each, within 4 s.
        assert len(connections) == 4
    gaps = np.diff(connections)
    assert gaps == pytest.approx([0.5, 1.0, 2.0], abs=0.45)
    kinds = [event.kind for event in events]
    assert kinds == ["lost", "reconnected"] * 3 + ["lost"]
    assert events[0].reason == "ended after 3 frames"
    assert events[0].source == address
    moments = [event.seconds for event in events]
    assert moments == sorted(moments)
    assert moments[0] < 0.5  # not when the camera is back
    assert live.num_reconnects == 3
    assert [frame.index for frame in frames] == sorted({frame.index for frame in frames})


def test_a_steady_connection_resets_the_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgvision.images.live.STEADY_SECONDS", 0.0)
    connections: list[float] = []
    with serving(flapping(3, connections)) as address:
        list(Live(address, patience=None, limit=2.2))
    assert np.diff(connections) == pytest.approx([0.5] * (len(connections) - 1), abs=0.35)
    assert len(connections) >= 3


def returning(num_connections: int, seconds: float, connections: list[float]) -> object:
    """Send frames to the first connections, and after ``seconds`` again."""

    def film(handler: object) -> None:
        connections.append(time.monotonic())
        if len(connections) <= num_connections or connections[-1] - connections[0] > seconds:
            for index in range(3):
                handler.picture(index)

    return film


def test_patience_lasts_to_its_end() -> None:
    """Waits of 0.5 s and 1 s would be followed by 2 s: the last attempt is at the end instead."""
    connections: list[float] = []
    with serving(returning(1, 1.7, connections)) as address:
        live = Live(address, patience=2.0)
        for _ in live:
            if live.num_reconnects:
                break
    assert np.diff(connections) == pytest.approx([0.5, 1.0, 0.5], abs=0.3)


def test_patience_counts_from_the_present_loss() -> None:
    """Two losses of 0.5 s and 1 s under a patience of 1.2 s, 1.5 s together; then one for good."""
    connections: list[float] = []
    with serving(returning(3, 60.0, connections)) as address:
        *frames, last = Live(address, patience=1.2)
        ended = time.monotonic()
    assert "not back within 1.2 s" in str(last.error)
    assert 1.2 <= ended - connections[2] < 3.0
    assert last.index == 9
    assert {frame.index // 3 for frame in frames} == {0, 1, 2}


def test_a_reader_that_hung_does_not_end_the_next_iteration(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go_on, connections = threading.Event(), []

    def film(handler: object) -> None:
        connections.append(time.monotonic())
        for index in range(4):
            handler.picture(index)
        if len(connections) == 1:
            go_on.wait(30)  # silent until the second iteration runs
            return
        for index in range(4, 20):
            handler.picture(index)
            time.sleep(0.05)

    with serving(film) as address:
        live = Live(address)
        watching = iter(live)
        next(watching)
        while live.num_read < 4:  # then the reader waits for a frame that does not come
            time.sleep(0.01)
        watching.close()
        assert "left open" in caplog.text
        indices = []
        for frame in live:
            go_on.set()
            indices.append(frame.index)
    assert (indices[-1], live.num_read) == (19, 20)
    while threads():
        time.sleep(0.01)


def test_the_end_of_an_address_is_the_end_without_patience() -> None:
    with serving(pictures(12, pause=0.02)) as address:
        frames = list(Live(address))
    assert all(isinstance(frame, Frame) for frame in frames)
    assert frames[-1].index == 11


def test_a_silent_source_does_not_hold_up_the_limit() -> None:
    go_on = threading.Event()
    with serving(interrupted(12, 4, go_on)) as address:
        began = time.monotonic()
        live = Live(address, limit=1.0)
        watching = iter(live)
        indices = [frame.index for frame in _until_limit(watching, go_on)]
        assert 1.0 <= time.monotonic() - began < 5.0
    assert indices == sorted(set(indices))


def _until_limit(watching: object, go_on: threading.Event) -> object:
    # The reader hangs in FFmpeg until the server speaks: it does so once the limit has passed.
    threading.Timer(1.5, go_on.set).start()
    yield from watching


def test_a_file_runs_at_its_own_pace(tmp_path: Path) -> None:
    path = film(tmp_path / "clip.mp4", 20, 20)
    began = time.monotonic()
    frames = list(Live(path, paced=True))
    assert time.monotonic() - began >= 0.9
    assert [round(20 * frame.time) for frame in frames] == [frame.index for frame in frames]
    every = Live(str(path), paced=True, stride=4)
    assert {frame.index % 4 for frame in every} == {0}
    assert every.num_read == 5


def test_what_cannot_be_live_is_refused(tmp_path: Path) -> None:
    still = tmp_path / "still.png"
    cv2.imwrite(str(still), np.zeros((8, 8, 3), np.uint8))
    (failure,) = Live(still)
    assert "expected a live source" in str(failure.error)
    with pytest.raises(OptionError, match="patience"):
        Live(0, patience=-1.0)
    with pytest.raises(OptionError, match="got VideoCapture"):
        Live(cv2.VideoCapture())
    with pytest.raises(OptionError, match="stride"):
        Live(0, stride=0)
    with pytest.raises(OptionError, match="got None"):
        Live(None)


def test_an_error_in_the_reader_reaches_the_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> object:
        yield from ()
        raise MemoryError("no room for a frame")

    live = Live(0)
    monkeypatch.setattr("pgvision.images.live.iter_frames", broken)
    with pytest.raises(MemoryError, match="no room"):
        list(live)
