"""Writes what a bundled checkpoint knows beside its weights."""

from collections.abc import Sequence
from pathlib import Path

from pgvision.runtime.checkpoints import CheckpointCard, save_card
from recipes.scenes.wordings import first_forms, trained_forms


def write_card(folder: Path, *, about: str, classes: Sequence[str]) -> None:
    """Write ``pgvision.json``: kind, codec, the classes and the questions that were trained.

    Args:
        folder: The checkpoint.
        about: One line for the log.
        classes: What it can be asked to find.

    Example:
        >>> import json, tempfile
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
