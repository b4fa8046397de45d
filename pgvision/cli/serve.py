"""`pgvision serve`: the tasks over HTTP, and a page. Its options are `ServeSettings`."""

import inspect
import re
from dataclasses import MISSING, fields
from importlib.util import find_spec
from typing import Annotated, Any, Final, get_type_hints

import typer

from pgvision.cli.model_options import MODEL_PANEL
from pgvision.errors import DependencyError
from pgvision.server.settings import ServeSettings

_NEEDED: Final = ("fastapi", "uvicorn", "multipart", "prometheus_client")
_FLAGS: Final = {"models": "model", "allow_hosts": "allow_host", "allow_origins": "allow_origin"}
_IN_MILLIONS: Final = {
    "max_bytes": "max_mb",
    "max_pixels": "max_megapixels",
    "max_pixels_in_flight": "max_megapixels_in_flight",
    "max_bytes_in_flight": "max_mb_in_flight",
}
_PANELS: Final = {
    **dict.fromkeys(("models", "device", "dtype", "threads", "batch_size"), MODEL_PANEL),
    **dict.fromkeys(("queue", "deadline", "max_prompts", "max_images", *_IN_MILLIONS), "Limits"),
}
_ENVIRONMENT: Final = {"allow_hosts": "PGVISION_ALLOW_HOSTS", "allow_origins": "PGVISION_ORIGINS"}
_NO_VARIABLE: Final = frozenset({"models", "device", "dtype", "threads"})  # PGVISION_MODEL is set


def _help_texts() -> dict[str, str]:
    """Return the text of each attribute in the docstring of `ServeSettings`."""
    section = inspect.cleandoc(ServeSettings.__doc__ or "").partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): ((?:.+\n?(?:        .+\n?)*))", section, re.MULTILINE)
    return {name: " ".join(text.split()).replace("``", "'") for name, text in found}


def _parameters() -> list[inspect.Parameter]:
    """Return one option of the command line for each setting."""
    # One option and one environment variable for each setting.
    hints, texts = get_type_hints(ServeSettings), _help_texts()
    parameters = []
    for field in fields(ServeSettings):
        name, default, kind = field.name, field.default, hints[field.name]
        if kind == tuple[str, ...]:
            kind, default = list[str] | None, None
        if name in _IN_MILLIONS:
            kind, default = float, float(default) / 1e6  # type: ignore[arg-type]
        flag = _IN_MILLIONS.get(name, _FLAGS.get(name, name))
        switch = f"--{flag.replace('_', '-')}"
        variable = None if name in _NO_VARIABLE else f"PGVISION_{flag.upper()}"
        text = texts[name].replace("[", "\\[")
        if name in _IN_MILLIONS:
            text = f"{text.rstrip('.')}, in millions."
        option = typer.Option(
            switch,
            envvar=_ENVIRONMENT.get(name, variable),
            help=text,
            show_default=default is not None,
            rich_help_panel=_PANELS.get(name),
        )
        default = None if default is MISSING else default
        parameters.append(
            inspect.Parameter(
                flag,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[kind, option],
            )
        )
    return parameters


def _serve(**chosen: Any) -> None:
    """Answer over HTTP: /v1/detect, segment, caption, ask, read; a page at /.

    Routes are listed at /openapi.json, counts for Prometheus at /metrics.

    [bold]Examples[/bold]

    pgvision serve --model small --model tiny
    PGVISION_API_KEY=secret pgvision serve --host 0.0.0.0 --port 80
    curl -F image=@site.jpg -F "classes=helmet; head" localhost:8000/v1/detect
    """
    _require_packages()
    from pgvision.server import serve as run

    for name, flag in _IN_MILLIONS.items():
        chosen[name] = int(chosen.pop(flag) * 1e6)
    for name, flag in _FLAGS.items():
        chosen[name] = tuple(chosen.pop(flag) or ())
    run(ServeSettings(**chosen))


def _require_packages() -> None:
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise DependencyError(f"serve needs {', '.join(missing)}: pip install '.[serve]'")


_serve.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]
_serve.__annotations__ = {each.name: each.annotation for each in _parameters()}
_serve.__name__ = "serve"
serve = _serve
