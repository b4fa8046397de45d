"""The parts of a run's data: what is learnt from, and what is validated on."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pgvision.datasets import (
    Dataset,
    Example,
    read_examples,
    read_splits,
    split_by_hash,
)
from pgvision.errors import DataError, OptionError
from pgvision.runtime.checkpoints import CheckpointCard, find_checkpoint
from pgvision.training.finetuning.samples import ObjectSource, Samples, Source, TextSource
from pgvision.training.finetuning.settings import DataPlaces, FinetuneSettings
from vqvae import MaskCodec

_LOG = logging.getLogger(__name__)
_TRAIN = ("train", "training", "instances_train")
_VALID = ("valid", "val", "validation", "test")
_HELD_BACK = (0.1, 0.2, 0.35, 0.5)  # shares, in turn


@dataclass(frozen=True)
class Parts:
    """Training and validation part of one data set.

    Attributes:
        places: Where the data lie.
        train: What is learnt from.
        valid: What is validated on.
        settings: Of the run, as far as they concern this task.
        weight: How often it is drawn from, beside others' weights.
        codec: Of the checkpoint, for masks.
    """

    places: DataPlaces
    train: Dataset | Sequence[Example]
    valid: Dataset | Sequence[Example]
    settings: FinetuneSettings
    weight: float = 1.0
    codec: MaskCodec | None = None

    @property
    def name(self) -> str:
        """What the data are called."""
        return self.places.data.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none where the data are texts."""
        if not isinstance(self.train, Dataset):
            return ()
        return tuple(dict.fromkeys(self.train.classes))

    @property
    def questions(self) -> tuple[str, ...]:
        """The questions, as prompts ask them."""
        if isinstance(self.train, Dataset) or self.settings.task != "ask":
            return ()
        ways = (way for one in self.train for way in (one.prefix, *one.paraphrases))
        asked = (way.split(" ", 2)[-1] for way in ways if way.startswith("answer "))
        return tuple(dict.fromkeys(asked))

    @property
    def told(self) -> dict[str, Any]:
        """What the card says of the data."""
        found: dict[str, Any] = {"name": self.name, "task": self.settings.task}
        for part, data in (("training", self.train), ("validation", self.valid)):
            if isinstance(data, Dataset):
                found[part] = f"{len(data.images)} pictures, {data.num_objects} objects"
            else:
                found[part] = f"{len(data)} examples"
        if self.classes:
            found["classes"] = ", ".join(self.classes)
        return found

    @property
    def num_objects(self) -> int:
        """Boxes in a closed set's answer."""
        if self.settings.num_objects is not None or not isinstance(self.train, Dataset):
            return self.settings.num_objects or 1
        most = max(sum(not item.iscrowd for item in one.objects) for one in self.train.images)
        return max(4, -(-most * 6 // 5))

    def source(self, card: CheckpointCard) -> Source:
        """Return where samples come from.

        Args:
            card: Of the checkpoint.
        """
        if not isinstance(self.train, Dataset):
            return TextSource(self.train, self.settings)
        return ObjectSource(
            self.train,
            self.settings,
            card.kind,
            codec=self.codec,
            num_objects=self.num_objects,
        )


@dataclass(frozen=True)
class Mixture:
    """All data of a run; mostly one data set."""

    parts: tuple[Parts, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes."""
        return tuple(dict.fromkeys(name for one in self.parts for name in one.classes))

    @property
    def questions(self) -> tuple[str, ...]:
        """All questions, as prompts ask them."""
        return tuple(dict.fromkeys(text for one in self.parts for text in one.questions))

    def is_known(self, card: CheckpointCard) -> bool:
        """Whether a checkpoint has learnt before to find all that is here."""
        if card.classes is None or not self.classes or self.closed is not None:
            return False
        only_objects = all(isinstance(one.train, Dataset) for one in self.parts)
        return only_objects and set(self.classes) <= set(card.classes)

    @property
    def codec(self) -> MaskCodec | None:
        """Of the checkpoint, where masks are learnt."""
        return next((one.codec for one in self.parts if one.codec is not None), None)

    @property
    def closed(self) -> Parts | None:
        """The part that is a closed set, if one is."""
        return next((one for one in self.parts if one.settings.closed_set), None)

    @property
    def about(self) -> str:
        """What is learnt from what, in words."""
        return ", ".join(f"to {one.settings.task} on {one.name}" for one in self.parts)

    @property
    def digest(self) -> str:
        """Changes with any annotation, example, task, weight, or size of a picture's file."""
        digest = hashlib.sha256()
        for one in self.parts:
            if len(self.parts) > 1:
                digest.update(repr((one.settings.task, one.weight)).encode())
            for part in (one.train, one.valid):
                rows: Sequence[Any] = part.images if isinstance(part, Dataset) else part
                for row in rows:
                    path = row.path if isinstance(part, Dataset) else row.image
                    size = path.stat().st_size if path.exists() else -1
                    digest.update(repr((row, size)).encode())
        return digest.hexdigest()[:16]

    def samples(self, card: CheckpointCard, count: int, seed: int) -> Samples:
        """Return ``count`` samples for a checkpoint."""
        sources = [one.source(card) for one in self.parts]
        return Samples(sources, count, seed, weights=[one.weight for one in self.parts])


def read_mixture(places: Sequence[DataPlaces], settings: FinetuneSettings) -> Mixture:
    """Read all data of a run.

    Raises:
        OptionError: If there are none, or two closed sets.
    """
    if not places:
        raise OptionError("data: expected at least one data set, got none")
    parts = tuple(
        replace(read_parts(one, settings.for_task(one.task_in(settings))), weight=one.weight)
        for one in places
    )
    if sum(one.settings.closed_set for one in parts) > 1:
        raise OptionError("closed_set: one prompt cannot ask for two sets of classes; merge them")
    return Mixture(parts)


def read_parts(places: DataPlaces, settings: FinetuneSettings) -> Parts:
    """Read a data set and tell its parts apart.

    Raises:
        DataError: If there is nothing to learn, or masks are to be learnt and there are none.
        OptionError: If ``split`` is none that is there.
        SourceError: If there is nothing at the path.
    """
    name = places.data.name
    if settings.task in ("caption", "ask", "read"):
        return _texts(places, settings)
    splits = read_splits(places.data, images=places.images)
    train_name = places.split or _one_of(splits, _TRAIN) or next(iter(splits))
    if train_name not in splits:
        raise OptionError(f"split={train_name!r}: {places.data} has {', '.join(splits)}")
    train = splits[train_name]
    if places.valid is not None:
        valid = next(iter(read_splits(places.valid, images=places.valid_images).values()))
    elif (held := _one_of(splits, _VALID)) and held != train_name:
        valid = splits[held]
    else:
        train, valid = _held_back(train)
    _require_objects(train, name)
    _tell_unseen(train, valid, name)
    codec = None
    if settings.task == "segment":
        codec = MaskCodec.load(find_checkpoint(settings.model).codec)
    return Parts(places, train, valid, settings, codec=codec)


def _one_of(splits: Mapping[str, Dataset], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in splits), None)


def _held_back(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Hold a tenth of the pictures back, or more where a tenth of them is none."""
    for share in _HELD_BACK:
        try:
            parts = split_by_hash(dataset, val=share)
        except DataError as error:
            if "would hold none" not in str(error):
                raise  # a file that cannot be read
            continue
        return parts["train"], parts["val"]
    raise DataError(
        f"{len(dataset.images)} pictures are too few to hold some back for validation; name a data "
        "set to validate on: valid=..., --valid"
    )


def _require_objects(train: Dataset, name: str) -> None:
    if not any(one.objects for one in train.images):
        raise DataError(
            f"{name}: not one of {len(train.images)} pictures has an object; nothing to learn from"
        )


def _tell_unseen(train: Dataset, valid: Dataset, name: str) -> None:
    """Say which classes will be asked for that training never shows: they cannot be learnt."""
    shown = {train.names[item.category_id] for one in train.images for item in one.objects}
    unseen = sorted({*train.classes, *valid.classes} - shown)
    if unseen:
        _LOG.warning(
            "%s: the training part shows no object of %s; asked for it, the model will find none, "
            "and figures that count it are lower: take it out, or other parts",
            name, ", ".join(unseen),
        )  # fmt: skip


def _texts(places: DataPlaces, settings: FinetuneSettings) -> Parts:
    files = [places.data]
    if places.data.is_dir():
        files = sorted(places.data.glob("*.jsonl"))
    by_name = {file.stem: file for file in files}
    train_name = places.split or next((n for n in _TRAIN if n in by_name), next(iter(by_name), ""))
    if train_name not in by_name:
        raise DataError(f"{places.data}: expected JSONL files of examples, found none")
    train = read_examples(by_name[train_name], images=places.images)
    held = next((n for n in _VALID if n in by_name and n != train_name), None)
    if places.valid is not None or held is not None:
        file = places.valid or by_name[held or ""]
        valid = read_examples(file, images=places.valid_images or places.images)
        return Parts(places, train, valid, settings)
    pictures = sorted({one.image for one in train})
    kept = {p for p in pictures if _share(p) < _HELD_BACK[0]} or set(pictures[:1])
    rest = tuple(one for one in train if one.image not in kept)
    if not rest:
        raise DataError(f"{places.data}: one picture alone cannot be learnt from and validated on")
    return Parts(places, rest, tuple(one for one in train if one.image in kept), settings)


def _share(path: Path) -> float:
    digest = hashlib.sha256(path.name.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
