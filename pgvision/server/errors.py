"""Errors of requests: an HTTP status, a code for programs and a message for people."""

import logging
import uuid
from collections.abc import Mapping
from typing import Any, Final

from fastapi import Request
from fastapi.responses import JSONResponse

from pgvision.errors import ImageError, OptionError, PgvisionError, PromptError, SourceError
from pgvision.http import hide_secrets

_LOG = logging.getLogger(__name__)
MAX_MESSAGE: Final = 1000
"""Characters of a message; a longer one is cut, so that no request gets a large error."""


_STATUS: Final = {
    code: status
    for status, codes in {
        400: "bad_json bad_form", 401: "wrong_key", 403: "wrong_host wrong_origin",
        404: "unknown_model no_route", 408: "too_slow", 413: "too_large too_many_pixels",
        415: "bad_body", 429: "queue_full busy", 499: "hung_up", 500: "failed",
        503: "closing not_loaded loading engine_failed", 504: "deadline_passed",
    }.items()
    for code in codes.split()
}  # fmt: skip
"""HTTP status of each code; of all others 422, for what the caller can fix."""


class ApiError(PgvisionError):
    """A request that is refused.

    Args:
        code: One word for programs, such as ``"queue_full"``.
        message: What was expected, what came, and what to do.
        headers: Further headers, such as ``Retry-After``.
        status: HTTP status; None: that of the code.
    """

    def __init__(
        self,
        code: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        *,
        status: int | None = None,
    ) -> None:
        cut = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} ..."
        # A lone surrogate cannot be sent as UTF-8.
        super().__init__(hide_secrets(cut).encode(errors="backslashreplace").decode())
        self.code, self.headers = code, dict(headers or {})
        self.status = status or _STATUS.get(code, 422)

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
            return ApiError(code, str(error))
    # Messages of inner errors contain paths; the log has them under the same number.
    number = uuid.uuid4().hex[:8]
    _LOG.error("internal error %s", number, exc_info=error)
    return ApiError(
        "failed", f"internal error {number}; the service's log has the reason under this number"
    )


async def on_error(request: Request, error: Exception) -> JSONResponse:
    """Answer an error of a route."""
    return api_error_of(error).response()


async def on_http_error(request: Request, error: Any) -> JSONResponse:
    """Answer an error of the framework: an unknown route, another method."""
    what = f"{request.method} {request.url.path}: {error.detail}"
    message = f"{what}; /openapi.json lists the routes and what they take"
    return ApiError("no_route", message, error.headers, status=error.status_code).response()


def deadline_error(seconds: float) -> ApiError:
    """Return the error of a request that was not answered within ``seconds``."""
    return ApiError(
        "deadline_passed",
        f"not answered within {seconds:g} s; ask again when fewer ask, or start the service with "
        "a longer --deadline",
    )
