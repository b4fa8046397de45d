"""`pgvision batch`, `--shard` and `pgvision merge` with the carried checkpoint on real files."""

import json
import sqlite3
from contextlib import closing

import cv2
import pytest

from recipes.scenes import render_scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four rendered pictures, and one file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(4):
        scene = render_scene(20_000_010 + seed, image_hw=(240, 320))
        cv2.imwrite(str(folder / f"{seed}.png"), scene.image)
    (folder / "bad.jpg").write_bytes(b"no picture")
    return folder


def test_detect_goes_on(run, folder, tmp_path):
    words = ("batch", "detect", "helmet", folder, "--batch-size", 1, "--coco")
    first = run(*words, tmp_path / "a.json")
    assert first.code == 1  # one picture could not be read
    assert "4 done, 1 failed" in first.err and "bad.jpg" in first.err
    whole, journal = (tmp_path / "a.json").read_bytes(), tmp_path / "a.json.journal"
    plain = run("detect", "helmet", folder, "--batch-size", 1, "--coco", tmp_path / "b.json")
    assert plain.code == 1
    of_plain, of_job = json.loads((tmp_path / "b.json").read_bytes()), json.loads(whole)
    assert of_plain["annotations"] == of_job["annotations"]
    assert [one["file_name"] for one in of_job["images"]] == [f"{n}.png" for n in range(4)]
    with closing(sqlite3.connect(journal)) as db:  # as if it had been stopped after two answers
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("DELETE FROM answer WHERE item > 2")
        db.execute("UPDATE item SET complete = 0 WHERE id > 2")
        db.commit()
    (tmp_path / "a.json").unlink()
    again = run(*words, tmp_path / "a.json")
    assert "resuming after 2 of 5" in again.err
    assert (tmp_path / "a.json").read_bytes() == whole
    reason = "1 images or frames could not be read; pgvision batch --retry-unread"
    for done in (
        run(*words, tmp_path / "a.json"),
        run("merge", journal, "--jsonl", tmp_path / "m"),
    ):
        assert done.code == 1 and reason in done.err  # the failure was that of an earlier run
    nothing = run(*words, tmp_path / "a.json", "--retry-unread")
    assert "read again: " in nothing.err and "0 done, 1 failed" in nothing.err
    other = run("batch", "detect", "head", folder, "--coco", tmp_path / "a.json")
    assert other.code == 2
    assert "classes: ['helmet'] then, ['head'] now" in other.err


def test_texts_and_parts(run, folder, tmp_path):
    out = tmp_path / "out"
    for task in (("caption",), ("read",), ("ask", "how many workers are there?")):
        done = run("batch", *task, folder, "--out", out / task[0], "--json")
        assert len(done.lines) == 5 and done.code == 1
        texts = [
            json.loads(line) for line in (out / task[0] / "results.jsonl").read_text().splitlines()
        ]
        assert [one["type"] for one in texts] == ["TextResult"] * 4 + ["Failure"]
    for part in ("1/2", "2/2"):
        run("batch", "read", folder, "--shard", part, "--out", out / "parts")
    journals = sorted((out / "parts").glob("*.journal"))
    assert [one.name for one in journals] == [f"results.jsonl.{n}-of-2.journal" for n in (1, 2)]
    merged = run("merge", *journals, "--jsonl", out / "all.jsonl")
    assert merged.code == 1 and "5 lines" in merged.err
    ids = [json.loads(line)["source"] for line in (out / "all.jsonl").read_text().splitlines()]
    assert ids == [
        json.loads(line)["source"]
        for line in (out / "read" / "results.jsonl").read_text().splitlines()
    ]
    refused = run("merge", journals[0], "--jsonl", out / "all.jsonl")
    assert refused.code == 2 and "no journal of shard 2/2" in refused.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("batch", "detect", "helmet", "IN"), "add --coco FILE or --out DIR"),
        (("batch", "read", "IN"), "add --out DIR"),
        (("batch", "detect", "helmet", "IN", "--coco", "a.json", "--track"), "--track"),
        (("batch", "read", "IN", "--out", "o", "--ray-actors", "2"), "without --ray"),
        (("batch", "read", "IN", "--shard", "3/2", "--out", "o"), "shard"),
        (("batch", "read", "0", "--out", "o"), "is a live source"),
        (("detect", "helmet", "IN", "--resume"), "No such option: --resume"),
        (("merge", "missing.journal", "--coco", "a.json"), "no such journal"),
        (("merge", "missing.journal"), "add --coco FILE or --jsonl FILE"),
    ],
)
def test_what_does_not_fit_is_said(run, folder, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    done = run(*(folder if word == "IN" else word for word in words))
    assert done.code == 2
    assert said in done.err
