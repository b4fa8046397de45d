"""Whole commands on real files with the carried checkpoint."""

import json
import subprocess
import sys

import cv2
import pytest
from pycocotools.coco import COCO

from pgvision import samples
from pgvision.images import video_info
from pgvision.results import result_from_dict
from recipes.scenes.export import export_scenes


def test_detect_writes_everything_that_it_was_asked_for(run, picture, tmp_path):
    out, coco = tmp_path / "out", tmp_path / "coco.json"
    ran = run("detect", "helmet; worker", picture, "--json", "--out", out, "--coco", coco)
    assert ran.code == 0
    (line,) = ran.lines
    result = result_from_dict(line)
    assert result.source == str(picture)
    assert result.classes == ("helmet", "worker")
    (kept,) = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert result_from_dict(json.loads(kept)) == result
    assert cv2.imread(str(out / "site.overlay.jpg")).shape == (240, 320, 3)
    assert len(COCO(str(coco)).anns) == (result.class_ids >= 0).sum()
    assert "1 done, 0 failed" in ran.err


def test_conf_keeps_what_scores_well(run, picture):
    (everything,) = run("detect", "worker", picture, "--json").lines
    (best,) = run("detect", "worker", picture, "--json", "--conf", "0.5").lines
    assert best["scores"] == [score for score in everything["scores"] if score >= 0.5]


def test_one_bad_picture_does_not_lose_the_others(run, picture, tmp_path):
    (picture.parent / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    ran = run("detect", "helmet", picture.parent, tmp_path / "missing.jpg", "--json")
    assert ran.code == 1
    kinds = [line["type"] for line in ran.lines]
    assert kinds == ["Failure", "DetectionResult", "Failure"]
    assert "broken.jpg" in ran.err
    assert "missing.jpg" in ran.err
    assert "1 done, 2 failed" in ran.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--device", "toaster"], "device"),
        (["--dtype", "int3"], "dtype"),
        (["--model", "no such folder"], "model"),
    ],
)
def test_a_wrong_choice_is_said_in_one_line(run, picture, words, named):
    ran = run("detect", "helmet", picture, *words)
    assert ran.code in (1, 2)
    assert named in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("phrase", ["", "helmet;", "<loc0001>", "a\nb"])
def test_a_phrase_that_cannot_be_asked_is_a_usage_error(run, picture, phrase):
    ran = run("detect", phrase, picture)
    assert ran.code == 2
    assert ran.out == ""


def test_recursive_reads_subfolders(run, picture):
    sub = picture.parent / "sub"
    sub.mkdir()
    (sub / "deep.png").write_bytes(picture.read_bytes())
    assert len(run("read", picture.parent, "--json").lines) == 1
    assert len(run("read", picture.parent, "--json", "-r").lines) == 2


def test_video_is_annotated_at_its_own_pace(run, film, tmp_path):
    ran = run("detect", "worker", film, "--json", "--out", tmp_path, "--track")
    assert ran.code == 0
    assert [line["frame_index"] for line in ran.lines] == list(range(6))
    assert all(line["tracker_ids"] is not None for line in ran.lines)
    info = video_info(tmp_path / "site.overlay.mp4")
    assert (info.fps, info.num_frames) == (10.0, 6)
    assert "site.overlay.mp4 (6 frames)" in ran.err


def test_stride_takes_each_nth_frame(run, film):
    lines = run("detect", "worker", film, "--json", "--stride", "3").lines
    assert [line["frame_index"] for line in lines] == [0, 3]


def test_segment_gives_masks(run, picture, tmp_path):
    coco = tmp_path / "masks.json"
    ran = run("segment", "worker", picture, "--json", "--coco", coco)
    assert ran.code == 0
    result = result_from_dict(ran.lines[0])
    assert result.masks.shape == (len(result), 240, 320)
    held = COCO(str(coco))
    for mask, annotation in zip(result.masks, held.anns.values(), strict=True):
        assert (held.annToMask(annotation).astype(bool) == mask).all()


@pytest.mark.parametrize("words", [["caption"], ["ask", "is there a truck?"], ["read"]])
def test_texts(run, picture, tmp_path, words):
    ran = run(*words, picture, "--json", "--out", tmp_path / "out")
    assert ran.code == 0
    result = result_from_dict(ran.lines[0])
    assert (result.score is None) == (result.text == "")
    assert 0 <= (result.score or 0) <= 1
    plain = run(*words, picture)
    assert result.text in plain.out
    assert (tmp_path / "out" / "site.overlay.jpg").exists()


def test_a_class_that_the_checkpoint_does_not_know_is_not_silence(run, picture):
    unknown = run("detect", "helmt", picture)
    assert (unknown.code, unknown.out) == (2, "")
    assert "'helmt'; the nearest are 'helmet'" in unknown.err
    plain = run("detect", "helmet; head", picture, "--json")
    mended = run("detect", "Helmets, head", picture, "--json")
    assert mended.lines[0]["xyxy"] == plain.lines[0]["xyxy"]
    labels = plain.lines[0]["labels"]
    assert mended.lines[0]["labels"] == [{"helmet": "Helmets"}.get(name, name) for name in labels]
    assert mended.err.count("'Helmets' is asked for as 'helmet'") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["detect", "helmet;"], "classes[1]: expected text"),
        (["ask", ""], "question: expected text"),
        (["ask", "on?", "--choice", "on", "--choice", "off"], "was not taught 'multiple choice'"),
        (["ask", "is there a truck?", "--language", "xx"], "language: expected one of en"),
        (["caption", None, "--language", "xx"], "language: expected one of en"),
        (["caption", None, "--style", "cap"], "was not taught 'cap'"),
    ],
)
def test_what_cannot_be_asked_is_said_at_once(run, picture, words, said):
    ran = run(words[0], *([words[1]] if words[1] is not None else []), picture, *words[2:])
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert "loaded" not in ran.err
    assert "trained on the question" not in ran.err


