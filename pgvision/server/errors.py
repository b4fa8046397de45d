"""Errors of requests: an HTTP status, a code for programs and a message for people."""

import logging
import uuid
from collections.abc import Mapping
from typing import Final

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pgvision.errors import ImageError, OptionError, PgvisionError, PromptError, SourceError
from pgvision.http import hide_secrets

_LOG = logging.getLogger(__name__)
MAX_MESSAGE: Final = 1000
"""Characters of a message; a longer one is cut, so that no request gets a large error."""


class ApiError(PgvisionError):
    """A request that is refused.

    Args:
        status: HTTP status.
        code: One word for programs, such as ``"queue_full"``.
        message: What was expected, what came, and what to do.
        headers: Further headers, such as ``Retry-After``.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        cut = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} ..."
        # A lone surrogate cannot be sent as UTF-8.
        super().__init__(hide_secrets(cut).encode(errors="backslashreplace").decode())
        self.status, self.code, self.headers = status, code, dict(headers or {})

    @property
    def body(self) -> dict[str, dict[str, str]]:
        """The error as OpenAI's clients read it."""
        is_ours = self.status >= 500 or self.status == 429
        kind = "server_error" if is_ours else "invalid_request_error"
        return {"error": {"code": self.code, "message": str(self), "type": kind}}

    def response(self) -> JSONResponse:
        """Return the error as an HTTP response."""
        return JSONResponse(self.body, self.status, self.headers)


def api_error_of(error: BaseException) -> ApiError:
    """Map an error to a status: 422 for what the caller can fix, 500 without details otherwise.

    Example:
        >>> api_error_of(PromptError("classes: expected at least one name, got none.")).status
        422
    """
    if isinstance(error, ApiError):
        return error
    kinds = {PromptError: "bad_prompt", OptionError: "bad_option"}
    kinds |= {ImageError: "bad_picture", SourceError: "bad_picture"}
    for kind, code in kinds.items():
        if isinstance(error, kind):
            return ApiError(422, code, str(error))
    # Messages of inner errors contain paths; the log has them under the same number.
    number = uuid.uuid4().hex[:8]
    _LOG.error("internal error %s", number, exc_info=error)
    return ApiError(
        500,
        "failed",
        f"internal error {number}; the service's log has the reason under this number",
    )


async def on_error(request: Request, error: Exception) -> JSONResponse:
    """Answer an error of a route."""
    return api_error_of(error).response()


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer an error of the framework: an unknown route, another method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    path = request.url.path
    messages = {
        404: f"{path}: there is no such route; /openapi.json lists them",
        405: f"{path}: does not take {request.method}; /openapi.json lists what it takes",
    }
    headers = getattr(error, "headers", None)
    return ApiError(status, "no_route", messages.get(status, str(error)), headers).response()


def deadline_error(seconds: float) -> ApiError:
    """Return the error of a request that was not answered within ``seconds``."""
    return ApiError(
        504,
        "deadline_passed",
        f"not answered within {seconds:g} s; ask again when fewer ask, or start the service with "
        "a longer --deadline",
    )
