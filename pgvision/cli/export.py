"""`pgvision export`: a checkpoint for onnxruntime, without torch."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pgvision.cli.exit_codes import DONE, end
from pgvision.cli.model_options import Model


def export(
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder.", show_default=False)
    ],
    model: Model = None,
    weights: Annotated[
        Literal["float32", "float16", "bfloat16", "int8"] | None,
        typer.Option(
            help="What weights are written in; int8 rounds them.",
            show_default="what the checkpoint has",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Write a checkpoint as ONNX: vision tower, and one graph for prompts and answers.

    Tasks take the folder as --model and need no torch for it (extra onnx). PaliGemma 1 and 2, and
    the carried checkpoints; in memory all but int8 are float32, 4 bytes a parameter.

    [bold]Examples[/bold]

    pgvision export --model small --out small-onnx
    pgvision detect helmet site.jpg --model small-onnx
    pgvision export --model small --weights int8 --out small-int8
    """
    import json

    from pgvision.runtime.onnx_export import export_onnx

    folder = export_onnx(model, out, weights=weights)
    files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "files": files}))
    else:
        for name, size in files.items():
            typer.echo(f"{size:>12,}  {folder / name}")
    end(DONE)
