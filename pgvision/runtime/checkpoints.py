"""Checkpoint lookup, metadata and digest. Needs no torch."""

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from pgvision.errors import CheckpointError, OptionError
from pgvision.runtime.tensor_files import read_json
from pgvision.tokens import KINDS

T = TypeVar("T")

TINY_FOLDER: Final = Path(__file__).parent / "tiny"
_CARRIED: Final = {"tiny": TINY_FOLDER, "small": TINY_FOLDER.with_name("small")}
DEFAULT: Final = "small"
"""Default checkpoint: the bundled model that was trained on photographs."""
CARD_NAME: Final = "pgvision.json"
_DOMAINS: Final = ("photographs", "drawings")
_ADDRESS: Final = re.compile(r"https?://[^/\s#@]+(/[^\s#]*)?(#\S+)?")
_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")
_KIND_IN_NAME: Final = re.compile(r"(?<![a-z0-9])(pt|mix|ft)(?![a-z0-9])")
_BLOCK: Final = 1 << 20  # bytes
_NUM_BLOCKS: Final = 256
"""Blocks read of a larger file for its digest, evenly spread: training changes all of it."""
_CACHE_FOLDER: Final = re.compile(r"models--[\w.-]+?--(?P<name>[\w.-]+)")  # of huggingface_hub


@dataclass(frozen=True)
class ClosedSet:
    """Prompt for all classes of a checkpoint at once, with answers of constant length.

    It was trained on answers that go on, after the last object, with boxes that show nothing
    (PaliGemma 2, arXiv 2412.03555, appendix C). The likelihood of the class is the score.

    Attributes:
        prefix: The prompt, such as ``"detect all classes"``.
        classes: The names that answers write.
        num_objects: How many boxes an answer has.
        noise: The class of boxes that show nothing; it is weighed, and never written.
    """

    prefix: str
    classes: tuple[str, ...]
    num_objects: int
    noise: str


