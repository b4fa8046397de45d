"""Labels and models through FiftyOne's own classes, where it is installed; no database is asked."""

import sys

import numpy as np
import pytest

from pgvision import Answerer, Captioner, Detector, Segmenter
from pgvision.errors import DependencyError, OptionError
from pgvision.labelling.fiftyone import fiftyone_model
from recipes.scenes import render_scene


@pytest.fixture(scope="module")
def image():
    return render_scene(30_000_006).image


@pytest.fixture
def real():
    """FiftyOne: not in `make setup`, since it brings an OpenCV of its own."""
    return pytest.importorskip("fiftyone.core.labels")


def test_without_fiftyone_the_package_is_named(image, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "fiftyone"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    detector = Detector("helmet")
    for call in (detector(image).to_fiftyone, lambda: fiftyone_model(detector)):
        with pytest.raises(DependencyError, match=r"pip install '\.\[fiftyone\]'"):
            call()


def test_boxes_are_shares_of_the_picture(real, image):
    result = Detector("helmet")(image)
    labels = result.to_fiftyone()
    assert isinstance(labels, real.Detections)
    height, width = image.shape[:2]
    assert len(result)
    for one, box, score in zip(labels.detections, result.xyxy, result.scores, strict=True):
        left, top, across, down = one.bounding_box
        there = np.array(
            [left * width, top * height, (left + across) * width, (top + down) * height]
        )
        np.testing.assert_allclose(there, box, atol=1e-3)
        assert (one.label, one.index) == ("helmet", None)
        assert one.confidence == pytest.approx(float(score))
    tracked = result.with_trackers(range(len(result))).to_fiftyone()
    assert [one.index for one in tracked.detections] == [*range(len(result))]


def test_masks_lie_where_fiftyone_draws_them(real, image):
    result = Segmenter("truck")(image)
    labels = result.to_fiftyone()
    assert len(result)
    height, width = image.shape[:2]
    for one, mask in zip(labels.detections, result.masks, strict=True):
        drawn = one.to_segmentation(frame_size=(width, height)).mask > 0
        assert (drawn & mask).sum() / (drawn | mask).sum() > 0.97  # their rounding of the box


def test_texts_are_classifications(real, image):
    result = Captioner()(image)
    label = result.to_fiftyone()
    assert isinstance(label, real.Classification)
    assert (label.label, label.confidence) == (result.text, result.score)


def test_a_model_answers_as_the_task_does(real, image):
    from fiftyone.core.models import Model

    detector = Detector("helmet")
    model = fiftyone_model(detector)
    assert isinstance(model, Model)
    assert model.media_type == "image"
    rgb = np.ascontiguousarray(image[..., ::-1])  # as FiftyOne reads pictures
    with model:
        alone = model.predict(rgb)
        several = model.predict_all([rgb, rgb[:300]])  # two sizes
    want = detector(image).to_fiftyone()
    assert [d.bounding_box for d in alone.detections] == [d.bounding_box for d in want.detections]
    assert len(several) == 2
    asked = fiftyone_model(Answerer(), "how many workers are there?")
    assert asked.predict(rgb).label == Answerer()(image, "how many workers are there?").text


def test_a_question_goes_with_an_answerer_alone(real):
    with pytest.raises(OptionError, match="question"):
        fiftyone_model(Answerer())
    with pytest.raises(OptionError, match="question"):
        fiftyone_model(Detector("helmet"), "how many?")
