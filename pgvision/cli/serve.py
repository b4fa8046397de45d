"""`pgvision serve`: the tasks over HTTP, and a page. Its options are `ServeSettings`."""

from importlib.util import find_spec
from typing import Final

from pgvision.errors import DependencyError
from pgvision.server.settings import ServeSettings

_NEEDED: Final = ("fastapi", "uvicorn", "multipart", "prometheus_client")


def serve(*, settings: ServeSettings) -> None:
    """Answer over HTTP: /v1/detect, segment, caption, ask, read; a page at /.

    Routes are listed at /openapi.json, counts for Prometheus at /metrics.

    Examples:
    pgvision serve --model small --model tiny
    PGVISION_API_KEY=secret pgvision serve --host 0.0.0.0 --port 80
    curl -F image=@site.jpg -F "classes=helmet; head" localhost:8000/v1/detect

    Raises:
        DependencyError: If a package of the service is missing.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise DependencyError(f"serve needs {', '.join(missing)}: pip install '.[serve]'")
    from pgvision.server import serve as run

    run(settings)
