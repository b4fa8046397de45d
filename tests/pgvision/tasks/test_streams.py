"""Streams that end badly or come slowly: nothing that was taken is lost, nothing waits."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "images"))
from mjpeg import interrupted, serving
from scripted import Scripted

from pgvision.errors import OptionError
from pgvision.images import Live, VideoWriter
from pgvision.runtime.checkpoints import find_checkpoint
from pgvision.tasks import Answerer, Captioner, Detector, Reader, Segmenter

HELMET = "<loc0256><loc0128><loc0512><loc0384> helmet"


def engine() -> Scripted:
    return Scripted(lambda request: HELMET)


def asked(frames: object, batch_size: int | None) -> Iterator[object]:
    task = Answerer(generator=engine(), batch_size=batch_size)
    return task.stream(frames, "how many?")


STREAMS: dict[str, Callable[[object, int | None], Iterator[object]]] = {
    "detect": lambda f, n: Detector("helmet", generator=engine(), batch_size=n).stream(f),
    "segment": lambda f, n: Segmenter("helmet", generator=engine(), batch_size=n).stream(f),
    "caption": lambda f, n: Captioner(generator=engine(), batch_size=n).stream(f),
    "read": lambda f, n: Reader(generator=engine(), batch_size=n).stream(f),
    "ask": asked,
}


class MineError(Exception):
    """Of the caller; pgvision knows nothing of it."""


def breaking(num_frames: int, error: Exception) -> Iterator[np.ndarray]:
    for index in range(num_frames):
        yield np.full((20, 30 + index, 3), 7, np.uint8)
    raise error


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("num_frames", [0, 3, 4, 6])
def test_what_was_taken_before_the_callers_error_is_answered(name: str, num_frames: int) -> None:
    mine = MineError("the disk went away")
    widths = []
    with pytest.raises(MineError) as caught:
        for result in STREAMS[name](breaking(num_frames, mine), 4):
            widths.append(result.image_hw[1])  # noqa: PERF401  (what came before the error counts)
    assert caught.value is mine
    assert widths == list(range(30, 30 + num_frames))


@pytest.mark.parametrize("on_error", ["raise", "skip", "record"])
def test_the_callers_error_is_raised_whatever_is_done_about_bad_pictures(on_error: str) -> None:
    mine = MineError("the disk went away")
    stream = Detector("helmet", generator=engine(), batch_size=4).stream(
        breaking(3, mine), on_error=on_error
    )
    assert [next(stream).ok for _ in range(3)] == [True] * 3
    with pytest.raises(MineError) as caught:
        next(stream)
    assert caught.value is mine
    assert list(stream) == []
    assert not [t for t in threading.enumerate() if t.name.startswith("pgvision-reader")]


def test_a_bad_picture_before_the_callers_error_is_told_first(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not a picture")

    def frames() -> Iterator[object]:
        yield bad
        raise MineError("the disk went away")

    stream = Detector("helmet", generator=engine()).stream(frames(), on_error="record")
    assert "bad.jpg" in str(next(stream).error)
    with pytest.raises(MineError):
        next(stream)


def test_an_error_of_the_model_is_not_taken_for_one_of_the_source() -> None:
    def fail(request: object) -> str:
        raise MineError("out of memory")

    detector = Detector("helmet", generator=Scripted(fail), batch_size=4)
    with pytest.raises(MineError, match="out of memory"):
        next(detector.stream(np.zeros((6, 20, 30, 3), np.uint8)))


def test_a_live_picture_does_not_wait_for_a_full_batch() -> None:
    """The server sends the last four only when one is answered: batches of eight would stop."""
    go_on = threading.Event()
    with serving(interrupted(12, 4, go_on)) as address:
        got = []
        for result in Detector("helmet", generator=engine()).stream(address):
            got.append(result.frame_index)
            go_on.set()
    # The newest each time: in order, the last one among them, perhaps with gaps.
    assert got == sorted(set(got))
    assert got[-1] == 15


@pytest.mark.parametrize("name", STREAMS)
def test_a_slow_iterator_gets_each_result_before_its_next_frame(name: str) -> None:
    """The iterator waits for the last result, as a robot or a request queue does."""
    results: list[object] = []

    def frames() -> Iterator[np.ndarray]:
        for number in range(5):
            deadline = time.monotonic() + 10
            while len(results) < number:
                assert time.monotonic() < deadline, "the result waits for further frames"
                time.sleep(0.001)
            yield np.full((20, 30, 3), 7, np.uint8)

    for result in STREAMS[name](frames(), None):
        results.append(result)  # noqa: PERF402  (frames() watches it grow)
    assert len(results) == 5


def test_the_model_gets_every_pixel_of_the_image() -> None:
    model, image = engine(), np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Detector("helmet", generator=model)(image)
    np.testing.assert_array_equal(model.requests[0].picture.bgr, image)


def test_drafts_come_from_the_same_video_and_size(tmp_path: Path) -> None:
    videos = []
    for number, hw in enumerate(((48, 64), (48, 64), (64, 48))):
        videos.append(tmp_path / f"{number}.mp4")
        with VideoWriter(videos[-1], 25, hw) as writer:
            for _ in range(3):
                writer.write(np.zeros((*hw, 3), np.uint8))
    model = engine()
    detector = Detector("helmet", generator=model, batch_size=1)
    detector.predict([*videos, np.zeros((64, 48, 3), np.uint8)])
    drafted = [len(request.draft) > 0 for request in model.requests]
    assert drafted == [False, True, True] * 3 + [False]
    undrafted = Detector("helmet", generator=engine(), batch_size=1, drafts="off")
    undrafted.predict(videos[0])
    assert not any(len(request.draft) for request in undrafted.generator.requests)


def test_images_of_a_list_share_batches() -> None:
    model = engine()
    Detector("helmet", generator=model).predict([np.zeros((20, 30, 3), np.uint8)] * 11)
    assert [len(batch) for batch in model.batches] == [8, 3]


def test_a_stuck_iterator_does_not_keep_the_program() -> None:
    """A robot's queue that gets no further frame: the loop ends, and so does the program."""
    code = (
        "import threading, numpy as np\n"
        "from pgvision import Detector\n"
        "def frames():\n"
        "    yield np.zeros((60, 80, 3), np.uint8)\n"
        "    threading.Event().wait()\n"
        "for result in Detector('helmet', model='tiny').stream(frames()):\n"
        "    break\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_slow_model_sees_what_is_there_now(tmp_path: Path) -> None:
    def slowly(request: object) -> str:
        time.sleep(0.15)
        return HELMET

    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 50, (48, 64)) as writer:
        for _ in range(60):
            writer.write(np.zeros((48, 64, 3), np.uint8))
    live = Live(path, paced=True)
    late = []
    for result in Detector("helmet", generator=Scripted(slowly)).stream(live):
        late.append(live.seconds - result.time)
    assert live.num_read == 60
    assert live.num_dropped == 60 - len(late) >= 40
    # Its own time and that of one frame; in a queue the last one would have waited for seconds.
    assert np.median(late[1:]) < 0.15 + 0.02 + 0.1
    with pytest.raises(OptionError, match="stride"):
        Detector("helmet", generator=engine()).stream(live, stride=2)


