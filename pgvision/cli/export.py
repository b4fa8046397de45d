"""`pgvision export`: one folder with merged weights and ONNX graphs."""

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
        Literal["float32", "float16", "bfloat16"] | None,
        typer.Option(help="Number type of the weights.", show_default="what the checkpoint has"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Write a checkpoint as one folder: adapters merged, with ONNX graphs for other programs.

    pgvision itself needs no export: small checkpoints run on ONNX Runtime as they are.

    [bold]Examples[/bold]

    pgvision export --model runs/helmets/adapter --out helmets-merged
    pgvision export --model small --out small-onnx --weights float32
    """
    import json

    from pgvision.runtime.exporting import export_checkpoint

    folder = export_checkpoint(model, out, weights=weights)
    files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "files": files}))
    else:
        for name, size in files.items():
            typer.echo(f"{size:>12,}  {folder / name}")
    end(DONE)
