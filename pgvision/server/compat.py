"""Routes that existing clients call: OpenAI's chat completions, Roboflow, Label Studio.

Of a chat request every field is supported, or refused by name.
"""

import logging
import os
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Final, Literal
from urllib.parse import urljoin

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pgvision.errors import DataError, OptionError, PromptError
from pgvision.http import HttpError, origin_of
from pgvision.labelling.label_studio import LabelConfig, prediction, read_label_config
from pgvision.results import DetectionResult
from pgvision.runtime import CheckpointCard, Generation
from pgvision.server.api import json_response, read_json, require_images, roboflow_form
from pgvision.server.errors import ApiError
from pgvision.server.fields import TASKS, Fields, ObjectFields, SegmentFields, validated
from pgvision.server.service import Outcome, Service, gather_few
from pgvision.server.uploads import LABEL_STUDIO, Upload
from pgvision.tasks.trained_on import known_classes

_LOG = logging.getLogger(__name__)
_MAX_XML: Final = 200_000
_FEW: Final = Field(max_length=64)  # items of a list; pydantic stops there
_MAX_TEXT: Final = 10_000  # characters of one text
_LANGUAGE: Final = r"[a-z]{2,3}(?:-[a-z]{2,4})?"
# PaliGemma's own prompts, by task. Everything else is a question.
_PROMPTS: Final = {
    "detect": r"detect\s+(?P<classes>\S.*)",
    "segment": r"segment\s+(?P<classes>\S.*)",
    "caption": rf"(?P<style>cap|caption|describe)(?:\s+(?P<language>{_LANGUAGE}))?",
    "read": r"ocr|read",
    "ask": rf"(?:answer\s+(?P<language>{_LANGUAGE})\s+)?(?P<question>\S.*)",
}


def _parts(value: object) -> object:
    """Turn a text into the list of parts that it stands for."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "image_url", "input_text", "input_image"]
    text: str | None = Field(None, max_length=_MAX_TEXT)
    image_url: str | dict[str, Any] | None = None
    detail: str | None = None


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: str = Field(max_length=40)
    content: Annotated[list[_Part], _FEW, BeforeValidator(_parts)] | None = None
    name: str | None = None

    @property
    def parts(self) -> list[_Part]:
        """The parts that contain something."""
        return [part for part in self.content or () if part.image_url or (part.text or "").strip()]


class _Format(BaseModel):
    type: Literal["text"] = "text"  # answers follow no schema of the caller


class ChatBody(BaseModel):
    """Body of /v1/chat/completions; fields that cannot be done take only their neutral values."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, max_length=200)
    messages: Annotated[list[_Message], _FEW]
    # Done.
    max_tokens: int | None = Field(None, ge=1, le=4096)
    max_completion_tokens: int | None = Field(None, ge=1, le=4096)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool | None = None
    stream_options: dict[str, bool] | None = None
    response_format: _Format | None = None
    # Answers are the most probable tokens: any seed and top_p give the same one.
    temperature: Literal[0] | None = None
    seed: int | None = None
    top_p: float | None = None
    # Labels of the caller that no answer depends on.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # Not done: only the value that asks for nothing.
    n: Literal[1] | None = None
    stop: Annotated[list[str] | str, Field(max_length=0)] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    store: bool | None = Field(None, le=0)
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none"] | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None

    @property
    def token_limit(self) -> int | None:
        """Where the answer is cut off."""
        return self.max_completion_tokens or self.max_tokens


def chat_routes(service: Service) -> APIRouter:
    """Return /v1/chat/completions."""
    router = APIRouter(tags=["clients"])

    @router.post("/v1/chat/completions", summary="OpenAI's form: text and an image in, text out.")
    async def chat(request: Request) -> Response:
        # 1. Read the request.
        values = await read_json(request)
        body = await service.uploads.run(lambda: validated(ChatBody, values))
        if body.top_logprobs and not body.logprobs:
            raise ApiError("bad_field", "top_logprobs: needs logprobs=true")
        words, upload = read_messages(body.messages)
        model = service.models.pick(body.model)
        fields = fields_of_prompt(words, body, model.card)
        # 2. Answer.
        outcome = await service.answer(request, upload, fields)
        completion = await service.uploads.run(lambda: _completion(outcome, body))
        # 3. A stream is sent in chunks, but only once the answer is complete.
        if not body.stream:
            return json_response(completion)
        usage = bool((body.stream_options or {}).get("include_usage"))
        chunks = _chunks(completion, with_usage=usage)
        return StreamingResponse(iter(chunks), media_type="text/event-stream")

    return router


