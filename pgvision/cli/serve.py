"""`pgvision serve`: the tasks over HTTP, and a page."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from pgvision.cli.model_options import MODEL_PANEL, Device, Dtype, Threads
from pgvision.cli.options import takes
from pgvision.errors import DependencyError

if TYPE_CHECKING:
    from pgvision.server import ServeSettings

_LIMITS = "Limits"
_NEEDED = ("fastapi", "uvicorn", "multipart", "prometheus_client")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What `pgvision serve` takes; see `pgvision.server.ServeSettings`."""

    host: Annotated[
        str,
        typer.Option(
            envvar="PGVISION_HOST", help="Address to listen at; 0.0.0.0 is the whole network."
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int, typer.Option(min=0, max=65535, envvar="PGVISION_PORT", help="0 takes a free one.")
    ] = 8000
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A hub id, a folder, 'small' or 'tiny'; several times: several, the first is the "
            "default one \\[default: $PGVISION_MODEL, else small]",
            show_default=False,
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None
    device: Device = None
    dtype: Dtype = None
    threads: Threads = None
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            envvar="PGVISION_BATCH_SIZE",
            help="Prompts that go through the model together.",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = 16
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="PGVISION_API_KEY",
            help="What callers must send; better in the environment, where ps does not show it.",
            show_default=False,
        ),
    ] = None
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar="PGVISION_ALLOW_HOSTS",
            help="Fetch pictures by address from this host (name or name:port), and no other.",
        ),
    ] = None
    queue: Annotated[
        int,
        typer.Option(
            min=1,
            envvar="PGVISION_QUEUE",
            help="Requests inside at once; more are answered 429.",
            rich_help_panel=_LIMITS,
        ),
    ] = 64
    deadline: Annotated[
        float,
        typer.Option(
            min=0.1,
            envvar="PGVISION_DEADLINE",
            help="Seconds until a request is answered 504.",
            rich_help_panel=_LIMITS,
        ),
    ] = 30.0
    max_mb: Annotated[
        float,
        typer.Option(
            min=0.001,
            envvar="PGVISION_MAX_MB",
            help="Largest body, in megabytes.",
            rich_help_panel=_LIMITS,
        ),
    ] = 32.0
    max_megapixels: Annotated[
        float,
        typer.Option(
            min=0.001,
            envvar="PGVISION_MAX_MEGAPIXELS",
            help="Largest picture, by its header.",
            rich_help_panel=_LIMITS,
        ),
    ] = 50.0
    max_prompts: Annotated[
        int,
        typer.Option(
            min=1,
            envvar="PGVISION_MAX_PROMPTS",
            help="Most prompts of one request: classes times tiles.",
            rich_help_panel=_LIMITS,
        ),
    ] = 64

    @property
    def settings(self) -> "ServeSettings":
        """The same, checked."""
        from pgvision.server import ServeSettings

        return ServeSettings(
            host=self.host,
            port=self.port,
            models=tuple(self.model or ()),
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
            batch_size=self.batch_size,
            api_key=self.api_key,
            allow_hosts=tuple(self.allow_host or ()),
            queue=self.queue,
            deadline=self.deadline,
            max_bytes=int(self.max_mb * 1e6),
            max_pixels=int(self.max_megapixels * 1e6),
            max_prompts=self.max_prompts,
        )


@takes(ServeOptions)
def serve(*, options: ServeOptions) -> None:
    """Answer over HTTP: /v1/detect, segment, caption, ask, read; a page at /.

    Routes are listed at /openapi.json, counts for Prometheus at /metrics.

    [bold]Examples[/bold]

    pgvision serve --model small --model tiny
    PGVISION_API_KEY=secret pgvision serve --host 0.0.0.0 --port 80
    curl -F image=@site.jpg -F "classes=helmet; head" localhost:8000/v1/detect
    """
    _require_packages()
    from pgvision.server import serve as run

    run(options.settings)


def _require_packages() -> None:
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise DependencyError(f"serve needs {', '.join(missing)}: pip install 'pgvision[serve]'")
