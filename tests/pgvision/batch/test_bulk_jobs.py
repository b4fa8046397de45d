"""A job that is stopped anywhere goes on: nothing is lost, nothing answered is asked again."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from answering import engine, make_job, make_pictures

from pgvision.batch import Job, Recipe, Shard, merge
from pgvision.batch.journal import Journal, Row
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
    """The item of each answer in a journal; also while it is open or after a kill."""
    with tempfile.TemporaryDirectory() as folder:
        shot = snapshot(journal, Path(folder) / "copy")
        with closing(sqlite3.connect(shot)) as db:
            query = "SELECT name FROM answer JOIN item ON item.id = answer.item"
            return [name for (name,) in db.execute(query)]


def snapshot(journal, target):
    """What a kill at this moment would leave on the disk."""
    for ending in ("", "-wal"):
        if Path(f"{journal}{ending}").exists():
            shutil.copy(f"{journal}{ending}", f"{target}{ending}")
    return target


def content(journal):
    """Everything that determines the files at the end."""
    with closing(sqlite3.connect(journal)) as db:
        query = (
            "SELECT name, place, size, complete, frame, failed, result FROM item "
            "JOIN answer ON item.id = answer.item ORDER BY place, frame"
        )
        return db.execute(query).fetchall()


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
        read = result_from_dict(next(one for one in lines if one["source"] == Path(path).name))
        assert np.array_equal(read.xyxy, result.xyxy)
        assert np.array_equal(read.scores, result.scores)


def resumed(whole, journal, log):
    """Resume from a copy; nothing answered is asked again, and the files come out alike."""
    answered = names_in(journal) if journal.exists() else []
    job = make_job(whole / "pictures", journal, log=log)
    came = [outcome.source for outcome in job.stream()]
    assert sorted(answered + came) == sorted(names_in(whole / "whole.journal"))  # lost, repeated: 0
    asked = log.read_text().split() if log.exists() else []
    assert len(asked) == len(set(asked)) == len([n for n in came if n != "100.png"])
    expected = (whole / "whole.json").read_bytes(), (whole / "whole.jsonl").read_bytes()
    assert finals(job, whole, "again") == expected
    assert content(journal) == content(whole / "whole.journal")
    return len(answered)


@pytest.mark.parametrize("step", [61, pytest.param(1, marks=pytest.mark.slow)])
def test_cut_at_every_transaction(whole, tmp_path, step):
    """A copy of the files after each answer is what a kill there leaves; each copy resumes."""
    job, shots = make_job(whole / "pictures", tmp_path / "j"), [tmp_path / "missing"]
    for number, _ in enumerate(job.stream()):
        if number % step == 0:
            shots.append(snapshot(tmp_path / "j", tmp_path / f"cut-{number}"))
    counts = [resumed(whole, shot, tmp_path / f"asked-{shot.name}") for shot in shots]
    assert counts == [0, *range(1, NUM_PICTURES + 1, step)]


def test_a_log_cut_at_any_byte_is_a_prefix_of_the_answers(tmp_path):
    """Write-ahead frames that a power failure tore are left out with all that follow them."""
    folder = make_pictures(tmp_path / "in", 12)
    stream = make_job(folder, tmp_path / "j").stream()
    before = [next(stream).source for _ in range(8)]
    shot = snapshot(tmp_path / "j", tmp_path / "shot")
    stream.close()
    log = Path(f"{shot}-wal").read_bytes()
    counts = []
    for cut in [*range(0, len(log), 1531), len(log)]:
        journal = tmp_path / "cut"
        shutil.copy(shot, journal)
        Path(f"{journal}-wal").write_bytes(log[:cut])
        try:
            counts.append(len(names_in(journal)))
        except sqlite3.OperationalError:  # cut before the tables
            counts.append(0)
        assert counts[-1] == 0 or names_in(journal) == before[: counts[-1]]
        if cut % 7 == 0:
            assert len(make_job(folder, journal).run_all()) == 12 - counts[-1]
            for ending in ("", "-wal"):
                Path(f"{journal}{ending}").unlink(missing_ok=True)
    assert counts == sorted(counts) and counts[-1] == 8 and len(set(counts)) == 9


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
    assert make_job(whole / "pictures", journal).run_all() == []
    assert resumed(whole, journal, tmp_path / "again") == NUM_PICTURES


def test_a_full_disk_costs_nothing(whole, tmp_path):
    """The quota of the process stands for the disk; the answer that did not fit is rolled back."""
    journal, log = tmp_path / "full.journal", tmp_path / "asked"
    process, progress = start(whole / "pictures", journal, log, seconds=0, limit=300_000)
    process.join()
    said = os.read(progress, 1 << 16)
    os.close(progress)
    assert process.exitcode == 1
    assert b"cannot be written" in said and b"full.journal" in said
    reported = said.partition(b"[")[0].count(b".")
    assert reported > 10
    assert resumed(whole, journal, tmp_path / "again") == reported


def test_a_damaged_answer_is_named(whole, tmp_path):
    journal = snapshot(whole / "whole.journal", tmp_path / "damaged")
    data = journal.read_bytes()
    at = data.index(b'"source": "18.png"')
    journal.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
    with pytest.raises(DataError, match=r"damaged: the journal is damaged .*\.recover"):
        list(make_job(whole / "pictures", journal).results())


def test_a_schema_that_is_damaged_is_named(whole, tmp_path):
    """SQLite's own message was not UTF-8 (found by fuzzing)."""
    journal = snapshot(whole / "whole.journal", tmp_path / "damaged")
    data = journal.read_bytes()
    journal.write_bytes(data.replace(b"CREATE TABLE run", b"CREATE TABL\xff run"))
    with pytest.raises(DataError, match=r"the journal is damaged .*\.recover"):
        merge([journal])


