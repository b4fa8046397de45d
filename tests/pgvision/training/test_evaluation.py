"""Figures of a model that answers, against ones from its own answers by pycocotools and by hand."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment

from pgvision.datasets import Example, dataset_to_coco, read_examples, read_splits
from pgvision.images import read_image
from pgvision.runtime import Picture, Request, load
from pgvision.tasks import Detector, Segmenter
from pgvision.training import DataSource, TrainConfig
from pgvision.training.data import TaskData, read_data
from pgvision.training.evaluation import Shown, join_figures, match_names, validate
from pgvision.training.report import data_credits, write_sheet


def objects(scenes, part="valid", **options):
    config = TrainConfig(model="tiny", **options)
    splits = read_splits(scenes)
    return TaskData(DataSource(data=scenes), splits["train"], splits[part], config, "train", part)


def texts(examples, task, **options):
    config = TrainConfig(task=task, model="tiny", **options)
    return TaskData(DataSource(data="a"), examples, tuple(examples), config, "train", "valid")


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_figures_are_cocos_and_scores_are_calibrated_on_matches(scenes, task):
    data = objects(scenes, "train", task=task, eval_all=True)
    found = validate(load("tiny"), data)
    ask = (Detector if task == "detect" else Segmenter)(
        list(data.valid.classes), model="tiny", conf=0.0
    )
    ids = {category.name: category.id for category in data.valid.categories}
    rows = [
        row
        for record in data.valid.images
        for row in ask(read_image(record.path)).to_coco(image_id=record.id, category_ids=ids)
    ]
    truth = COCO()
    truth.dataset = dataset_to_coco(data.valid)
    truth.createIndex()
    run = COCOeval(truth, truth.loadRes(rows), "bbox" if task == "detect" else "segm")
    run.evaluate()
    run.accumulate()
    run.summarize()
    for name, place in (("ap", 0), ("ap50", 1), ("ar", 8)):
        assert found.figures[name] == pytest.approx(run.stats[place], abs=6e-5), name
    assert found.calibration is not None and found.calibration.num_fitted == len(rows)
    assert found.num_images == 6 and len(found.shown) == 6


def test_mean_iou_pairs_boxes_by_class(scenes):
    data = objects(scenes, eval_all=True)
    total, count = 0.0, 0
    ask = Detector(list(data.valid.classes), model="tiny", conf=0.0)
    for record in data.valid.images:
        result = ask(read_image(record.path))
        for category in data.valid.categories:
            true = np.array([o.xyxy for o in record.objects if o.category_id == category.id])
            mine = result.xyxy[np.array(result.labels) == category.name]
            count += len(true)
            if len(true) and len(mine):
                low = np.maximum(mine[:, None, :2], true[None, :, :2])
                high = np.minimum(mine[:, None, 2:], true[None, :, 2:])
                shared = (high - low).clip(0).prod(-1)
                areas = [(one[:, 2:] - one[:, :2]).prod(-1) for one in (mine, true)]
                iou = shared / (areas[0][:, None] + areas[1][None] - shared)
                total += iou[linear_sum_assignment(-iou)].sum()
    assert validate(load("tiny"), data).figures["miou"] == pytest.approx(total / count, abs=1e-4)


def test_a_validation_is_bounded_in_images_and_in_classes(scenes, monkeypatch):
    asked = []

    class Counting(Detector):
        def stream(self, sources, **options):
            sources = list(sources)
            asked.extend((name, str(path)) for name in self.classes for path in sources)
            return super().stream(sources, **options)

    monkeypatch.setattr("pgvision.training.evaluation.Detector", Counting)
    data = objects(scenes, "train", eval_limit=2)
    found = validate(load("tiny"), data)
    assert found.num_images == 2 == len({path for _, path in asked})
    for record in data.valid.images:
        own = {data.valid.names[item.category_id] for item in record.objects}
        mine = {name for name, path in asked if path == str(record.path)}
        if mine:
            assert own <= mine and len(mine - own) == min(3, len(data.classes) - len(own))
    asked.clear()
    validate(load("tiny"), objects(scenes, "train", eval_limit=2, eval_all=True))
    assert len(asked) == 6 * len(data.classes)


def test_an_unreadable_image_is_named_and_is_no_miss(scenes, tmp_path):
    data = objects(scenes, "train", eval_all=True)
    broken = tmp_path / "broken.jpg"
    whole = data.valid.images[0].path.read_bytes()
    broken.write_bytes(whole[: len(whole) // 8])
    images = (replace(data.valid.images[0], path=broken), *data.valid.images[1:])
    found = validate(load("tiny"), replace(data, valid=replace(data.valid, images=images)))
    without = validate(
        load("tiny"), replace(data, valid=replace(data.valid, images=data.valid.images[1:]))
    )
    assert list(found.unread) == [str(broken)] and found.num_images == 5
    assert found.figures == without.figures
    (some,) = {read_examples(scenes / "valid" / "examples.jsonl")[0].image}
    examples = [Example(broken, "ocr", "A"), Example(some, "ocr", "A")]
    assert list(validate(load("tiny"), texts(examples, "read")).unread) == [str(broken)]


def test_shares_of_several_processes_are_joined(scenes):
    data = objects(scenes, "train", eval_all=True)
    lists = []
    for rank in (0, 1):
        validate(
            load("tiny"), data, share=(rank, 2), gather=lambda rows: lists.append(rows) or rows
        )
    joined = [lists[0] + lists[2], lists[1] + lists[3]]  # rows, unread
    found = validate(load("tiny"), data, share=(0, 2), gather=lambda rows: joined.pop(0))
    assert found.figures == validate(load("tiny"), data).figures


def test_texts_are_compared_with_their_own_answers(scenes):
    engine = load("tiny")
    known = read_examples(scenes / "valid" / "examples.jsonl")
    some = [one for one in known if one.prefix.startswith(("ocr", "answer", "caption"))][:5]
    requests = [Request(picture=Picture(read_image(e.image)), prefix=e.prefix) for e in some]
    said = {number: answer.text for number, answer in engine.generate(requests)}
    suffixes = [said[0].upper(), said[1], *(f"{said[k]} not" for k in (2, 3, 4))]
    examples = [one._replace(suffix=text) for one, text in zip(some, suffixes, strict=True)]
    assert validate(engine, texts(examples, "ask")).figures == {"exact": 0.4}
    reading = validate(engine, texts(examples[:2], "read")).figures
    assert list(reading) == ["anls", "exact"] and reading["anls"] == 1.0
    captions = [one for one in known if one.prefix == "caption en"]
    figures = validate(engine, texts(captions, "caption")).figures
    assert list(figures) == ["cider", "bleu4", "exact"] and 0 <= figures["cider"] <= 10


def test_several_data_sets_have_the_mean_of_their_main_figures_first(scenes):
    one, other = objects(scenes), objects(scenes, task="segment")
    found = [(one, validate(load("tiny"), one)), (other, validate(load("tiny"), other))]
    joined = join_figures(found)
    mains = [validation.figures["ap"] for _, validation in found]
    assert next(iter(joined)) == "mean"
    assert joined["mean"] == pytest.approx(np.mean(mains), abs=1e-4)
    assert joined[f"segment {scenes.name}: ap"] == mains[1]
    assert join_figures(found[:1]) == found[0][1].figures


def test_an_unknown_name_is_matched_by_the_objects_that_it_names(scenes):
    plain = read_data([DataSource(data=scenes)], TrainConfig())
    other = plain.renamed({"helmet": "kask"})
    assert match_names(load("tiny"), other) == {"kask": "helmet"}
    assert match_names(load("tiny"), plain) == {}
    # A name that the user has chosen stays.
    chosen = read_data([DataSource(data=scenes)], TrainConfig(rename={"helmet": "kask"}))
    assert match_names(load("tiny"), chosen) == {}


@pytest.mark.parametrize("text", ["license: MIT\n", "roboflow: {license: MIT, version: 3}\n"])
def test_the_licence_of_a_data_yaml_is_credited(scenes, tmp_path, text):
    """Also where the file itself is the data set, as YOLO has it."""
    (tmp_path / "data.yaml").write_text(text)
    for path in (tmp_path, tmp_path / "data.yaml"):
        data = replace(objects(scenes), source=DataSource(data=path))
        assert "license: MIT (data.yaml)" in data_credits(data)
    (tmp_path / "data.yaml").write_text("[")
    assert "MIT" not in data_credits(data)


def test_a_sheet_has_every_image_whatever_its_shape(tmp_path):
    images = [np.full(shape, 90, np.uint8) for shape in ((2, 4000, 3), (3000, 4, 3), (30, 40, 3))]
    shown = [Shown("a.jpg", "安全帽", [[1, 1, 20, 20]], ["head"]) for _ in images]
    write_sheet(tmp_path / "sheet.jpg", shown, images)
    sheet = cv2.imread(str(tmp_path / "sheet.jpg"))
    assert sheet.shape == (340, 1280, 3)
    assert (sheet[200, 700:900] < 200).all()  # the third image fills its tile
