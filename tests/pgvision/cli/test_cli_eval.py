"""`pgvision eval`: predicts, scores, goes on after a stop, shows the worst."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pgvision.cli.eval_answers import Answers
from pgvision.cli.eval_objects import Scoring, score
from pgvision.cli.eval_texts import evaluate_texts, text_cases
from pgvision.cli.eval_worst import save_worst
from pgvision.datasets import Example, read_dataset
from pgvision.errors import DataError, ImageError, OptionError
from pgvision.results import DetectionResult, SegmentationResult
from pgvision.runtime import weights_digest
from pgvision.runtime.checkpoints import TINY_FOLDER, find_checkpoint
from recipes.scenes.export import export_scenes


@pytest.fixture
def sites(run, tmp_path):
    out = tmp_path / "sites"
    export_scenes(out, count=3, seed=20_000_000, image_hw=(240, 320))
    return out


def boxes(rows, *, class_ids=None, scores=None):
    return DetectionResult(
        image_hw=(100, 100),
        xyxy=np.asarray(rows, np.float32).reshape(-1, 4),
        labels=["helmet"] * len(rows),
        class_ids=class_ids or [0] * len(rows),
        classes=["helmet", "head"],
        scores=scores,
    )


def test_eval_writes_its_files(run, sites, tmp_path):
    out = tmp_path / "report"
    words = ("eval", "--data", sites / "instances.json", "--out", out, "--json", "--limit", 2)
    ran = run(*words, "--calibrate", "temperature")
    assert ran.code == 0
    report = ran.lines[0]
    assert report["num_images"] == 2
    assert json.loads((out / "report.json").read_text())["stats"] == report["stats"]
    said = (report["model"], report["data"], report["conf"])
    assert said == ("tiny", str(sites / "instances.json"), None)
    assert report["outputs"]["num_outputs"] == 2
    assert cv2.imread(str(out / "report.png")) is not None
    assert json.loads((out / "calibration.json").read_text())["method"] == "temperature"
    records = json.loads((out / "results.json").read_text())
    assert {record["image_id"] for record in records} <= {1, 2}


def test_masks_score_in_stock_pycocotools_as_here(tmp_path):
    place = {"image_id": 1, "category_id": 1, "iscrowd": 0}
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "height": 100, "width": 100}],
        "categories": [{"id": 1, "name": "helmet"}],
        "annotations": [
            {**place, "id": 1, "bbox": [0, 0, 40, 40], "area": 800,
             "segmentation": [[0, 0, 40, 0, 40, 20, 0, 20]]},
        ],
    }  # fmt: skip
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((100, 100, 3), np.uint8))
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    upper = np.where(np.arange(64) < 32, 1.0, -1.0)[:, None].repeat(64, axis=1)
    # Boxes of 1600 pixels (medium), masks of 800 (small): one that is there, one that is not.
    found = SegmentationResult(
        image_hw=(100, 100), xyxy=[[0, 0, 40, 40], [50, 50, 90, 90]], labels=["helmet"] * 2,
        class_ids=[0, 0], classes=["helmet"], scores=[0.5, 0.9],
        mask_logits=np.stack([upper, upper]),
    )  # fmt: skip
    dataset = read_dataset(tmp_path / "truth.json")
    scoring = Scoring(iou_type="segm", engine="faster", scoreless="refuse")
    report = score(dataset, {1: found}, tmp_path, scoring)
    gt = COCO(str(tmp_path / "truth.json"))
    stock = COCOeval(gt, gt.loadRes(str(tmp_path / "results.json")), "segm")
    stock.evaluate()
    stock.accumulate()
    stock.summarize()
    assert report.stats == pytest.approx(stock.stats)
    assert report.stats[3] == pytest.approx(0.5)  # small: the false one comes first


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


def test_a_stopped_eval_goes_on(run, sites, tmp_path):
    out = tmp_path / "report"
    words = ("eval", "--data", sites / "instances.json", "--out", out, "--json", "--worst", 0)
    whole = run(*words)
    lines = (out / "answers.jsonl").read_text().splitlines()
    # A stop in the middle of a line, after the first answer.
    (out / "answers.jsonl").write_text(lines[0] + "\n" + lines[1][: len(lines[1]) // 2])
    again = run(*words)
    assert "going on after 1 of 3" in again.err
    assert again.lines[0]["stats"] == whole.lines[0]["stats"]
    assert len((out / "answers.jsonl").read_text().splitlines()) == 3


def test_a_folder_with_another_run_is_refused(run, sites, tmp_path):
    out = tmp_path / "report"
    words = ("eval", "--data", sites / "instances.json", "--out", out, "--limit", 1)
    assert run(*words).code == 0
    other = run(*words, "--conf", 0.5)
    assert other.code == 2
    assert "another run (other conf)" in other.err


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
    assert (again.code, "going on after 2 of 3" in again.err) == (1, True)
    cv2.imwrite(str(first), np.zeros((240, 320, 3), np.uint8))
    assert run("eval", "--data", sites / "instances.json", "--out", out).code == 0


@pytest.mark.parametrize("task", ["ask", "caption"])
def test_eval_of_texts(run, sites, tmp_path, task):
    out = tmp_path / "report"
    words = ("--task", task, "--out", out, "--limit", 4, "--json")
    ran = run("eval", "--data", sites / "examples.jsonl", *words)
    assert ran.code == 0
    figures = ran.lines[0]
    assert set(figures) == ({"exact", "anls", "count"} if task == "ask" else {"cider", "bleu4"})
    assert json.loads((out / "report.json").read_text())["figures"] == figures


def test_answers_come_back_as_they_were(tmp_path, sites):
    first, second, third = read_dataset(sites / "instances.json").images
    run = {"data": "a", "weights": "123"}
    kept = Answers(tmp_path, run)
    result = boxes([[1, 2, 3, 4]], scores=[0.5])
    kept.add(first, result)
    kept.add(second, result)
    again = Answers(tmp_path, run)
    assert [again.holds(image) for image in (first, second, third)] == [True, True, False]
    assert dict(again.results([first, third])) == {first.id: result}
    with pytest.raises(OptionError, match=r"another run \(other weights\)"):
        Answers(tmp_path, run | {"weights": "456"})


def test_an_answer_is_for_the_picture_that_was_there(tmp_path, sites):
    first, second, _ = read_dataset(sites / "instances.json").images
    kept = Answers(tmp_path, {})
    for image in (first, second):
        kept.add(image, boxes([[1, 2, 3, 4]], scores=[0.5]))
    cv2.imwrite(str(first.path), np.zeros((240, 320, 3), np.uint8))
    again = Answers(tmp_path, {})
    assert not again.holds(first)
    assert [image_id for image_id, _ in again.results([first, second])] == [second.id]


@pytest.fixture
def own_tiny(tmp_path):
    """A copy of the carried checkpoint, to be changed."""
    folder = tmp_path / "mine"
    shutil.copytree(TINY_FOLDER, folder)
    return folder


def test_retrained_weights_are_another_run_whatever_names_them(
    run, sites, tmp_path, own_tiny, monkeypatch
):
    words = ("eval", "--data", sites / "instances.json", "--limit", 1, "--worst", 0)
    words += ("--out", tmp_path / "report")
    monkeypatch.setenv("PGVISION_MODEL", str(own_tiny))
    assert run(*words).code == 0
    same = run(*words, "--model", own_tiny)  # said otherwise, and the same
    assert (same.code, "going on after 1 of 1" in same.err) == (0, True)
    monkeypatch.setenv("PGVISION_MODEL", "tiny")
    assert run(*words).code == 0  # the same bytes in another place
    (own_tiny / "generation_config.json").write_text('{"eos_token_id": 1, "max_new_tokens": 1}')
    other = run(*words, "--model", own_tiny)
    assert (other.code, "other weights" in other.err) == (2, True)


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
    assert "going on after 2 of 2 images" in ran.err
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
    assert "3 of 3 pictures unread" in ran.err
    assert ran.out == ""
    assert not (tmp_path / "report" / "report.json").exists()


def test_the_worst_image_comes_first(sites, tmp_path):
    dataset = read_dataset(sites / "instances.json")
    first, second, third = dataset.images
    empty = {
        image.id: DetectionResult(
            image_hw=image.image_hw, xyxy=[], labels=[], class_ids=[], classes=dataset.classes
        )
        for image in (first, second, third)
    }
    paths = save_worst(dataset, empty, tmp_path / "worst", count=2, threshold=0.0)
    most = max(dataset.images, key=lambda image: len(image.objects))
    assert len(paths) == 2
    assert paths[0].name == f"01-{len(most.objects)}-{most.path.stem}.jpg"
    height, width, _ = cv2.imread(str(paths[0])).shape
    assert width == 320 * 2 + 8
    assert height > 240  # a caption says what is wrong, and from which score on
    # Red is what was missed; there is nothing else to mark.
    left = cv2.imread(str(paths[0]))[:240, :320].astype(int)
    before = cv2.imread(str(most.path)).astype(int)
    drawn = left[(np.abs(left - before) > 60).any(axis=2)].mean(axis=0)
    assert drawn[2] > 2 * drawn[1]
    # The next run's worst take the place of these.
    assert save_worst(dataset, {}, tmp_path / "worst", count=2, threshold=0.0) == []
    assert list((tmp_path / "worst").iterdir()) == []


def test_what_a_crowd_ignores_is_no_mistake(sites, tmp_path):
    dataset = read_dataset(sites / "instances.json")
    image = dataset.images[0]
    crowd = replace(image.objects[0], iscrowd=True, xywh=(0.0, 0.0, 320.0, 240.0))
    dataset = replace(dataset, images=(replace(image, objects=(crowd,)),))
    name = dataset.names[crowd.category_id]
    many = DetectionResult(
        image_hw=image.image_hw, xyxy=[[5 * n, 5, 5 * n + 20, 40] for n in range(20)],
        labels=[name] * 20, class_ids=[dataset.classes.index(name)] * 20, scores=[0.9] * 20,
        classes=dataset.classes,
    )  # fmt: skip
    folder = tmp_path / "worst"
    assert save_worst(dataset, {image.id: many}, folder, count=2, threshold=0.0) == []


def test_lines_with_one_question_are_one_case(tmp_path):
    image = tmp_path / "a.jpg"
    examples = [
        Example(image, "answer en how many?", "2"),
        Example(image, "answer en how many?", "two"),
        Example(image, "caption en", "a site"),
        Example(image, "detect helmet", ""),
    ]
    (case,) = text_cases(examples, "ask")
    assert (case.language, case.question, case.references) == ("en", "how many?", ("2", "two"))
    (case,) = text_cases(examples, "caption")
    assert case.references == ("a site",)
    with pytest.raises(DataError, match="no example"):
        text_cases(examples[3:], "ask")


def test_ten_references_are_scored_as_vqa(tmp_path):
    cases = text_cases([Example(tmp_path, "answer en how many?", "2")] * 10, "ask")
    figures, failed = evaluate_texts(cases, lambda *_: "2", tmp_path, task="ask")
    assert (figures["vqa"], figures["exact"], failed) == (1.0, 1.0, 0)


def test_texts_go_on_after_a_picture_that_cannot_be_read(tmp_path, capsys):
    cases = text_cases(
        [Example(tmp_path / n, "answer en how many?", "2") for n in ("a.jpg", "b.jpg")], "ask"
    )

    def ask(image, language, question):
        if image.name == "a.jpg":
            raise ImageError("a.jpg: 0 bytes")
        return "2"

    figures, failed = evaluate_texts(cases, ask, tmp_path, task="ask")
    assert (figures["exact"], failed) == (1.0, 1)
    assert "a.jpg: 0 bytes" in capsys.readouterr().err
