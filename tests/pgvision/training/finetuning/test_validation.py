"""Figures of a model that is asked for real, against ones from its own answers by numpy alone."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment

from pgvision.datasets import (
    Dataset,
    Example,
    dataset_to_coco,
    read_examples,
    read_splits,
    segmentation_to_mask,
)
from pgvision.images import read_image
from pgvision.runtime import Picture, Request, load
from pgvision.tasks import Detector, Segmenter
from pgvision.training.finetuning.settings import FinetuneSettings
from pgvision.training.finetuning.validation import answering, score_objects, score_texts


def ious_of_boxes(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    low = np.maximum(found[:, None, :2], true[None, :, :2])
    high = np.minimum(found[:, None, 2:], true[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    areas = [(one[:, 2:] - one[:, :2]).prod(-1) for one in (found, true)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def ious_of_masks(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    shared = (found[:, None] & true[None]).sum((2, 3))
    return shared / (found[:, None] | true[None]).sum((2, 3)).clip(1)


def mean_iou(data: Dataset, task: str) -> float:
    """Ask the carried checkpoint, and pair what it finds with the truth, class by class."""
    names = list(data.classes)
    ask = (Detector if task == "detect" else Segmenter)(names, model="tiny")
    total, count = 0.0, 0
    for record in data.images:
        result = ask(read_image(record.path))
        for name in names:
            true = [one for one in record.objects if data.names[one.category_id] == name]
            mine = np.array(result.labels) == name
            count += len(true)
            if not true or not mine.any():
                continue
            if task == "detect":
                iou = ious_of_boxes(result.xyxy[mine], np.array([one.xyxy for one in true]))
            else:
                masks = [segmentation_to_mask(one.segmentation, record.image_hw) for one in true]
                iou = ious_of_masks(result.masks[mine], np.array(masks))
            total += iou[linear_sum_assignment(-iou)].sum()
    return total / count


def test_mean_iou_is_of_masks_where_masks_are_learnt(scenes: Path) -> None:
    data = read_splits(scenes)["valid"]
    for task in ("detect", "segment"):
        told = score_objects(load("tiny"), data, FinetuneSettings(steps=1, task=task))
        assert told.figures["miou"] == pytest.approx(mean_iou(data, task), abs=1e-4)


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_figures_are_cocos_and_scores_are_calibrated_on_matches(
    scenes: Path, task: Literal["detect", "segment"]
) -> None:
    data = read_splits(scenes)["train"]
    data = replace(data, images=data.images[:4])
    settings = FinetuneSettings(steps=1, task=task)
    told = score_objects(load("tiny"), data, settings)
    ask = (Detector if task == "detect" else Segmenter)(list(data.classes), model="tiny")
    ids = {category.name: category.id for category in data.categories}
    rows = [
        row
        for record in data.images
        for row in ask(read_image(record.path)).to_coco(image_id=record.id, category_ids=ids)
    ]
    truth = COCO()
    truth.dataset = dataset_to_coco(data)
    truth.createIndex()
    run = COCOeval(truth, truth.loadRes(rows), "bbox" if task == "detect" else "segm")
    run.evaluate()
    run.accumulate()
    run.summarize()
    for name, place in (("ap", 0), ("ap50", 1), ("ar", 8)):
        assert told.figures[name] == pytest.approx(run.stats[place], abs=6e-5), name
    assert len({told.figures[name] for name in ("ap", "ap50", "ar", "f1", "mean f1")}) == 5
    hits = [
        int(which > 0)
        for one in run.evalImgs
        if one is not None and one["aRng"] == run.params.areaRng[0]
        for which in one["dtMatches"][0]
    ]
    assert told.calibration is not None and told.calibration.num_fitted == len(rows) == len(hits)
    # An isotonic fit keeps the mean: as many are right as it says.
    expected = told.calibration.apply(np.array([row["score"] for row in rows]))
    assert float(expected.mean()) == pytest.approx(np.mean(hits), abs=1e-3)
    assert 0.05 < np.mean(hits) != pytest.approx(0.5, abs=0.02)
    first = score_objects(load("tiny"), data, settings, limit=1)
    alone = score_objects(load("tiny"), replace(data, images=data.images[:1]), settings)
    assert first.figures == alone.figures != told.figures


def test_texts_are_held_to_their_own_answers(scenes: Path) -> None:
    engine = load("tiny")
    asked = [
        one for one in read_examples(scenes / "valid" / "examples.jsonl") if one.prefix == "ocr"
    ]
    asked += [
        one for one in read_examples(scenes / "valid" / "examples.jsonl")
        if one.prefix.startswith(("caption", "answer"))
    ]  # fmt: skip
    some = asked[:5]
    said = dict(
        engine.generate(
            [Request(picture=Picture(read_image(one.image)), prefix=one.prefix) for one in some]
        )
    )
    answers = [said[number].text for number in range(5)]
    suffixes = [answers[0].upper(), answers[1], *(f"{text} not" for text in answers[2:])]
    examples = [
        Example(one.image, one.prefix, suffix) for one, suffix in zip(some, suffixes, strict=True)
    ]
    assert len(set(answers)) == 5
    assert score_texts(engine, examples).figures == {"exact": 0.4}
    assert score_texts(engine, examples, limit=2).figures == {"exact": 1.0}


def test_a_model_that_is_asked_is_not_in_training_meanwhile() -> None:
    engine = load("tiny")
    for was in (True, False):
        engine.model.train(was)
        with answering(engine) as live:
            assert not live.model.training
        assert engine.model.training == was
