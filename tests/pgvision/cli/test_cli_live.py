"""`pgvision live` on real films and a real camera over HTTP, with the carried checkpoint."""

import json
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from shapely.geometry import Point, Polygon

sys.path.insert(0, str(Path(__file__).parents[1] / "images"))
sys.path.insert(0, str(Path(__file__).parent))
from camera import camera, free_port
from test_live_webhook import Listener, listening

from pgvision import Detector
from pgvision.cli.live import Watch
from pgvision.cli.outputs import appended
from pgvision.images import Live, VideoWriter, iter_frames
from pgvision.images.live import LiveEvent
from pgvision.results import DetectionResult
from pgvision.tracking.tracks import with_tracks
from pgvision.tracking.zones import Zones
from recipes.scenes import render_video

FIELDS = {
    "id",
    "time",
    "event",
    "zone",
    "track",
    "label",
    "score",
    "seconds",
    "frame",
    "xyxy",
    "dwell",
}


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """A rendered film at 10 frames a second whose helmets the carried checkpoint finds."""
    path = tmp_path_factory.mktemp("walk") / "walk.mp4"
    with VideoWriter(path, 10.0, (240, 320)) as writer:
        for scene in render_video(20_000_007, num_frames=20, image_hw=(240, 320)):
            writer.write(scene.image)
    return path


def events_of(ran):
    return [json.loads(line) for line in ran.out.splitlines()]


def test_events_and_counts_agree_with_the_results_themselves(run, walk, tmp_path):
    left = [[0, 0], [160, 0], [160, 239], [0, 239]]
    zone, log, out = tmp_path / "left.json", tmp_path / "log" / "e.jsonl", tmp_path / "out.mp4"
    zone.write_text(json.dumps({"left": left}))
    words = ["live", "helmet", "--source", walk, "--model", "tiny", "--zone", zone, "--json"]
    ran = run(*words, "--events", log, "--save", out, "--grace", "0.25")
    assert ran.code == 0, ran.err
    events = events_of(ran)
    assert [json.loads(line) for line in log.read_text().splitlines()] == events
    assert all(set(event) == FIELDS for event in events)

    results = list(with_tracks(Detector("helmet", model="tiny").stream(walk)))
    seen = {}  # what each track did, by the polygon itself
    for result in results:
        for row, track in enumerate(result.tracker_ids):
            x1, y1, x2, y2 = result.xyxy[row]
            if track >= 0 and Polygon(left).contains(Point((x1 + x2) / 2, (y1 + y2) / 2)):
                seen.setdefault(int(track), []).append(result.time)
    assert seen
    assert {event["track"] for event in events} == set(seen)
    firsts = {e["track"]: e["seconds"] for e in reversed(events) if e["event"] == "enter"}
    assert firsts == {track: pytest.approx(times[0]) for track, times in seen.items()}
    stays = dict.fromkeys(seen, 0.0)
    for event in events:
        stays[event["track"]] += event["dwell"] or 0.0
    most = {track: times[-1] - times[0] for track, times in seen.items()}
    assert all(stays[track] <= most[track] + 1e-6 for track in seen)
    assert f"left: {len(seen)} tracks" in ran.err

    with av.open(str(out)) as film:
        shown = [float(frame.pts * frame.time_base) for frame in film.decode(video=0)]
    assert shown == pytest.approx([frame.time for frame in iter_frames(walk)], abs=2e-3)


def test_a_log_is_appended_and_lines_are_for_people(run, walk, tmp_path):
    log = tmp_path / "events.jsonl"
    log.write_text('{"event": "before"}\n')
    ran = run("live", "helmet", "--source", walk, "--model", "tiny", "--events", log)
    assert ran.code == 0
    assert json.loads(log.read_text().splitlines()[0]) == {"event": "before"}
    assert "frame: helmet" in ran.out
    assert "enter (0." in ran.out or "enter (1." in ran.out
    assert " leave after " in ran.out


