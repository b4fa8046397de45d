"""A live source, really served: MJPEG over HTTP."""

import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from mjpeg import HW, interrupted, pictures, serving, shade

from pgvision.errors import SourceError
from pgvision.images import Frame, FrameFailure, is_live, iter_frames


def shades(frames: list[Frame | FrameFailure]) -> list[float]:
    return [float(frame.bgr.mean()) for frame in frames if isinstance(frame, Frame)]


@pytest.mark.parametrize("prefetch", [0, 4])
def test_frames_of_an_address_come_in_order(
    prefetch: int, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(pictures(12, pause=0.02)) as address:
        got = list(iter_frames(address, prefetch=prefetch))
        assert shades(got) == pytest.approx([shade(index) for index in range(12)], abs=2)
        assert [(frame.source, frame.index) for frame in got] == [(address, i) for i in range(12)]
        times = [frame.time for frame in got]
        assert times == sorted(times)
        assert times[0] >= 0
        # It may have gone away or just ended: nobody can tell, so it is said and is no failure.
        assert f"{address}: ended after 12 frames" in caplog.text
        every = list(iter_frames(address, stride=5, prefetch=prefetch))
        assert [frame.index for frame in every] == [0, 5, 10]


def test_the_time_of_a_frame_is_that_of_its_coming() -> None:
    """FFmpeg alone would say that 25 came each second."""
    go_on = threading.Event()
    with serving(interrupted(12, 4, go_on, pause=1.0)) as address:
        frames = []
        for frame in iter_frames(address, prefetch=0):
            frames.append(frame)
            if frame.index == 3:
                go_on.set()
    assert [frame.index for frame in frames] == list(range(16))
    assert frames[15].time - frames[3].time >= 1.0


def test_a_server_that_falls_silent_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgvision.images.video._TIMEOUT", 3.0)
    hang_up = threading.Event()
    with serving(interrupted(12, 4, hang_up)) as address:
        try:
            got = list(iter_frames(address, prefetch=0))
        finally:
            hang_up.set()
    assert [frame.index for frame in got] == list(range(len(got)))
    assert 10 <= len(got) <= 12


def test_a_server_that_stops_within_a_picture_ends_the_stream() -> None:
    def film(handler: object) -> None:
        for index in range(8):
            handler.picture(index)
        handler.picture(8, share=0.5)

    with serving(film) as address:
        got = list(iter_frames(address, on_error="record"))
    whole = got[:8]
    assert shades(whole) == pytest.approx([shade(index) for index in range(8)], abs=2)
    # What FFmpeg makes of the half picture is its own; it is one frame or one failure at most.
    assert len(got) <= 9


def test_a_server_that_sends_nothing_or_refuses_is_an_error() -> None:
    with serving(pictures(0)) as address:
        with pytest.raises(SourceError, match=address):
            list(iter_frames(address))
        elsewhere = address.replace("/live", "/elsewhere")
        with pytest.raises(SourceError, match=elsewhere):
            list(iter_frames(elsewhere))
    (failure,) = iter_frames(address, on_error="record")  # nobody listens any more
    assert isinstance(failure.error, SourceError)
    assert failure.source == address


def test_stopping_early_hangs_up() -> None:
    gone = threading.Semaphore(0)

    def film(handler: object) -> None:
        try:
            for index in range(100_000):
                handler.picture(index % 20)
        finally:
            gone.release()

    with serving(film) as address:
        stream = iter_frames(address)
        assert next(stream).image_hw == HW
        stream.close()  # type: ignore[attr-defined]
        assert gone.acquire(timeout=30)
        assert not gone.acquire(timeout=0.2)  # one connection for one stream
    assert not [t for t in threading.enumerate() if t.name.startswith("pgvision-reader")]


@pytest.mark.parametrize(
    ("source", "live"),
    [
        (0, True),
        ("0", True),
        ("/dev/null", True),  # as /dev/video0: it was read like a file, each frame in turn
        ("a" * 5000, False),
        ("rtsp://me:secret@10.0.0.7/live", True),
        ("RTMP://host/app", True),
        ("udp://239.0.0.1:1234", True),
        ("http://10.0.0.7", True),
        ("https://10.0.0.7:8080/video?user=a.mp4", True),
        ("http://10.0.0.7/live.mjpg", True),
        ("http://host/films/site.MP4?token=1", False),
        ("https://host/site.webm#t=3", False),
        ("file:///tmp/site", False),
        ("site.mp4", False),
        (Path("site.mp4"), False),
        (["rtsp://host/live"], False),
        (None, False),
        (True, False),
    ],
)
def test_what_is_live(source: object, live: bool) -> None:
    assert is_live(source) == live
