"""Cards of trained checkpoints, and ``pgvision.json``."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from pgvision.files import write_text
from pgvision.runtime.checkpoints import CARD_NAME, CheckpointCard, ClosedSet
from pgvision.training.data import RunData
from pgvision.training.noise import CLOSED_PREFIX, NOISE

_FROM_PLACE: Final = ("name", "location", "is_local", "base")  # the folder itself decides these


def save_card(folder: Path, card: CheckpointCard) -> None:
    """Write ``pgvision.json`` as `find_checkpoint` reads it, without empty fields."""
    fields = {
        name: value
        for name, value in asdict(card).items()
        if name not in _FROM_PLACE and value not in (None, {}, ())
    }
    if card.classes == ():
        fields["classes"] = []
    write_text(folder / CARD_NAME, json.dumps(fields, indent=1, ensure_ascii=False) + "\n")


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
