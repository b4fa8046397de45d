"""The routes of a Label Studio ML backend, over the same queue as all others."""

import asyncio
import os
from typing import Any
from urllib.parse import urljoin

from fastapi import APIRouter, Request

from pgvision.errors import DataError, PgvisionError, PromptError
from pgvision.labelling.label_studio import LabelConfig, prediction, read_label_config
from pgvision.results import DetectionResult
from pgvision.runtime import CheckpointCard
from pgvision.server.fields import checked
from pgvision.server.forms import Form, read_json
from pgvision.server.refusals import Refusal
from pgvision.server.service import Service
from pgvision.server.tasks import KINDS
from pgvision.tasks.names import known_classes

_HOME = "LABEL_STUDIO_URL"


def label_studio_routes(service: Service) -> APIRouter:
    """Return /health, /setup, /predict and /webhook."""
    router = APIRouter(tags=["Label Studio"])

    @router.get("/health", summary="Whether the backend is up.")
    def health() -> dict[str, str]:
        return {"status": "UP", "model_class": "pgvision"}

    @router.post("/setup", summary="Which version answers.")
    async def setup(request: Request) -> dict[str, str]:
        await request.body()
        return {"model_version": _version(service)}

    @router.post("/webhook", summary="Taken and not acted on: training is another command.")
    async def webhook(request: Request) -> dict[str, str]:
        await request.body()
        return {"status": "ignored"}

    @router.post("/predict", summary="Boxes or masks for tasks, as the label config wants them.")
    async def predict(request: Request) -> dict[str, Any]:
        body = await read_json(request)
        try:
            config = read_label_config(str(body.get("label_config", "")))
        except DataError as error:
            raise Refusal(422, "bad_label_config", str(error)) from error
        names = _names(config, service.models.all[0].card)
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or not tasks:
            raise Refusal(422, "no_tasks", "tasks: expected a list of tasks, got none")
        found = [_one(service, request, task, config, names) for task in tasks]
        return {"results": await asyncio.gather(*found), "model_version": _version(service)}

    return router


async def _one(
    service: Service, request: Request, task: Any, config: LabelConfig, names: dict[str, str]
) -> dict[str, Any]:
    data = task.get("data") if isinstance(task, dict) else None
    address = data.get(config.field) if isinstance(data, dict) else None
    if not isinstance(address, str):
        raise Refusal(422, "no_picture", f"tasks: expected data.{config.field}, got {task!r:.120}")
    if address.startswith("/") and (home := os.environ.get(_HOME)):
        address = urljoin(home, address)
    kind = KINDS["segment" if config.wants_masks else "detect"]
    fields = checked(kind.fields, {"classes": list(names)})
    outcome = await service.answer(request, kind, Form(address, address[-80:]), fields)
    if not isinstance(outcome.result, DetectionResult):
        raise PgvisionError("the task gave no objects")
    return prediction(outcome.result, config, _version(service), names)


def _names(config: LabelConfig, card: CheckpointCard) -> dict[str, str]:
    """Return for each class that the model can be asked for what the config calls it."""
    names: dict[str, str] = {}
    refused: list[str] = []
    for label in config.labels:
        try:
            names |= {name.given: label for name in known_classes([label], card)}
        except PromptError as error:
            refused.append(str(error))
    if not names:
        raise PromptError(f"label_config: {'; '.join(refused)}")
    return names


def _version(service: Service) -> str:
    return f"pgvision {service.models.all[0].name}"