def test_a_question_outside_the_trained_wordings_is_refused(run, picture):
    strange = run("ask", "does everyone wear a helmet?", picture)
    assert (strange.code, strange.out) == (2, "")
    assert "how many workers wear a helmet?" in strange.err
    assert run("ask", "does everyone wear a helmet?", picture, "--unknown", "ask").code == 0
    known = run("ask", "How many workers wear a helmet", picture)
    assert known.out == run("ask", "how many workers wear a helmet?", picture).out


def test_the_installed_command_keeps_stdout_for_results(picture):
    """A process of its own: nothing but JSON on stdout, logs and progress on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "pgvision", "detect", "helmet", str(picture), "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["DetectionResult"]
    assert "loaded tiny" in done.stderr


@pytest.fixture
def sites(run, tmp_path):
    """Two rendered scenes as a data set."""
    out = tmp_path / "sites"
    export_scenes(out, count=2, seed=20_000_000, image_hw=(240, 320))
    return out


def test_convert_writes_examples_and_says_how_they_read_back(run, sites, tmp_path):
    target = tmp_path / "train.jsonl"
    ran = run("convert", sites / "instances.json", target, "--json", "--prompts", "per_class")
    assert ran.code == 0
    written = ran.lines[0]
    known = json.loads((sites / "instances.json").read_text())
    assert written["num_objects"] == len(known["annotations"])
    assert not [one for one in written["findings"] if one["rule"] == "lost"]
    for line in target.read_text(encoding="utf-8").splitlines():
        assert set(json.loads(line)) == {"image", "prefix", "suffix"}


def test_convert_splits_by_hash(run, tmp_path):
    sites = tmp_path / "sites"
    export_scenes(sites, count=8, seed=20_000_000, image_hw=(64, 64))
    source = sites / "instances.json"
    assert run("convert", source, tmp_path / "a", "--to", "yolo", "--val", 0.5).code == 0
    assert run("convert", source, tmp_path / "b", "--to", "yolo", "--val", 0.5).code == 0

    def names(folder, part):
        return {path.name for path in (tmp_path / folder / "images" / part).rglob("*.jpg")}

    assert names("a", "val") == names("b", "val")
    assert len(names("a", "train")) + len(names("a", "val")) == 8


def test_check_finds_what_spoils_training(run, sites):
    source = sites / "instances.json"
    clean = run("convert", source, "--check", "--prompts", "per_class")
    assert clean.code == 0, clean.out
    document = json.loads(source.read_text())
    document["annotations"][0]["bbox"] = [10, 10, 0, 5]
    document["images"][1]["file_name"] = "images/gone.jpg"
    source.write_text(json.dumps(document))
    spoilt = run("convert", source, "--check", "--json", "--prompts", "per_class")
    assert spoilt.code == 1
    rules = {row["rule"] for row in spoilt.lines[0]["counts"]}
    assert rules >= {"box-degenerate", "missing-file"}


def test_convert_needs_to_know_the_format(run, sites, tmp_path):
    ran = run("convert", sites / "instances.json", tmp_path / "folder")
    assert ran.code == 2
    assert "--to" in ran.err


def test_demo_writes_what_it_says(run, tmp_path):
    out = tmp_path / "demo"
    ran = run("demo", "--out", out)
    assert ran.code == 0
    for name in (
        "photograph.overlay.jpg",
        "site-1.overlay.jpg",
        "site-2.overlay.jpg",
        "site.overlay.mp4",
        "coco.json",
    ):
        assert (out / name).exists()
        assert name in ran.out
    held = COCO(str(out / "coco.json"))
    assert len(held.imgs) == 3 + video_info(out / "site.mp4").num_frames
    results = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(held.anns) == sum(len(result["labels"]) for result in results)


def test_a_photograph_is_not_captioned_and_the_reason_is_printed(run, tmp_path):
    ran = run("caption", samples.path("astronaut"), "--out", tmp_path / "out")
    assert ran.code == 0
    assert "not answered: tiny was trained to caption, answer and read on drawings" in ran.out
    assert (tmp_path / "out" / "astronaut.overlay.jpg").exists()


def test_bench_reads_the_images_before_it_loads_models(run):
    ran = run("bench", "nope.jpg", "--model", "no such model")
    assert ran.code == 1 and "nope.jpg: no such file" in ran.err


@pytest.mark.slow
def test_bench_compares_both_sides_at_each_size(run):
    ran = run("bench", samples.path("site-04"), "--class", "helmet", "--repeat", 3, "--json")
    assert ran.code == 0, ran.err
    (figures,) = ran.lines
    for size in (1, 8):
        row = next(row for key, row in figures.items() if key.startswith(f"batch {size}, "))
        assert row["ratio"] > 0
        assert row["objects, ours"] > 0
        assert row["objects, generate"] > 0
        assert row["generate ms an image"] > 0