def test_merged_answers_close_their_database(whole):
    """Python 3.13 warns about a connection that is left open."""
    merged = merge([whole / "whole.journal"])
    db = merged.db
    assert len(list(merged.results())) == NUM_PICTURES
    del merged
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        db.execute("SELECT 1")


def test_the_log_is_folded_into_the_file_every_64_answers(tmp_path):
    """A power failure may cost the log; the file itself must not wait for the end of the job."""
    journal = tmp_path / "j"
    stream = make_job(make_pictures(tmp_path / "in", 70), journal).stream()
    for _ in range(66):
        next(stream)
    shutil.copy(journal, tmp_path / "copy")
    stream.close()
    # 64, or fewer where two seconds passed before: they fold it, too.
    assert names_in(tmp_path / "copy")


def test_by_default_sub_folders_are_left_out_and_a_journal_has_one_run(tmp_path):
    make_pictures(tmp_path / "in" / "old", 2)
    folder = make_pictures(tmp_path / "in", 3)
    assert len(make_job(folder, tmp_path / "j").items) == 3
    assert len(make_job(folder, tmp_path / "j", recursive=True).items) == 5
    with Journal(tmp_path / "k", {"task": "read"}):
        pass
    with pytest.raises(OptionError, match="journal of another run"):
        Journal(tmp_path / "k", {"task": "caption"})
    with Journal(tmp_path / "k", {"task": "read"}) as journal:  # answers of what is gone go
        journal.list_items(["a", "b"], listing="1", num_listed=2, places=[0, 1])
        journal.add(Row("b", result='{"source": "b"}'))
        assert journal.list_items(["a"], listing="2", num_listed=1, places=[0]) == ["b"]
        assert list(journal.results()) == []


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
    recipe = Recipe("detect", {"classes": ["helmet"], "constrained": False, "generator": engine()})
    with pytest.raises(OptionError, match=r"\(constrained: nothing then, False now\)"):
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


@pytest.mark.parametrize(("count", "words"), [(5, "4.png"), (6, "4.png and 1 more")])
def test_notes_name_five_files_and_count_the_others(tmp_path, count, words):
    folder = make_pictures(tmp_path / "in", count + 1)
    make_job(folder, tmp_path / "j").run_all()
    for number in range(count):
        (folder / f"{number}.png").unlink()
    job = make_job(folder, tmp_path / "j")
    job.run_all()
    assert any(note.startswith("gone: ") and note.endswith(words) for note in job.notes)
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


