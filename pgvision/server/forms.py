"""A request's body: a multipart form, or JSON with base64."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from pgvision.server.refusals import Refusal

_MOST_FIELDS = 64
_MOST_TEXT = 64 * 2**20  # the body's own limit comes first


@dataclass(frozen=True)
class _File:
    data: bytes
    name: str


@dataclass(frozen=True)
class Form:
    """What came.

    Attributes:
        picture: Bytes of a file, or a text: base64, a data URI, an address.
        name: What the file is called.
        values: All other fields.
    """

    picture: bytes | str
    name: str
    values: dict[str, Any] = field(default_factory=dict)


async def read_form(request: Request, seconds: float) -> Form:
    """Read picture and fields.

    Args:
        request: A request with a body.
        seconds: How long the body may take to come.

    Raises:
        Refusal: 400 for a body that is cut or broken, 408 for one that is too slow, 415 for another
            kind of body, 422 if there is no picture in it.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(max(seconds, 0.001)):
            if kind == "multipart/form-data":
                values = await _multipart(request)
            elif kind == "application/json":
                values = await read_json(request)
            else:
                raise Refusal(
                    415,
                    "bad_body",
                    f"Content-Type: expected multipart/form-data or application/json, got {kind!r}",
                )
    except TimeoutError as error:
        raise Refusal(408, "too_slow", "the body did not come in time; send it again") from error
    except ClientDisconnect as error:
        raise Refusal(400, "cut_short", "the connection ended before the body did") from error
    image = values.pop("image", None)
    if isinstance(image, _File):
        return Form(image.data, image.name, values)
    if isinstance(image, str) and image:
        return Form(image, "image", values)
    raise Refusal(
        422,
        "no_picture",
        "image: expected a picture (a file in a multipart form, base64 in JSON), got none",
    )


async def read_json(request: Request) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        Refusal: 400 if it is none.
    """
    try:
        values = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "bad_json", f"the body is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise Refusal(400, "bad_json", f"expected a JSON object, got a {type(values).__name__}")
    return values


class _Parser(MultiPartParser):
    """Starlette's, which takes a form without its end for a whole one."""

    _is_whole = False

    def on_end(self) -> None:
        self._is_whole = True

    async def parse(self) -> FormData:
        form = await super().parse()
        if self._is_whole:
            return form
        for file in self._files_to_close_on_error:
            file.close()
        raise MultiPartException("its end is missing, the upload was cut on its way; send it again")


async def _multipart(request: Request) -> dict[str, Any]:
    limits = {"max_files": 1, "max_fields": _MOST_FIELDS, "max_part_size": _MOST_TEXT}
    try:
        form = await _Parser(request.headers, request.stream(), **limits).parse()
    except MultiPartException as error:
        raise Refusal(400, "bad_form", f"the multipart form is broken: {error.message}") from error
    try:
        values: dict[str, Any] = {}
        for key in form:
            several = [await _read(value) for value in form.getlist(key)]
            values[key] = several[0] if len(several) == 1 else several
        return values
    finally:
        await form.close()


async def _read(value: UploadFile | str) -> _File | str:
    if isinstance(value, str):
        return value
    return _File(await value.read(), value.filename or "image")
