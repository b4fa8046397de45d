"""The five tasks over HTTP give what the library gives, in COCO's words."""

import base64

import httpx2
import numpy as np
import pytest
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from pgvision import Answerer, Captioner, Detector, Reader, Segmenter, samples
from pgvision.server.fields import TASKS


def post(address, png, **fields):
    return httpx2.post(address, files={"image": ("site.png", png)}, data=fields, timeout=60)


def xywh(result):
    boxes = result.xyxy.copy()
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def test_detect_equals_the_detector(service, png, scene):
    expected = Detector(["helmet", "head"], model="tiny", conf=0.2)(scene.image)
    assert len(expected) > 1
    sent = post(f"{service}/v1/detect", png, classes="helmet; head", conf="0.2")
    assert sent.status_code == 200
    body = sent.json()
    found = body["annotations"]
    np.testing.assert_allclose([each["bbox"] for each in found], xywh(expected), atol=1e-3)
    np.testing.assert_allclose([each["score"] for each in found], expected.scores, atol=1e-5)
    assert [each["label"] for each in found] == list(expected.labels)
    assert body["images"] == [{"id": 1, "file_name": "site.png", "width": 640, "height": 480}]
    assert body["categories"] == [{"id": 1, "name": "helmet"}, {"id": 2, "name": "head"}]
    assert body["presence"].keys() == {"helmet", "head"}
    assert body["raw_text"] == expected.raw_text
    assert body["timings"]["total"] >= body["timings"]["vision"]


def test_the_answer_is_a_coco_file(service, png, tmp_path):
    file = tmp_path / "coco.json"
    file.write_bytes(post(f"{service}/v1/segment", png, classes="helmet").content)
    coco = COCO(file)
    assert coco.anns and coco.cats[1]["name"] == "helmet"
    assert all(coco.annToMask(each).any() for each in coco.anns.values())


def test_masks_as_run_lengths_and_as_polygons(service, png, scene):
    expected = Segmenter("helmet", model="tiny")(scene.image)
    assert len(expected)
    runs = post(f"{service}/v1/segment", png, classes="helmet").json()["annotations"]
    masks = [coco_masks.decode(each["segmentation"]) for each in runs]
    np.testing.assert_array_equal(np.array(masks, bool), expected.masks)
    rings = post(f"{service}/v1/segment", png, classes="helmet", masks="polygons").json()
    for each, mask in zip(rings["annotations"], expected.masks, strict=True):
        drawn = coco_masks.decode(
            coco_masks.merge(coco_masks.frPyObjects(each["segmentation"], 480, 640))
        ).astype(bool)
        assert (drawn & mask).sum() / (drawn | mask).sum() > 0.85


def test_json_with_base64_equals_a_form(service, png):
    form = post(f"{service}/v1/detect", png, classes="helmet").json()
    for coded in (
        base64.b64encode(png).decode(),
        "data:image/png;base64," + base64.encodebytes(png).decode(),
    ):
        body = {"image": coded, "classes": ["helmet"]}
        sent = httpx2.post(f"{service}/v1/detect", json=body, timeout=60)
        assert sent.json()["annotations"] == form["annotations"]


@pytest.mark.parametrize(
    ("task", "fields", "expected"),
    [
        ("caption", {}, lambda image: Captioner(model="tiny")(image)),
        ("read", {}, lambda image: Reader(model="tiny")(image)),
        (
            "ask",
            {"question": "how many workers wear a helmet?"},
            lambda image: Answerer(model="tiny")(image, "how many workers wear a helmet?"),
        ),
    ],
)
def test_texts_equal_the_library(service, png, scene, task, fields, expected):
    result = expected(scene.image)
    body = post(f"{service}/v1/{task}", png, **fields).json()
    assert body["text"] == result.text
    assert body["score"] == pytest.approx(result.score, abs=1e-5)


def test_names_that_mean_a_known_class_are_asked_for_by_it(service, png):
    body = post(f"{service}/v1/detect", png, classes="Helmets").json()
    assert body["categories"] == [{"id": 1, "name": "Helmets"}]
    assert body["notes"] == ["'Helmets' is asked for as 'helmet'"]


def test_a_question_outside_of_the_list_is_refused(service, png):
    sent = post(f"{service}/v1/ask", png, question="is everybody safe?")
    assert sent.status_code == 422
    assert "was not trained on the question" in sent.json()["error"]["message"]


def test_a_photograph_is_refused_by_text_tasks_with_the_reason(service):
    body = post(f"{service}/v1/caption", samples.path("astronaut").read_bytes()).json()
    assert (body["text"], body["score"]) == ("", None)
    assert "looks like a photograph" in body["rejects"][0]["reason"]


def test_file_names_in_any_script_come_back(service, png):
    for name in ("Baustelle übersicht.png", "工地 1.png", "стройка.png"):
        sent = httpx2.post(
            f"{service}/v1/detect",
            files={"image": (name, png)},
            data={"classes": "helmet"},
            timeout=60,
        )
        assert sent.json()["images"][0]["file_name"] == name


def test_models_say_what_they_know(service):
    (model,) = httpx2.get(f"{service}/v1/models").json()["data"]
    assert model["id"] == "tiny" and model["ready"]
    assert "helmet" in model["classes"] and "how many cones are there?" in model["questions"]


def test_the_description_has_every_field(service):
    described = httpx2.get(f"{service}/openapi.json").json()
    for task, kind in TASKS.items():
        content = described["paths"][f"/v1/{task}"]["post"]["requestBody"]["content"]
        assert set(content) == {"multipart/form-data", "application/json"}
        for one in content.values():
            assert set(one["schema"]["properties"]) == {"image", *kind.model_fields}
            assert "image" in one["schema"]["required"]