@dataclass(frozen=True)
class CheckpointCard:
    """Metadata and location of a checkpoint; all but the first fields from its ``pgvision.json``.

    Attributes:
        name: As the user wrote it.
        location: A folder, or a hub id.
        kind: One of `pgvision.tokens.KINDS`: its prompt format.
        codec: Name of the mask codec for its codes: "google" or "tiny".
        is_local: Whether ``location`` is a folder.
        base: For a LoRA adapter the checkpoint that it changes, else None.
        about: One line for the log.
        classes: Names that it was taught to find; None: any, or unknown.
        questions: Questions that it was taught to answer; None: any, or unknown.
        max_new_tokens: Longest answer that it was taught to write; None: as PaliGemma's of the
            same kind and resolution.
        notes: What its makers want users to know.
        closed_set: How it is asked for all of its classes at once; None: it was not trained so.
        synonyms: For a class the other names that mean it: ``{"helmet": ("hard hat",)}``.
        thresholds: For a class the least score that is kept by default, measured on held-out
            images; classes without one keep every object.
        trained_on: For a class ``"photographs"`` or ``"drawings"``; missing: unknown.
        masks_on: The same for its masks: those trained on drawings only are refused on photographs.
        text_domain: ``"drawings"`` if captions, questions and readings were trained on drawings
            only, so that they are refused on photographs; None: any image, or unknown.
        false_alarms: For a kind of image the share in which a class was found that is not there,
            in [0, 1], at the threshold.
    """

    name: str
    location: str
    kind: str
    codec: str
    is_local: bool
    base: str | None
    about: str
    classes: tuple[str, ...] | None = None
    questions: tuple[str, ...] | None = None
    max_new_tokens: int | None = None
    notes: str | None = None
    closed_set: ClosedSet | None = None
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    thresholds: Mapping[str, float] = field(default_factory=dict, hash=False)
    trained_on: Mapping[str, str] = field(default_factory=dict, hash=False)
    masks_on: Mapping[str, str] = field(default_factory=dict, hash=False)
    text_domain: str | None = None
    false_alarms: Mapping[str, float] = field(default_factory=dict, hash=False)

    def longest_answer(self, resolution: int) -> int:
        """Longest answer by default: the text budget that PaliGemma was trained with."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        budget = 512 if resolution > 224 else (256 if self.kind == "mix" else 128)
        return budget - 16  # 16 tokens for the prefix

    @property
    def sure_kind(self) -> str | None:
        """Its kind, by which words may be refused before weights are read; None: not known yet.

        On the hub an unknown name counts as "ft" until the files are read.
        """
        return self.kind if self.is_local or self.kind != "ft" else None


def find_checkpoint(model: str | Path | None = None, *, kind: str | None = None) -> CheckpointCard:
    """Find out what ``model`` names, without loading weights or asking the network.

    Args:
        model: ``"tiny"``, ``"small"``, a folder, a hub id such as
            ``"google/paligemma2-3b-mix-224"``, the address of a server (see
            `pgvision.runtime.Remote`), or None for the ``PGVISION_MODEL`` of the environment and
            failing that ``"small"``.
        kind: Prompt format, if neither its ``pgvision.json`` nor its name defines it: one of
            `pgvision.tokens.KINDS`.

    Raises:
        CheckpointError: If it is neither a folder with a checkpoint nor the form of a hub id.
        OptionError: If there is no such kind.

    Example:
        >>> find_checkpoint("google/paligemma-3b-mix-224").kind
        'mix'
    """
    if kind is not None and kind not in KINDS:
        raise OptionError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    # 1. Argument, environment variable, or default.
    name = str(model) if model is not None else os.environ.get("PGVISION_MODEL") or DEFAULT
    folder = _CARRIED.get(name) or Path(name).expanduser()
    # 2. Address, folder, or hub id.
    if "://" in name:
        card = _served_card(name)
    elif folder.is_dir():
        card = _local_card(name, folder)
    elif folder.exists():
        raise CheckpointError(
            f"model: {name!r} is a file; expected a folder with config.json and weights"
        )
    elif _HUB_ID.fullmatch(name):
        named = kind_from_name(name)
        about = f"PaliGemma ({named}) from the hub"
        card = CheckpointCard(name, name, named, "google", False, None, about)
    else:
        raise CheckpointError(
            f"model: {name!r} is neither a folder nor a hub id such as "
            f'"google/paligemma2-3b-mix-224"; check the path, or use model="tiny"'
        )
    return card if kind is None else replace(card, kind=kind)


def is_address(model: str | Path | None) -> bool:
    """Whether a model is named by the address of a server.

    Example:
        >>> is_address("http://localhost:8000"), is_address("google/paligemma-3b-pt-224")
        (True, False)
    """
    return isinstance(model, str) and _ADDRESS.fullmatch(model) is not None


def _served_card(name: str) -> CheckpointCard:
    if not is_address(name):
        raise CheckpointError(
            f"model: expected http://host:port or https://host/v1#model, without a user name, got "
            f"{re.sub('//[^/]*@', '//***@', name)!r}"
        )
    address, _, served = name.partition("#")
    return card_of_served(served, address)


def card_of_served(served: str, address: str) -> CheckpointCard:
    """Return the card of a served model, from its name.

    Args:
        served: As the server calls it: a hub id, a folder, or ``"tiny"``; empty: not known yet.
        address: Of the server.

    Example:
        >>> card_of_served("google/paligemma2-3b-mix-224", "http://localhost:8000").kind
        'mix'
    """
    name = f"{address}#{served}" if served else address
    about = f"{served or 'a model'} served at {address}"
    carried = _CARRIED.get(Path(served).name) if served else None
    if carried is not None:
        return replace(
            find_checkpoint(carried), name=name, location=address, is_local=False, about=about
        )
    kind = kind_from_name(served) if served else "ft"
    return CheckpointCard(name, address, kind, "google", False, None, about)


def find_revision(
    model: str | Path | None, revision: str | None, *, kind: str | None = None
) -> CheckpointCard:
    """Find a checkpoint as `find_checkpoint` does, with its revision.

    Args:
        model: See `find_checkpoint`.
        revision: Branch, tag or commit on the hub; of a LoRA adapter in a folder, its base's.
        kind: See `find_checkpoint`.

    Raises:
        CheckpointError: See `find_checkpoint`.
        OptionError: If a revision is given and the weights lie in a folder, where transformers
            would ignore it without a word.

    Example:
        >>> find_revision("google/paligemma2-3b-mix-224", "main").kind
        'mix'
    """
    card = find_checkpoint(model, kind=kind)
    if revision is None:
        return card
    if is_address(card.location):
        raise OptionError(f"revision: {card.name} answers with what it serves; leave revision out")
    weights = card if card.base is None else find_checkpoint(card.base)
    if weights.is_local:
        raise OptionError(
            f"revision: {weights.name!r} is a folder, and only hub ids have revisions; "
            f"leave revision {revision!r} out, or name the folder that holds it"
        )
    return card


def kind_from_name(name: str) -> str:
    """Return the prompt format of a checkpoint, from its hub id or folder.

    Names follow Google's scheme; folders of huggingface_hub's cache are read as their repository.
    Other names count as fine-tuned, "ft".

    Example:
        >>> kind_from_name("/cache/models--google--paligemma2-3b-mix-448/snapshots/0a1b")
        'mix'
    """
    path = Path(name)
    cached = [found for found in map(_CACHE_FOLDER.fullmatch, path.parts) if found]
    word = (cached[-1]["name"] if cached else path.name).lower()
    if "refcoco-seg" in word:
        return "refcoco-seg"
    found = _KIND_IN_NAME.search(word)
    return found.group(1) if found else "ft"


def _local_card(name: str, folder: Path) -> CheckpointCard:
    base, _ = adapter_base(folder)
    if base is None and not (folder / "config.json").is_file():
        raise CheckpointError(
            f"model: {name!r} has no config.json; expected a folder that "
            f"save_pretrained wrote (weights, config and processor)"
        )
    kind = kind_from_name(base or str(folder.resolve()))
    about = f"PaliGemma ({kind}) from {folder}"
    card = CheckpointCard(name, str(folder.resolve()), kind, "google", True, base, about)
    path = folder / CARD_NAME
    return read_card(path, card) if path.is_file() else card


def read_card(path: Path, card: CheckpointCard) -> CheckpointCard:
    """Return ``card`` updated from a ``pgvision.json``.

    Raises:
        CheckpointError: If the file is no JSON object, or a field is not what it should be.
    """
    # 1. Check values that have a fixed set or a range.
    content = read_json(path)
    kind = str(content.get("kind", card.kind))
    if kind not in KINDS:
        raise CheckpointError(f"{path}: kind is {kind!r}, expected one of {', '.join(KINDS)}")
    limit, notes = content.get("max_new_tokens"), content.get("notes")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise CheckpointError(f"{path}: max_new_tokens is {limit!r}, expected a number above 0")
    classes = _read_words(path, content, "classes")
    text_domain = content.get("text_domain")
    share, domain = "a number in [0, 1]", f"one of {', '.join(_DOMAINS)}"
    if text_domain not in (None, *_DOMAINS):
        raise CheckpointError(f"{path}: text_domain is {text_domain!r}, expected {domain}")
    synonyms = _read_map(path, content, "synonyms", classes)
    # 2. Update the card; absent keys keep its values.
    return replace(
        card,
        kind=kind,
        codec=str(content.get("codec", card.codec)),
        about=str(content.get("about", card.about)),
        classes=classes,
        questions=_read_words(path, content, "questions"),
        max_new_tokens=limit,
        notes=None if notes is None else str(notes),
        closed_set=_read_closed_set(path, content.get("closed_set")),
        synonyms={name: _read_words(path, synonyms, name) or () for name in synonyms},
        thresholds=_read_values(path, content, "thresholds", classes, _read_share, share),
        trained_on=_read_values(path, content, "trained_on", classes, _read_domain, domain),
        masks_on=_read_values(path, content, "masks_on", classes, _read_domain, domain),
        text_domain=None if text_domain is None else str(text_domain),
        false_alarms=_read_values(path, content, "false_alarms", None, _read_share, share),
    )


def _read_map(
    path: Path, content: dict[str, Any], key: str, classes: tuple[str, ...] | None
) -> dict[str, object]:
    """Return a JSON object keyed by the card's classes (any text without ``classes``)."""
    pairs = content.get(key, {})
    if not isinstance(pairs, dict):
        raise CheckpointError(f"{path}: {key} is {pairs!r:.80}, expected an object of name: value")
    for name in pairs:
        if classes is not None and name not in classes:
            raise CheckpointError(f"{path}: {key} names {name!r}, which is not in 'classes'")
    return pairs


