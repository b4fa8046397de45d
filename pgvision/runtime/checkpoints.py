"""Finds a checkpoint and says what it is: kind, codec, resolution. Needs no torch."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pgvision.errors import CheckpointError, OptionError
from pgvision.tokens import KINDS

TINY_FOLDER: Final = Path(__file__).parent / "tiny"
CARD_NAME: Final = "pgvision.json"
_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")
_KIND_IN_NAME: Final = re.compile(r"-(pt|mix|ft)-")


@dataclass(frozen=True)
class CheckpointCard:
    """What a checkpoint is and where it lies.

    Attributes:
        name: As the user wrote it.
        location: A folder, or a hub id.
        kind: "pt", "mix", "ft" or "tiny": which prompts it knows.
        codec: Name of the mask codec whose codes it writes: "google" or "tiny".
        is_local: Whether ``location`` is a folder.
        base: For a LoRA adapter the checkpoint that it changes, else None.
        about: One line for the log.
    """

    name: str
    location: str
    kind: str
    codec: str
    is_local: bool
    base: str | None
    about: str


def find_checkpoint(model: str | Path | None = None) -> CheckpointCard:
    """Find out what ``model`` names, without loading weights or asking the network.

    Args:
        model: ``"tiny"``, a folder, a hub id such as ``"google/paligemma2-3b-mix-224"``, or None
            for the ``PGVISION_MODEL`` of the environment and failing that ``"tiny"``.

    Raises:
        CheckpointError: If it is neither a folder with a checkpoint nor the form of a hub id.

    Example:
        >>> find_checkpoint("google/paligemma-3b-mix-224").kind
        'mix'
    """
    name = str(model) if model is not None else os.environ.get("PGVISION_MODEL") or "tiny"
    folder = TINY_FOLDER if name == "tiny" else Path(name).expanduser()
    if folder.is_dir():
        return _local_card(name, folder)
    if folder.exists():
        raise CheckpointError(
            f"model: {name!r} is a file; expected a folder with config.json and weights"
        )
    if not _HUB_ID.fullmatch(name):
        raise CheckpointError(
            f"model: {name!r} is neither a folder nor a hub id such as "
            f'"google/paligemma2-3b-mix-224"; check the path, or use model="tiny"'
        )
    kind = _kind_from_name(name)
    return CheckpointCard(
        name, name, kind, "google", False, None, f"PaliGemma ({kind}) from the hub"
    )


def find_revision(model: str | Path | None, revision: str | None) -> CheckpointCard:
    """Find a checkpoint as `find_checkpoint` does, and hold the revision to it.

    Args:
        model: See `find_checkpoint`.
        revision: Branch, tag or commit on the hub; of a LoRA adapter, that of its base.

    Raises:
        CheckpointError: See `find_checkpoint`.
        OptionError: If a revision is given and the weights lie in a folder, where transformers
            would ignore it without a word.

    Example:
        >>> find_revision("google/paligemma2-3b-mix-224", "main").kind
        'mix'
    """
    card = find_checkpoint(model)
    if revision is None:
        return card
    weights = card if card.base is None else find_checkpoint(card.base)
    if weights.is_local:
        raise OptionError(
            f"revision: {weights.name!r} lies in a folder, and only hub ids have revisions; "
            f"leave revision {revision!r} out, or name the folder that holds it"
        )
    return card


def _kind_from_name(name: str) -> str:
    found = _KIND_IN_NAME.search(name)
    return found.group(1) if found else "ft"


def _local_card(name: str, folder: Path) -> CheckpointCard:
    base = _adapter_base(folder)
    if base is None and not (folder / "config.json").is_file():
        raise CheckpointError(
            f"model: {name!r} has no config.json; expected a folder that "
            f"save_pretrained wrote (weights, config and processor)"
        )
    card = _read_json(folder / CARD_NAME) if (folder / CARD_NAME).is_file() else {}
    kind = str(card.get("kind", _kind_from_name(base or folder.name)))
    if kind not in KINDS:
        raise CheckpointError(
            f"{folder / CARD_NAME}: kind is {kind!r}, expected one of {', '.join(KINDS)}"
        )
    codec = str(card.get("codec", "google"))
    about = str(card.get("about", f"PaliGemma ({kind}) from {folder}"))
    return CheckpointCard(name, str(folder), kind, codec, True, base, about)


def _adapter_base(folder: Path) -> str | None:
    path = folder / "adapter_config.json"
    if not path.is_file():
        return None
    base = _read_json(path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CheckpointError(f"{path}: names no base_model_name_or_path; save the adapter again")
    return base


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content
