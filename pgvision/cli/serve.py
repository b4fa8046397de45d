"""Models for other programs: `pgvision serve` (HTTP) and `pgvision export` (files)."""

import json
from pathlib import Path
from typing import Final

import typer

from pgvision.errors import require_module
from pgvision.server.settings import ServeSettings

_NEEDED: Final = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def serve(*, settings: ServeSettings) -> None:
    """Answer over HTTP: /v1/detect, segment, caption, ask, read; a page at /.

    Routes are listed at /openapi.json, counts for Prometheus at /metrics.

    Examples:
    pgvision serve --model small --model tiny
    PGVISION_API_KEY=secret pgvision serve --host 0.0.0.0 --port 80
    curl -F image=@site.jpg -F classes=helmet -F classes=head localhost:8000/v1/detect

    Raises:
        DependencyError: If a package of the service is missing.
    """
    for name in _NEEDED:
        require_module(name, f"serve needs {name}: pip install '.[serve]'")
    from pgvision.server import serve as run

    run(settings)


def export(
    *,
    out: Path,
    model: str | None = None,
    as_json: bool = False,
) -> None:
    """Write a checkpoint as one folder: adapters merged, with ONNX graphs for other programs.

    pgvision itself needs no export: small checkpoints run on ONNX Runtime as they are.

    Examples:
    pgvision export --model runs/helmets/adapter --out helmets-merged
    pgvision export --model small --out small-onnx

    Args:
        out: A new folder.
        model: Hub id, folder, "tiny" or "small"; None: PGVISION_MODEL, else "small".
        as_json: Print the files as JSON.
    """
    from pgvision.runtime.exporting import export_checkpoint

    folder = export_checkpoint(model, out)
    files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "files": files}))
        return
    for name, size in files.items():
        typer.echo(f"{size:>12,}  {folder / name}")
