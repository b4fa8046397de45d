"""What requests may say, task by task; unknown words are refused with those that exist."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pgvision.server.refusals import Refusal

_Fields = TypeVar("_Fields", bound="Fields")
_UNKNOWN = "extra_forbidden"


def split_classes(value: object) -> object:
    """Split one text at semicolons, or each of several (a form's field may come many times).

    Example:
        >>> split_classes("helmet; head"), split_classes(["helmet", "head;cone"])
        (['helmet', 'head'], ['helmet', 'head', 'cone'])
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        return value
    return [name.strip() for text in texts for name in text.split(";")]


class Fields(BaseModel):
    """What every request may say beside its picture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="One of /v1/models; the first if left out.")
    annotated: bool = Field(
        False, description="Send the annotated picture along, as a JPEG data URI."
    )


class ObjectFields(Fields):
    """What `detect` takes."""

    classes: Annotated[list[str], BeforeValidator(split_classes)] = Field(
        description="What to find: a name, or several with ';' between.", examples=["helmet; head"]
    )
    conf: float | None = Field(None, ge=0, le=1, description="Least score that is kept.")
    nms: float | None = Field(
        None, ge=0, le=1, description="Overlap from which two objects of a class are one."
    )
    max_objects: int | None = Field(None, ge=1, description="Keep the n best.")
    tile: int | None = Field(
        None, ge=32, description="Look at squares of this side too, in pixels: small objects."
    )
    soft: bool = Field(False, description="Average places by probability.")
    form: Literal["coco", "roboflow", "huggingface"] = Field(
        "coco",
        description="Whose JSON to answer in: COCO's and more, Roboflow inference's, or that of "
        "Hugging Face's zero-shot-object-detection.",
    )


class SegmentFields(ObjectFields):
    """What `segment` takes."""

    masks: Literal["rle", "polygons"] = Field(
        "rle", description="COCO's run lengths (exact), or polygons (outer rings)."
    )


class CaptionFields(Fields):
    """What `caption` takes."""

    language: str = Field("en", description="Language of the caption.")
    style: Literal["caption", "describe", "cap"] = "caption"


class AskFields(Fields):
    """What `ask` takes."""

    question: str = Field(
        min_length=1, max_length=500, examples=["how many workers wear a helmet?"]
    )
    language: str = Field("en", description="Language of question and answer.")
    choices: Annotated[list[str] | None, BeforeValidator(split_classes)] = Field(
        None, description="Answers to choose from, with ';' between."
    )


class ReadFields(Fields):
    """What `read` takes."""


def checked(fields: type[_Fields], values: Mapping[str, Any]) -> _Fields:
    """Check what came.

    Raises:
        Refusal: 422, naming each field that is wrong, what it may be and what came.

    Example:
        >>> checked(ObjectFields, {"classes": "helmet; head"}).classes
        ['helmet', 'head']
    """
    try:
        return fields.model_validate(values)
    except ValidationError as error:
        known = ", ".join(("image", *fields.model_fields))
        words = [
            f"{'.'.join(map(str, each['loc']))}: "
            + (
                f"there is no such field; known are {known}"
                if each["type"] == _UNKNOWN
                else f"{each['msg']}, got {str(each['input'])[:80]!r}"
            )
            for each in error.errors(include_url=False)
        ]
        raise Refusal(422, "bad_field", "; ".join(words)) from error