def read_messages(messages: Sequence[_Message]) -> tuple[str, Upload]:
    """Return the words and the image of one user message.

    Raises:
        ApiError: 422 if there is more than that, or less.
    """
    written = [message for message in messages if message.parts]
    parts = [part for message in written for part in message.parts]
    urls = [part.image_url for part in parts if part.image_url]
    images = [str(url.get("url", "") if isinstance(url, dict) else url) for url in urls]
    # PaliGemma's own <image> token is not part of a prompt.
    words = " ".join(part.text.replace("<image>", " ") for part in parts if part.text)
    words = " ".join(words.split())
    roles = [message.role for message in written]
    if roles != ["user"] or len(images) != 1 or not images[0] or not words:
        raise ApiError(
            "bad_field",
            "messages: expected one message of the user with a text and an image_url (a data URI), "
            f"without instructions or earlier turns; got {len(roles)} messages "
            f"({', '.join(roles)}), {len(images)} images, {'a' if words else 'no'} text",
        )
    return words, Upload(images[0])


def fields_of_prompt(words: str, body: ChatBody, card: CheckpointCard) -> Fields:
    """Return the fields of a prompt's task; see the patterns above.

    Raises:
        ApiError: 422 for a prompt of PaliGemma that is not supported, or a wrong field.
    """
    # 1. As a question, it would be asked in other words.
    if re.match(rf"question\s+{_LANGUAGE}\s", words, re.I):
        raise ApiError(
            "bad_prompt", "messages: the prompt 'question LANGUAGE ANSWER' is not supported"
        )
    # 2. The first task whose pattern fits; a question fits always.
    more = {"model": body.model, "max_new_tokens": body.token_limit}
    task, match = next(
        (task, match)
        for task, pattern in _PROMPTS.items()
        if (match := re.fullmatch(pattern, words, re.I | re.S))
    )
    values = {name: value for name, value in match.groupdict().items() if value}
    values |= {name: values[name].lower() for name in ("style", "language") if name in values}
    # "describe" is a longer caption only where the checkpoint knows it.
    if values.get("style") == "describe" and card.kind == "tiny":
        values["style"] = "caption"
    return validated(TASKS[task], values | more)


def _completion(outcome: Outcome, body: ChatBody) -> dict[str, Any]:
    generations = [answer for _, answer in outcome.answers]
    num_written = sum(len(one.token_ids) for one in generations)
    # Tokens of the prompts: image patches are not counted, words are estimated by 4 characters.
    num_asked = sum(1 + len(ask.prefix) // 4 for ask, _ in outcome.answers)
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": outcome.model.name,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": outcome.result.raw_text,
                    "refusal": None if outcome.answers else "; ".join(outcome.refusals),
                },
                "logprobs": _logprobs(generations, body) if body.logprobs else None,
                "finish_reason": "length" if outcome.result.truncated else "stop",
            }
        ],
        "usage": {
            "prompt_tokens": num_asked,
            "completion_tokens": num_written,
            "total_tokens": num_asked + num_written,
        },
        "notes": [*outcome.notes, *outcome.refusals],
    }


