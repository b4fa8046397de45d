"""Checkpoint lookup, metadata and digest. Needs no torch."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

from pgvision.errors import (
    CheckpointError,
    Count,
    OptionError,
    Share,
    check_options,
    require_choice,
)
from pgvision.files import user_path, write_text
from pgvision.tokens import KINDS

TINY_FOLDER: Final = Path(__file__).parent / "tiny"
_CARRIED: Final = {"tiny": TINY_FOLDER, "small": TINY_FOLDER.with_name("small")}
DEFAULT: Final = "small"
"""Default checkpoint: the bundled model that was trained on photographs."""
CARD_NAME: Final = "pgvision.json"
_PLACE: Final = ("name", "location", "is_local", "base")  # decided by the folder
Domain = Literal["photographs", "drawings"]
_ADDRESS: Final = re.compile(r"https?://[^/\s#@]+(/[^\s#]*)?(#\S+)?")
_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")
_KIND_IN_NAME: Final = re.compile(r"(?<![a-z0-9])(pt|mix|ft)(?![a-z0-9])")
_BLOCK: Final = 1 << 20  # bytes
_NUM_BLOCKS: Final = 256
"""Blocks read of a larger file for its digest, evenly spread: training changes all of it."""
_OWN_FILE: Final = re.compile(
    r"[^.].*\.safetensors(\.index\.json)?|.*config\.json|adapter_model\.bin|pgvision\.json"
    r"|(tokenizer|special_tokens|added_tokens).*"
)
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
        least_presence: For a class the least `presence` in the image with which ``conf="auto"``
            keeps its objects; it separates images without the class better than any box's score.
        trained_on: For a class ``"photographs"`` or ``"drawings"``; missing: unknown.
        masks_on: The same for its masks: those trained on drawings only are refused on photographs.
        locations: Which bin of a coordinate's distribution a constrained answer takes: ``"mode"``,
            as `generate` does, or ``"median"`` of the bins around it. A box's first coordinate is
            always the mode. The median suits models that were trained with neighbouring bins as
            targets (soft coordinates; All in Tokens, arXiv 2301.02229).
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
    max_new_tokens: Count | None = None
    notes: str | None = None
    closed_set: ClosedSet | None = None
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    thresholds: Mapping[str, Share] = field(default_factory=dict, hash=False)
    least_presence: Mapping[str, Share] = field(default_factory=dict, hash=False)
    trained_on: Mapping[str, Domain] = field(default_factory=dict, hash=False)
    masks_on: Mapping[str, Domain] = field(default_factory=dict, hash=False)
    locations: Literal["mode", "median"] = "mode"
    text_domain: Domain | None = None
    false_alarms: Mapping[str, Share] = field(default_factory=dict, hash=False)

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


def find_checkpoint(
    model: str | Path | None = None, *, revision: str | None = None, kind: str | None = None
) -> CheckpointCard:
    """Find out what ``model`` names, without loading weights or asking the network.

    Args:
        model: ``"tiny"``, ``"small"``, a folder (one that is called "small", too, as a `Path`), a
            hub id such as ``"google/paligemma2-3b-mix-224"``, the address of a server (see
            `pgvision.runtime.Remote`), or None for the ``PGVISION_MODEL`` of the environment and
            failing that ``"small"``.
        revision: Branch, tag or commit on the hub; of a LoRA adapter in a folder, its base's.
        kind: Prompt format, if neither its ``pgvision.json`` nor its name defines it: one of
            `pgvision.tokens.KINDS`.

    Raises:
        CheckpointError: If it is neither a folder with a checkpoint nor the form of a hub id.
        OptionError: If there is no such kind, or only hub ids have revisions and this is none.

    Example:
        >>> find_checkpoint("google/paligemma-3b-mix-224").kind
        'mix'
    """
    if kind is not None:
        require_choice("kind", kind, KINDS)
    # 1. Argument, environment variable, or default.
    name = str(model) if model is not None else os.environ.get("PGVISION_MODEL") or DEFAULT
    folder = _CARRIED.get(name) or user_path(name)
    # 2. Address, folder, or hub id; what no file system can name is none.
    try:
        if isinstance(model, Path) and model.is_dir():
            folder = model  # as training returns it; the name alone is the bundled model's
        is_folder, is_there = folder.is_dir(), folder.exists()
    except (OSError, ValueError):
        is_folder = is_there = False
    if "://" in name:
        card = _served_card(name)
    elif is_folder:
        card = _local_card(name, folder)
    elif is_there:
        raise CheckpointError(
            f"model: {name!r} is a file; expected a folder with config.json and weights"
        )
    elif _HUB_ID.fullmatch(name):
        named = kind_from_name(name)
        about = f"PaliGemma ({named}) from the hub"
        card = CheckpointCard(name, name, named, "google", False, None, about)
    else:
        raise CheckpointError(
            f"model: {name!r:.200} is neither a folder nor a hub id such as "
            f'"google/paligemma2-3b-mix-224"; check the path, or use model="tiny"'
        )
    # 3. transformers would ignore the revision of a folder without a word.
    if revision is not None:
        weights = card if card.base is None else find_checkpoint(card.base)
        if weights.is_local or is_address(card.location):
            raise OptionError(
                f"revision: {weights.name!r} is a folder or a server, and only hub ids have "
                f"revisions; leave revision {revision!r} out, or name the folder that has it"
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
    # Other servers name a bundled model by its folder; other folders may be called so, too.
    path = Path(served)
    is_bundled = served in _CARRIED or path.parent.name == TINY_FOLDER.parent.name
    carried = _CARRIED.get(path.name) if is_bundled else None
    if carried is not None:
        return replace(
            find_checkpoint(carried), name=name, location=address, is_local=False, about=about
        )
    kind = kind_from_name(served) if served else "ft"
    return CheckpointCard(name, address, kind, "google", False, None, about)


def kind_from_name(name: str) -> str:
    """Return the prompt format of a checkpoint, from its hub id or folder.

    Names follow Google's scheme; folders of huggingface_hub's cache are read as their repository.
    Other names count as fine-tuned, "ft".

    Example:
        >>> kind_from_name("/cache/models--google--paligemma2-3b-mix-448/snapshots/0a1b")
        'mix'
    """
    # 1. The last word of the name.
    path = Path(name)
    cached = [found for found in map(_CACHE_FOLDER.fullmatch, path.parts) if found]
    word = (cached[-1]["name"] if cached else path.name).lower()
    # 2. "ft-refcoco-seg" comes before "ft".
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
    # An adapter has the prompts and the codec of its base, unless its own card has others.
    try:
        above = None if base is None else find_checkpoint(base)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: the base of this adapter is gone: {error}") from error
    kind = above.kind if above else kind_from_name(str(folder.resolve()))
    codec, about = above.codec if above else "google", f"PaliGemma ({kind}) from {folder}"
    card = CheckpointCard(name, str(folder.resolve()), kind, codec, True, base, about)
    path = folder / CARD_NAME
    return read_card(path, card) if path.is_file() else card


def save_card(folder: Path, card: CheckpointCard) -> None:
    """Write ``pgvision.json`` as `read_card` reads it, without empty fields."""
    fields = {
        name: value
        for name, value in asdict(card).items()
        # No classes at all is not the same as any class.
        if name not in _PLACE
        and (value not in (None, {}, ()) or (name == "classes" and value is not None))
    }
    write_text(folder / CARD_NAME, json.dumps(fields, indent=1, ensure_ascii=False) + "\n")


def read_card(path: Path, card: CheckpointCard) -> CheckpointCard:
    """Return ``card`` updated from a ``pgvision.json``; unknown fields are ignored.

    Raises:
        CheckpointError: If the file is no JSON object, or a field is not what it should be.
    """
    # 1. The known fields, with the types that the card declares.
    content = {name: value for name, value in read_json(path).items() if value is not None}
    closed_set = _read_closed_set(path, content.pop("closed_set", None))
    given = {
        item.name: _frozen(content[item.name])
        for item in fields(CheckpointCard)
        if item.name not in _PLACE and item.name in content
    }
    try:
        check_options(given, CheckpointCard, "the card")
        require_choice("kind", given.get("kind", card.kind), KINDS)
    except OptionError as error:
        raise CheckpointError(f"{path}: {error}") from error
    # 2. What is said by class must name a class.
    for name in ("synonyms", "thresholds", "least_presence", "trained_on", "masks_on"):
        classes = given.get("classes", given.get(name, ()))
        for key in given.get(name, ()):
            if key not in classes:
                raise CheckpointError(f"{path}: {name} names {key!r}, which is not in 'classes'")
    return replace(card, **given, closed_set=closed_set)


def _frozen(value: Any) -> Any:
    """Return lists as tuples, also those in an object."""
    if isinstance(value, dict):
        return {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _read_closed_set(path: Path, content: Any) -> ClosedSet | None:
    if content is None:
        return None
    fields = ClosedSet.__dataclass_fields__
    is_whole = isinstance(content, dict) and set(content) == set(fields)
    classes, count = (content[name] if is_whole else None for name in ("classes", "num_objects"))
    has_classes = isinstance(classes, list) and all(isinstance(one, str) for one in classes)
    if not has_classes or not classes or type(count) is not int or count < 1:
        raise CheckpointError(
            f"{path}: closed_set is {content!r}, expected {', '.join(fields)}, with at least one "
            "class and num_objects above 0; classes: expected a list of texts"
        )
    prefix, noise = str(content["prefix"]), str(content["noise"])
    return ClosedSet(prefix, tuple(classes), count, noise)


def adapter_base(folder: Path) -> tuple[str | None, str | None]:
    """Return the checkpoint that a LoRA adapter changes and its revision; None: no adapter here.

    Raises:
        CheckpointError: If the adapter's settings cannot be read or name no base.
    """
    # Written by peft.
    path = folder / "adapter_config.json"
    if not path.is_file():
        return None, None
    content = read_json(path)
    base, revision = content.get("base_model_name_or_path"), content.get("revision")
    if not isinstance(base, str) or not base:
        raise CheckpointError(f"{path}: names no base_model_name_or_path; save the adapter again")
    return base, revision if isinstance(revision, str) else None


def own_files(folder: Path) -> list[Path]:
    """Return the files that a checkpoint is read from; users keep images and results there, too."""
    return [
        path
        for path in sorted(folder.iterdir())
        if _OWN_FILE.fullmatch(path.name) and path.is_file()
    ]


def weights_digest(card: CheckpointCard, revision: str | None) -> str:
    """Compute a digest of a checkpoint's weights, which training changes.

    Args:
        card: The checkpoint; one of the hub has been loaded before, so that it is in the cache.
        revision: As it was loaded.

    Returns:
        A digest of its files, or the hub's own: the commit. An adapter's base comes after it.
    """
    # 1. A server's weights cannot be read; those of the hub are known by their commit.
    if is_address(card.location):
        return card.name
    if not card.is_local:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(card.location, "config.json", revision=revision)
        commit = Path(cached).parent.name if isinstance(cached, str) else revision or "main"
        return f"{card.location}@{commit}"
    # 2. Otherwise read names, sizes and contents; of large files evenly spread blocks.
    digest = hashlib.sha256()
    folder = Path(card.location)
    for file in own_files(folder):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        count = min(_NUM_BLOCKS, -(-size // _BLOCK))
        with file.open("rb") as stream:
            for number in range(count):
                stream.seek((size - _BLOCK) * number // (count - 1) if size > _BLOCK else 0)
                digest.update(stream.read(_BLOCK))
    if card.base is None:
        return digest.hexdigest()
    return f"{digest.hexdigest()} on {weights_digest(find_checkpoint(card.base), revision)}"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: If it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content
