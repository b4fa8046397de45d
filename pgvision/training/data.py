"""Data of a run: parts, checks before the first step, a summary in words."""

import difflib
import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from pgvision.datasets import (
    Dataset,
    Example,
    ImageRecord,
    read_examples,
    read_splits,
    training_part,
    validation_part,
)
from pgvision.datasets.dataset import file_digest
from pgvision.errors import DataError, ImageError, OptionError
from pgvision.images import image_hw_of
from pgvision.runtime.checkpoints import CheckpointCard
from pgvision.runtime.engine import MAX_PROMPT
from pgvision.tokens import SEPARATOR, classes_per_prompt, detect_prefix, object_text
from pgvision.training.config import DataSource, TrainConfig
from pgvision.training.losses import Collator
from pgvision.training.samples import ObjectSource, Source, TextSource, size_mismatch
from vqvae import MaskCodec

_LOG = logging.getLogger(__name__)
Part: TypeAlias = Dataset | tuple[Example, ...]
_HELD_BACK: Final = 0.1  # share of the images that are validated on where no part is named so
_LEAST_HELD: Final = 5  # images; lower bound of the validation part, but not more than a third
_THREADS: Final = 8
_SHOWN: Final = 5
_SPECIAL: Final = 4  # tokens around prompt and answer: <bos>, newline, <eos>, and one to spare


