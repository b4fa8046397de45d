"""Fields of requests, task by task, with their limits; unknown fields are refused by name."""

import re
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pgvision.server.errors import ApiError

_Model = TypeVar("_Model", bound=BaseModel)
MAX_NAMES: Final = 256
MAX_NAME: Final = 200
_MAX_ERRORS: Final = 5
_TYPE: Final = re.compile(r"constrained-|literal\[")  # pydantic's names for types of a union


def split_names(value: object) -> object:
    """Split texts at semicolons, at most into one name more than is allowed.

    Example:
        >>> split_names("helmet; head"), split_names(["helmet", "head;cone"])
        (['helmet', 'head'], ['helmet', 'head', 'cone'])
    """
    texts: Any = [value] if isinstance(value, str) else value
    is_short = isinstance(texts, list) and len(texts) <= MAX_NAMES
    if not is_short or not all(isinstance(text, str) for text in texts):
        return value  # refused by pydantic, which stops at the first item too many
    return [name.strip() for text in texts for name in text.split(";", MAX_NAMES)]


Names = Annotated[
    list[Annotated[str, Field(max_length=MAX_NAME)]],
    Field(max_length=MAX_NAMES),
    BeforeValidator(split_names),
]


class Fields(BaseModel):
    """Fields of every task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        None, max_length=MAX_NAME, description="One of /v1/models; by default the first."
    )
    unknown: Literal["refuse", "ask"] = Field(
        "refuse", description="Names, questions and images that the model was not trained on."
    )
    max_new_tokens: int | None = Field(
        None, ge=1, le=4096, description="Where each answer is cut off."
    )


class ObjectFields(Fields):
    """Find objects: a box and a score for each."""

    classes: Names = Field(
        description="What to find: a name, or several with ';' between.", examples=["helmet; head"]
    )
    conf: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] | None = Field(
        None,
        description="Lowest score that is kept; 'auto' (default): the model's thresholds.",
        examples=[0.3],
    )
    nms: float | None = Field(
        None, ge=0, le=1, description="IoU from which two objects of a class are one."
    )
    max_objects: int | None = Field(None, ge=1, description="Keep the n best.")
    tile: Annotated[int, Field(ge=32)] | Literal["auto"] | None = Field(
        None, description="Also look at squares of this side in pixels, or 'auto': small objects."
    )
    form: Literal["coco", "roboflow"] = Field(
        "coco", description="COCO and more, or the form of Roboflow's inference."
    )


class SegmentFields(ObjectFields):
    """Find objects: box, mask and score."""

    masks: Literal["rle", "polygons"] = Field(
        "rle",
        description="COCO's run lengths (exact), or polygons (outer rings).",
        examples=["polygons"],
    )


class CaptionFields(Fields):
    """Describe an image."""

    language: str = Field("en", max_length=20, description="Language of the caption.")
    style: Literal["caption", "describe", "cap"] = "caption"


class AskFields(Fields):
    """Answer a question about an image."""

    question: str = Field(
        min_length=1, max_length=500, examples=["how many workers wear a helmet?"]
    )
    language: str = Field("en", max_length=20, description="Language of question and answer.")
    choices: Names | None = Field(None, description="Answers to choose from, with ';' between.")


class ReadFields(Fields):
    """Read the text in an image."""


TASKS: Final[dict[str, type[Fields]]] = {
    "detect": ObjectFields,
    "segment": SegmentFields,
    "caption": CaptionFields,
    "ask": AskFields,
    "read": ReadFields,
}
"""Fields of each task; their docstrings are the summaries of the routes."""


def validated(kind: type[_Model], values: Mapping[str, Any]) -> _Model:
    """Validate fields.

    Raises:
        ApiError: 422; it names the first five wrong fields, what is expected and what came.

    Example:
        >>> validated(ObjectFields, {"classes": "helmet; head"}).classes
        ['helmet', 'head']
    """
    if len(values) > MAX_NAMES:
        raise ApiError("bad_field", f"expected a few fields, got {len(values)}")
    for name, value in values.items():
        # Pydantic takes true for the number 1.
        hint = kind.model_fields[name].annotation if name in kind.model_fields else bool
        if isinstance(value, bool) and bool not in (hint, *get_args(hint)):
            raise ApiError("bad_field", f"{name}: expected another type, got {value}".lower())
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        # 1. Fields that exist, for those that do not.
        known = ", ".join((*(("image",) if issubclass(kind, Fields) else ()), *kind.model_fields))
        # 2. Pydantic's messages, each with its field and what came.
        messages = []
        for each in error.errors(include_url=False, include_context=False)[:_MAX_ERRORS]:
            parts = (str(part)[:40] for part in each["loc"])
            name = ".".join(part for part in parts if not _TYPE.match(part))
            if each["type"] == "extra_forbidden":
                messages.append(f"{name}: there is no such field; known are {known}")
            else:
                messages.append(f"{name}: {each['msg']}, got {reprlib.repr(each['input'])}")
        raise ApiError("bad_field", "; ".join(messages)) from error
