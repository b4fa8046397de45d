"""OpenAPI's description of the bodies: both kinds, with examples that can be sent as they are."""

from typing import Any

from pgvision.server.fields import SegmentFields
from pgvision.server.tasks import Kind

_DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGUlEQVR42mNsaGhgIAUwMZAIRjWMahg6GgDJTAGg"
    "54KQ4AAAAABJRU5ErkJggg=="
)
"""A PNG of 16 x 16 gray pixels, so that the example is a whole picture."""
_EXAMPLES: dict[str, dict[str, object]] = {
    "detect": {"classes": "helmet; head", "conf": 0.3},
    "segment": {"classes": "helmet", "masks": "polygons"},
    "caption": {"language": "en"},
    "ask": {"question": "how many workers wear a helmet?"},
    "read": {},
}
_REFUSALS = {
    "401": "A key is wanted, and none or a wrong one came.",
    "404": "No such model.",
    "413": "The body or the picture is too large.",
    "422": "The picture or a field cannot be used; the message says what to do.",
    "429": "The queue is full; Retry-After says when to ask again.",
    "503": "The model is still loading.",
    "504": "Not answered within the deadline.",
}


def described(kind: Kind) -> dict[str, Any]:
    """Return what OpenAPI says of a task's body and answers.

    Example:
        >>> from pgvision.server.tasks import KINDS
        >>> sorted(described(KINDS["detect"])["requestBody"]["content"])
        ['application/json', 'multipart/form-data']
    """
    schema = kind.fields.model_json_schema()
    coded = {"type": "string", "description": "Base64 of the file, or a data URI."}
    file = {"type": "string", "format": "binary", "description": "The file."}
    example = _EXAMPLES[kind.name]
    json_example = {**example, "image": _DOT}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": _with_image(schema, file), "example": example},
                "application/json": {"schema": _with_image(schema, coded), "example": json_example},
            },
        },
        "responses": {
            "200": {
                "description": "The answer.",
                "content": {"application/json": {"example": _answer(kind)}},
            },
            **{status: {"description": words} for status, words in _REFUSALS.items()},
        },
    }


def _with_image(schema: dict[str, Any], image: dict[str, Any]) -> dict[str, Any]:
    # Forms send "helmet; head" as one text.
    properties = {"image": image, **schema["properties"]}
    if "classes" in properties:
        wanted = properties["classes"]
        properties["classes"] = {
            "description": wanted["description"],
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        }
    required = ["image", *schema.get("required", [])]
    return {**schema, "properties": properties, "required": required}


def _answer(kind: Kind) -> dict[str, Any]:
    body: dict[str, Any] = {
        "task": kind.name,
        "model": "tiny",
        "images": [{"id": 1, "file_name": "site.jpg", "width": 640, "height": 480}],
    }
    if kind.name in ("detect", "segment"):
        found: dict[str, Any] = {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [120.0, 80.0, 40.0, 30.0],
            "area": 1200.0,
            "iscrowd": 0,
            "label": "helmet",
            "text": "helmet",
            "score": 0.91,
            "edge_std": [1.2, 0.9, 1.1, 1.4],
        }
        if kind.fields is SegmentFields:
            found["segmentation"] = [[120.0, 80.0, 160.0, 80.0, 160.0, 110.0, 120.0, 110.0]]
        categories = [{"id": 1, "name": "helmet"}]
        body |= {"categories": categories, "annotations": [found], "presence": {"helmet": 0.98}}
    else:
        body |= {"text": "2", "score": 0.87, "language": "en"}
    return body | {
        "prefix": "detect helmet",
        "raw_text": "...",
        "rejects": [],
        "truncated": False,
        "notes": [],
        "timings": {"picture": 0.004, "queue": 0.0, "vision": 0.03, "total": 0.06},
    }
