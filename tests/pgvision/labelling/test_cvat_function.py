"""The function goes through cvat-sdk's own mapper, which checks what functions may return."""

import logging

import numpy as np
import pytest
from cvat_sdk import models
from cvat_sdk.auto_annotation import driver
from cvat_sdk.masks import decode_mask
from PIL import Image
from pycocotools import mask as coco_masks

from pgvision import Detector, Segmenter
from pgvision.errors import OptionError
from pgvision.labelling.cvat import create
from recipes.scenes import render_scene


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(render_scene(30_000_006).image[..., ::-1])


def annotated(function, image, *, labels, kind="any", conf=None, polygons=False):
    """Do what `annotate_task` does with one picture of a task with these labels."""
    theirs = [
        models.Label(id=number, name=name, type=kind, attributes=[], sublabels=[])
        for number, name in labels.items()
    ]
    mapper = driver._AnnotationMapper(
        logging.getLogger("cvat"),
        function.spec.labels,
        theirs,
        allow_unmatched_labels=False,
        conv_mask_to_poly=polygons,
    )
    context = driver._DetectionFunctionContextImpl(
        frame_name="a.png", conf_threshold=conf, conv_mask_to_poly=polygons
    )
    tags, shapes = mapper.validate_and_remap(function.detect(context, image), 5)
    assert not tags
    assert all(shape.frame == 5 and shape.source == "auto" for shape in shapes)
    return shapes


def test_boxes(image):
    function = create("helmet; vest", model="tiny")
    shapes = annotated(function, image, labels={71: "vest", 72: "helmet"}, kind="rectangle")
    expected = Detector(["helmet", "vest"], model="tiny")(image)
    assert len(expected) > 1
    assert [shape.label_id for shape in shapes] == [
        {"vest": 71, "helmet": 72}[label] for label in expected.labels
    ]
    np.testing.assert_allclose([shape.points for shape in shapes], expected.xyxy, atol=1e-3)
    np.testing.assert_allclose([shape.score for shape in shapes], expected.scores, atol=1e-6)


def test_the_threshold_is_cvats(image):
    function = create("helmet; vest", model="tiny")
    labels = {1: "helmet", 2: "vest"}
    scores = [shape.score for shape in annotated(function, image, labels=labels)]
    conf = sorted(scores)[1]
    kept = annotated(function, image, labels=labels, conf=conf)
    assert len(kept) == sum(score >= conf for score in scores) < len(scores)


def test_cvats_threshold_replaces_the_models(image):
    """Below the thresholds of the card (0.45 for helmets of ``small``) it had no effect."""
    function = create("helmet", model="small")
    everything = Detector("helmet", conf=0.0)(image).scores
    low = sum(score >= 0.05 for score in everything)
    shapes = annotated(function, image, labels={1: "helmet"}, conf=0.05)
    assert len(shapes) == low > len(annotated(function, image, labels={1: "helmet"}))


def test_masks_and_polygons(image):
    function = create("helmet", task="segment", model="tiny")
    expected = Segmenter("helmet", model="tiny")(image).masks
    masks = annotated(function, image, labels={1: "helmet"}, kind="mask")
    for shape, mask in zip(masks, expected, strict=True):
        decoded = decode_mask(shape.points, image_width=640, image_height=480)
        np.testing.assert_array_equal(decoded, mask)
    polygons = annotated(function, image, labels={1: "helmet"}, kind="polygon", polygons=True)
    rings = coco_masks.frPyObjects([shape.points for shape in polygons], 480, 640)
    drawn = coco_masks.decode(coco_masks.merge(rings)).astype(bool)
    assert (drawn & expected.any(0)).sum() / (drawn | expected.any(0)).sum() > 0.85


def test_a_wrong_task_is_refused():
    with pytest.raises(OptionError, match="expected detect or segment"):
        create("helmet", task="caption")
