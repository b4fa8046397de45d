"""The routes that existing clients call."""

import orjson
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from pgvision.results import DetectionResult
from pgvision.server.answers import answer_body
from pgvision.server.client_forms import chat_form, read_chat, roboflow_form
from pgvision.server.fields import checked
from pgvision.server.forms import Form, read_json
from pgvision.server.refusals import Refusal
from pgvision.server.routes import json_response
from pgvision.server.service import Outcome, Service
from pgvision.server.tasks import KINDS


def client_routes(service: Service) -> APIRouter:
    """Return OpenAI's chat completions and Roboflow's open-vocabulary detection."""
    router = APIRouter(tags=["clients"])

    @router.post("/v1/chat/completions", summary="OpenAI's form: text and a data URI in, text out.")
    async def chat(request: Request) -> Response:
        body = await read_json(request)
        if body.get("stream"):
            raise Refusal(422, "no_stream", "stream: expected false; answers come whole")
        task, values, picture = read_chat(body.get("messages"))
        kind = KINDS[task]
        fields = checked(kind.fields, values | {"model": body.get("model")})
        outcome = await service.answer(request, kind, Form(picture, "image"), fields)
        wanted = body.get("response_format")
        as_json = isinstance(wanted, dict) and wanted.get("type") in ("json_object", "json_schema")
        text = await run_in_threadpool(_chat_text, outcome, task, as_json=as_json)
        model = outcome.served.name
        return json_response(chat_form(text, model, is_whole=not outcome.result.truncated))

    @router.post("/yolo_world/infer", summary="Roboflow's form: inference-sdk's yolo_world calls.")
    async def roboflow(request: Request) -> Response:
        body = await read_json(request)
        image = body.get("image")
        if isinstance(image, list) and len(image) == 1:
            image = image[0]
        picture = image.get("value") if isinstance(image, dict) else image
        if not isinstance(picture, str) or not picture:
            raise Refusal(422, "no_picture", "image: expected {type: base64, value: ...}")
        kind = KINDS["detect"]
        values = {"classes": body.get("text"), "conf": body.get("confidence")}
        fields = checked(kind.fields, values)
        outcome = await service.answer(request, kind, Form(picture, "image"), fields)
        if not isinstance(outcome.result, DetectionResult):
            raise Refusal(500, "failed", "the task gave no objects")
        return json_response(roboflow_form(outcome.result, outcome.timings))

    return router


def _chat_text(outcome: Outcome, task: str, *, as_json: bool) -> str:
    if not as_json:
        return outcome.result.raw_text
    body = answer_body(
        outcome.result,
        task=task,
        model=outcome.served.name,
        notes=outcome.notes,
        timings=outcome.timings,
        masks="polygons",
    )
    return orjson.dumps(body).decode()
