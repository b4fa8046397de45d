"""Settings of a fine-tuning run: one dataclass, its YAML file, and what a resume must repeat."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, TypedDict, get_args

import yaml

from pgvision.errors import Count, OptionError, Range, check_options
from pgvision.files import write_text

DataTask = Literal["detect", "segment", "caption", "ask", "read"]
Task = DataTask | Literal["mix"]
Positive: TypeAlias = Annotated[float, Range(1e-9, 1e9)]
Factor: TypeAlias = Annotated[float, Range(0, 1e9)]
Part: TypeAlias = Annotated[float, Range(0, 0.99)]
Whole: TypeAlias = Annotated[int, Range(0, 2**32 - 1)]
TASKS: Final[tuple[DataTask, ...]] = get_args(DataTask)
Dtype = Literal["float32", "bfloat16", "float16"]
LENGTHS: Final = ("steps", "epochs", "minutes")
# Settings that a resumed run may change: they do not change what a step computes.
_FREE: Final = frozenset((
    *LENGTHS, "eval_every", "eval_limit", "eval_all", "patience", "checkpointing",
    "workers", "report_to", "push_to_hub", "keep_states", "keep_adapter", "dtype", "model",
))  # fmt: skip


def _hidden(default: Any) -> Any:
    """Return a field that is no option of ``pgvision train``."""
    return field(default=default, metadata={"flag": False})


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One data set of a run.

    Attributes:
        data: A data set of any format, or JSONL examples; a folder may contain several parts.
        images: Image folder; None: where the format has it.
        split: Name of the part to train on; None: the part called train.
        valid: Another data set to validate on; None: the part of ``data`` called valid, val or
            test, and without one a tenth of the images.
        valid_images: Image folder of ``valid``.
        task: What to learn from it; None: the task of the run, and in a mixture "ask" for JSONL,
            else "detect".
        weight: In a mixture, how often it is drawn relative to the others.

    Raises:
        OptionError: If a value has another type or range, or ``valid_images`` is given without
            ``valid``.
    """

    data: Path
    images: Path | None = None
    split: str | None = None
    valid: Path | None = None
    valid_images: Path | None = None
    task: DataTask | None = None
    weight: Positive = 1.0

    def __post_init__(self) -> None:
        for name in ("data", "images", "valid", "valid_images"):
            value = getattr(self, name)
            object.__setattr__(self, name, Path(value) if isinstance(value, str) else value)
        if self.data is None:
            raise OptionError("data: expected a path, got None")
        check_options(vars(self), DataSource, "a data set")
        if self.valid_images is not None and self.valid is None:
            raise OptionError("valid_images: give valid, the data set that they belong to")

    def config_in(self, config: "TrainConfig") -> "TrainConfig":
        """Return the settings of a run for this data set."""
        task = self.task or config.task
        if task == "mix":
            task = "ask" if self.data.suffix == ".jsonl" else "detect"
        return replace(config, task=task, closed_set=config.closed_set and task == "detect")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a run: options of ``pgvision train``, and some for Python and YAML only.

    Attributes:
        task: What to learn; caption, ask and read take JSONL. mix: each DATASET has its own.
        model: Checkpoint to start from: 'small', 'tiny', a folder, an adapter or a hub id.
        steps: Optimiser steps.
        epochs: Passes over the training images.
        minutes: Wall-clock time, validation included; None: 10, if no other length is given.
        batch_size: Samples that go through the model together, on each process.
        accumulation: Batches in an optimiser step.
        learning_rate: Peak learning rate; None: 2e-4 for LoRA, 1e-5 for Google's weights, 5e-4 for
            ours (1e-4 where they were trained on all of the classes).
        warmup: Share of the run over which the rate rises.
        lora: Train adapters of this rank instead of all weights.
        four_bit: Adapters over 4-bit weights (QLoRA); needs --lora.
        keep_adapter: Write the adapter alone, not merged weights.
        vision_rate: Learning rate of the vision tower, as a share of the rate; 0: do not train
            it; None: 0.05 for checkpoints of kind tiny, 1 for others.
        closed_set: Google's detection recipe: one prompt for all classes, noise boxes, class
            scores.
        max_objects: Learn at most this many objects of a class in an image, a random choice each
            time; for a closed set the number of boxes in an answer.
        rename: Ask for a class by another name, such as 'WBC=cell'; in Python a dict.
        match_names: Compare unknown class names with the trained class that finds the same objects.
        negatives: Share of prompts for a class that is absent.
        augment: Mirror, crop and relight images.
        loc_sigma: Spread of a coordinate's target over neighbouring bins; 0: none.
        resolution: Side of the model's input; position embeddings are interpolated.
        dtype: Type of the arithmetic; None: by device.
        checkpointing: Recompute activations in the backward pass: less memory.
        workers: Processes that read and resize images; None: 4 with a GPU, else 0.
        eval_every: Steps between validations; None: five in all.
        eval_limit: Images in a validation, a random sample.
        eval_all: Validate on all images and ask for all classes.
        patience: Stop after this many validations without improvement.
        report_to: Integration of transformers: tensorboard, wandb, mlflow, all.
        push_to_hub: Upload the finished checkpoint to this repository.
        keep_states: Keep the run's checkpoints when it is finished.
        seed: Random seed.

    Raises:
        OptionError: If a value has another type or range, or two do not go together.

    Example:
        >>> TrainConfig(steps=100).batch_size
        8
    """

    task: Task = "detect"
    model: str | None = None
    steps: Count | None = None
    epochs: Positive | None = None
    minutes: Positive | None = None
    batch_size: Count = 8
    accumulation: Count = 1
    learning_rate: Positive | None = None
    warmup: Part = _hidden(0.05)
    lora: Count | None = None
    four_bit: bool = False
    keep_adapter: bool = False
    vision_rate: Factor | None = _hidden(None)
    closed_set: bool = False
    max_objects: Count | None = None
    rename: dict[str, str] = field(default_factory=dict)
    match_names: bool = True
    negatives: Part = _hidden(0.15)
    augment: bool = True
    loc_sigma: Factor = _hidden(4.0)
    resolution: Count | None = None
    dtype: Dtype | None = _hidden(None)
    checkpointing: bool = False
    workers: Whole | None = _hidden(None)
    eval_every: Count | None = None
    eval_limit: Count = 64
    eval_all: bool = False
    patience: Count | None = None
    report_to: str | None = _hidden(None)
    push_to_hub: str | None = None
    keep_states: bool = False
    seed: Whole = 0

    def __post_init__(self) -> None:
        # 1. None means the default.
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None:
                value = {} if item.default is MISSING else item.default
            object.__setattr__(self, item.name, str(value) if isinstance(value, Path) else value)
        # 2. Types and ranges.
        given = dict(vars(self))
        names = given.pop("rename")
        if not isinstance(names, dict) or not all(
            isinstance(name, str) for pair in names.items() for name in pair
        ):
            raise OptionError(f"rename: expected new names by old ones, got {names!r}")
        check_options(given, TrainConfig, "train")
        # 3. Exactly one length; 10 minutes by default.
        lengths = [name for name in LENGTHS if given[name] is not None]
        if len(lengths) > 1:
            raise OptionError(f"{' and '.join(lengths)}: give one of {', '.join(LENGTHS)}")
        if not lengths:
            object.__setattr__(self, "minutes", 10.0)
        # 4. Options that are for a kind of training need it.
        for name in ("four_bit", "keep_adapter"):
            if given[name] and self.lora is None:
                raise OptionError(f"{name} needs lora: the rank of the adapters, --lora 8")
        if self.lora is not None and self.vision_rate is not None:
            raise OptionError("vision_rate: with lora only adapters are trained; leave one out")
        if self.keep_adapter and self.resolution is not None:
            raise OptionError("keep_adapter: an adapter has its base's resolution; leave one out")
        if self.closed_set and self.task not in ("detect", "mix"):
            raise OptionError(f"closed_set: answers contain boxes only; task is {self.task!r}")

    def rate_for(self, kind: str, *, is_known: bool = False) -> float:
        """Return the peak learning rate.

        Args:
            kind: Kind of the checkpoint.
            is_known: Whether the checkpoint was trained on all of the classes.
        """
        if self.learning_rate is not None:
            return self.learning_rate
        if self.lora is not None:
            return 2e-4
        if kind != "tiny":
            return 1e-5
        return 1e-4 if is_known else 5e-4

    def identity(self, num_processes: int) -> dict[str, Any]:
        """Return what a resumed run must repeat: the settings that change what a step computes."""
        kept = {name: value for name, value in as_plain(self).items() if name not in _FREE}
        size = kept.pop("batch_size") * kept.pop("accumulation") * num_processes
        return kept | {"samples in a step": size}


class TrainOptions(TypedDict, total=False):
    """Keyword arguments of `pgvision.training.train`: the fields of `TrainConfig`."""

    task: Task
    model: str | Path | None
    steps: int | None
    epochs: float | None
    minutes: float | None
    batch_size: int
    accumulation: int
    learning_rate: float | None
    warmup: float
    lora: int | None
    four_bit: bool
    keep_adapter: bool
    vision_rate: float | None
    closed_set: bool
    max_objects: int | None
    rename: dict[str, str]
    match_names: bool
    negatives: float
    augment: bool
    loc_sigma: float
    resolution: int | None
    dtype: Dtype | None
    checkpointing: bool
    workers: int | None
    eval_every: int | None
    eval_limit: int
    eval_all: bool
    patience: int | None
    report_to: str | None
    push_to_hub: str | None
    keep_states: bool
    seed: int


def as_plain(value: TrainConfig | DataSource) -> dict[str, Any]:
    """Return settings as plain data for YAML and JSON."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(value).items()}