def test_a_camera_over_http_with_a_webhook(run):
    """The pictures hold no helmet; what counts is that frames come, are dropped, and it ends."""
    port, listener = free_port(), Listener()
    with camera(port, fps=60), listening(listener) as hook:
        source, post = f"http://127.0.0.1:{port}/live", f"http://127.0.0.1:{hook}/"
        words = ["live", "helmet", "--source", source, "--model", "tiny", "--post", post]
        ran = run(*words, "--seconds", "3", "--json")
    assert ran.code == 0, ran.err
    assert "frames looked at" in ran.err
    assert "dropped, 0 reconnects" in ran.err
    assert f"posted {len(listener.events)}, refused 0, lost 0" in ran.err
    assert listener.events == events_of(ran)


def test_a_source_that_is_not_there_fails(run):
    ran = run("live", "helmet", "--source", f"http://127.0.0.1:{free_port()}/", "--model", "tiny")
    assert ran.code == 1
    assert "failed: http://127.0.0.1" in ran.err
    assert "Traceback" not in ran.err


def test_a_lost_camera_is_reported_at_once_and_objects_leave_while_it_is_away():
    """case: receivers heard of a lost camera only when it was back, and then out of order."""
    seen = []
    corners = np.array([[0, 0], [640, 0], [640, 480], [0, 480]], float)
    watched = Watch(Zones({"gate": corners}, {}, grace=0.3), tell=[seen.append], heartbeat=1.0)
    watched.source = Live("http://127.0.0.1:1/", patience=None, on_event=watched.on_connection)
    result = DetectionResult(
        image_hw=(480, 640),
        xyxy=[[10, 10, 30, 30]],
        labels=["helmet"],
        class_ids=[0],
        classes=["helmet"],
        tracker_ids=np.array([1]),
        time=watched.source.seconds,
    )
    with watched:
        watched.take(result, 0.0)
        watched.on_connection(LiveEvent("lost", "cam", watched.source.seconds, "HTTP 500"))
        assert seen[-1]["event"] == "lost"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:  # until the object left, and a heartbeat said it
            told = [event["event"] for event in tuple(seen)]
            if "leave" in told and "heartbeat" in told[told.index("lost") :]:
                break
            time.sleep(0.02)
        watched.on_connection(LiveEvent("reconnected", "cam", watched.source.seconds))
        watched.take(replace(result, time=watched.source.seconds), 0.0)
    kinds = [event["event"] for event in seen if event["event"] != "heartbeat"]
    assert kinds == ["enter", "lost", "leave", "reconnected", "enter", "leave"]
    beats = [event for event in seen if event["event"] == "heartbeat"]
    assert len(beats) >= 2 and beats[-1]["lost"]
    assert len({event["id"] for event in seen}) == len(seen)
    stamps = [event["time"] for event in seen if event["event"] not in ("leave", "heartbeat")]
    assert stamps == sorted(stamps)


def test_a_camera_that_goes_away_and_comes_back(run, tmp_path):
    """The camera is killed after some frames and started again: lost and reconnected are told."""
    port, log, film = free_port(), tmp_path / "events.jsonl", tmp_path / "film.mp4"
    is_over = threading.Event()

    def come(wanted):
        """Wait for an event; whether it came before the run was over."""
        while not is_over.wait(0.05):
            whole = log.read_text().rpartition("\n")[0] if log.exists() else ""
            if any(wanted(json.loads(line)) for line in whole.splitlines()):
                return True
        return False

    def flap():
        with camera(port, fps=20):
            up.set()
            come(lambda event: event.get("frames", 0) > 0)
        if come(lambda event: event["event"] == "lost"):
            with camera(port, fps=20):
                if come(lambda event: event["event"] == "reconnected"):
                    # As systemd and docker stop it: nothing was written of the video.
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
                    is_over.wait(60)

    up, flapping = threading.Event(), threading.Thread(target=flap)
    flapping.start()
    try:
        assert up.wait(60)
        source = f"http://127.0.0.1:{port}/live"
        words = ["--seconds", "120", "--patience", "100", "--heartbeat", "1", "--events", log]
        words += ["--save", film]
        ran = run("live", "helmet", "--source", source, "--model", "tiny", "--json", *words)
    finally:
        is_over.set()
        flapping.join()
    assert ran.code == 130, ran.err
    assert len(list(iter_frames(film))) > 0
    events = [event["event"] for event in events_of(ran)]
    assert [kind for kind in events if kind in ("lost", "reconnected")] == ["lost", "reconnected"]


