"""Routes that existing clients call: Roboflow's inference-sdk and Label Studio."""

import asyncio
import os
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urljoin

from fastapi import APIRouter, Request, Response

from pgvision.errors import DataError, OptionError, PromptError
from pgvision.http import HttpError, origin_of
from pgvision.labelling.label_studio import LabelConfig, prediction, read_label_config
from pgvision.results import DetectionResult
from pgvision.runtime import CheckpointCard
from pgvision.server.api import json_response, read_json, require_images, roboflow_form
from pgvision.server.errors import ApiError, api_error_of
from pgvision.server.fields import ObjectFields, SegmentFields, validated
from pgvision.server.service import AT_ONCE, Service
from pgvision.server.uploads import LABEL_STUDIO, Upload
from pgvision.tasks.names import known_classes

_MAX_XML: Final = 200_000


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

    def version() -> str:
        return f"pgvision {service.models.all[0].name}"

    @router.get("/health", summary="Whether the backend is up.")
    def health() -> dict[str, str]:
        return {"status": "UP", "model_class": "pgvision"}

    @router.post("/setup", summary="The version that answers.")
    async def setup() -> dict[str, str]:
        return {"model_version": version()}

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
        # 3. Answer a few tasks at a time.
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(task: Any) -> dict[str, Any]:
            # A task that cannot be answered costs its own entry alone.
            try:
                async with limit:
                    return await _predict(service, request, task, known, version())
            except Exception as error:  # noqa: BLE001  (reported in its entry)
                return _empty(version()) | {"error": str(api_error_of(error))}

        results = await asyncio.gather(*(one(task) for task in tasks))
        return {"results": results, "model_version": version()}

    return router


def _known(config: LabelConfig, card: CheckpointCard) -> LabelConfig:
    """Return the part of a config that the model was trained on, each class under one name.

    Raises:
        PromptError: If it was trained on none of the labels.
    """
    first: dict[str, str] = {}  # for each trained name, the first name of the config
    asked: dict[str, str] = {}
    refused: list[str] = []
    for name in dict.fromkeys(name for group in config.groups for name in group.names):
        try:
            known = known_classes([name], card)[0]
            asked[name] = first.setdefault(known.trained, known.given)
        except PromptError as error:
            refused.append(str(error))
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
            if results:
                at = index if isinstance(sent, list) else None
                found = prediction(results, config, version, to_name=to_name, item_index=at)
                joined["result"] += found["result"]
                scores = [one for one in (joined["score"], found["score"]) if one is not None]
                joined["score"] = min(scores, default=None)
    return joined


def _empty(version: str) -> dict[str, Any]:
    return {"model_version": version, "score": None, "result": []}
