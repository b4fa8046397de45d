"""The parts of a run's data: what is learnt from, and what is validated on."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from pgvision.training.finetuning.samples import ObjectSource, Source, TextSource
from pgvision.training.finetuning.settings import DataPlaces, FinetuneSettings
from vqvae import MaskCodec

_TRAIN = ("train", "training", "instances_train")
_VALID = ("valid", "val", "validation", "test")
_HELD_BACK = (0.1, 0.2, 0.35, 0.5)  # shares, in turn


@dataclass(frozen=True)
class Parts:
    """Training and validation part.

    Attributes:
        name: Of the data.
        train: What is learnt from.
        valid: What is validated on.
        codec: Of the checkpoint, for masks.
    """

    name: str
    train: Dataset | Sequence[Example]
    valid: Dataset | Sequence[Example]
    codec: MaskCodec | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none where the data are texts."""
        if not isinstance(self.train, Dataset):
            return ()
        return tuple(dict.fromkeys(self.train.classes))

    @property
    def questions(self) -> tuple[str, ...]:
        """The questions, as prompts ask them."""
        if isinstance(self.train, Dataset):
            return ()
        return tuple(dict.fromkeys(one.prefix.split(" ", 2)[-1] for one in self.train))

    @property
    def told(self) -> Mapping[str, Any]:
        """What the card says of the data."""
        found: dict[str, Any] = {"name": self.name, "digest": self.digest}
        for part, data in (("training", self.train), ("validation", self.valid)):
            if isinstance(data, Dataset):
                found[part] = f"{len(data.images)} pictures, {data.num_objects} objects"
            else:
                found[part] = f"{len(data)} examples"
        if self.classes:
            found["classes"] = ", ".join(self.classes)
        return found

    @property
    def digest(self) -> str:
        """Changes with any annotation, example, or size of a picture's file."""
        digest = hashlib.sha256()
        for part in (self.train, self.valid):
            rows: Sequence[Any] = part.images if isinstance(part, Dataset) else part
            for row in rows:
                path = row.path if isinstance(part, Dataset) else row.image
                size = path.stat().st_size if path.exists() else -1
                digest.update(repr((row, size)).encode())
        return digest.hexdigest()[:16]

    def num_objects(self, settings: FinetuneSettings) -> int:
        """Boxes in a closed set's answer."""
        if settings.num_objects is not None or not isinstance(self.train, Dataset):
            return settings.num_objects or 1
        most = max(sum(not item.iscrowd for item in one.objects) for one in self.train.images)
        return max(4, -(-most * 6 // 5))

    def source(self, settings: FinetuneSettings, card: CheckpointCard) -> Source:
        """Return where samples come from."""
        if not isinstance(self.train, Dataset):
            return TextSource(self.train, settings)
        return ObjectSource(
            self.train,
            settings,
            card.kind,
            codec=self.codec,
            num_objects=self.num_objects(settings),
        )


def read_parts(places: DataPlaces, settings: FinetuneSettings) -> Parts:
    """Read the data and tell its parts apart.

    Raises:
        DataError: If there is nothing to learn, or masks are to be learnt and there are none.
        OptionError: If ``split`` is none that is there.
        SourceError: If there is nothing at the path.
    """
    name = places.data.name
    if settings.task in ("caption", "ask", "read"):
        return _texts(places, name)
    splits = read_splits(places.data, images=places.images)
    train_name = places.split or _one_of(splits, _TRAIN) or next(iter(splits))
    if train_name not in splits:
        raise OptionError(f"split={train_name!r}: {places.data} has {', '.join(splits)}")
    train = splits[train_name]
    if places.valid is not None:
        valid = next(iter(read_splits(places.valid, images=None).values()))
    elif (held := _one_of(splits, _VALID)) and held != train_name:
        valid = splits[held]
    else:
        train, valid = _held_back(train)
    _require_objects(train, name)
    codec = None
    if settings.task == "segment":
        codec = MaskCodec.load(find_checkpoint(settings.model).codec)
    return Parts(name, train, valid, codec)


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


def _texts(places: DataPlaces, name: str) -> Parts:
    files = [places.data]
    if places.data.is_dir():
        files = sorted(places.data.glob("*.jsonl"))
    by_name = {file.stem: file for file in files}
    train_name = places.split or next((n for n in _TRAIN if n in by_name), next(iter(by_name), ""))
    if train_name not in by_name:
        raise DataError(f"{places.data}: expected JSONL files of examples, found none")
    train = read_examples(by_name[train_name], images=places.images)
    if places.valid is not None:
        return Parts(name, train, read_examples(places.valid, images=places.images))
    held = next((n for n in _VALID if n in by_name and n != train_name), None)
    if held is not None:
        return Parts(name, train, read_examples(by_name[held], images=places.images))
    pictures = sorted({one.image for one in train})
    kept = {p for p in pictures if _share(p) < _HELD_BACK[0]} or set(pictures[:1])
    rest = tuple(one for one in train if one.image not in kept)
    if not rest:
        raise DataError(f"{name}: one picture alone cannot be learnt from and validated on")
    return Parts(name, rest, tuple(one for one in train if one.image in kept))


def _share(path: Path) -> float:
    digest = hashlib.sha256(path.name.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
