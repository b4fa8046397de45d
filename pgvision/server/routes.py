"""The routes of pgvision's own form: /v1, and what operators ask."""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from pgvision.results import DetectionResult
from pgvision.server.answers import answer_body
from pgvision.server.client_forms import hugging_face_form, roboflow_form
from pgvision.server.examples import described
from pgvision.server.fields import Fields, ObjectFields, SegmentFields, checked
from pgvision.server.forms import read_form
from pgvision.server.service import Outcome, Service
from pgvision.server.tasks import KINDS, Kind


def v1_routes(service: Service) -> APIRouter:
    """Return the five tasks and the list of models."""
    router = APIRouter(prefix="/v1")
    for kind in KINDS.values():
        router.add_api_route(
            f"/{kind.name}",
            _route(service, kind),
            methods=["POST"],
            summary=kind.about,
            name=kind.name,
            openapi_extra=described(kind),
        )

    @router.get("/models", summary="The checkpoints that answer, and what each of them knows.")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [_entry(each) for each in service.models.all]}

    return router


def operators_routes(service: Service) -> APIRouter:
    """Return what those ask who run the service."""
    router = APIRouter(tags=["operators"])

    @router.get("/healthz", summary="Whether the process answers.")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz", summary="Whether all models are loaded: 200, or 503 while they load.")
    def readyz() -> dict[str, str]:
        for each in service.models.all:
            each.require()
        return {"status": "ready"}

    @router.get("/metrics", summary="Counts for Prometheus.")
    def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    return router


def json_response(body: object) -> Response:
    """Return JSON, written fast."""
    return Response(orjson.dumps(body), media_type="application/json")


def _route(service: Service, kind: Kind) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        form = await read_form(request, service.settings.deadline)
        fields = checked(kind.fields, form.values)
        outcome = await service.answer(request, kind, form, fields)
        return json_response(await run_in_threadpool(_body, kind, fields, outcome))

    return answer


def _body(kind: Kind, fields: Fields, outcome: Outcome) -> object:
    result = outcome.result
    if isinstance(fields, ObjectFields) and isinstance(result, DetectionResult):
        if fields.form == "roboflow":
            return roboflow_form(result, outcome.timings)
        if fields.form == "huggingface":
            return hugging_face_form(result)
    return answer_body(
        result,
        task=kind.name,
        model=outcome.served.name,
        notes=outcome.notes,
        timings=outcome.timings,
        masks=fields.masks if isinstance(fields, SegmentFields) else "rle",
        annotated=fields.annotated,
    )


def _entry(served: Any) -> dict[str, Any]:
    card = served.card
    return {
        "id": served.name,
        "object": "model",
        "created": int(served.since),
        "owned_by": "pgvision",
        "ready": served.is_ready,
        "kind": card.kind,
        "about": card.about,
        "classes": card.classes,
        "questions": card.questions,
        "notes": card.notes,
    }
