"""Routes /v1/detect, segment, caption, ask, read and models; bodies in, JSON out."""

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from pgvision.batch import CocoEntries
from pgvision.boxes import xyxy_to_cxcywh
from pgvision.coco.writing import image_entry
from pgvision.labelling.label_studio import outer_rings
from pgvision.results import DetectionResult, SegmentationResult, TextResult
from pgvision.server.errors import ApiError
from pgvision.server.fields import TASKS, Fields, ObjectFields, SegmentFields, validated
from pgvision.server.service import Outcome, Service, gather_few
from pgvision.server.uploads import Upload

_MAX_FIELDS: Final = 64
_MAX_FIELD_BYTES: Final = 64_000_000  # base64 in a form; the body's own limit is lower
_Kind = TypeVar("_Kind", bound=Fields)


def v1_routes(service: Service) -> APIRouter:
    """Return the five tasks and the list of models."""
    router = APIRouter(prefix="/v1")
    for task, kind in TASKS.items():
        router.add_api_route(
            f"/{task}",
            _route(service, task, kind),
            methods=["POST"],
            summary=kind.__doc__,
            name=task,
            openapi_extra=_described(kind),
        )

    @router.get("/models", summary="The models, and the classes and questions they know.")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [model.entry for model in service.models.all]}

    @router.get("/models/{name:path}", summary="One model.")
    def model(name: str) -> dict[str, Any]:
        return service.models.pick(name).entry

    return router


# --- bodies --------------------------------------------------------------------------------------


async def read_json(request: Request) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ApiError: 400 if it is not one, 415 if it does not come as JSON.
    """
    kind = _content_type(request)
    if kind != "application/json":
        raise ApiError("bad_body", f"Content-Type: expected application/json, got {kind!r}")
    body = await request.body()
    try:
        values = await run_in_threadpool(orjson.loads, body)
    except (ValueError, RecursionError) as error:
        raise ApiError("bad_json", f"the body is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ApiError("bad_json", f"expected a JSON object, got a {type(values).__name__}")
    return values


async def read_uploads(request: Request, most: int) -> tuple[list[Upload], dict[str, Any]]:
    """Read images, of which ``most`` are allowed, and fields of a form, or of JSON with base64.

    Raises:
        ApiError: 400 for a broken body, 415 for another kind of body, 422 for fields in the
            address.
    """
    # 1. Fields in the address would be ignored.
    for name in request.query_params:
        raise ApiError("bad_field", f"{name[:40]}: send it in the body, not in the address")
    # 2. Read the body by its declared kind.
    kind = _content_type(request)
    if kind == "multipart/form-data":
        values = await _multipart(request, most)
    elif kind == "application/json":
        values = await read_json(request)
    else:
        raise ApiError(
            "bad_body",
            f"Content-Type: expected multipart/form-data or application/json, got {kind[:80]!r}",
        )
    # 3. One image or several; texts are base64, data URIs or addresses.
    images = values.pop("image", None)
    images = images if isinstance(images, list) else [images]
    uploads = [Upload(one) if isinstance(one, str) else one for one in images]
    return uploads, values


def require_images(uploads: Sequence[Any], most: int) -> list[Upload]:
    """Check the number and kind of images.

    Raises:
        ApiError: 422 if there are none, too many, or others than files and texts.
    """
    if len(uploads) > most:
        raise ApiError(
            "too_many_images", f"image: expected at most {most} images, got {len(uploads)}"
        )
    if uploads and all(isinstance(one, Upload) and one.content != "" for one in uploads):
        return list(uploads)
    raise ApiError(
        "no_picture",
        "image: expected an image (a file in a multipart form, base64 in JSON), got "
        f"{'none' if uploads in ([], [None]) else 'something else'}",
    )


class _Parser(MultiPartParser):
    """Starlette's parser, which takes a form without its end for a complete one."""

    _is_complete = False

    def on_end(self) -> None:
        self._is_complete = True

    async def parse(self) -> FormData:
        form = await super().parse()
        if self._is_complete:
            return form
        for file in self._files_to_close_on_error:
            file.close()
        raise MultiPartException("its end is missing, the upload was cut on its way; send it again")


async def _multipart(request: Request, most: int) -> dict[str, Any]:
    # 1. Parse the form; it is at most as large as the body. Images are files, or fields in base64.
    limits = dict.fromkeys(("max_files", "max_fields"), most + _MAX_FIELDS)
    try:
        form = await _Parser(
            request.headers, request.stream(), max_part_size=_MAX_FIELD_BYTES, **limits
        ).parse()
    except MultiPartException as error:
        raise ApiError("bad_form", f"the multipart form is broken: {error.message}") from error
    # 2. Gather fields by name; one that comes several times is a list.
    try:
        values: dict[str, Any] = {}
        for key in form:
            several = [
                Upload(await value.read(), value.filename or "image")
                # Files are images; other parts are fields.
                if isinstance(value, UploadFile)
                else value
                for value in form.getlist(key)
            ]
            values[key] = several[0] if len(several) == 1 else several
        return values
    finally:
        await form.close()


def _content_type(request: Request) -> str:
    if coding := request.headers.get("content-encoding"):
        raise ApiError("bad_body", f"Content-Encoding: {coding[:80]} is not read; send it plainly")
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


# --- answers -------------------------------------------------------------------------------------


def json_response(body: object) -> Response:
    """Return JSON."""
    return Response(orjson.dumps(body), media_type="application/json")


