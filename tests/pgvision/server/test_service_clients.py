"""Existing clients, unchanged, talk to the service."""

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import openai
import pytest
import supervision as sv
from shapely.geometry import Polygon

from pgvision import Answerer, Detector, Segmenter, samples
from pgvision.cli.serve import serve
from pgvision.results import DetectionResult, SegmentationResult
from pgvision.runtime import Remote, find_checkpoint
from pgvision.server.api import roboflow_form
from pgvision.server.compat import ChatBody, fields_of_prompt
from pgvision.server.errors import ApiError
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


GUIDES = [Path(__file__).parents[3] / "docs" / f"{name}.md" for name in ("serve", "howto-serve")]


def commands():
    texts = [guide.read_text(encoding="utf-8") for guide in GUIDES] + [serve.__doc__]
    return re.findall(r"^ *(curl .+)$", "\n".join(texts), re.MULTILINE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize("command", commands())
def test_curl_commands_of_the_guides_send_what_they_show(service, png, tmp_path, command):
    """curl cuts a value of -F at its first ";": of "helmet; head" only helmet was asked for."""
    (tmp_path / "site.jpg").write_bytes(png)
    command = re.sub(r"(localhost|host):8000", service, command)
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=True,  # noqa: S602
    )
    answer = json.loads(done.stdout)
    assert "error" not in answer, answer
    shown = re.findall(r"classes=(\w+)", command)
    assert [one["name"] for one in answer.get("categories", [])] == shown


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
    messages = [{"role": "user", "content": content}]
    return client.chat.completions.create(model="tiny", messages=messages, **how)


def test_openais_client_asks(client, png, scene):
    question = "how many workers wear a helmet?"
    answer = chat(client, png, question)
    assert answer.choices[0].message.content == Answerer(model="tiny")(scene.image, question).text
    assert answer.choices[0].finish_reason == "stop"
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_openais_client_gets_boxes_as_text(client, png, found):
    text = chat(client, png, "detect helmet").choices[0].message.content
    parsed = parse_suffix(text, image_hw=(480, 640), classes=["helmet"])
    np.testing.assert_allclose([one.xyxy for one in parsed.objects], found.xyxy, atol=1e-3)


def test_openais_client_gets_the_reason_why_a_photograph_is_refused(client):
    """It got an empty text, and with log-probabilities the error of several classes."""
    photograph = samples.path("astronaut").read_bytes()
    for how in ({}, {"logprobs": True}):
        answer = chat(client, photograph, "how many workers wear a helmet?", **how)
        assert answer.choices[0].message.content == ""
        assert "looks like a photograph" in answer.choices[0].message.refusal
    chunks = chat(client, photograph, "caption en", stream=True)
    assert "looks like a photograph" in next(iter(chunks)).choices[0].delta.refusal