def test_videos_resume_at_their_frame(tmp_path):
    folder = make_pictures(tmp_path / "in", 1)
    film(folder / "a.mp4", 8)
    job = make_job(folder, tmp_path / "whole", stride=2)
    shots = []
    for number, _ in enumerate(job.stream()):
        shots.append(snapshot(tmp_path / "whole", tmp_path / f"cut-{number}"))
    assert len(shots) == 5
    for number, shot in enumerate(shots, 1):
        again = make_job(folder, shot, stride=2)
        assert len(again.run_all()) == 5 - number
        assert list(again.results()) == list(job.results())
        assert again.num_left() == 0
    assert [one["frame_index"] for one in job.results()] == [0, 0, 2, 4, 6]
    job.write_coco(tmp_path / "o.json")
    assert '"a.mp4#6"' in (tmp_path / "o.json").read_text()


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
    with pytest.raises(OptionError, match="no journal of shard 3/3"):
        merge(parts[1:])
    with pytest.raises(OptionError, match="twice"):
        merge([*parts, parts[0]])
    with pytest.raises(OptionError, match="shard 1/1"):
        merge([parts[0], whole / "whole.journal"])
    with Journal(parts[0], make_job(whole / "pictures", "", shard=Shard(3, 3)).settings) as journal:
        journal.forget([next(iter(journal.stamps()))])
    with pytest.raises(OptionError, match=f"1 of {sizes[0]} left"):
        merge(parts)
    assert merge(parts, partial=True).write_json_lines(tmp_path / "some.jsonl") == 199


def test_parts_of_other_sources_do_not_merge(tmp_path):
    folder = make_pictures(tmp_path / "in", 9)
    make_job(folder, tmp_path / "1", shard=Shard(1, 2)).run_all()
    make_pictures(folder, 10)
    make_job(folder, tmp_path / "2", shard=Shard(2, 2)).run_all()
    with pytest.raises(OptionError, match="run all shards on the same"):
        merge([tmp_path / "1", tmp_path / "2"])
    make_job(folder, tmp_path / "1", shard=Shard(1, 2)).run_all()
    whole = make_job(folder, tmp_path / "3")
    whole.run_all()
    merged = merge([tmp_path / "1", tmp_path / "2"])
    assert list(merged.results()) == list(whole.results())


def test_manifests_and_names_that_come_twice(tmp_path):
    folder = make_pictures(tmp_path / "in", 3)
    manifest = tmp_path / "some.jsonl"
    manifest.write_text('{"image": "in/2.png"}\n\n{"file_name": "in/0.png", "id": 4}\n')
    job = make_job(manifest, tmp_path / "j")
    assert [Path(one.source).name for one in job.stream()] == ["2.png", "0.png"]
    both = Job(job.asker.recipe, [folder, str(folder / "1.png")], tmp_path / "k")
    assert len(both.items) == 3
    manifest.write_text("\n")
    with pytest.raises((DataError, FileNotFoundError), match="no "):
        make_job(manifest, tmp_path / "l")


def test_a_bad_entry_of_a_list_costs_one_entry(tmp_path):
    """It ended the list, and all images after it were lost (kind L); in shards alike."""
    make_pictures(tmp_path / "in", 3)
    manifest = tmp_path / "some.jsonl"
    manifest.write_text('{"image": "in/0.png"}\n[1]\n{"image": null}\n{"image": "in/2.png"}\n')
    job = make_job(manifest, tmp_path / "j")
    assert [one.ok for one in job.stream()] == [True, False, False, True]
    assert job.run_all() == []
    assert [one["source"] for one in job.results()][1:3] == ["some.jsonl#2", "some.jsonl#3"]
    for number in (1, 2):
        make_job(manifest, tmp_path / f"{number}", shard=Shard(number, 2)).run_all()
    merged = merge([tmp_path / "1", tmp_path / "2"])
    assert list(merged.results()) == list(job.results())


@pytest.mark.parametrize("source", ["0", "/dev/null", "rtsp://host/1", "http://host/live"])
def test_what_is_live_cannot_go_on(tmp_path, source):
    with pytest.raises(OptionError, match="is a live source"):
        make_job(source, tmp_path / "j")


@pytest.mark.parametrize("text", ["", "0/3", "4/3", "3", "a/b", "-1/2", "1/0", "1/2/3"])
def test_parts_that_are_none(text):
    with pytest.raises(OptionError, match="shard"):
        Shard.parse(text)


def other_database(path):
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE places (url TEXT)")
        db.commit()


