"""The service as an ASGI application."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from pgvision import __version__
from pgvision.errors import PgvisionError
from pgvision.runtime import Generator, open_generator
from pgvision.server.client_routes import client_routes
from pgvision.server.gate import Gate
from pgvision.server.label_studio_routes import label_studio_routes
from pgvision.server.models import Load
from pgvision.server.page_routes import page_routes
from pgvision.server.refusals import on_http_error, on_pgvision_error
from pgvision.server.routes import operators_routes, v1_routes
from pgvision.server.service import Service
from pgvision.server.settings import ServeSettings

_ABOUT = """PaliGemma as a service: boxes, masks, captions, answers and reading, in COCO terms.

Send a picture as the file `image` of a multipart form, or as base64 in JSON. What is refused comes
back as `{"error": {"code", "message"}}`; the message says what to do."""


def create_app(
    settings: ServeSettings | None = None,
    *,
    load_model: Load | None = None,
    on_failure: Callable[[], object] = lambda: None,
) -> FastAPI:
    """Make the application. Its models load in the background once it runs.

    Args:
        settings: Models and limits; None: the defaults.
        load_model: Makes an engine of a name; None: `pgvision.runtime.open_generator`.
        on_failure: Called if a model cannot be loaded.

    Returns:
        An application for uvicorn or any other ASGI server, in one process.

    Raises:
        CheckpointError: If a model's name is none.

    Example:
        >>> sorted(path for path in create_app().openapi()["paths"] if "v1" in path)[:2]
        ['/v1/ask', '/v1/caption']
    """
    chosen = settings or ServeSettings()
    service = Service(chosen, load_model or _loader(chosen))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.models.start(on_failure)
        yield
        await run_in_threadpool(service.models.close)

    # No /docs: FastAPI's page comes from a CDN, and ours is at /.
    app = FastAPI(
        title="pgvision",
        version=__version__,
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(v1_routes(service))
    app.include_router(client_routes(service))
    app.include_router(label_studio_routes(service))
    app.include_router(operators_routes(service))
    app.include_router(page_routes())
    app.add_exception_handler(PgvisionError, on_pgvision_error)
    app.add_exception_handler(Exception, on_pgvision_error)  # logged with its traceback as well
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_middleware(Gate, service=service, routes=list(app.openapi()["paths"]))
    return app


def _loader(settings: ServeSettings) -> Load:
    def loaded(name: str) -> Generator:
        return open_generator(
            name, device=settings.device, dtype=settings.dtype, threads=settings.threads
        )

    return loaded
