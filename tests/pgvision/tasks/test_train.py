"""``detector.train``: the task's checkpoint, fine-tuned by `pgvision.training`."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pgvision import Detector, Segmenter, samples
from pgvision.errors import DataError, OptionError, SourceError
from pgvision.training import TrainConfig


@pytest.mark.parametrize("task", [Detector, Segmenter])
def test_a_data_set_that_is_not_there_is_an_error_of_training(
    task: type[Detector | Segmenter], tmp_path: Path
) -> None:
    with pytest.raises(SourceError):
        task("helmet", model="tiny").train(tmp_path / "nothing", tmp_path / "out", minutes=0.1)


def test_settings_are_checked_by_training(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="minutes"):
        Detector("helmet", model="tiny").train(samples.truth(), tmp_path / "out", minutes=-1)


def test_a_revision_is_refused_as_training_would_take_the_main_branch(tmp_path: Path) -> None:
    detector = Detector("helmet", model="tiny")
    detector._runner.options = {"model": "google/paligemma-3b-pt-224", "revision": "bfloat16"}
    with pytest.raises(OptionError, match="revision"):
        detector.train(samples.truth(), tmp_path / "out")


def test_a_segmenter_trains_on_masks_and_a_detector_on_boxes(tmp_path: Path) -> None:
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((48, 64, 3), 50 * number, np.uint8))
    images = [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48} for n in range(4)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [5, 5, 9, 9]} for n in range(4)]
    data = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "helmet"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="task 'segment' needs one"):
        Segmenter("helmet", model="tiny").train(tmp_path / "boxes.json", tmp_path / "a")
    Detector("helmet", model="tiny").train(
        tmp_path / "boxes.json", tmp_path / "b", config=TrainConfig(steps=1, batch_size=1)
    )


@pytest.mark.slow
def test_a_detector_trains_on_the_samples_and_reports_ap(tmp_path: Path) -> None:
    detector = Detector("helmet", model="tiny")
    config = TrainConfig(steps=2, batch_size=2, eval_limit=2)
    report = detector.train(samples.truth(), tmp_path / "out", config=config)
    again = Detector("helmet", model=report.folder)
    assert again(samples.load("site-01")).classes == ("helmet",)