@dataclass(frozen=True)
class TaskData:
    """Training and validation part of one data set.

    Attributes:
        source: Where they come from.
        train: What is trained on.
        valid: What is validated on.
        config: Settings of the run for this task.
        train_name, valid_name: Names of the parts.
        left_out: Images that cannot be used, with the reason.
        asked_as: Class of the data -> the name that the model is asked with, where they differ.
    """

    source: DataSource
    train: Part
    valid: Part
    config: TrainConfig
    train_name: str
    valid_name: str
    left_out: Mapping[str, str] = field(default_factory=dict)
    asked_as: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.source.data.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Names that the model is asked with; none for texts."""
        return tuple(dict.fromkeys(self.train.classes)) if isinstance(self.train, Dataset) else ()

    @property
    def questions(self) -> tuple[str, ...]:
        """Questions without their prompt words."""
        if isinstance(self.train, Dataset):
            return ()
        ways = (way for one in self.train for way in (one.prefix, *one.paraphrases))
        asked = (way.split(" ", 2)[-1] for way in ways if way.startswith("answer "))
        return tuple(dict.fromkeys(asked))

    @property
    def num_objects(self) -> int:
        """Boxes in an answer of a closed set: a fifth more than any image has."""
        if self.config.max_objects is not None or not isinstance(self.train, Dataset):
            return self.config.max_objects or 1
        most = max(sum(not item.iscrowd for item in one.objects) for one in self.train.images)
        return max(4, -(-most * 6 // 5))

    @property
    def summary(self) -> dict[str, str]:
        """Counts for the terminal and the card."""
        found = {"name": self.name, "task": self.config.task}
        for part, name, data in (
            ("training", self.train_name, self.train),
            ("validation", self.valid_name, self.valid),
        ):
            if isinstance(data, Dataset):
                found[part] = f"{len(data.images)} images, {data.num_objects} objects ({name})"
            else:
                found[part] = f"{len(data)} examples ({name})"
        if isinstance(self.train, Dataset):
            counts = count_objects(self.train)
            found["classes"] = ", ".join(f"{name} ({counts.get(name, 0)})" for name in self.classes)
        return found

    def train_source(self, card: CheckpointCard, max_side: int, collator: Collator) -> Source:
        """Return the source of training samples.

        Args:
            card: Of the checkpoint.
            max_side: Longest side of images in pixels.
            collator: Of the run; it counts tokens.
        """
        if not isinstance(self.train, Dataset):
            return TextSource(self.train, self.config, max_side)
        # As many objects as fit with the longest prompt; all answers of a closed set have the same.
        names = sorted(self.classes, key=collator.num_tokens)[-classes_per_prompt(card.kind) :]
        prompt = collator.num_tokens(detect_prefix(names, kind=card.kind)) + _SPECIAL
        fitting = (collator.text_places - prompt) // self._tokens_per_object(collator)
        most = self.config.max_objects or max(1, fitting)
        if self.config.closed_set:
            most = self.num_objects
        codec = MaskCodec.load(card.codec) if self.config.task == "segment" else None
        return ObjectSource(self.train, self.config, card.kind, codec, most, max_side)

    def valid_source(self, card: CheckpointCard, max_side: int, collator: Collator) -> Source:
        """Return the source of samples for the validation loss, unchanged images."""
        most = self.num_objects if self.config.closed_set else self.config.max_objects
        config = replace(self.config, augment=False, max_objects=most)
        return replace(self, train=self.valid, config=config).train_source(card, max_side, collator)

    def _tokens_per_object(self, collator: Collator) -> int:
        codes = range(16) if self.config.task == "segment" else ()
        texts = (object_text([0, 0, 1, 1], name, codes) + SEPARATOR for name in self.classes)
        return max(map(collator.num_tokens, texts), default=1)

    def fitting(self, collator: Collator) -> "TaskData":
        """Return the data without examples that the model would cut off.

        Raises:
            OptionError: If the answers of a closed set do not fit.
            DataError: If no example fits.
        """
        places = collator.text_places - _SPECIAL
        # 1. Objects: a source chooses as many as fit; a closed set has a fixed number.
        if isinstance(self.train, Dataset) or isinstance(self.valid, Dataset):
            tokens = self.num_objects * self._tokens_per_object(collator)
            if self.config.closed_set and tokens > places:
                raise OptionError(
                    f"closed_set: answers of {self.num_objects} boxes have {tokens} tokens, the "
                    f"model takes {places}; set max_objects, or cut the images into tiles"
                )
            return self
        # 2. Texts: what the engine refuses to read or the model would cut off.
        bad: dict[str, str] = {}
        count = lru_cache(None)(collator.num_tokens)

        def fits(example: Example) -> bool:
            ways = (example.prefix, *example.paraphrases)
            prompt = max(map(count, ways))
            tokens, reason = prompt + count(example.suffix), ""
            if any("<image>" in way for way in ways):
                reason = "the prompt contains <image>, which is added for you"
            elif prompt + _SPECIAL > MAX_PROMPT:
                reason = f"the prompt has {prompt} tokens, at most {MAX_PROMPT - _SPECIAL} are read"
            elif tokens > places:
                reason = f"prompt and answer have {tokens} tokens, the model takes {places}"
            if reason:
                bad[f"{example.image}, {example.prefix!r:.60}"] = reason
            return not reason

        train = tuple(example for example in self.train if fits(example))
        valid = tuple(example for example in self.valid if fits(example))
        for name, reason in bad.items():
            _LOG.warning("left out: %s: %s", name, reason)
        if not train or not valid:
            raise DataError(
                f"{self.name}: no example can be used: {'; '.join([*bad.values()][:1])}"
            )
        return replace(self, train=train, valid=valid, left_out={**self.left_out, **bad})


@dataclass(frozen=True)
class RunData:
    """All data of a run, mostly one data set."""

    tasks: tuple[TaskData, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes, as the model is asked with."""
        return tuple(dict.fromkeys(name for one in self.tasks for name in one.classes))

    @property
    def questions(self) -> tuple[str, ...]:
        """All questions."""
        return tuple(dict.fromkeys(text for one in self.tasks for text in one.questions))

    @property
    def asked_as(self) -> dict[str, str]:
        """Class of the data -> the name that the model is asked with, where they differ."""
        return {name: other for one in self.tasks for name, other in one.asked_as.items()}

    def unknown_classes(self, card: CheckpointCard) -> tuple[str, ...]:
        """Return classes that the checkpoint's card does not list; none if it lists none."""
        known = card.classes
        return () if known is None else tuple(n for n in self.classes if n not in known)

    def is_known(self, card: CheckpointCard) -> bool:
        """Return whether the checkpoint was trained on all classes."""
        only_objects = all(isinstance(one.train, Dataset) for one in self.tasks)
        plain = only_objects and self.closed is None and card.classes is not None
        return plain and bool(self.classes) and not self.unknown_classes(card)

    @property
    def closed(self) -> TaskData | None:
        """The data set that is a closed set, if one is."""
        return next((one for one in self.tasks if one.config.closed_set), None)

    @property
    def about(self) -> str:
        """One line for the card."""
        return ", ".join(f"{one.config.task} on {one.name}" for one in self.tasks)

    @property
    def digest(self) -> str:
        """Digest of annotations, file names and sizes, without the folders they are in."""
        digest = hashlib.sha256()
        for one in self.tasks:
            digest.update(repr((one.config.task, one.source.weight, one.asked_as)).encode())
            for part in (one.train, one.valid):
                for path, content in _contents(part):
                    size = path.stat().st_size if path.exists() else -1
                    digest.update(repr((size, content)).encode())
        return digest.hexdigest()[:16]

    def renamed(self, names: Mapping[str, str]) -> "RunData":
        """Return the data with classes that the model is asked for by other names."""
        return RunData(tuple(_renamed(one, names) for one in self.tasks))


