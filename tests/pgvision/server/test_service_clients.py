"""Existing clients, unchanged, talk to the service."""

import base64
import json

import httpx2
import numpy as np
import openai
import pytest
import supervision as sv

from pgvision import Answerer, Detector, Segmenter
from pgvision.tokens import parse_suffix


def post(address, png, task="detect", **fields):
    form = {"files": {"image": ("site.png", png)}, "data": {"classes": "helmet"} | fields}
    sent = httpx2.post(f"{address}/v1/{task}", **form, timeout=60)
    assert sent.status_code == 200, sent.text
    return sent.json()


@pytest.fixture(scope="module")
def found(scene):
    return Detector("helmet", model="tiny")(scene.image)


def test_supervision_reads_roboflows_form(service, png, found):
    read = sv.Detections.from_inference(post(service, png, form="roboflow"))
    np.testing.assert_allclose(read.xyxy, found.xyxy, atol=1e-3)
    np.testing.assert_allclose(read.confidence, found.scores, atol=1e-5)
    assert list(read.data["class_name"]) == list(found.labels)


def test_supervision_reads_roboflows_masks(service, png, scene):
    expected = Segmenter("helmet", model="tiny")(scene.image)
    read = sv.Detections.from_inference(post(service, png, "segment", form="roboflow"))
    for mine, theirs in zip(expected.masks, read.mask, strict=True):
        assert (mine & theirs).sum() / (mine | theirs).sum() > 0.85


def test_roboflows_open_vocabulary_route(service, png, found):
    # What inference-sdk 1.8.3's infer_from_yolo_world sends.
    image = {"type": "base64", "value": base64.b64encode(png).decode()}
    body = {"image": image, "text": ["helmet"], "confidence": 0.1, "api_key": None}
    sent = httpx2.post(f"{service}/yolo_world/infer", json=body, timeout=60)
    read = sv.Detections.from_inference(sent.json())
    np.testing.assert_allclose(read.xyxy, found[found.scores >= 0.1].xyxy, atol=1e-3)


def test_hugging_faces_form(service, png, found):
    # Of transformers' ZeroShotObjectDetectionPipeline: score, label, whole pixels, best first.
    rows = post(service, png, form="huggingface")
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    best = int(np.argmax(found.scores))
    names = ("xmin", "ymin", "xmax", "ymax")
    assert rows[0]["label"] == "helmet"
    assert [rows[0]["box"][name] for name in names] == np.rint(found.xyxy[best]).tolist()


@pytest.fixture
def client(service):
    with openai.OpenAI(base_url=f"{service}/v1", api_key="none", max_retries=0) as one:
        yield one


def chat(client, png, words, **how):
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    content = [
        {"type": "text", "text": words},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": content}]
    return client.chat.completions.create(model="tiny", messages=messages, **how)


def test_openais_client_asks(client, png, scene):
    question = "how many workers wear a helmet?"
    answer = chat(client, png, question)
    assert answer.choices[0].message.content == Answerer(model="tiny")(scene.image, question).text
    assert answer.choices[0].finish_reason == "stop"
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_openais_client_gets_boxes_as_text_and_as_json(client, png, found):
    text = chat(client, png, "detect helmet").choices[0].message.content
    parsed = parse_suffix(text, image_hw=(480, 640), classes=["helmet"])
    np.testing.assert_allclose([one.xyxy for one in parsed.objects], found.xyxy, atol=1e-3)
    answer = chat(client, png, "detect helmet", response_format={"type": "json_object"})
    body = json.loads(answer.choices[0].message.content)
    assert len(body["annotations"]) == len(found)


def test_openais_client_understands_refusals(client, png):
    with pytest.raises(openai.UnprocessableEntityError, match="not trained on the class 'zebra'"):
        chat(client, png, "detect zebra")
    with pytest.raises(openai.UnprocessableEntityError, match="image_url"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        client.chat.completions.create(
            model="gpt",
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "ocr"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aa=="}},
                    ],
                }
            ],
        )
    with pytest.raises(openai.UnprocessableEntityError, match="answers come whole"):
        chat(client, png, "ocr", stream=True)
