"""Label configs in, predictions out; figures are Label Studio's percent."""

import importlib.util

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from pgvision.errors import DataError, DependencyError
from pgvision.labelling.label_studio import prediction, read_label_config
from pgvision.results import DetectionResult, SegmentationResult

BOXES = """<View><Header value="Helmets"/><Image name="img" value="$image"/>
<RectangleLabels name="tag" toName="img"><Label value="helmet" background="red"/>
<Label value="Kopf"/></RectangleLabels></View>"""


def result(cls=DetectionResult, **more):
    return cls(
        image_hw=(200, 400),
        xyxy=[[40, 20, 120, 120], [200, 100, 300, 200]],
        labels=["helmet", "head"],
        class_ids=[0, 1],
        classes=["helmet", "head"],
        scores=[0.75, 0.5],
        **more,
    )


def test_a_config_says_names_and_shape():
    config = read_label_config(BOXES)
    assert (config.from_name, config.to_name, config.field) == ("tag", "img", "image")
    assert config.labels == ("helmet", "Kopf") and not config.wants_masks


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        ("", "XML"),
        ("<View>", "XML"),
        ("<View><Text name='a' value='$t'/></View>", "got Text, View"),
        ("<View><RectangleLabels name='a' toName='b'/></View>", "expected an <Image>"),
        (
            '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><View>&e;</View>',
            "EntitiesForbidden",
        ),
    ],
)
def test_a_config_that_cannot_be_used(xml, words):
    with pytest.raises(DataError, match=words):
        read_label_config(xml)


def test_boxes_are_percent_of_the_picture():
    found = prediction(result(), read_label_config(BOXES), "tiny", {"head": "Kopf"})
    assert found["score"] == 0.5
    first, second = found["result"]
    assert first["value"] == {
        **{"x": 10.0, "y": 10.0, "width": 20.0, "height": 50.0, "rotation": 0},
        "rectanglelabels": ["helmet"],
    }
    assert (first["original_width"], first["original_height"]) == (400, 200)
    assert (first["from_name"], first["to_name"], first["type"]) == (
        *("tag", "img"),
        "rectanglelabels",
    )
    assert first["score"] == 0.75
    assert second["value"]["rectanglelabels"] == ["Kopf"]


def masked():
    rows = np.mgrid[-1:1:64j, -1:1:64j]
    disc = 1.0 - (rows**2).sum(axis=0)
    return result(SegmentationResult, mask_logits=np.stack([disc, disc]))


def test_polygons_cover_the_masks():
    config = read_label_config(BOXES.replace("Rectangle", "Polygon"))
    found = prediction(masked(), config, "tiny")["result"]
    for region, mask in zip(found, masked().masks, strict=True):
        ring = np.array(region["value"]["points"]) * [4.0, 2.0]
        drawn = coco_masks.decode(coco_masks.frPyObjects([ring.ravel().tolist()], 200, 400)[0])
        assert (drawn & mask).sum() / (drawn | mask).sum() > 0.95
    with pytest.raises(DataError, match="Segmenter"):
        prediction(result(), config, "tiny")


def test_brushes_need_label_studios_own_converter():
    config = read_label_config(BOXES.replace("Rectangle", "Brush"))
    if importlib.util.find_spec("label_studio_sdk") is None:
        with pytest.raises(DependencyError, match="pip install label-studio-sdk"):
            prediction(masked(), config, "tiny")
        return
    from label_studio_sdk.converter.brush import decode_rle

    for region, mask in zip(
        prediction(masked(), config, "tiny")["result"], masked().masks, strict=True
    ):
        drawn = decode_rle(region["value"]["rle"]).reshape(200, 400, 4)[..., 3] > 0
        np.testing.assert_array_equal(drawn, mask)