def _logprobs(generations: Sequence[Generation], body: ChatBody) -> dict[str, Any]:
    """Return log-probabilities token by token, as `pgvision.runtime.Remote` reads them."""
    # 1. Require one answer with probabilities; a refused image has none.
    if not generations:
        return {"content": [], "refusal": None}
    if len(generations) > 1:
        raise ApiError(
            "bad_field",
            f"logprobs: this request needs {len(generations)} prompts; ask for one class at once",
        )
    (answer,) = generations
    if answer.logprobs is None:
        raise ApiError("bad_field", "logprobs: this engine gives no probabilities")
    # 2. One entry for each token; location tokens have full distributions.
    loc_rows = iter(() if answer.loc_probs is None else answer.loc_probs)
    content = []
    for place, piece in enumerate(answer.pieces):
        token, logprob = piece or "<eos>", float(answer.logprobs[place])
        # 3. The alternatives of a location, the best first.
        row = next(loc_rows, None) if re.fullmatch(r"<loc\d{4}>", piece) else None
        table = {}
        if row is not None:
            best = np.argsort(-row)[:20]
            table = {f"<loc{at:04}>": float(np.log(row[at])) for at in best if row[at] > 0}
        table[token] = logprob
        if answer.eos_logprobs is not None and np.isfinite(answer.eos_logprobs[place]):
            table.setdefault("<eos>", float(answer.eos_logprobs[place]))
        content.append(_token(token, logprob) | {"top_logprobs": _best(table, body)})
    return {"content": content, "refusal": None}


def _best(table: dict[str, float], body: ChatBody) -> list[dict[str, Any]]:
    ordered = sorted(table.items(), key=lambda item: -item[1])
    return [_token(*item) for item in ordered[: body.top_logprobs or 0]]


def _token(token: str, logprob: float) -> dict[str, Any]:
    # OpenAI's own lower bound, since JSON has no -inf.
    return {"token": token, "logprob": max(logprob, -9999.0), "bytes": list(token.encode())}


