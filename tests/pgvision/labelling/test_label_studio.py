"""Label configs in, predictions out; figures are Label Studio's percent."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

from pgvision.errors import DataError
from pgvision.labelling.label_studio import brush_rle, prediction, read_label_config
from pgvision.results import DetectionResult, SegmentationResult

BOXES = """<View><Header value="Helmets"/><Image name="img" value="$image"/>
<RectangleLabels name="tag" toName="img"><Label value="helmet" background="red"/>
<Label value="Kopf" predicted_values="head, bare head"/></RectangleLabels></View>"""


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


def test_a_config_is_read_with_its_names_and_shape():
    config = read_label_config(BOXES)
    (group,) = config.groups
    assert (group.from_name, group.to_name, config.fields) == ("tag", "img", {"img": "image"})
    assert group.names == {"helmet": "helmet", "head": "Kopf", "bare head": "Kopf"}
    assert (config.labels, config.field) == (("helmet", "head", "bare head"), "image")
    assert group.shape == "rectangle" and not group.wants_masks


def test_what_was_not_asked_for_is_left_out():
    """case: a region with an empty label broke Label Studio's form."""
    config = read_label_config(BOXES)
    other = replace(result(), class_ids=np.array([0, -1]), labels=("helmet", "sky"))
    assert len(prediction(other, config, "tiny")["result"]) == 1


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
    found = prediction(result(), read_label_config(BOXES), "tiny")
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


def small_mask():
    mask = np.zeros((9, 14), bool)
    mask[2:7, 3:11] = True
    mask[4, 5] = False
    mask[0, 0] = mask[8, 13] = True
    return mask


# What label-studio-sdk 2.1.2's converter.brush.mask2rle makes of it (it brings its own OpenCV).
SMALL = """0 0 1 248 57 27 252 127 249 220 3 15 255 225 112 12 63 255 133 192 39 255 140 3 9 255 225
112 12 63 255 133 192 48 255 254 119 0 143 252"""


def decoded(rle):
    """Read run lengths as Label Studio's frontend does (thi.ng/umbrella, rle-pack's decode)."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def read(count):
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < count:
        is_run = read(1)
        length = 1 + read(sizes[read(2)])
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    return values


def test_a_brush_is_what_label_studios_own_converter_writes():
    assert brush_rle(small_mask()) == [int(byte) for byte in SMALL.split()]


@given(
    hw=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 2**32 - 1),
    share=st.floats(0.0, 1.0),
)
def test_brushes_are_read_back(hw, seed, share):
    mask = np.random.default_rng(seed).random(hw) < share
    assert decoded(brush_rle(mask)) == np.repeat(255 * mask.ravel(), 4).tolist()


def test_long_runs_are_read_back():
    for mask in (np.zeros((300, 400), bool), np.ones((1, 16384), bool), np.ones((1, 16385), bool)):
        assert decoded(brush_rle(mask)) == np.repeat(255 * mask.ravel(), 4).tolist()


def test_brushes_of_a_result_are_its_masks():
    found = prediction(masked(), read_label_config(BOXES.replace("Rectangle", "Brush")), "tiny")
    for region, mask in zip(found["result"], masked().masks, strict=True):
        assert region["type"] == "brushlabels" and region["value"]["format"] == "rle"
        drawn = np.array(decoded(region["value"]["rle"])).reshape(200, 400, 4)[..., 3] > 0
        np.testing.assert_array_equal(drawn, mask)
