"""Labels through FiftyOne's own classes, where it is installed; no database is asked."""

import sys

import numpy as np
import pytest

from pgvision import Captioner, Detector, Segmenter
from pgvision.errors import DependencyError
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
    with pytest.raises(DependencyError, match=r"pip install '\.\[fiftyone\]'"):
        Detector("helmet")(image).to_fiftyone()


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