def read_data(sources: Sequence[DataSource], config: TrainConfig) -> RunData:
    """Read all data of a run, and leave out what could not be trained on.

    Raises:
        OptionError: If there are none, two closed sets, or a part that is not there.
        DataError: If there is nothing to learn, or the parts cannot be identified.
        SourceError: If there is nothing at a path.
    """
    if not sources:
        raise OptionError("data: expected at least one data set, got none")
    tasks = tuple(_read_task(one, one.config_in(config)) for one in sources)
    if sum(one.config.closed_set for one in tasks) > 1:
        raise OptionError("closed_set: one prompt cannot ask for two sets of classes; merge them")
    if config.closed_set and not any(one.config.closed_set for one in tasks):
        raise OptionError("closed_set: no data set of this run has the task detect")
    data = RunData(tasks)
    parts = [part for one in tasks for part in (one.train, one.valid)]
    known = {name for part in parts for name in getattr(part, "classes", ())}
    for name in config.rename:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1) or sorted(known)
            raise OptionError(f"rename: no class is named {name!r}; there is {', '.join(near)}")
    return data.renamed(config.rename)


def count_objects(dataset: Dataset) -> dict[str, int]:
    """Return the number of objects of each class name."""
    return Counter(
        dataset.names[item.category_id] for image in dataset.images for item in image.objects
    )


def _read_task(source: DataSource, config: TrainConfig) -> TaskData:
    of_texts = config.task in ("caption", "ask", "read")
    # 1. Find the parts by their names; without a validation part some images are split off.
    find = _find_texts if of_texts else read_splits
    parts, images = find(source.data, images=source.images), source.images
    chosen = training_part(parts, source.split, source=source.data)
    train = _read(parts[chosen], images)
    if source.valid is not None:
        images = source.valid_images or (images if of_texts else None)
        others = find(source.valid, images=images)
        valid_name = validation_part(others, source=source.valid) or next(iter(others))
        valid = _read(others[valid_name], images)
        valid_name = f"{source.valid.name}: {valid_name}"
    elif (named := validation_part(parts, source=source.data, beside=chosen)) is not None:
        valid, valid_name = _read(parts[named], images), named
    else:
        train, valid = _hold_back(train, source)
        valid_name = "held back"
    # 2. Leave out what would end the run when it is drawn.
    left_out: dict[str, str] = {}
    train = _usable(train, config, left_out, f"{source.data.name}: {chosen}")
    valid = _usable(valid, config, left_out, f"{source.data.name}: {valid_name}")
    for name, reason in left_out.items():
        _LOG.warning("left out: %s: %s", name, reason)
    # 3. Learnable and measurable?
    if isinstance(train, Dataset) and isinstance(valid, Dataset):
        _require_objects(train, valid, source.data.name)
    _warn_leaks(train, valid, source.data.name)
    return TaskData(source, train, valid, config, chosen, valid_name, left_out)


def _read(part: Dataset | Path, images: Path | None) -> Part:
    return part if isinstance(part, Dataset) else read_examples(part, images=images)


def _find_texts(data: Path, *, images: Path | None) -> Mapping[str, Path]:
    """Return the JSONL files of the parts; only those that are needed are read."""
    files = sorted(data.rglob("*.jsonl")) if data.is_dir() else [data]
    if not files:
        raise DataError(f"{data}: expected JSONL files of examples, found none")
    stems = {file.stem: file for file in files}
    if len(stems) < len(files):  # train/annotations.jsonl, valid/annotations.jsonl
        stems = {str(file.relative_to(data).with_suffix("")): file for file in files}
    return stems


def _contents(part: Part) -> list[tuple[Path, object]]:
    """Return what identifies each image or example, without its folder."""
    if isinstance(part, Dataset):
        return [(one.path, (one.file_name, one.image_hw, one.objects)) for one in part.images]
    return [(one.image, (one.image.name, *one[1:])) for one in part]


def _paths(part: Part) -> list[Path]:
    return [path for path, _ in _contents(part)]


def _kept(part: Part, wanted: Callable[[Path], bool]) -> Part:
    if isinstance(part, Dataset):
        return replace(part, images=tuple(one for one in part.images if wanted(one.path)))
    return tuple(one for one in part if wanted(one.image))