def test_a_revision_is_of_the_hub(tmp_path: Path) -> None:
    assert find_checkpoint("google/paligemma2-3b-mix-224", revision="main").kind == "mix"
    assert find_checkpoint("tiny").is_local
    (tmp_path / "config.json").write_text("{}")
    for folder in ("tiny", tmp_path):
        with pytest.raises(OptionError, match="revision 'v2' out"):
            Detector("helmet", model=folder, revision="v2")
    with pytest.raises(OptionError, match="revision"):
        Reader(model=tmp_path, revision="main")


@pytest.mark.parametrize(("base", "refused"), [("me/site-mix-448", False), ("tiny", True)])
def test_the_revision_of_an_adapter_is_its_bases(tmp_path: Path, base: str, refused: bool) -> None:
    (tmp_path / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{base}"}}')
    if not refused:
        assert find_checkpoint(tmp_path, revision="v2").base == base
        return
    with pytest.raises(OptionError, match=base):
        find_checkpoint(tmp_path, revision="v2")


def test_folders_inside_a_folder_are_read_on_request_only(tmp_path: Path) -> None:
    for name in ("a.png", "inner/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((20, 30, 3), np.uint8))
    detector = Detector("helmet", generator=engine())
    assert len(detector.predict(tmp_path)) == 1
    assert len(detector.predict(tmp_path, recursive=True)) == 2
