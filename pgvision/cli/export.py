"""`pgvision export`: one folder with merged weights and ONNX graphs."""

import json
from pathlib import Path
from typing import Literal

import typer


def export(
    *,
    out: Path,
    model: str | None = None,
    weights: Literal["float32", "float16", "bfloat16"] | None = None,
    as_json: bool = False,
) -> None:
    """Write a checkpoint as one folder: adapters merged, with ONNX graphs for other programs.

    pgvision itself needs no export: small checkpoints run on ONNX Runtime as they are.

    Examples:
    pgvision export --model runs/helmets/adapter --out helmets-merged
    pgvision export --model small --out small-onnx --weights float32

    Args:
        out: A new folder.
        model: Hub id, folder, "tiny" or "small"; None: PGVISION_MODEL, else "small".
        weights: Number type of the weights; None: what the checkpoint has.
        as_json: Print the files as JSON.
    """
    from pgvision.runtime.exporting import export_checkpoint

    folder = export_checkpoint(model, out, weights=weights)
    files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "files": files}))
        return
    for name, size in files.items():
        typer.echo(f"{size:>12,}  {folder / name}")