def answer_body(outcome: Outcome, task: str, *, masks: str = "rle") -> dict[str, Any]:
    """Return the JSON of an answer.

    For objects it is a COCO file of one image (``images``, ``categories``, ``annotations`` with
    ``score``) and more; for texts it has ``text`` and ``score``.

    Args:
        outcome: The answer.
        task: Its task.
        masks: "rle" or "polygons".
    """
    # 1. Fields of all tasks.
    result = outcome.result
    body: dict[str, Any] = {
        "task": task,
        "model": outcome.model.name,
        "images": [image_entry(1, result.source or "image", result.image_hw)],
    }
    notes = list(outcome.notes)
    # 2. Fields of this task.
    if isinstance(result, DetectionResult):
        body |= _objects(result, masks)
        others = [str(result.texts[row]) for row in np.flatnonzero(result.class_ids < 0)]
        if others:
            notes.append(f"left out, none of the classes asked for: {', '.join(others)}")
    elif isinstance(result, TextResult):
        body |= {"text": result.text, "score": result.score, "language": result.language}
    # 3. The model's text, notes and timings.
    known = result.to_dict()
    body |= {key: known[key] for key in ("prefix", "raw_text", "rejects", "truncated")}
    about = outcome.model.card.about
    return body | {
        "notes": notes,
        "about": about,
        "timings": {**outcome.timings, **result.timings},
    }


def _objects(result: DetectionResult, masks: str) -> dict[str, Any]:
    # COCO's entries of the objects that were asked for, and what COCO does not have.
    asked, entries = result[result.class_ids >= 0], CocoEntries()
    annotations = entries.of(asked)
    for entry, one in zip(annotations, asked, strict=True):
        entry |= {"label": one.labels[0], "text": one.texts[0]}
        if one.edge_std is not None:
            entry["edge_std"] = one.edge_std[0].tolist()
        if masks == "polygons" and isinstance(one, SegmentationResult):
            entry["segmentation"] = [ring.ravel().tolist() for ring in outer_rings(one)]
    return {
        "categories": list(entries.categories()),
        "annotations": annotations,
        "presence": None if result.presence is None else dict(result.presence),
    }


def _route(
    service: Service, task: str, kind: type[_Kind]
) -> Callable[[Request], Awaitable[Response]]:
    def body_of(outcome: Outcome, fields: Fields) -> Any:
        is_roboflow = isinstance(fields, ObjectFields) and fields.form == "roboflow"
        if is_roboflow and isinstance(outcome.result, DetectionResult):
            return roboflow_form(outcome.result, outcome.timings)
        masks = fields.masks if isinstance(fields, SegmentFields) else "rle"
        return answer_body(outcome, task, masks=masks)

    async def answer(request: Request) -> Response:
        most = service.settings.max_images
        uploads, values = await read_uploads(request, most)
        images = require_images(uploads, most)
        fields = await run_in_threadpool(validated, kind, values)

        async def body(image: Upload) -> Any:
            outcome = await service.answer(request, image, fields)
            return await service.uploads.run(partial(body_of, outcome, fields))

        if len(images) == 1:
            return json_response(await body(images[0]))
        # Several images: a list in their order, with errors in their places.
        bodies = await gather_few(partial(body, image) for image in images)
        listed = [one.body if isinstance(one, ApiError) else one for one in bodies]
        return json_response({"results": listed})

    return answer


def _described(kind: type[Fields]) -> dict[str, Any]:
    """Return OpenAPI's description of a task's body, as a form and as JSON."""
    schema = kind.model_json_schema()
    required = ["image", *schema.get("required", [])]
    coded = {"type": "string", "description": "Base64, a data URI, or an address; or a list."}
    file = {"type": "string", "format": "binary", "description": "A file; several times: several."}
    content = {}
    for media, image in (("multipart/form-data", file), ("application/json", coded)):
        properties = {"image": image, **schema["properties"]}
        content[media] = {"schema": {**schema, "properties": properties, "required": required}}
    return {"requestBody": {"required": True, "content": content}}


def roboflow_form(result: DetectionResult, timings: Mapping[str, float]) -> dict[str, Any]:
    """Return the JSON of Roboflow's inference (`supervision.Detections.from_inference`).

    ``points`` are the mask's outer ring with the largest area; ``other_parts`` counts those that
    the form has no place for. An unknown score is 1: the form has no other value for it.

    Example:
        >>> result = DetectionResult(image_hw=(40, 60), xyxy=[[10, 20, 30, 40]], labels=["helmet"],
        ...                          class_ids=[0], classes=["helmet"])
        >>> roboflow_form(result, {})["predictions"][0]["x"]
        20.0
    """
    predictions: list[dict[str, Any]] = []
    for one in result[result.class_ids >= 0]:
        # 1. The box by its centre.
        (box,) = xyxy_to_cxcywh(one.xyxy).tolist()
        entry: dict[str, Any] = dict(zip(("x", "y", "width", "height"), box, strict=True))
        entry["confidence"] = 1.0 if one.scores is None else float(one.scores[0])
        entry |= {"class": one.labels[0] or "", "class_id": int(one.class_ids[0])}
        entry["detection_id"] = str(uuid.uuid4())
        if isinstance(one, SegmentationResult):
            # 2. One polygon for an object: the largest part.
            ring, *others = outer_rings(one) or [np.zeros((0, 2))]
            entry["points"] = [{"x": x, "y": y} for x, y in ring.tolist()]
            entry |= {"other_parts": len(others)} if others else {}
        predictions.append(entry)
    height, width = result.image_hw
    return {
        "time": timings.get("total"),
        "image": {"width": width, "height": height},
        "predictions": predictions,
    }