def _hold_back(part: Part, source: DataSource) -> tuple[Part, Part]:
    """Split off the images with the lowest digests: deterministic, copies stay together."""
    keys = {path: _digest(path) for path in dict.fromkeys(_paths(part))}
    digests = sorted(set(keys.values()))
    count = max(round(_HELD_BACK * len(digests)), min(_LEAST_HELD, len(digests) // 3))
    if not 0 < count < len(digests):
        raise DataError(
            f"{source.data}: {len(digests)} images are too few to hold some back for validation; "
            "name a data set to validate on: valid=..., --valid"
        )
    held = set(digests[:count])
    return (
        _kept(part, lambda path: keys[path] not in held),
        _kept(part, lambda path: keys[path] in held),
    )


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except (DataError, OSError):
        return hashlib.sha256(path.name.encode(errors="surrogateescape")).hexdigest()


def _usable(part: Part, config: TrainConfig, left_out: dict[str, str], name: str) -> Part:
    """Return a part without images that cannot be used; their reasons go to ``left_out``."""
    rows: Sequence[ImageRecord | Example] = part.images if isinstance(part, Dataset) else part

    # 1. Read the headers of all images, in threads.
    def reason(row: ImageRecord | Example) -> str | None:
        path = row.path if isinstance(row, ImageRecord) else row.image
        try:
            size = image_hw_of(path)
        except (ImageError, OSError) as error:
            return str(error).removeprefix(f"{path}: ")
        if not isinstance(row, ImageRecord):
            return None
        if size != row.image_hw:
            return size_mismatch(size, row.image_hw)
        no_mask = [one for one in row.objects if one.segmentation is None and not one.iscrowd]
        if config.task == "segment" and no_mask:
            return "an object has no mask; task 'segment' needs one for each object"
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        reasons = list(pool.map(reason, rows))
    # 2. Refuse a data set with more than half of its images unusable.
    bad = {
        str(path): why for path, why in zip(_paths(part), reasons, strict=True) if why is not None
    }
    if len(bad) > len(set(_paths(part))) // 2:
        examples = "; ".join(f"{path}: {why}" for path, why in list(bad.items())[:_SHOWN])
        raise DataError(
            f"{name}: {len(bad)} of {len(rows)} images cannot be used: {examples}. See "
            "pgvision convert --check"
        )
    left_out |= bad
    return _kept(part, lambda path: str(path) not in bad)


def _require_objects(train: Dataset, valid: Dataset, name: str) -> None:
    shown = count_objects(train)
    if not shown:
        raise DataError(f"{name}: none of {len(train.images)} images has an object to learn from")
    if not valid.num_objects:
        raise DataError(
            f"{name}: none of the {len(valid.images)} validation images has an object, so there is "
            "no AP; name another data set to validate on: --valid"
        )
    if unseen := sorted({*train.classes, *valid.classes} - set(shown)):
        _LOG.warning(
            "%s: the training part has no object of %s: these classes cannot be learnt, and lower "
            "the mean figures", name, ", ".join(unseen),
        )  # fmt: skip


def _warn_leaks(train: Part, valid: Part, name: str) -> None:
    """Warn of files that are in both parts: metrics on them do not measure generalisation."""
    sizes: dict[int, tuple[set[Path], set[Path]]] = defaultdict(lambda: (set(), set()))
    for which, part in enumerate((train, valid)):
        for path in _paths(part):
            sizes[path.stat().st_size][which].add(path)
    shared = []
    for first, second in sizes.values():
        if first and second:
            digests = {_digest(path) for path in first}
            shared += [path.name for path in sorted(second) if _digest(path) in digests]
    if shared:
        more = f" and {len(shared) - _SHOWN} more" if len(shared) > _SHOWN else ""
        _LOG.warning(
            "%s: %d validation images are in the training part too, so figures are too high: %s%s",
            name, len(shared), ", ".join(shared[:_SHOWN]), more,
        )  # fmt: skip


def _renamed(data: TaskData, names: Mapping[str, str]) -> TaskData:
    if not isinstance(data.train, Dataset) or not isinstance(data.valid, Dataset):
        return data
    mine = {one: names[one] for one in data.train.classes if names.get(one, one) != one}
    if not mine:
        return data
    train, valid = (
        part.rename({old: new for old, new in names.items() if old in part.classes})
        for part in (data.train, data.valid)
    )
    return replace(data, train=train, valid=valid, asked_as={**data.asked_as, **mine})


def sample_part(part: Part, count: int, seed: int) -> Part:
    """Return a random sample of a part's images, the same for a seed; all if there are fewer."""
    paths = list(dict.fromkeys(_paths(part)))
    if len(paths) <= count:
        return part
    rng = np.random.default_rng([seed, len(paths)])
    chosen = {paths[int(at)] for at in rng.choice(len(paths), count, replace=False)}
    return _kept(part, lambda path: path in chosen)
