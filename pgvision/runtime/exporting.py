"""Write a checkpoint as one folder: merged weights, and ONNX graphs that point into them."""

import shutil
from pathlib import Path
from typing import Final

from pgvision.errors import OptionError
from pgvision.runtime.checkpoint_files import read_tensor_table
from pgvision.runtime.checkpoints import CheckpointCard, find_checkpoint, read_json, save_card
from pgvision.runtime.onnx_graph import decoder_graph, vision_graph

GRAPHS: Final = ("vision.onnx", "prompt.onnx", "step.onnx")


def export_checkpoint(model: str | Path | None, out: Path) -> Path:
    """Write a checkpoint with its adapter merged, and its ONNX graphs.

    The folder is a checkpoint like any other; tasks need no export to run on ONNX Runtime. The
    graphs (`vision.onnx`, `prompt.onnx`, `step.onnx`; inputs and outputs as in
    `pgvision.runtime.onnx_graph`) are a few kilobytes each, for use by other programs.

    Args:
        model: See `pgvision.runtime.find_checkpoint`.
        out: A new folder.

    Returns:
        ``out``.

    Raises:
        OptionError: If ``out`` is not empty.
        CheckpointError: If the checkpoint cannot be loaded.
    """
    import torch

    from pgvision.runtime.loading import load_apart

    # 1. Check the folder.
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"{out}: expected a new or an empty folder; name another")
    # 2. Load; adapters are merged in float32, then rounded.
    engine = load_apart(model, device="cpu", dtype="float32")
    # 3. Write to a temporary folder, so that an interrupted export leaves no partial checkpoint.
    out.mkdir(parents=True, exist_ok=True)
    aside = out / ".aside"
    try:
        engine.model.to(getattr(torch, _stored_dtype(engine.card))).save_pretrained(aside)
        engine.processor.save_pretrained(aside)
        save_card(aside, engine.card)
        _write_graphs(aside)
        for file in aside.iterdir():
            file.replace(out / file.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out


def _write_graphs(folder: Path) -> None:
    # Weights that no graph uses are refused when the folder is opened.
    config, tensors = read_json(folder / "config.json"), read_tensor_table(folder)
    text, used = config["text_config"], set[str]()
    graphs = (
        vision_graph(tensors, config["vision_config"], text["hidden_size"], used),
        decoder_graph(tensors, text, used, is_cached=False),
        decoder_graph(tensors, text, used, is_cached=True),
    )
    for name, graph in zip(GRAPHS, graphs, strict=True):
        (folder / name).write_bytes(graph)


def _stored_dtype(card: CheckpointCard) -> str:
    """Return the number type of a checkpoint's own weights; of the hub's: bfloat16."""
    own = card if card.base is None else find_checkpoint(card.base)
    if not own.is_local:
        return "bfloat16"
    config = read_json(Path(own.location) / "config.json")
    stored = config.get("dtype") or config.get("torch_dtype")
    return stored if stored in ("float16", "bfloat16") else "float32"
