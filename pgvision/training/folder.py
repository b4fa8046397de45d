"""The folder of a run: its identity, its complete checkpoints, the card of the trained one."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgvision.errors import OptionError
from pgvision.runtime.checkpoints import CheckpointCard, ClosedSet
from pgvision.training.data import RunData
from pgvision.training.noise import CLOSED_PREFIX, NOISE


def card_after(card: CheckpointCard, data: RunData) -> CheckpointCard:
    """Return the card of the trained checkpoint."""
    classes, questions = card.classes, card.questions
    if classes is not None:
        classes = tuple(dict.fromkeys((*classes, *data.classes)))
    if questions is not None:
        questions = tuple(dict.fromkeys((*questions, *data.questions)))
    synonyms = dict(card.synonyms)
    for name, other in data.asked_as.items():
        if classes is None or other in classes:
            synonyms[other] = tuple(dict.fromkeys((*synonyms.get(other, ()), name)))
    closed = card.closed_set
    if (part := data.closed) is not None:
        closed = ClosedSet(CLOSED_PREFIX, part.classes, part.num_objects, NOISE)
    of_texts = any(one.config.task in ("caption", "ask", "read") for one in data.tasks)
    # Thresholds and false alarms were measured on other weights.
    return replace(
        card, about=f"{card.name}, fine-tuned to {data.about}", classes=classes,
        questions=questions, closed_set=closed, notes=None, synonyms=synonyms, thresholds={},
        false_alarms={}, text_domain=None if of_texts else card.text_domain,
    )  # fmt: skip


def require_same(folder: Path, known: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Check that a folder's run is the one that is to be resumed.

    Args:
        folder: Of the run.
        known: Identity of the run that the folder contains.
        identity: Identity of the run to be resumed.

    Raises:
        OptionError: If they differ; it names what has changed.
    """
    changed = "; ".join(
        f"{name} was {known.get(name)!r} and is {identity.get(name)!r}"
        for name in sorted({*known, *identity})
        if known.get(name) != identity.get(name)
    )
    if changed:
        raise OptionError(
            f"out: {folder} contains a run with other settings: {changed}. Give it the same "
            "again, or another folder"
        )


def model_identity(card: CheckpointCard) -> str:
    """Return a name of the base checkpoint that does not change with its folder."""
    if not card.is_local or card.name in ("tiny", "small"):
        return card.name
    files = sorted(Path(card.location).glob("*.safetensors"))
    return " ".join(f"{file.name}:{file.stat().st_size}" for file in files) or card.name


def last_checkpoint(folder: Path, *, remove: bool = True) -> Path | None:
    """Return the newest complete checkpoint of a run.

    Args:
        folder: Of the run.
        remove: Remove newer ones, which are incomplete.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in reversed(found):
        try:  # the trainer's state is written last
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            if remove:
                shutil.rmtree(path)
            continue
        return path
    return None