def _chunks(completion: dict[str, Any], *, with_usage: bool) -> Iterator[bytes]:
    """Yield server-sent events: the text in one piece, its end, and the usage if asked for."""
    (choice,) = completion["choices"]
    head = {key: completion[key] for key in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk"
    texts = {"index": 0, "delta": choice["message"], "logprobs": choice["logprobs"]}
    texts["finish_reason"] = None
    end = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": choice["finish_reason"]}
    events = [{**head, "choices": [one]} for one in (texts, end)]
    events += [{**head, "choices": [], "usage": completion["usage"]}] if with_usage else []
    for event in (*map(orjson.dumps, events), b"[DONE]"):
        yield b"data: " + event + b"\n\n"


# --- Roboflow and Label Studio -----------------------------------------------------------------


def roboflow_routes(service: Service) -> APIRouter:
    """Return Roboflow's open-vocabulary detection."""
    router = APIRouter(tags=["clients"])

    @router.post("/yolo_world/infer", summary="Roboflow's form: inference-sdk's yolo_world calls.")
    async def infer(request: Request) -> Response:
        body = await read_json(request)
        # 1. Images as text, or as {"type": ..., "value": ...}.
        images = body.get("image")
        images = images if isinstance(images, list) else [images]
        texts = [image.get("value") if isinstance(image, dict) else image for image in images]
        sent = [Upload(text) if isinstance(text, str) else None for text in texts]
        uploads = require_images(sent, service.settings.max_images)
        values = {"classes": body.get("text"), "conf": body.get("confidence")}
        # 2. Answer one after the other.
        fields = await service.uploads.run(lambda: validated(ObjectFields, values))
        answers = []
        for upload in uploads:
            outcome = await service.answer(request, upload, fields)
            if isinstance(outcome.result, DetectionResult):
                answers.append(roboflow_form(outcome.result, outcome.timings))
        return json_response(answers if isinstance(body["image"], list) else answers[0])

    return router


def label_studio_routes(service: Service) -> APIRouter:
    """Return the routes of a Label Studio ML backend: /health, /setup, /predict and /webhook."""
    router = APIRouter(tags=["Label Studio"])
    try:
        _ = origin_of(os.environ.get(LABEL_STUDIO) or "http://localhost")
    except HttpError as error:
        raise OptionError(f"{LABEL_STUDIO}: {error}") from error

    version = f"pgvision {service.models.all[0].name}"

    @router.get("/health", summary="Whether the backend is up.")
    def health() -> dict[str, str]:
        return {"status": "UP", "model_class": "pgvision"}

    @router.post("/setup", summary="The version that answers.")
    async def setup() -> dict[str, str]:
        return {"model_version": version}

    @router.post("/webhook", summary="Accepted and ignored: training is another command.")
    async def webhook() -> dict[str, str]:
        return {"status": "ignored"}

    @router.post("/predict", summary="Boxes or masks for tasks, as the label config wants them.")
    async def predict(request: Request) -> dict[str, Any]:
        # 1. Read the tasks.
        body = await read_json(request)
        xml, tasks = body.get("label_config"), body.get("tasks")
        if not isinstance(tasks, list) or not tasks:
            raise ApiError("no_tasks", "tasks: expected a list of tasks, got none")
        most = service.settings.max_images
        if len(tasks) > most:
            raise ApiError("too_many_tasks", f"tasks: expected at most {most}, got {len(tasks)}")
        try:
            # 2. Read the label config, which defines what is asked for.
            if not isinstance(xml, str) or len(xml) > _MAX_XML:
                raise DataError("label_config: expected the project's XML")
            config = await service.uploads.run(lambda: read_label_config(xml))
        except DataError as error:
            raise ApiError("bad_label_config", str(error)) from error
        known = await service.uploads.run(lambda: _known(config, service.models.all[0].card))
        # 3. Answer; a task that cannot be answered costs its own entry alone.
        found = await gather_few(
            partial(_predict, service, request, task, known, version) for task in tasks
        )
        results = [
            _empty(version) | {"error": str(one)} if isinstance(one, ApiError) else one
            for one in found
        ]
        for one in results:
            if "error" in one:  # Label Studio does not show it
                _LOG.warning("/predict: a task is not answered: %s", one["error"])
        return {"results": results, "model_version": version}

    return router


def _known(config: LabelConfig, card: CheckpointCard) -> LabelConfig:
    """Return the part of a config that the model was trained on, each class under one name.

    Raises:
        PromptError: If it was trained on none of the labels.
    """
    # 1. Ask for each class once, under the first name of the config that means it.
    first: dict[str, str] = {}  # for each trained name, the first name of the config
    asked: dict[str, str] = {}
    refused: list[str] = []
    for name in dict.fromkeys(name for group in config.groups for name in group.names):
        try:
            known = known_classes([name], card)[0]
            asked[name] = first.setdefault(known.trained, known.given)
        except PromptError as error:
            refused.append(str(error))
    # 2. Leave out what the model was not trained on, unless that is everything.
    if not asked:
        raise PromptError(f"label_config: {'; '.join(refused[:3])}")
    groups = (
        replace(group, names={asked[n]: shown for n, shown in group.names.items() if n in asked})
        for group in config.groups
    )
    return replace(config, groups=tuple(groups))


async def _predict(
    service: Service, request: Request, task: Any, config: LabelConfig, version: str
) -> dict[str, Any]:
    """Answer one task: each image of its config, as boxes and as masks."""
    data = task.get("data") if isinstance(task, dict) else None
    joined, home = _empty(version), os.environ.get(LABEL_STUDIO, "")
    # Each image tag, each image of it, then boxes and masks.
    for to_name, key in config.fields.items():
        sent = data.get(key) if isinstance(data, dict) else None
        for index, address in enumerate(sent if isinstance(sent, list) else [sent]):
            if not isinstance(address, str):
                raise ApiError("no_picture", f"tasks: expected data.{key} with an image")
            # A path means one of Label Studio's own uploads.
            upload = Upload(urljoin(home, address) if address.startswith("/") else address)
            results = []
            for kind in (ObjectFields, SegmentFields):
                if classes := config.classes(to_name, masks=kind is SegmentFields):
                    fields = validated(kind, {"classes": list(classes)})
                    outcome = await service.answer(request, upload, fields)
                    if isinstance(outcome.result, DetectionResult):
                        results.append(outcome.result)
                    if outcome.refusals:
                        joined["error"] = "; ".join(outcome.refusals)
            if results:
                at = index if isinstance(sent, list) else None
                found = prediction(results, config, version, to_name=to_name, item_index=at)
                joined["result"] += found["result"]
                scores = [one for one in (joined["score"], found["score"]) if one is not None]
                joined["score"] = min(scores, default=None)
    return joined


def _empty(version: str) -> dict[str, Any]:
    return {"model_version": version, "score": None, "result": []}