def test_openais_client_understands_refusals(client, png):
    with pytest.raises(openai.UnprocessableEntityError, match="not trained on the class 'zebra'"):
        chat(client, png, "detect zebra")
    with pytest.raises(openai.UnprocessableEntityError, match="image_url"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        client.chat.completions.create(model="gpt", messages=[message("ocr", png)])
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        client.models.retrieve("gpt")


def message(words, *images, role="user"):
    texts = [words] if isinstance(words, str) else words
    urls = ["data:image/png;base64," + base64.b64encode(one).decode() for one in images]
    content = [{"type": "text", "text": text} for text in texts]
    content += [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": role, "content": content}


def post_chat(address, *messages, **fields):
    body = {"model": "tiny", "messages": list(messages)} | fields
    return httpx2.post(f"{address}/v1/chat/completions", json=body, timeout=60)


def content_of(sent):
    assert sent.status_code == 200, sent.text
    return sent.json()["choices"][0]["message"]["content"]


def test_text_parts_are_one_prompt(service, png):
    whole = content_of(post_chat(service, message("detect helmet", png)))
    assert whole
    for parts in (["detect", "helmet"], ["detect helmet", " "], ["<image>", " detect\nhelmet\n"]):
        assert content_of(post_chat(service, message(parts, png))) == whole
    later = {"role": "user", "content": ""}
    assert content_of(post_chat(service, later, message("detect helmet", png))) == whole


@pytest.mark.parametrize(
    ("words", "task", "fields"),
    [
        ("caption en", "caption", {}),
        (" <image>caption en\n", "caption", {}),
        ("describe", "caption", {}),
        ("ocr", "read", {}),
        ("Segment helmet", "segment", {"classes": "helmet"}),
        (
            "answer en how many workers wear a helmet?",
            *("ask", {"question": "how many workers wear a helmet?"}),
        ),
        (
            "how many workers wear a helmet?",
            *("ask", {"question": "how many workers wear a helmet?"}),
        ),
    ],
)
def test_paligemmas_own_prompts_go_to_their_tasks(service, png, words, task, fields):
    form = {"files": {"image": png}, "data": fields, "timeout": 60}
    expected = httpx2.post(f"{service}/v1/{task}", **form).json()
    assert content_of(post_chat(service, message(words, png))) == expected["raw_text"]


@pytest.mark.parametrize(
    ("messages", "fields", "words"),
    [
        (lambda png: [message("how many?", png, png)], {}, "2 images"),
        (lambda png: [message("ocr", png), message("caption", png)], {}, "2 messages (user, user)"),
        (
            lambda png: [{"role": "system", "content": "be brief"}, message("ocr", png)],
            *({}, "without instructions or earlier turns; got 2 messages (system, user)"),
        ),
        (
            lambda png: [message("ocr", png), {"role": "assistant", "content": "a"}],
            *({}, "(user, assistant)"),
        ),
        (lambda png: [message("cap en", png)], {}, "cap"),
        (lambda png: [message("question en two", png)], {}, "question"),
        (lambda png: [], {}, "no text"),
        (
            lambda png: [{"role": "user", "content": "a" * 10_001}, message("ocr", png)],
            *({}, "messages.0.content.0.text: String should have at most 10000"),
        ),
        (lambda png: [message("ocr", png)], {"image": "a"}, "known are model, messages"),
        *(
            (lambda png: [message("ocr", png)], {name: value}, name)
            for name, value in {
                **{"n": 2, "temperature": 0.7, "stop": ["a"], "presence_penalty": 1.0},
                **{"frequency_penalty": 0.5, "logit_bias": {"1": 2}, "store": True},
                **{"max_tokens": 0},
                **{"tools": [{"type": "function"}], "tool_choice": "auto", "top_logprobs": 21},
                **{"response_format": {"type": "json_object"}, "functions": [{}], "audio": {}},
                **{"prediction": {}, "web_search_options": {}, "unheard_of": 1},
            }.items()
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(service, png, messages, fields, words):
    sent = post_chat(service, *messages(png), **fields)
    assert sent.status_code == 422, sent.text
    assert words in sent.json()["error"]["message"]


def test_a_prompt_that_no_task_sends_is_refused_by_name_for_any_checkpoint():
    """Of a checkpoint without a list of questions it was asked as 'answer en question en two'."""
    card = replace(find_checkpoint("tiny"), kind="pt", questions=None)
    with pytest.raises(ApiError, match="'question LANGUAGE ANSWER' is not supported"):
        fields_of_prompt("question en two", ChatBody(messages=[]), card)
    assert fields_of_prompt("question?", ChatBody(messages=[]), card).question == "question?"


def test_fields_that_change_nothing_are_accepted(service, png):
    plain = content_of(post_chat(service, message("ocr", png)))
    neutral = {
        **{"n": 1, "temperature": 0, "seed": 7, "top_p": 0.9, "stop": None, "user": "me"},
        **{"presence_penalty": 0, "logprobs": False, "stream": False, "metadata": {"a": "b"}},
        **{"store": False, "parallel_tool_calls": True},
    }
    assert content_of(post_chat(service, message("ocr", png), **neutral)) == plain


def test_an_answer_is_cut_off_and_counted(service, png):
    whole = post_chat(service, message("detect helmet", png)).json()
    cut = post_chat(service, message("detect helmet", png), max_tokens=3).json()
    assert cut["choices"][0]["finish_reason"] == "length"
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert cut["usage"]["completion_tokens"] == 3 < whole["usage"]["completion_tokens"]
    usage = whole["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_stream_is_the_answer_in_chunks(client, png):
    whole = chat(client, png, "detect helmet").choices[0].message.content
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(chat(client, png, "detect helmet", **options))
    texts = [part.delta.content or "" for one in chunks for part in one.choices]
    assert "".join(texts) == whole
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens > 0


def test_the_service_is_an_engine_with_the_scores_that_it_has(service, scene, found):
    """Remote reads boxes and scores out of the service's own log-probabilities."""
    remote = Remote(service, kind="tiny")
    result = Detector("helmet", generator=remote, kind="tiny")(scene.image)
    np.testing.assert_allclose(result.xyxy, found.xyxy, atol=1e-3)
    assert result.scores is not None
    # What is beyond the 20 most probable tokens counts against an object.
    assert (result.scores <= found.scores + 1e-4).all()
    assert (result.scores > 0.5 * found.scores).all()


def assert_same_objects(found, wanted):
    """Batches of another size round differently: the same objects, to float32's precision."""
    assert [one["label"] for one in found] == [one["label"] for one in wanted]
    for key in ("bbox", "score"):
        np.testing.assert_allclose(
            [one[key] for one in found], [one[key] for one in wanted], rtol=1e-5
        )


def test_several_images_come_back_in_their_order(service, png):
    broken = ("b.png", png[:500])
    files = [("image", ("a.png", png)), ("image", broken), ("image", ("c.png", png))]
    sent = httpx2.post(f"{service}/v1/detect", files=files, data={"classes": "helmet"}, timeout=60)
    first, second, third = sent.json()["results"]
    assert len(first["annotations"]) > 0
    assert_same_objects(third["annotations"], first["annotations"])
    assert (first["images"][0]["file_name"], third["images"][0]["file_name"]) == ("a.png", "c.png")
    assert second["error"]["code"] == "bad_picture"
    coded = base64.b64encode(png).decode()
    body = {"image": [coded, coded], "classes": "helmet"}
    sent = httpx2.post(f"{service}/v1/detect", json=body, timeout=60).json()
    assert len(sent["results"]) == 2
    for one in sent["results"]:
        assert_same_objects(one["annotations"], first["annotations"])
    sent = httpx2.post(f"{service}/v1/detect", json=body | {"image": ["aGk="] * 65}, timeout=60)
    assert sent.json()["error"]["code"] == "too_many_images"
    files = [("image", ("a.png", b"a"))] * 65  # the limit was that of the form's parser
    sent = httpx2.post(f"{service}/v1/detect", files=files, data={"classes": "helmet"}, timeout=60)
    assert "at most 64 images, got 65" in sent.json()["error"]["message"]


def test_the_largest_ring_of_a_mask_is_the_one_with_the_largest_area():
    """case: a small round speck with many corners stood for a large square."""
    logits = np.full((64, 64), -9.0, np.float32)
    logits[2:40, 2:40] = 9.0
    rows, columns = np.mgrid[:64, :64]
    logits[(rows - 54) ** 2 + (columns - 54) ** 2 < 36] = 9.0
    result = SegmentationResult(
        image_hw=(640, 640),
        xyxy=[[0, 0, 640, 640]],
        labels=["cone"],
        class_ids=[0],
        classes=["cone"],
        mask_logits=logits[None],
    )
    (one,) = roboflow_form(result, {})["predictions"]
    assert Polygon([(at["x"], at["y"]) for at in one["points"]]).area > 0.8 * result.area[0]
    assert one["other_parts"] == 1


def test_labels_that_nobody_asked_for_are_in_no_form():
    """case: an empty label broke CVAT and Label Studio."""
    result = DetectionResult(
        image_hw=(40, 60),
        xyxy=[[1, 2, 3, 4], [10, 20, 30, 40]],
        labels=["sky", "helmet"],
        class_ids=[-1, 0],
        classes=["helmet"],
    )
    assert [one["class"] for one in roboflow_form(result, {})["predictions"]] == ["helmet"]