def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path):
    """`--journal annotations.json` emptied the file when it did not end in a newline."""
    folder, path = make_pictures(tmp_path / "in", 1), tmp_path / "j"
    other_database(tmp_path / "places.sqlite")
    coco = json.dumps({"images": [], "annotations": [], "categories": []}).encode()
    for data in (b"x", coco, b"some notes\n", (tmp_path / "places.sqlite").read_bytes()):
        path.write_bytes(data)
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(path)
        for name in ("j", "link"):
            with pytest.raises(DataError, match="not a journal"):
                make_job(folder, tmp_path / name).run_all()
            with pytest.raises(DataError, match="not a journal"):
                merge([tmp_path / name])
        assert path.read_bytes() == data
    path.unlink()
    make_job(folder, path).run_all()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(DataError, match="is not a journal of this version"):
        make_job(folder, path).run_all()


def test_one_file_may_contain_several_runs(tmp_path):
    folder, path = make_pictures(tmp_path / "in", 3), tmp_path / "j"
    boxes = make_job(folder, path, shared=True)
    texts = make_job(folder, path, shared=True, task="caption")
    assert len(boxes.run_all()) == len(texts.run_all()) == 3
    assert boxes.run_all() == texts.run_all() == []
    assert {one["type"] for one in boxes.results()} == {"DetectionResult"}
    assert {one["type"] for one in texts.results()} == {"TextResult"}
    with pytest.raises(OptionError, match="2 runs"):
        merge([path])


def test_a_job_in_progress_can_be_abandoned_and_read(tmp_path):
    """A journal at rest is one file in rollback mode: readable where nothing can be written."""
    path = tmp_path / "j"
    job = make_job(make_pictures(tmp_path / "in", 3), path)
    job.run_all()
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("j")] == ["j"]
    assert path.read_bytes()[18:20] == b"\1\1"  # not the write-ahead mode
    with Journal(path, job.settings) as journal, pytest.raises(DataError, match="not an item"):
        journal.add(Row("unknown.png", result="{}"))


def test_the_same_images_mounted_elsewhere_are_the_same_job(tmp_path):
    """Two machines, two mount points, a relative and an absolute path: the shards fit."""
    here = make_pictures(tmp_path / "here", 20)
    there = tmp_path / "mnt" / "photos"
    shutil.copytree(here, there)
    make_job(here, tmp_path / "1", shard=Shard(1, 2)).run_all()
    spelled = there.parent / ".." / "mnt" / "photos"
    make_job(spelled, tmp_path / "2", shard=Shard(2, 2)).run_all()
    whole = make_job(here, tmp_path / "whole")
    whole.run_all()
    assert list(merge([tmp_path / "1", tmp_path / "2"]).results()) == list(whole.results())
    assert make_job(there, tmp_path / "whole").run_all() == []


def test_names_that_sources_share_are_told_apart(tmp_path):
    a, b = make_pictures(tmp_path / "a", 2), make_pictures(tmp_path / "b", 3)
    recipe = make_job(a, "").asker.recipe

    def names(*sources):
        return [item.name for item in Job(recipe, sources, tmp_path / "j").items]

    assert names(a, b) == ["a/0.png", "a/1.png", "b/0.png", "b/1.png", "2.png"]
    assert names(a / "0.png", b / "2.png") == ["0.png", "2.png"]
    assert names(str(tmp_path / "*" / "0.png")) == ["a/0.png", "b/0.png"]
    assert names(a, f"{tmp_path}/./a", a / "1.png") == ["0.png", "1.png"]


@pytest.mark.skipif(sys.platform == "darwin", reason="names there are UTF-8")
def test_names_that_are_not_utf8(tmp_path):
    folder = make_pictures(tmp_path / "in", 2)
    (folder / "0.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    job = make_job(folder, tmp_path / "j")
    assert len(job.run_all()) == 2
    assert make_job(folder, tmp_path / "j").run_all() == []
    assert job.write_json_lines(tmp_path / "o.jsonl") == 2
    assert job.write_coco(tmp_path / "o.json") == 2
    images = json.loads((tmp_path / "o.json").read_text())["images"]
    assert {one["file_name"] for one in images} == {"1.png", "caf%E9.png"}


def test_readers_end_with_the_run(tmp_path):
    job = make_job(make_pictures(tmp_path / "in", 60), tmp_path / "j")
    stream = job.stream()
    next(stream)
    stream.close()
    readers = [one.name for one in threading.enumerate() if "reader" in one.name]
    assert readers == []
