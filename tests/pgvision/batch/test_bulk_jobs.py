"""A job that is stopped anywhere goes on: nothing is lost, nothing answered is asked again."""

import multiprocessing
import os
import random
import resource
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from answering import engine, make_job, make_pictures

from pgvision.batch import Job, Recipe, Shard, merge
from pgvision.batch.journal import Journal, Scan, encode_row
from pgvision.errors import DataError, OptionError
from pgvision.images import VideoWriter
from pgvision.results import result_from_dict

NUM_PICTURES = 200


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder of 200 pictures, its journal and its files, from a run that nothing stopped."""
    base = tmp_path_factory.mktemp("whole")
    folder = make_pictures(base / "pictures", NUM_PICTURES)
    (folder / "100.png").write_bytes(b"not a picture")
    job = make_job(folder, base / "whole.journal")
    assert len(job.run_all()) == NUM_PICTURES
    job.write_coco(base / "whole.json")
    job.write_json_lines(base / "whole.jsonl")
    return base


def finals(job, base, name):
    """Assemble both files, and give their bytes."""
    job.write_coco(base / f"{name}.json")
    job.write_json_lines(base / f"{name}.jsonl")
    return (base / f"{name}.json").read_bytes(), (base / f"{name}.jsonl").read_bytes()


def names_in(journal):
    return [row["name"] for _, row in Scan(journal) if row["type"] == "answer"]


def line_ends(data):
    return [0] + [at + 1 for at, byte in enumerate(data) if byte == 10]


def test_whole_run(whole):
    assert (whole / "whole.jsonl").read_text().count("\n") == NUM_PICTURES
    lines = list(make_job(whole / "pictures", whole / "whole.journal").results())
    assert [Path(one["source"]).name for one in lines] == [f"{n}.png" for n in range(200)]
    assert lines[100]["type"] == "Failure"
    assert "100.png" in lines[100]["message"]
    # Against the task itself, which knows nothing of journals.
    frames = [str(whole / "pictures" / f"{n}.png") for n in (0, 7, 199)]
    from pgvision import Detector

    found = Detector("helmet", generator=engine()).predict(frames)
    for path, result in zip(frames, found, strict=True):
        read = result_from_dict(next(one for one in lines if one["source"] == path))
        assert np.array_equal(read.xyxy, result.xyxy)
        assert np.array_equal(read.scores, result.scores)


@pytest.mark.parametrize("lines", [0, 1, 2, 3, 90, 102, 103, 150, 201, 202])
def test_a_run_cut_off_ends_as_one_that_was_not(whole, tmp_path, lines):
    resumed_after(whole, tmp_path, line_ends((whole / "whole.journal").read_bytes())[lines])


def resumed_after(whole, tmp_path, cut):
    data = (whole / "whole.journal").read_bytes()
    journal, log = tmp_path / "cut.journal", tmp_path / "asked"
    journal.write_bytes(data[:cut])
    answered = names_in(journal)
    job = make_job(whole / "pictures", journal, log=log)
    came = [outcome.source for outcome in job.stream()]
    assert sorted(answered + came) == sorted(names_in(whole / "whole.journal"))  # lost, repeated: 0
    asked = log.read_text().split() if log.exists() else []
    assert len(asked) == len(set(asked)) == len([n for n in came if not n.endswith("/100.png")])
    expected = (whole / "whole.json").read_bytes(), (whole / "whole.jsonl").read_bytes()
    # The COCO file names pictures relative to itself: write it where the other one lies.
    assert finals(job, whole, "again") == expected
    assert journal.read_bytes() == data


@pytest.mark.slow  # each opening reads the journal
def test_every_byte_is_a_place_to_be_cut(whole, tmp_path):
    """Opening a journal cut anywhere leaves its whole lines; from each of these it goes on."""
    data = (whole / "whole.journal").read_bytes()
    ends, journal = line_ends(data), tmp_path / "cut.journal"
    run = make_job(whole / "pictures", journal).run
    head = ends[1]
    line = 0
    # PGVISION_CUT=1 cuts at each byte, which took over an hour beside other work and lost nothing;
    # every 13th byte meets every place within a line, too.
    for cut in range(0, len(data) + 1, int(os.environ.get("PGVISION_CUT", "13"))):
        while line + 1 < len(ends) and ends[line + 1] <= cut:
            line += 1
        journal.write_bytes(data[:cut])
        with Journal(journal, run):
            pass
        assert journal.stat().st_size == max(ends[line], head), cut
    for cut in ends[::5]:
        resumed_after(whole, tmp_path, cut)
        (tmp_path / "asked").unlink(missing_ok=True)


def test_cuts_near_line_ends(whole, tmp_path):
    data = (whole / "whole.journal").read_bytes()
    ends, journal = line_ends(data), tmp_path / "cut.journal"
    run = make_job(whole / "pictures", journal).run
    for line in (1, 2, 3, 50, 120, 201):
        for byte in (-2, -1, 0, 1, 2, 11, 18, 30):
            cut = ends[line] + byte
            journal.write_bytes(data[:cut])
            with Journal(journal, run):
                pass
            assert (
                journal.read_bytes()
                == data[: ends[line] if byte >= 0 else max(ends[line - 1], ends[1])]
            )


def work(folder, journal, log, seconds, limit, progress):
    """What the process does that is killed, or whose disk is full."""
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        for _ in make_job(folder, journal, log=log, seconds=seconds).stream():
            os.write(progress, b".")
    except OSError as error:
        os.write(progress, f"{error}".encode())
        os._exit(1)


def start(folder, journal, log, *, seconds=0.002, limit=0):
    reading, writing = os.pipe()
    words = (folder, journal, log, seconds, limit, writing)
    process = multiprocessing.get_context("fork").Process(target=work, args=words)
    process.start()
    os.close(writing)
    return process, reading


def test_killed_again_and_again(whole, tmp_path):
    journal, log, kills, repeated = tmp_path / "killed.journal", tmp_path / "asked", 0, 0
    generator = random.Random(5)
    while True:
        before = {int(Path(n).stem) for n in names_in(journal)} if journal.exists() else set()
        log.write_text("")
        process, progress = start(whole / "pictures", journal, log)
        some = generator.randrange(1, 20)
        while some and os.read(progress, 1):
            some -= 1
        time.sleep(generator.random() / 100)
        process.kill()
        process.join()
        os.close(progress)
        repeated += len(before & {int(number) for number in log.read_text().split()})
        if some:  # it had ended by itself
            break
        kills += 1
    assert kills >= 10
    assert repeated == 0
    job = make_job(whole / "pictures", journal)
    assert job.run_all() == []
    expected = (whole / "whole.json").read_bytes(), (whole / "whole.jsonl").read_bytes()
    assert finals(job, whole, "again") == expected
    assert journal.read_bytes() == (whole / "whole.journal").read_bytes()


def test_a_full_disk_costs_nothing(whole, tmp_path):
    """The quota of the process stands for the disk; the line that did not fit is taken back."""
    journal, log = tmp_path / "full.journal", tmp_path / "asked"
    process, progress = start(whole / "pictures", journal, log, seconds=0, limit=20_000)
    process.join()
    said = os.read(progress, 1 << 16)
    os.close(progress)
    assert process.exitcode == 1
    assert b"File too large" in said and b"full.journal" in said
    data = journal.read_bytes()
    assert 15_000 < len(data) <= 20_000
    assert data.endswith(b"}\n")
    job = make_job(whole / "pictures", journal)
    job.run_all()
    assert journal.read_bytes() == (whole / "whole.journal").read_bytes()


def test_damaged_lines_are_asked_again(whole, tmp_path):
    data = bytearray((whole / "whole.journal").read_bytes())
    ends = line_ends(data)
    data[ends[20] + 60] ^= 1
    data[ends[30] : ends[31] - 1] = bytes(ends[31] - 1 - ends[30])  # a block that never came
    journal = tmp_path / "damaged.journal"
    journal.write_bytes(data)
    job = make_job(whole / "pictures", journal)
    assert [Path(one.source).stem for one in job.stream()] == ["18", "28"]
    assert "2 damaged lines" in job.notes[0]
    expected = (whole / "whole.json").read_bytes(), (whole / "whole.jsonl").read_bytes()
    assert finals(job, whole, "again") == expected


def test_two_processes_do_not_share_a_journal(tmp_path):
    job = make_job(make_pictures(tmp_path / "in", 20), tmp_path / "j")
    stream = job.stream()
    next(stream)
    with pytest.raises(OptionError, match="another process"):
        make_job(tmp_path / "in", tmp_path / "j").run_all()
    stream.close()
    assert len(make_job(tmp_path / "in", tmp_path / "j").run_all()) == 19


def test_other_settings_are_named(tmp_path):
    folder = make_pictures(tmp_path / "in", 2)
    make_job(folder, tmp_path / "j").run_all()
    with pytest.raises(OptionError, match=r"task: 'detect' then, 'caption' now"):
        make_job(folder, tmp_path / "j", task="caption").run_all()
    recipe = Recipe("detect", {"classes": ["helmet"], "conf": 0.5, "generator": engine()})
    with pytest.raises(OptionError, match=r"\(conf: nothing then, 0.5 now\)"):
        Job(recipe, [folder], tmp_path / "j").run_all()
    with pytest.raises(OptionError, match="stride: 1 then, 2 now"):
        make_job(folder, tmp_path / "j", stride=2).run_all()


def test_other_weights_are_named(tmp_path):
    import shutil

    from pgvision.runtime.checkpoints import TINY_FOLDER

    folder = make_pictures(tmp_path / "in", 1)
    shutil.copytree(TINY_FOLDER, tmp_path / "model")
    recipe = Recipe("read", {"model": str(tmp_path / "model")})
    Job(recipe, [folder], tmp_path / "j").run_all()
    Job(recipe, [folder], tmp_path / "j").run_all()
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(OptionError, match=r"weights: "):
        Job(recipe, [folder], tmp_path / "j").run_all()


def test_sources_that_changed(tmp_path):
    folder = make_pictures(tmp_path / "in", 6)
    make_job(folder, tmp_path / "j").run_all()
    cv2.imwrite(str(folder / "1.png"), np.full((8, 30, 3), 77, np.uint8))
    (folder / "2.png").unlink()
    cv2.imwrite(str(folder / "0a.png"), np.full((8, 9, 3), 5, np.uint8))
    os.utime(folder / "3.png", ns=(1, 1))  # another time, the same bytes
    job = make_job(folder, tmp_path / "j")
    assert {Path(one.source).name for one in job.stream()} == {"1.png", "0a.png"}
    said = "; ".join(job.notes)
    assert "6 then, 6 now" in said and "gone: " in said and "2.png" in said
    assert "replaced since, and asked again: " in said and "1.png" in said
    again = make_job(folder, tmp_path / "k")
    again.run_all()
    assert list(job.results()) == list(again.results())
    assert make_job(folder, tmp_path / "j").run_all() == []


def test_unread_pictures_are_recorded_and_retried(tmp_path):
    folder = make_pictures(tmp_path / "in", 3)
    good = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(good[:30])
    listed = tmp_path / "all.txt"
    listed.write_text("in\nmissing.jpg\n")
    job = make_job(listed, tmp_path / "j")
    assert [one.ok for one in job.stream()] == [True, False, True, False]
    assert job.num_unread() == 2
    assert "no such file" in list(job.results())[3]["message"]
    assert make_job(listed, tmp_path / "j").run_all() == []
    retried = make_job(listed, tmp_path / "j", retry_unread=True)
    assert [one.ok for one in retried.stream()] == [False, False]
    (folder / "1.png").write_bytes(good)  # mended: asked again without being told
    (mended,) = make_job(listed, tmp_path / "j").run_all()
    assert mended.ok
    assert [one["type"] for one in job.results()] == ["DetectionResult"] * 3 + ["Failure"]


def film(path, count):
    with VideoWriter(path, 10.0, (16, 16)) as writer:
        for number in range(count):
            writer.write(np.full((16, 16, 3), 8 * number, np.uint8))
    return path


@pytest.mark.parametrize("cut", [2, 3, 5, 8, 9, 10, 11, 12])
def test_videos_go_on_at_their_frame(tmp_path, cut):
    folder = make_pictures(tmp_path / "in", 1)
    film(folder / "a.mp4", 8)
    job = make_job(folder, tmp_path / "whole", stride=2)
    assert len(job.run_all()) == 5
    data = (tmp_path / "whole").read_bytes()
    ends = line_ends(data)
    lines = min(cut, len(ends) - 1)
    (tmp_path / "cut").write_bytes(data[: ends[lines]])
    again = make_job(folder, tmp_path / "cut", stride=2)
    again.run_all()
    assert list(again.results()) == list(job.results())
    assert len(names_in(tmp_path / "cut")) == 5
    assert again.num_left() == 0
    frames = [one["frame_index"] for one in job.results()]
    assert frames == [0, 0, 2, 4, 6]
    job.write_coco(tmp_path / "o.json")
    assert '"in/a.mp4#6"' in (tmp_path / "o.json").read_text()


def test_a_broken_video_is_not_read_for_ever(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    data = film(folder / "a.avi", 30).read_bytes()
    (folder / "a.avi").write_bytes(data[: len(data) * 2 // 3])
    (folder / "b.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(40))
    job = make_job(folder, tmp_path / "j")
    outcomes = job.run_all()
    assert [one.ok for one in outcomes].count(False) == 2
    assert job.num_left() == 0
    assert make_job(folder, tmp_path / "j").run_all() == []
    assert [one.ok for one in make_job(folder, tmp_path / "j", retry_unread=True).stream()] == [
        False,
        False,
    ]


def test_parts_make_the_whole(whole, tmp_path):
    parts = []
    for number in (3, 1, 2):
        path = tmp_path / f"{number}.journal"
        job = make_job(whole / "pictures", path, shard=Shard(number, 3))
        job.run_all()
        parts.append(path)
    sizes = [len(names_in(path)) for path in parts]
    assert sum(sizes) == NUM_PICTURES and min(sizes) > 40
    merged = merge(parts)
    expected = (whole / "whole.json").read_bytes(), (whole / "whole.jsonl").read_bytes()
    assert finals(merged, whole, "merged") == expected
    with pytest.raises(OptionError, match="no journal of part 3/3"):
        merge(parts[1:])
    with pytest.raises(OptionError, match="twice"):
        merge([*parts, parts[0]])
    with pytest.raises(OptionError, match="part 1/1"):
        merge([parts[0], whole / "whole.journal"])
    data = parts[0].read_bytes()
    parts[0].write_bytes(data[: line_ends(data)[-2]])
    with pytest.raises(OptionError, match=f"1 of {sizes[0]} left"):
        merge(parts)
    assert merge(parts, partial=True).write_json_lines(tmp_path / "some.jsonl") == 199


def test_parts_of_other_sources_do_not_merge(tmp_path):
    folder = make_pictures(tmp_path / "in", 9)
    make_job(folder, tmp_path / "1", shard=Shard(1, 2)).run_all()
    make_pictures(folder, 10)
    make_job(folder, tmp_path / "2", shard=Shard(2, 2)).run_all()
    with pytest.raises(OptionError, match="run all parts again"):
        merge([tmp_path / "1", tmp_path / "2"])
    make_job(folder, tmp_path / "1", shard=Shard(1, 2)).run_all()
    whole = make_job(folder, tmp_path / "3")
    whole.run_all()
    merged = merge([tmp_path / "1", tmp_path / "2"])
    assert list(merged.ledger.results()) == list(whole.results())


def test_manifests_and_names_that_come_twice(tmp_path):
    folder = make_pictures(tmp_path / "in", 3)
    manifest = tmp_path / "some.jsonl"
    manifest.write_text('{"image": "in/2.png"}\n\n{"file_name": "in/0.png", "id": 4}\n')
    job = make_job(manifest, tmp_path / "j")
    assert [Path(one.source).name for one in job.stream()] == ["2.png", "0.png"]
    both = Job(job.recipe, [folder, str(folder / "1.png")], tmp_path / "k")
    assert len(both.items) == 3
    for text, error in (("[1]\n", "line 1"), ('{"image": 3}\n', "line 1"), ("\n", "no picture")):
        manifest.write_text(text)
        with pytest.raises((DataError, FileNotFoundError), match=error):
            make_job(manifest, tmp_path / "l")


@pytest.mark.parametrize("source", ["0", "rtsp://host/1", "http://host/live"])
def test_what_is_live_cannot_go_on(tmp_path, source):
    with pytest.raises(OptionError, match="is live"):
        make_job(source, tmp_path / "j")


@pytest.mark.parametrize("text", ["", "0/3", "4/3", "3", "a/b", "-1/2", "1/0", "1/2/3"])
def test_parts_that_are_none(text):
    with pytest.raises(OptionError, match="shard"):
        Shard.parse(text)


def test_a_file_that_is_no_journal_is_left_alone(tmp_path):
    folder = make_pictures(tmp_path / "in", 1)
    for text in ("some notes\n", '{"a": 1}\n', encode_row({"type": "answer"}).decode()):
        (tmp_path / "j").write_text(text)
        with pytest.raises(DataError, match="journal"):
            make_job(folder, tmp_path / "j").run_all()
        assert (tmp_path / "j").read_text() == text
    newer = encode_row({"type": "head", "journal": 99, "run": {}})
    (tmp_path / "j").write_bytes(newer)
    with pytest.raises(DataError, match="version 99"):
        make_job(folder, tmp_path / "j").run_all()


def test_readers_end_with_the_run(tmp_path):
    job = make_job(make_pictures(tmp_path / "in", 60), tmp_path / "j")
    stream = job.stream()
    next(stream)
    stream.close()
    readers = [one.name for one in threading.enumerate() if "reader" in one.name]
    assert readers == []
