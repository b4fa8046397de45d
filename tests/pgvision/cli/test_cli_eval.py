"""`pgvision eval`: predicts, scores, goes on after a stop, shows the worst."""

import json
import shutil
import sqlite3
from contextlib import closing

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pgvision.cli.evaluate import text_cases
from pgvision.datasets import Example
from pgvision.errors import DataError
from pgvision.runtime import weights_digest
from pgvision.runtime.checkpoints import TINY_FOLDER, find_checkpoint
from recipes.scenes.export import export_scenes


@pytest.fixture
def sites(run, tmp_path):
    out = tmp_path / "sites"
    export_scenes(out, count=3, seed=20_000_000, image_hw=(240, 320))
    return out


def test_eval_writes_its_files(run, sites, tmp_path):
    out = tmp_path / "report"
    words = ("eval", "--data", sites / "instances.json", "--out", out, "--json", "--limit", 2)
    ran = run(*words, "--calibrate", "temperature")
    assert ran.code == 0
    report = ran.lines[0]
    assert report["num_images"] == 2
    assert json.loads((out / "report.json").read_text())["stats"] == report["stats"]
    said = (report["model"], report["data"], report["conf"])
    assert said == ("tiny", f"{sites / 'instances.json'} instances", None)
    assert report["outputs"]["num_outputs"] == 2
    assert cv2.imread(str(out / "report.png")) is not None
    assert json.loads((out / "calibration.json").read_text())["method"] == "temperature"
    records = json.loads((out / "results.json").read_text())
    assert {record["image_id"] for record in records} <= {1, 2}


