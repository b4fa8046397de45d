"""The loop around every task: counting, progress, failures, Ctrl-C."""

import os
import pty
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest

from pgvision.cli.console import Meter
from pgvision.cli.options import split_phrases
from pgvision.cli.outputs import BoxOutput, Output
from pgvision.cli.runs import as_frames, choose_outputs, count_images, run_outputs, run_task
from pgvision.errors import ImageError, OptionError
from pgvision.results import Failure, TextResult


def text(number):
    result = TextResult(image_hw=(64, 96), text=f"text {number}", source=f"{number}.jpg")
    return result.with_image(np.zeros((64, 96, 3), np.uint8))


def job(outcomes, options=Output()):  # noqa: B008
    return run_outputs(outcomes, choose_outputs(options), None).exit_code


def test_all_done(tmp_path, capsys):
    assert job([text(1), text(2)]) == 0
    printed = capsys.readouterr()
    assert printed.out == "1.jpg: text 1\n2.jpg: text 2\n"
    assert "2 done, 0 failed" in printed.err


def test_some_failed(capsys):
    failure = Failure(source="b.jpg", index=0, error=ImageError("0 bytes"))
    assert job([text(1), failure]) == 1
    printed = capsys.readouterr()
    assert "b.jpg: 0 bytes" in printed.err
    assert "1 done, 1 failed" in printed.err


def test_many_failures_are_named_in_part(capsys):
    failures = [Failure(source=f"{n}.jpg", index=0, error=ImageError("empty")) for n in range(100)]
    assert job(failures) == 1
    assert capsys.readouterr().err.count("failed: ") == 20


def test_a_stop_by_the_user_keeps_what_was_done(tmp_path, capsys):
    def stopped():
        yield text(1)
        raise KeyboardInterrupt

    assert job(stopped(), Output(out=tmp_path / "out")) == 130
    assert (tmp_path / "out" / "results.jsonl").read_text().count("\n") == 1


def test_an_error_leaves_what_was_answered_and_no_half_video(tmp_path, capsys):
    def broken():
        yield text(1)
        frame = np.zeros((64, 96, 3), np.uint8)
        result = TextResult(image_hw=(64, 96), text="a", source="a.mp4", time=0.0)
        yield result.with_image(frame)
        raise ImageError("b.jpg: 0 bytes")

    with pytest.raises(ImageError):
        job(broken(), Output(out=tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "results.jsonl",
        "1.overlay.jpg",
    }
    assert (tmp_path / "out" / "results.jsonl").read_text().count("\n") == 2


def test_options_without_effect_are_refused():
    with pytest.raises(OptionError, match="has no effect without"):
        choose_outputs(BoxOutput(overwrite=True))


def test_options_that_only_video_uses_are_reported(picture, film, capsys):
    """Tracks, strides and drafts of single images did nothing, and nothing was said (kind O)."""

    def ran(time):
        frame = np.zeros((64, 96, 3), np.uint8)
        outcome = TextResult(image_hw=(64, 96), text="a", source="a", time=time).with_image(frame)
        read = {"stride": 2}
        run_task(lambda _: [outcome], [str(picture)], BoxOutput(track=True), read)
        return capsys.readouterr().err

    assert "--track, --stride: had no effect" in ran(None)
    assert "had no effect" not in ran(0.5)


def test_the_last_line_is_where_the_results_are(picture, tmp_path, capsys):
    def ran(output):
        assert run_task(lambda _: [text(1)], [str(picture)], output, {}) == 0
        return capsys.readouterr().err.splitlines()[-1]

    assert ran(Output()) == "nothing written; --out DIR writes overlays and results.jsonl"
    assert "nothing written" not in ran(Output(json_lines=True))
    assert str(tmp_path / "out") in ran(Output(out=tmp_path / "out"))


def test_out_must_be_a_folder(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OptionError, match="expected a folder"):
        job([], Output(out=file))


def test_counting_ahead(tmp_path, film, picture):
    folder = picture.parent
    sub = folder / "sub"
    sub.mkdir()
    (sub / "broken.mp4").write_bytes(b"not a video")
    (sub / "b.jpg").write_bytes(b"")

    def count(*sources, recursive=False, stride=1):
        return count_images([str(s) for s in sources], recursive=recursive, stride=stride)

    assert count(picture) == 1
    assert count(film) == 6
    assert count(film, stride=4) == 2
    assert count(folder) == 1
    assert count(folder, recursive=True) == 3
    assert count(folder / "*.png", film) == 7
    assert count(tmp_path / "missing") == 1
    assert count("0") is None
    assert count("rtsp://host/1") is None


def test_a_lone_camera_or_address_is_handed_over_as_itself():
    assert as_frames(["0"]) == 0
    assert as_frames(["rtsp://host/1"]) == "rtsp://host/1"
    assert as_frames(["0", "a.jpg"]) == ["0", "a.jpg"]


def test_phrases_are_split_at_semicolons():
    assert split_phrases("driver's helmet") == ["driver's helmet"]
    assert split_phrases("helmet ; head") == ["helmet", "head"]
    assert split_phrases("helmet;") == ["helmet", ""]  # the empty one is refused by the task


def test_a_meter_says_now_and_then_how_far_it_is(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with Meter("pictures", total=4) as meter:
        for _ in range(4):
            now[0] += 6.0
            meter.advance()
    assert capsys.readouterr().err.splitlines() == [
        "2/4 pictures, 6.0 s/image, 12 s left",
        "4/4 pictures, 6.0 s/image, 0 s left",
    ]


def test_json_lines_stay_on_stdout_while_a_bar_is_shown():
    """On a terminal rich takes stdout along with the bar, unless it is told not to."""
    code = (
        "from pgvision.cli.outputs import Output\n"
        "from pgvision.cli.runs import choose_outputs, run_outputs\n"
        "from pgvision.results import TextResult\n"
        "texts = [TextResult(image_hw=(4, 6), text='EXIT', source='a.jpg')] * 3\n"
        "run_outputs(texts, choose_outputs(Output(json_lines=True)), 3)\n"
    )
    leader, follower = pty.openpty()
    seen = bytearray()

    def look():
        """Read what is shown, so that the terminal is never full; it ends with an error."""
        with suppress(OSError):
            while part := os.read(leader, 1 << 16):
                seen.extend(part)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=follower,
            check=True,
            timeout=300,
            env=os.environ | {"TERM": "xterm"},
        )
    finally:
        os.close(follower)
        looking.join()
        os.close(leader)
    assert done.stdout.count(b'"text": "EXIT"') == 3
    assert b"EXIT" not in seen
    assert b"3 done" in seen