def test_a_picture_is_no_film(run, picture):
    ran = run("live", "helmet", "--source", picture, "--model", "tiny")
    assert ran.code == 2
    assert "expected a video or a camera" in ran.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--zone", "cross.json"], "Self-intersection"),
        (["--zone", "missing.json"], "missing.json"),
        (["--line", "1,2,3"], "expected x1,y1,x2,y2"),
        (["--post", "ftp://host/"], "--post"),
        (["--save", "film.gif"], "must end in"),
        (["--show"], "no screen"),
        (["--post-header", "A: b"], "needs --post"),
        (["--patience", "3"], "a file is never lost"),
        (["--save", "walk.mp4"], "is the source"),
        (["--events", "walk.mp4"], "something else than JSON"),
    ],
)
def test_bad_words_are_refused_before_a_model_is_loaded(
    run, walk, tmp_path, monkeypatch, words, says
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    Path("cross.json").write_text('{"a": [[0, 0], [90, 90], [90, 0], [0, 90]]}')
    Path("walk.mp4").symlink_to(walk)
    before = walk.read_bytes()
    monkeypatch.setattr("pgvision.tasks.run.open_engine", None)
    ran = run("live", "helmet", "--source", walk, *words)
    assert ran.code in (1, 2)
    assert says in ran.err
    assert "Traceback" not in ran.err
    assert walk.read_bytes() == before


def test_a_log_that_cannot_be_written_ends_the_watch_whichever_thread_writes():
    """A full disk ended the timer alone: no heartbeats, and nobody left a zone any more."""
    with appended(Path("/dev/full")) as tell:
        watched = Watch(Zones({}, {}), tell=[tell], heartbeat=1.0)
        with pytest.raises(OSError, match="No space left on device: '/dev/full'"), watched:
            while watched._timer.is_alive():
                time.sleep(0.01)


def test_a_zone_of_another_size_leaves_no_film(run, walk, tmp_path):
    zone, out = tmp_path / "far.json", tmp_path / "out.mp4"
    zone.write_text('{"far": [[0, 0], [1900, 0], [1900, 1000]]}')
    words = ["live", "helmet", "--source", walk, "--model", "tiny", "--zone", zone, "--save", out]
    ran = run(*words)
    assert ran.code == 2
    assert "outside the 320x240 image" in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far.json"]


def test_a_film_keeps_its_size_when_the_source_changes_its(tmp_path):
    from pgvision.cli.outputs import film

    def result(number, image_hw):
        return DetectionResult(
            image_hw=image_hw,
            xyxy=np.zeros((0, 4)),
            labels=[],
            class_ids=[],
            classes=["helmet"],
            time=5.0 + number,
            frame_index=number,
        ).with_image(np.full((*image_hw, 3), 200, np.uint8))

    path = tmp_path / "out.mp4"
    with film(path, lambda picture: picture) as show:
        for number, image_hw in enumerate([(48, 64), (96, 128), (32, 32)]):
            assert show(result(number, image_hw))
    frames = list(iter_frames(path))
    assert [frame.image_hw for frame in frames] == [(48, 64)] * 3
    assert [frame.time for frame in frames] == pytest.approx([0.0, 1.0, 2.0], abs=1e-3)
