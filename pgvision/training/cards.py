"""Writes what a finished checkpoint is and knows beside its weights."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pgvision.files import write_text
from pgvision.runtime.checkpoints import CARD_NAME, CheckpointCard
from pgvision.scenes.wordings import first_forms, trained_forms


def write_card(folder: Path, *, about: str, classes: Sequence[str]) -> None:
    """Write ``pgvision.json``: kind, codec, the classes and the questions that were trained.

    Args:
        folder: The checkpoint.
        about: One line for the log.
        classes: What it can be asked to find.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_card(folder, about="a test", classes=["helmet"])
        >>> json.loads((folder / "pgvision.json").read_text(encoding="utf-8"))["classes"]
        ['helmet']
    """
    questions = tuple(form for question in first_forms() for form in trained_forms(question))
    name = str(folder)
    save_card(
        folder,
        CheckpointCard(name, name, "tiny", "tiny", True, None, about, tuple(classes), questions),
    )


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
