"""Writes what a finished checkpoint is and knows beside its weights."""

import json
from collections.abc import Sequence
from pathlib import Path

from pgvision.files import write_text
from pgvision.runtime.checkpoints import CARD_NAME
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
    card = {
        "kind": "tiny",
        "codec": "tiny",
        "about": about,
        "classes": list(classes),
        "questions": [form for question in first_forms() for form in trained_forms(question)],
    }
    write_text(folder / CARD_NAME, json.dumps(card, indent=1) + "\n")
