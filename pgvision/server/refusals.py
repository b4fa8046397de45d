"""Refusals: a status, a code that programs read, and words that people can act on."""

from collections.abc import Mapping

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pgvision.errors import ImageError, OptionError, PgvisionError, PromptError, SourceError


class Refusal(PgvisionError):
    """A request that is not answered.

    Args:
        status: HTTP status.
        code: One word for programs, such as ``"queue_full"``.
        message: For people: what was expected, what came, what to do.
        headers: Further headers, such as ``Retry-After``.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})

    def response(self) -> JSONResponse:
        """Return it as JSON, in the form that OpenAI's clients read as well."""
        body = {"error": {"code": self.code, "message": str(self), "type": "invalid_request_error"}}
        if self.status >= 500 or self.status == 429:
            body["error"]["type"] = "server_error"
        return JSONResponse(body, self.status, self.headers)


def refusal_of(error: PgvisionError) -> Refusal:
    """Give an error of the library its status: what a caller can mend is 422.

    Example:
        >>> refusal_of(PromptError("classes: expected at least one name, got none.")).status
        422
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ImageError | SourceError):
        return Refusal(422, "bad_picture", str(error))
    if isinstance(error, PromptError):
        return Refusal(422, "bad_prompt", str(error))
    if isinstance(error, OptionError):
        return Refusal(422, "bad_option", str(error))
    return Refusal(500, "failed", f"{type(error).__name__}: {error}")


async def on_pgvision_error(request: Request, error: Exception) -> JSONResponse:
    """Answer what a route raised, on purpose or not."""
    known = error if isinstance(error, PgvisionError) else PgvisionError(repr(error))
    return refusal_of(known).response()


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer what the framework raised: no such route, another method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {
        404: f"{request.url.path}: there is no such route; /openapi.json lists them",
        405: f"{request.url.path}: does not take {request.method}; /openapi.json says what it does",
    }
    headers = getattr(error, "headers", None)
    return Refusal(status, "no_route", words.get(status, str(error)), headers).response()
