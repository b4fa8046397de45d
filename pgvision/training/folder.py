"""The folder of a run: its identity, its complete checkpoints, the card of the trained one."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from pgvision.errors import CheckpointError, OptionError
from pgvision.hub import hub_if_it_answers
from pgvision.runtime.checkpoints import CheckpointCard, ClosedSet
from pgvision.training.data import RunData
from pgvision.training.samples import CLOSED_PREFIX, NOISE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_LOG = logging.getLogger(__name__)
_CHECKPOINT: Final = re.compile(r"checkpoint-\d+")
_PRIVATE: Final = ("*.jpg", "run.json", "run.yaml", ".lock")  # what is not uploaded to the hub
_SAMPLE: Final = 1 << 20  # bytes of a weights file that are compared, at three places


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Raise the errors of safetensors, torch, tokenizers and the system as CheckpointError.

    Raises:
        CheckpointError: If what is written in the block cannot be.
        Exception: Any other error, as it is.

    Yields:
        None.
    """
    try:
        yield
    except Exception as error:
        # On a full disk torch raises RuntimeError, and tokenizers a bare Exception.
        is_write_error = isinstance(error, SafetensorError | RuntimeError | OSError)
        if not is_write_error and type(error) is not Exception:
            raise
        raise CheckpointError(
            f"{path}: cannot be written: {_first_line(error)}. The previous checkpoint is "
            "intact: make room, and give the same command again"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder of a run, and keep other runs out of it.

    Raises:
        OptionError: If it cannot be made or written, or another process trains in it.

    Yields:
        None.
    """
    is_new, file = not folder.exists(), folder / ".lock"
    lock = FileLock(file)
    # A second process would remove the checkpoint that the first one is writing.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise OptionError(
            f"out: another process trains in {folder}; wait for its end, or give another folder"
        ) from error
    except OSError as error:
        raise OptionError(
            f"out: {folder} is no folder that can be written: {error.strerror}; give another one"
        ) from error
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            if is_new and {*folder.iterdir()} <= {file}:  # an error came before the first file
                file.unlink(missing_ok=True)  # Windows has removed it
                folder.rmdir()


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
    # A closed set is asked for as it was trained.
    closed = card.closed_set
    if (part := data.closed) is not None:
        closed = ClosedSet(CLOSED_PREFIX, part.classes, part.num_objects, NOISE)
    of_texts = any(one.config.task in ("caption", "ask", "read") for one in data.tasks)
    # Whether the new images are photographs or drawings is not known.
    with_masks = {n for one in data.tasks if one.config.task == "segment" for n in one.classes}
    trained_on = {k: v for k, v in card.trained_on.items() if k not in data.classes}
    masks_on = {k: v for k, v in card.masks_on.items() if k not in with_masks}
    # Thresholds and false alarms were measured on other weights.
    return replace(
        card, about=f"{card.name}, fine-tuned to {data.about}", classes=classes,
        questions=questions, closed_set=closed, notes=None, synonyms=synonyms, thresholds={},
        least_presence={}, false_alarms={}, trained_on=trained_on, masks_on=masks_on,
        text_domain=None if of_texts else card.text_domain,
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
    # Fine-tuned copies of one checkpoint have equal names and sizes: only their content differs.
    digest = hashlib.sha256()
    for file in sorted(Path(card.location).glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as stream:
            for start in (0, size // 2, max(0, size - _SAMPLE)):
                stream.seek(start)
                digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()[:16]


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, by their steps; other folders of the user are not."""
    found = (path for path in folder.glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name))
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def last_checkpoint(folder: Path, *, remove: bool = True) -> Path | None:
    """Return the newest complete checkpoint of a run.

    Args:
        folder: Of the run.
        remove: Remove newer ones, which are incomplete.
    """
    for path in reversed(checkpoints(folder)):
        try:  # the trainer's state is written last
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            if remove:
                shutil.rmtree(path)
            continue
        return path
    return None


@contextmanager
def _hub(action: str, repository: str) -> Iterator["HfApi"]:
    from huggingface_hub import HfApi

    try:
        with hub_if_it_answers():
            yield HfApi()
    except (OSError, ValueError) as error:
        raise OptionError(
            f"push_to_hub: {repository} cannot be {action}: {_first_line(error)}. Check "
            "the name, the network and your token: hf auth login"
        ) from error


def make_repository(repository: str) -> None:
    """Make the hub's repository of a run before its first step.

    Raises:
        OptionError: If the hub refuses it.
    """
    with _hub("made", repository) as api:
        api.create_repo(repository, exist_ok=True)


def push(folder: Path, repository: str) -> None:
    """Upload a finished checkpoint without its states, images of the user, and paths.

    Raises:
        OptionError: If the hub refuses it; the same command tries again.
    """
    with _hub(f"filled from {folder}, which is complete", repository) as api:
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, ignore_patterns=["checkpoint-*", *_PRIVATE]
        )
    _LOG.info("uploaded to https://huggingface.co/%s", repository)
