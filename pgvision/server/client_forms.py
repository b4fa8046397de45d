"""Answers in the forms that existing clients read: Roboflow's, Hugging Face's, OpenAI's."""

import re
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

from pgvision.boxes import xyxy_to_cxcywh
from pgvision.results import DetectionResult, SegmentationResult
from pgvision.server.answers import rings_of
from pgvision.server.refusals import Refusal

_TASKS: Final = re.compile(r"(detect|segment)\s+(\S.*)", re.IGNORECASE | re.DOTALL)
_TEXTS: Final = {"caption": "caption", "describe": "caption", "ocr": "read", "read": "read"}
_LANGUAGE: Final = re.compile(r"(caption|describe)\s+([a-z]{2,3})", re.IGNORECASE)


def roboflow_form(result: DetectionResult, timings: Mapping[str, float]) -> dict[str, Any]:
    """Return what Roboflow's inference answers; `supervision.Detections.from_inference` reads it.

    Of a mask, ``points`` are its largest outer ring. An unknown score is 1: the form has no other
    word for it.

    Example:
        >>> result = DetectionResult(image_hw=(40, 60), xyxy=[[10, 20, 30, 40]], labels=["helmet"],
        ...                          class_ids=[0], classes=["helmet"])
        >>> roboflow_form(result, {})["predictions"][0]["x"]
        20.0
    """
    predictions: list[dict[str, Any]] = []
    for row, (x, y, width, height) in enumerate(xyxy_to_cxcywh(result.xyxy).tolist()):
        one: dict[str, Any] = {"x": x, "y": y, "width": width, "height": height}
        one["confidence"] = 1.0 if result.scores is None else float(result.scores[row])
        one |= {"class": result.labels[row] or "", "class_id": int(result.class_ids[row])}
        one["detection_id"] = str(uuid.uuid4())
        if isinstance(result, SegmentationResult):
            ring = max(rings_of(result, row), key=len, default=[])
            one["points"] = [
                {"x": left, "y": top} for left, top in zip(ring[::2], ring[1::2], strict=True)
            ]
        predictions.append(one)
    height, width = result.image_hw
    return {
        "time": timings.get("total"),
        "image": {"width": width, "height": height},
        "predictions": predictions,
    }


def hugging_face_form(result: DetectionResult) -> list[dict[str, Any]]:
    """Return what a zero-shot-object-detection pipeline answers, the best first.

    Example:
        >>> result = DetectionResult(image_hw=(40, 60), xyxy=[[10, 20, 30, 40]], labels=["helmet"],
        ...                          class_ids=[0], classes=["helmet"], scores=[0.5])
        >>> hugging_face_form(result)
        [{'score': 0.5, 'label': 'helmet', 'box': {'xmin': 10, 'ymin': 20, 'xmax': 30, 'ymax': 40}}]
    """
    found = [
        {
            "score": None if result.scores is None else float(result.scores[row]),
            "label": result.labels[row],
            "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), map(round, box), strict=True)),
        }
        for row, box in enumerate(result.xyxy.tolist())
    ]
    return sorted(found, key=lambda one: -(one["score"] or 0.0))


def read_chat(messages: object) -> tuple[str, dict[str, Any], str]:
    """Find in a chat what is asked: the last user's words and the last picture.

    "detect helmet ; head" and "segment ..." ask for objects, "caption" and "ocr" for texts, and
    anything else is a question.

    Args:
        messages: As OpenAI's chat completions have them.

    Returns:
        Name of the task, its fields, and the picture as text.

    Raises:
        Refusal: 422 if there is no picture or nothing is asked.

    Example:
        >>> part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aa"}}
        >>> asked = [{"role": "user", "content": [{"type": "text", "text": "detect cone"}, part]}]
        >>> read_chat(asked)
        ('detect', {'classes': 'cone'}, 'data:image/png;base64,aa')
    """
    words, picture = "", ""
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict) or message.get("role") != "user":
            continue
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts if isinstance(parts, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text":
                words = str(part.get("text", "")).strip()
            elif kind == "image_url":
                address = part.get("image_url")
                picture = str(address.get("url", "") if isinstance(address, dict) else address)
    if not picture or not words:
        raise Refusal(
            422,
            "no_picture",
            "messages: expected a user's text and an image_url with a data URI, got "
            f"{'no picture' if words else 'no text'}",
        )
    return *_asked(words), picture


def chat_form(text: str, model: str, *, is_whole: bool) -> dict[str, Any]:
    """Return a text as a chat completion.

    Example:
        >>> chat_form("2", "tiny", is_whole=True)["choices"][0]["message"]["content"]
        '2'
    """
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop" if is_whole else "length",
            }
        ],
    }


def _asked(words: str) -> tuple[str, dict[str, Any]]:
    if named := _TASKS.fullmatch(words):
        return named[1].lower(), {"classes": named[2]}
    if said := _LANGUAGE.fullmatch(words):
        return "caption", {"language": said[2].lower()}
    if words.lower() in _TEXTS:
        return _TEXTS[words.lower()], {}
    return "ask", {"question": words}
