"""`pgvision export`: a checkpoint for onnxruntime, without torch."""

from pathlib import Path
from typing import Annotated

import typer

from pgvision.cli.exit_codes import DONE, end
from pgvision.cli.model_options import Model


def export(
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder.", show_default=False)
    ],
    model: Model = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Write a checkpoint as ONNX: vision tower, and one graph for prompts and answers.

    Tasks take the folder as --model and need no torch for it (extra onnx).
    PaliGemma 1 and the carried checkpoints, up to 2 GB.

    [bold]Examples[/bold]

    pgvision export --model small --out small-onnx
    pgvision detect helmet site.jpg --model small-onnx
    """
    import json

    from pgvision.runtime.onnx_export import export_onnx

    folder = export_onnx(model, out)
    files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "files": files}))
    else:
        for name, size in files.items():
            typer.echo(f"{size:>12,}  {folder / name}")
    end(DONE)
