"""The service as an ASGI application, its page, and the loop that serves it."""

import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import uvicorn
from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from pgvision import __version__, samples
from pgvision.errors import OptionError, PgvisionError
from pgvision.server.api import v1_routes
from pgvision.server.compat import chat_routes, label_studio_routes, roboflow_routes
from pgvision.server.engine import Load
from pgvision.server.errors import ApiError, on_error, on_http_error
from pgvision.server.middleware import ServiceMiddleware
from pgvision.server.service import Service
from pgvision.server.settings import ServeSettings

_LOG = logging.getLogger(__name__)
_BACKLOG: Final = 2048
_HEADER_SECONDS: Final = 10.0  # from a connection, or a request's first byte, to its whole header
_ABOUT: Final = """PaliGemma as a service: boxes, masks, captions, answers and text, in COCO terms.

Send an image as the file `image` of a multipart form, or as base64 in JSON. Errors come as
`{"error": {"code", "message"}}`; the message names the fix."""
_EXAMPLES: Final = (*samples.PHOTOGRAPHS, samples.RENDERED[0])
_PAGE: Final = Path(__file__).parent / "page"
_PAGE_HEADERS: Final = {
    # Nothing from elsewhere: code in a file name or in a model's answer cannot run.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; media-src blob:; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def create_app(
    settings: ServeSettings | None = None,
    *,
    load_model: Load | None = None,
    on_failure: Callable[[], object] = lambda: None,
) -> FastAPI:
    """Return the application. Its models load in the background once it runs.

    Args:
        settings: Models and limits; None: the defaults.
        load_model: Returns an engine for a name; None: `pgvision.runtime.open_engine`.
        on_failure: Called if a model cannot be loaded.

    Returns:
        An application for uvicorn or any other ASGI server, in one process.

    Raises:
        CheckpointError: If there is no such checkpoint.

    Example:
        >>> sorted(path for path in create_app().openapi()["paths"] if "v1" in path)[:2]
        ['/v1/ask', '/v1/caption']
    """
    chosen = settings or ServeSettings()
    service = Service(chosen, load_model)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.models.start(on_failure)
        yield
        await run_in_threadpool(service.models.close)

    # 1. Application without /docs: FastAPI's page comes from a CDN, and ours is at /.
    app = FastAPI(
        title="pgvision",
        version=__version__,
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    # 2. Routes and error handlers.
    routes = (v1_routes, chat_routes, roboflow_routes, label_studio_routes, _operators_routes)
    for make in routes:
        app.include_router(make(service))
    app.include_router(_page_routes())
    app.add_exception_handler(PgvisionError, on_error)
    app.add_exception_handler(HTTPException, on_http_error)
    # 3. Middleware; the last one added runs first.
    paths = list(app.openapi()["paths"])
    app.add_middleware(ServiceMiddleware, settings=chosen, metrics=service.metrics, routes=paths)
    if chosen.allow_origins:  # outside of the checks: a browser asks first, and without a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=chosen.allow_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
            expose_headers=["Retry-After"],
        )
    return app


class _TimedProtocol(AutoHTTPProtocol):  # type: ignore[valid-type, misc]
    """Uvicorn's protocol, which by itself waits for ever for the rest of a request's header."""

    header_seconds = _HEADER_SECONDS
    _timer: Any = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._time_header()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._time_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def _time_header(self) -> None:
        # A request is in progress from its whole header until its response is complete.
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.header_seconds, self.transport.close)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def serve(settings: ServeSettings) -> None:
    """Listen until Ctrl-C or SIGTERM; requests in progress are finished.

    Args:
        settings: Address, models and limits.

    Raises:
        OptionError: If the address cannot be used.
        CheckpointError: If a model cannot be loaded.
    """
    # 1. Make the application; a model that cannot be loaded ends the server.
    app = create_app(settings, on_failure=lambda: setattr(server, "should_exit", True))
    seconds = min(_HEADER_SECONDS, settings.deadline)
    protocol: Any = type("Protocol", (_TimedProtocol,), {"header_seconds": seconds})
    config = uvicorn.Config(
        app,
        http=protocol,
        log_config=None,
        access_log=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=int(settings.deadline) + 5,
    )
    # 2. Serve until a signal ends it.
    server = uvicorn.Server(config)
    with _listening(settings) as listener:
        host, port = listener.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        _LOG.info("listening at http://%s:%d (the page is at /); Ctrl-C ends", host, port)
        with suppress(KeyboardInterrupt):  # uvicorn raises it again once all is finished
            server.run(sockets=[listener])
    # 3. Raise what ended it.
    for model in app.state.service.models.all:
        if model.error is not None:
            raise model.error


def _listening(settings: ServeSettings) -> socket.socket:
    try:
        where = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(where[4][:2], family=where[0], backlog=_BACKLOG)
        # Without it the body of an answer waits for the header's acknowledgement: 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be a host
        raise OptionError(
            f"host, port: cannot listen at {settings.host}:{settings.port}: {error}; use another "
            "--port"
        ) from error


def _operators_routes(service: Service) -> APIRouter:
    router = APIRouter(tags=["operators"])

    @router.get("/healthz", summary="Whether the process answers.")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz", summary="Whether all models answer: 200, or 503.")
    async def readyz() -> dict[str, str]:
        for model in service.models.all:
            model.require_healthy()
        return {"status": "ready"}

    @router.get("/metrics", summary="Counts for Prometheus.")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    return router


def _page_routes() -> APIRouter:
    router = APIRouter(include_in_schema=False)
    # Only these files are served: a path in a name leads nowhere.
    names = {path.name: path for path in _PAGE.iterdir() if path.is_file()}
    names |= {f"example-{name}.jpg": samples.path(name) for name in _EXAMPLES}

    @router.get("/")
    async def index() -> FileResponse:
        return FileResponse(names["index.html"], headers=_PAGE_HEADERS)

    @router.get("/page/{name}")
    async def static(name: str) -> FileResponse:
        if name not in names:
            raise ApiError("no_route", f"/page/{name[:80]}: there is no such file")
        return FileResponse(names[name], headers=_PAGE_HEADERS)

    return router
