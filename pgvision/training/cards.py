"""Writes what a finished checkpoint is and knows beside its weights."""

import json
from dataclasses import asdict
from pathlib import Path

from pgvision.files import write_text
from pgvision.runtime.checkpoints import CARD_NAME, CheckpointCard


def save_card(folder: Path, card: CheckpointCard) -> None:
    """Write ``pgvision.json`` from what `pgvision.runtime.find_checkpoint` reads it into.

    What is None is left out, and so is what the folder says itself: its name and where it lies.
    """
    names = (
        "kind", "codec", "about", "classes", "questions", "max_new_tokens", "notes", "closed_set",
    )  # fmt: skip
    fields = {name: value for name, value in asdict(card).items() if value is not None}
    told = {name: fields[name] for name in names if name in fields}
    write_text(folder / CARD_NAME, json.dumps(told, indent=1) + "\n")