def save_config(path: Path, config: TrainConfig, data: tuple[DataSource, ...]) -> None:
    """Write the YAML file that repeats a run: ``pgvision train --config run.yaml --out DIR``."""
    default = {**as_plain(TrainConfig()), "minutes": None}  # a length is always written
    plain = {name: one for name, one in as_plain(config).items() if one != default[name]}
    sources = [{k: v for k, v in as_plain(one).items() if v not in (None, 1.0)} for one in data]
    text = yaml.safe_dump({"data": sources, **plain}, sort_keys=False, allow_unicode=True)
    write_text(path, text)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML with the numbers of version 1.2: PyYAML reads ``1e-4`` as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_config(path: str | Path) -> tuple[tuple[DataSource, ...], dict[str, Any]]:
    """Read a YAML file of `save_config`.

    Returns:
        The data sets, and the settings by name for `TrainConfig`.

    Raises:
        OptionError: If it cannot be read, or a name in it is unknown.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "run.yaml"
        >>> save_config(file, TrainConfig(steps=5), (DataSource(data=Path("helmets")),))
        >>> load_config(file)[1]
        {'steps': 5}
    """
    try:
        content = _Loader(Path(path).read_text(encoding="utf-8")).get_single_data()
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise OptionError(f"config: {path} cannot be read: {error}") from error
    if not isinstance(content, Mapping):
        raise OptionError(f"config: {path}: expected settings by name, such as 'steps: 100'")
    settings: dict[str, Any] = {str(name): value for name, value in content.items()}
    # A path, a mapping, or a list of these.
    given = settings.pop("data", None) or []
    data = []
    for one in given if isinstance(given, list) else [given]:
        entry = {str(k): v for k, v in (one if isinstance(one, Mapping) else {"data": one}).items()}
        check_options(dict.fromkeys(entry), DataSource, f"data in {path}")
        if not isinstance(entry.get("data"), str):
            raise OptionError(f"config: {path}: data: expected the path of a data set, got {one!r}")
        data.append(DataSource(**entry))
    check_options(dict.fromkeys(settings), TrainConfig, str(path))
    return tuple(data), settings