def test_masks_score_in_stock_pycocotools_as_here(run, sites, tmp_path):
    data, out = sites / "instances.json", tmp_path / "report"
    words = ("--task", "segment", "--out", out, "--json", "--worst", 0)
    ran = run("eval", "--data", data, *words)
    truth = COCO(str(data))
    evaluator = COCOeval(truth, truth.loadRes(str(out / "results.json")), "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    stats = list(ran.lines[0]["stats"].values())
    assert stats == pytest.approx(evaluator.stats.tolist(), abs=1e-9)


def test_a_checkpoint_that_changes_while_it_is_evaluated_is_an_error(
    run, sites, tmp_path, monkeypatch
):
    """Answers are filed under the checkpoint's digest: they would not be found at the end."""
    model = tmp_path / "model"
    shutil.copytree(TINY_FOLDER, model)
    card = model / "pgvision.json"

    def advance(self):
        card.write_text(card.read_text().replace("{", '{"notes": "new", ', 1))

    monkeypatch.setattr("pgvision.cli.evaluate.Meter.advance", advance)
    out = tmp_path / "report"
    ran = run("eval", "--data", sites / "instances.json", "--out", out, "--model", model)
    assert ran.code == 1
    assert "the checkpoint or an image changed while it ran. Repeat the command" in ran.err


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_where_nothing_was_found_there_is_nothing_to_calibrate(run, sites, tmp_path, method):
    out = tmp_path / "report"
    words = ("eval", "--data", sites / "instances.json", "--out", out, "--json", "--limit", 2)
    # No score reaches 1: each is a product of probabilities.
    ran = run(*words, "--conf", 1.0, "--calibrate", method)
    assert ran.code == 1
    assert "nothing was found in 2 images" in ran.err
    assert "no calibration.json" in ran.err
    assert ran.lines[0]["num_images"] == 2
    assert json.loads((out / "report.json").read_text())["conf"] == 1.0
    assert json.loads((out / "results.json").read_text()) == []
    assert cv2.imread(str(out / "report.png")) is not None
    assert not (out / "calibration.json").exists()
    # Without the wish for a calibration the same run has nothing wanting.
    assert run(*words, "--conf", 1.0).code == 0


def test_a_stopped_eval_resumes(run, sites, tmp_path):
    out = tmp_path / "report"
    words = ("eval", "--data", sites / "instances.json", "--out", out, "--json", "--worst", 0)
    whole = run(*words)
    with closing(sqlite3.connect(out / "answers.journal")) as db:  # a stop after the first answer
        db.execute("DELETE FROM answer WHERE item > 1")
        db.execute("UPDATE item SET complete = 0 WHERE id > 1")
        db.commit()
    again = run(*words)
    assert "resuming after 1 of 3" in again.err
    assert again.lines[0]["stats"] == whole.lines[0]["stats"]


def test_evaluations_in_one_folder_keep_each_others_answers(run, sites, tmp_path):
    """detect, then ask, then detect again ended in `KeyError: 'result'`."""
    out = ("--out", tmp_path / "report", "--limit", 2, "--worst", 0, "--json")
    boxes = ("eval", "--data", sites / "instances.json", *out)
    texts = ("eval", "--data", sites / "examples.jsonl", "--task", "ask", *out)
    first = [run(*words) for words in (boxes, texts, (*boxes, "--conf", "0.5"))]
    assert [ran.code for ran in first] == [0, 0, 0]
    for words, before in zip((boxes, texts, (*boxes, "--conf", "0.5")), first, strict=True):
        again = run(*words)
        assert again.code == 0
        assert "resuming after" in again.err
        assert again.lines == before.lines


def test_the_part_is_chosen_and_named(run, sites, tmp_path):
    """A YOLO folder's train, val and test were scored together."""
    words = ("--to", "yolo", "--val", 0.5)
    made = run("convert", sites / "instances.json", tmp_path / "yolo", *words)
    assert (made.code, "Traceback" in made.err) == (0, False), made.err
    ran = run("eval", "--data", tmp_path / "yolo", "--out", tmp_path / "o", "--json", "--worst", 0)
    assert "evaluating on val: " in ran.err
    assert 0 < ran.lines[0]["num_images"] < 3


def test_classes_are_renamed_and_selected(run, sites, tmp_path):
    data = sites / "instances.json"
    data.write_text(data.read_text().replace('"helmet"', '"hard_hat_7"'))
    words = ("eval", "--data", data, "--out", tmp_path / "o", "--json", "--worst", 0)
    ran = run(*words, "--rename", "hard_hat_7=helmet", "--classes", "helmet")
    assert ran.code == 0
    assert [one["name"] for one in ran.lines[0]["per_class"]] == ["helmet"]
    assert run(*words, "--rename", "hard_hat_7").code == 2


def test_classes_without_an_object_are_refused_as_data_without_annotations(run, sites, tmp_path):
    """AP was "-" and the exit code 0."""
    data = sites / "instances.json"
    document = json.loads(data.read_text())
    (vest,) = (entry["id"] for entry in document["categories"] if entry["name"] == "vest")
    kept = [item for item in document["annotations"] if item["category_id"] != vest]
    document["annotations"] = kept
    data.write_text(json.dumps(document))
    ran = run("eval", "--data", data, "--classes", "vest", "--out", tmp_path / "report")
    assert (ran.code, "no object of these classes" in ran.err) == (1, True), ran.err


def test_an_image_that_cannot_be_read_is_a_failure_and_not_a_crash(run, sites, tmp_path):
    first = sorted((sites / "images").iterdir())[0]
    first.write_bytes(b"")
    out = tmp_path / "report"
    ran = run("eval", "--data", sites / "instances.json", "--out", out, "--json")
    assert ran.code == 1
    assert first.name in ran.err
    assert ran.lines[0]["outputs"]["num_outputs"] == 2
    assert any("1 of 3 images unread and not scored: " in note for note in ran.lines[0]["notes"])
    assert ran.lines[0]["num_images"] == 2
    # Asked again, and still a failure, until there is a picture.
    again = run("eval", "--data", sites / "instances.json", "--out", out, "--json")
    assert (again.code, first.name in again.err) == (1, True)
    cv2.imwrite(str(first), np.zeros((240, 320, 3), np.uint8))
    assert run("eval", "--data", sites / "instances.json", "--out", out).code == 0


@pytest.mark.parametrize("task", ["ask", "caption", "read"])
def test_eval_of_texts(run, sites, tmp_path, task):
    out = tmp_path / "report"
    words = ("--task", task, "--out", out, "--limit", 4, "--json")
    ran = run("eval", "--data", sites / "examples.jsonl", *words)
    assert ran.code == 0
    figures = ran.lines[0]
    metrics = {"ask": {"exact", "anls", "count"}, "caption": {"cider", "bleu4"}}
    assert set(figures["metrics"]) == metrics.get(task, {"cer", "wer"})
    assert json.loads((out / "report.json").read_text()) == figures
    again = run("eval", "--data", sites / "examples.jsonl", *words)
    assert again.lines == ran.lines
    assert "resuming after" in again.err


def test_the_part_of_texts_is_chosen_as_that_of_objects(run, sites, tmp_path):
    """--split was ignored, folders were "a directory", and <image> made a prompt unknown."""
    image = json.loads((sites / "examples.jsonl").read_text().splitlines()[0])["image"]
    for part in ("train", "valid"):
        line = {"image": image, "prefix": "<image>answer en how many?\n", "suffix": part}
        (sites / f"_annotations.{part}.jsonl").write_text(json.dumps(line))
    (sites / "examples.jsonl").unlink()
    words = ("eval", "--data", sites, "--task", "ask", "--unknown", "ask", "--out", tmp_path / "o")
    for split, part in (((), "valid"), (("--split", "train"), "train")):
        ran = run(*words, *split)
        assert (ran.code, f"evaluating on _annotations.{part}: 1 examples" in ran.err) == (0, True)
        assert json.loads((tmp_path / "o/answers.jsonl").read_text())["references"] == [part]
    ran = run(*words, "--split", "test")
    assert (ran.code, "split='test'" in ran.err) == (2, True)
    ran = run(*words, "--max-dets", 7)
    assert (ran.code, "--max-dets: is for --task detect" in ran.err) == (2, True)


@pytest.fixture
def own_tiny(tmp_path):
    """A copy of the carried checkpoint, to be changed."""
    folder = tmp_path / "mine"
    shutil.copytree(TINY_FOLDER, folder)
    return folder


def test_retrained_weights_are_asked_anew_whatever_names_them(
    run, sites, tmp_path, own_tiny, monkeypatch
):
    words = ("eval", "--data", sites / "instances.json", "--limit", 1, "--worst", 0)
    words += ("--out", tmp_path / "report")
    monkeypatch.setenv("PGVISION_MODEL", str(own_tiny))
    assert run(*words).code == 0
    same = run(*words, "--model", own_tiny)  # said otherwise, and the same
    assert (same.code, "resuming after 1 of 1" in same.err) == (0, True)
    monkeypatch.setenv("PGVISION_MODEL", "tiny")
    assert run(*words).code == 0  # the same bytes in another place
    (own_tiny / "generation_config.json").write_text('{"eos_token_id": 1, "max_new_tokens": 1}')
    other = run(*words, "--model", own_tiny)
    assert (other.code, "resuming" in other.err) == (0, False)


def test_every_part_of_a_large_file_counts(tmp_path):
    """A file beyond what is read whole: noise anywhere that training reaches is seen."""
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(600 << 20)  # sparse: it takes no room
    card = find_checkpoint(folder)
    before = weights_digest(card, None)
    assert weights_digest(card, None) == before
    noise = np.random.default_rng(0).bytes(4 << 20)
    for start in (0, 300 << 20, 596 << 20):
        with (folder / "model.safetensors").open("r+b") as file:
            file.seek(start)
            file.write(noise)
        after = weights_digest(card, None)
        assert after != before
        before = after


def test_fewer_images_than_were_answered(run, sites, tmp_path):
    words = ("eval", "--data", sites / "instances.json", "--worst", 0, "--json")
    words += ("--out", tmp_path / "report")
    assert run(*words).code == 0
    ran = run(*words, "--limit", 2)
    assert ran.code == 0
    assert "resuming after 2 of 2 images" in ran.err
    assert (ran.lines[0]["num_images"], ran.lines[0]["outputs"]["num_outputs"]) == (2, 2)


def test_a_class_that_the_checkpoint_was_not_trained_on_is_refused(run, sites, tmp_path):
    data = sites / "instances.json"
    document = json.loads(data.read_text())
    document["categories"][0]["name"] = "zebra"
    data.write_text(json.dumps(document))
    words = ("--out", tmp_path / "report", "--limit", 1, "--worst", 0)
    ran = run("eval", "--data", data, *words)
    assert ran.code == 2
    assert "tiny was not trained on the class 'zebra'" in ran.err
    assert run("eval", "--data", data, *words, "--unknown", "ask").code == 0


def test_where_no_picture_can_be_read_there_is_no_figure(run, sites, tmp_path):
    for file in (sites / "images").iterdir():
        file.write_bytes(b"")
    ran = run("eval", "--data", sites / "instances.json", "--out", tmp_path / "report", "--json")
    assert ran.code == 1
    assert "none of 3 images could be read" in ran.err
    assert ran.out == ""
    assert not (tmp_path / "report" / "report.json").exists()


def test_the_worst_images_are_drawn_by_their_mistakes(run, sites, tmp_path):
    out = tmp_path / "report"
    assert run("eval", "--data", sites / "instances.json", "--out", out, "--worst", 2).code == 0
    names = sorted(path.name for path in (out / "worst").iterdir())
    counts = [int(name.split("-")[1]) for name in names]
    assert len(names) == 2
    assert counts == sorted(counts, reverse=True)
    assert cv2.imread(str(out / "worst" / names[0])).shape[1] == 2 * 320 + 8


def test_lines_with_one_question_are_one_case(tmp_path):
    image = tmp_path / "a.jpg"
    examples = [
        Example(image, "answer en how many?", "2"),
        Example(image, "answer en how many?", "two"),
        Example(image, "caption en", "a site"),
        Example(image, "detect helmet", ""),
    ]
    (case,) = text_cases(examples, "ask")
    assert (case.prefix, case.references) == ("answer en how many?", ("2", "two"))
    # Each style is another prompt, with references of its own.
    examples += [Example(image, "describe en", "a site with two workers")]
    first, second = text_cases(examples, "caption")
    assert (first.prefix, first.references) == ("caption en", ("a site",))
    assert (second.prefix, second.references) == ("describe en", ("a site with two workers",))
    with pytest.raises(DataError, match="no example"):
        text_cases(examples[3:], "ask")


def test_captions_are_asked_in_the_style_of_the_data(run, sites, tmp_path):
    """Every style was asked as "caption"; tiny knows no other and refuses."""
    data = sites / "examples.jsonl"
    data.write_text(data.read_text().replace('"caption en"', '"describe en"'))
    ran = run("eval", "--data", data, "--task", "caption", "--out", tmp_path / "report")
    assert (ran.code, "'describe'" in ran.err) == (2, True), ran.err


def test_masks_that_are_missing_are_refused_before_the_model_is_asked(run, sites, tmp_path):
    data = sites / "instances.json"
    document = json.loads(data.read_text())
    for item in document["annotations"]:
        del item["segmentation"]
    data.write_text(json.dumps(document))
    out = tmp_path / "report"
    ran = run("eval", "--data", data, "--task", "segment", "--out", out)
    assert (ran.code, "and masks are scored" in ran.err, out.exists()) == (1, True, False)


def test_of_an_image_of_several_pages_the_first_is_scored(run, sites, tmp_path):
    """Its annotations describe the first page; the last one was scored."""
    words = ("eval", "--data", sites / "instances.json", "--limit", 1, "--json", "--worst", 0)
    before = run(*words, "--out", tmp_path / "one").lines[0]
    document = json.loads((sites / "instances.json").read_text())
    name = document["images"][0]["file_name"]
    document["images"][0]["file_name"] = "pages.tif"
    (sites / "instances.json").write_text(json.dumps(document))
    with Image.open(sites / name) as page:
        others = [Image.new("RGB", page.size)] * 2
        page.save(sites / "pages.tif", save_all=True, append_images=others)
    after = run(*words, "--out", tmp_path / "two").lines[0]
    assert (after["num_detections"], after["stats"]) == (before["num_detections"], before["stats"])
    assert after["num_detections"] > 0