def _read_values(
    path: Path,
    content: dict[str, Any],
    key: str,
    classes: tuple[str, ...] | None,
    read: Callable[[object], T | None],
    expected: str,
) -> dict[str, T]:
    """Return a JSON object of which ``read`` takes each value; it returns None for a wrong one."""
    found = {}
    for name, value in _read_map(path, content, key, classes).items():
        taken = read(value)
        if taken is None:
            raise CheckpointError(f"{path}: {key} of {name!r} is {value!r}, expected {expected}")
        found[name] = taken
    return found


def _read_share(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 1 else None


def _read_domain(value: object) -> str | None:
    return str(value) if value in _DOMAINS else None


def _read_closed_set(path: Path, content: object) -> ClosedSet | None:
    if content is None:
        return None
    fields = ClosedSet.__dataclass_fields__
    if not isinstance(content, dict) or set(content) != set(fields):
        raise CheckpointError(
            f"{path}: closed_set is {content!r}, expected {', '.join(fields)}, or no closed_set"
        )
    classes = _read_words(path, content, "classes")
    number = content["num_objects"]
    if not classes or type(number) is not int or number < 1:
        raise CheckpointError(
            f"{path}: closed_set needs at least one class and a num_objects above 0, got "
            f"{content['classes']!r} and {number!r}"
        )
    return ClosedSet(str(content["prefix"]), classes, number, str(content["noise"]))


def _read_words(path: Path, content: dict[str, Any], key: str) -> tuple[str, ...] | None:
    words = content.get(key)
    if words is None:
        return None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise CheckpointError(f"{path}: {key} is {words!r}, expected a list of texts, or no {key}")
    return tuple(words)


def adapter_base(folder: Path) -> tuple[str | None, str | None]:
    """Return the checkpoint that a LoRA adapter changes and its revision; None: no adapter here.

    Raises:
        CheckpointError: If the adapter's settings cannot be read or name no base.
    """
    path = folder / "adapter_config.json"
    if not path.is_file():
        return None, None
    content = read_json(path)
    base, revision = content.get("base_model_name_or_path"), content.get("revision")
    if not isinstance(base, str) or not base:
        raise CheckpointError(f"{path}: names no base_model_name_or_path; save the adapter again")
    return base, revision if isinstance(revision, str) else None


def weights_digest(card: CheckpointCard, revision: str | None) -> str:
    """Compute a digest of a checkpoint's weights, which training changes.

    Args:
        card: The checkpoint; one of the hub has been loaded before, so that it is in the cache.
        revision: As it was loaded.

    Returns:
        A digest of all its files, or the hub's own: the commit. An adapter's base comes after it.
    """
    if is_address(card.location):
        return card.name  # a server's weights cannot be read
    if not card.is_local:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(card.location, "config.json", revision=revision)
        commit = Path(cached).parent.name if isinstance(cached, str) else revision or "main"
        return f"{card.location}@{commit}"
    digest = hashlib.sha256()
    folder = Path(card.location)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, size = file.relative_to(folder), file.stat().st_size
        if any(part.startswith(".") for part in name.parts):
            continue
        digest.update(f"{name.as_posix()}\0{size}\0".encode())
        count = min(_NUM_BLOCKS, -(-size // _BLOCK))
        with file.open("rb") as stream:
            for number in range(count):
                stream.seek((size - _BLOCK) * number // (count - 1) if size > _BLOCK else 0)
                digest.update(stream.read(_BLOCK))
    if card.base is None:
        return digest.hexdigest()
    return f"{digest.hexdigest()} on {weights_digest(find_checkpoint(card.base), revision)}"
