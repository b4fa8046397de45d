"""Settings of a fine-tuning run: one dataclass, its YAML file, and what a resume must repeat."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, get_args

import yaml

from pgvision.errors import OptionError
from pgvision.files import write_text

Task = Literal["detect", "segment", "caption", "ask", "read", "mix"]
TASKS: Final[tuple[Task, ...]] = get_args(Task)
Order = Literal["left", "raster", "area", "random"]
Dtype = Literal["float32", "bfloat16", "float16"]
LANGUAGE_LAYERS: Final = tuple("q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split())
LENGTHS: Final = ("steps", "epochs", "minutes")
TOKEN_KINDS: Final = ("loc", "seg", "label", "end")
_CHOICES: Final = {"task": TASKS, "order": get_args(Order), "dtype": get_args(Dtype)}
_LIMITS: Final[tuple[tuple[tuple[str, ...], str, Callable[[float], bool]], ...]] = (
    ((
        *LENGTHS, "batch_size", "accumulation", "learning_rate", "lora", "max_objects",
        "num_objects", "resolution", "eval_every", "eval_limit", "patience",
    ), "more than 0", lambda value: value > 0),
    (("warmup", "negatives", "label_smoothing", "ema", "lora_dropout"), "a share in [0, 1)",
     lambda value: 0 <= value < 1),
    (("loc_sigma", "vision_rate", "embedding_rate", "mask_loss", "workers"), "0 or more",
     lambda value: value >= 0),
)  # fmt: skip
# Settings that a resumed run may change: they do not change what a step computes.
_FREE: Final = frozenset((
    *LENGTHS, "eval_every", "eval_limit", "eval_all", "eval_absent", "patience", "checkpointing",
    "workers", "report_to", "push_to_hub", "keep_states", "keep_adapter", "dtype", "model",
))  # fmt: skip


def _option(default: Any, text: str, *, flag: bool = True) -> Any:
    """Return a dataclass field with its help; ``flag``: also an option of ``pgvision train``."""
    metadata = {"help": text, "flag": flag}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


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
        OptionError: If the weight is not above 0, the task is unknown, or ``valid_images`` is given
            without ``valid``.
    """

    data: Path
    images: Path | None = None
    split: str | None = None
    valid: Path | None = None
    valid_images: Path | None = None
    task: Task | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("data", "images", "valid", "valid_images"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else Path(value))
        if self.weight <= 0:
            raise OptionError(f"weight: expected more than 0, got {self.weight}")
        if self.valid_images is not None and self.valid is None:
            raise OptionError("valid_images: give valid, the data set that they belong to")
        if self.task is not None and self.task not in TASKS[:-1]:
            raise OptionError(f"task: expected one of {', '.join(TASKS[:-1])}, got {self.task!r}")

    def task_in(self, config: "TrainConfig") -> Task:
        """Return what is learnt from it in a run."""
        if self.task is not None or config.task != "mix":
            return self.task or config.task
        return "ask" if self.data.suffix == ".jsonl" else "detect"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a run; ``pgvision train --help`` and each field's metadata describe them.

    Raises:
        OptionError: If a value is outside its range, or two do not go together.

    Example:
        >>> TrainConfig(steps=100).batch_size
        8
    """

    task: Task = _option(
        "detect", "What to learn; caption, ask and read take JSONL. mix: each DATASET has its own."
    )
    model: str | None = _option(
        None, "Checkpoint to start from: 'small', 'tiny', a folder, an adapter or a hub id."
    )
    steps: int | None = _option(None, "Optimiser steps.")
    epochs: float | None = _option(None, "Passes over the training images.")
    minutes: float | None = _option(None, "Wall-clock time, validation included; default: 10.")
    batch_size: int = _option(8, "Samples that go through the model together, on each process.")
    accumulation: int = _option(1, "Batches in an optimiser step.")
    learning_rate: float | None = _option(
        None, "Peak learning rate; default: 2e-4 for LoRA, 1e-5 for Google's weights, 5e-4 for ours"
        " (1e-4 where they were trained on all of the classes)."
    )  # fmt: skip
    warmup: float = _option(0.05, "Share of the run over which the rate rises.", flag=False)
    lora: int | None = _option(None, "Train adapters of this rank instead of all weights.")
    lora_targets: tuple[str, ...] = _option(
        LANGUAGE_LAYERS, "Layers of the language model that get adapters.", flag=False
    )
    lora_dropout: float = _option(0.0, "Dropout in front of the adapters.", flag=False)
    four_bit: bool = _option(False, "Adapters over 4-bit weights (QLoRA); needs --lora.")
    keep_adapter: bool = _option(False, "Write the adapter alone, not merged weights.")
    freeze_vision: bool = _option(False, "Do not train the vision tower.", flag=False)
    vision_rate: float | None = _option(
        None, "Learning rate of the vision tower, as a share of the rate; default: 0.05 for "
        "checkpoints of kind tiny, 1 for others.", flag=False
    )  # fmt: skip
    embedding_rate: float | None = _option(
        None, "The embeddings' share of the rate; default: 1, and 4 where a class has a name that "
        "the checkpoint was not trained on.", flag=False
    )  # fmt: skip
    closed_set: bool = _option(
        False, "Google's detection recipe: one prompt for all classes, noise boxes, class scores."
    )
    num_objects: int | None = _option(None, "Boxes in an answer of a closed set.", flag=False)
    max_objects: int | None = _option(
        None, "Learn at most this many objects of a class in an image, a random choice each time."
    )
    rename: dict[str, str] = _option({}, "Ask for a class by another name, such as 'WBC=cell'.")
    match_names: bool = _option(
        True, "Compare unknown class names with the trained class that finds the same objects."
    )
    order: Order | None = _option(None, "Order of objects in an answer.", flag=False)
    negatives: float = _option(0.15, "Share of prompts for a class that is absent.", flag=False)
    augment: bool = _option(True, "Mirror, crop and relight images.")
    label_smoothing: float = _option(0.0, "Share spread over the vocabulary.", flag=False)
    loc_sigma: float = _option(
        4.0, "Spread of a coordinate's target over neighbouring bins; 0: none.", flag=False
    )
    token_mean: bool | None = _option(
        None, "Every token has equal weight in the loss. False: mean over tokens, then samples, as "
        "in PaliGemma's article, where an empty answer's one token weighs as much as a crowd. "
        "Default: True for objects.", flag=False
    )  # fmt: skip
    token_weights: dict[str, float] = _option(
        {}, "Loss weights of token kinds: loc, seg, label, end.", flag=False
    )
    mask_loss: float = _option(0.0, "Weight of BCE and Dice of decoded masks.", flag=False)
    resolution: int | None = _option(
        None, "Side of the model's input; position embeddings are interpolated."
    )
    dtype: Dtype | None = _option(None, "Type of the arithmetic; default by device.", flag=False)
    checkpointing: bool = _option(False, "Recompute activations in the backward pass: less memory.")
    workers: int | None = _option(
        None, "Processes that read and resize images; default: 4 with a GPU, else 0.", flag=False
    )
    eval_every: int | None = _option(None, "Steps between validations; default: five in all.")
    eval_limit: int = _option(64, "Images in a validation, a random sample.")
    eval_all: bool = _option(False, "Validate on all images and ask for all classes.")
    eval_absent: int = _option(3, "Absent classes to ask for in each validation image.", flag=False)
    patience: int | None = _option(None, "Stop after this many validations without improvement.")
    ema: float = _option(0.0, "Decay of averaged weights, which are validated and written; 0: none"
                         ".", flag=False)  # fmt: skip
    report_to: tuple[str, ...] = _option(
        (), "Integrations of transformers: tensorboard, wandb, mlflow, all.", flag=False
    )
    push_to_hub: str | None = _option(None, "Upload the finished checkpoint to this repository.")
    keep_states: bool = _option(False, "Keep the run's checkpoints when it is finished.")
    seed: int = _option(0, "Random seed.")

    def __post_init__(self) -> None:
        # 1. Choices.
        for name, values in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in values:
                raise OptionError(f"{name}: expected one of {', '.join(values)}, got {value!r}")
        for name in ("report_to", "lora_targets"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        # 2. Exactly one length; 10 minutes by default.
        given = [name for name in LENGTHS if getattr(self, name) is not None]
        if len(given) > 1:
            raise OptionError(f"{' and '.join(given)}: give one of {', '.join(LENGTHS)}")
        if not given:
            object.__setattr__(self, "minutes", 10.0)
        # 3. Ranges.
        for names, expected, holds in _LIMITS:
            for name in names:
                value = getattr(self, name)
                if value is not None and not holds(value):
                    raise OptionError(f"{name}: expected {expected}, got {value}")
        self._require_consistent()

    def _require_consistent(self) -> None:
        # 1. Options that need another option.
        for name in ("four_bit", "keep_adapter"):
            if getattr(self, name) and self.lora is None:
                raise OptionError(f"{name} needs lora, the rank of the adapters: --lora 8")
        if self.num_objects is not None and not self.closed_set:
            raise OptionError("num_objects is for closed_set: --closed-set")
        if self.keep_adapter and self.resolution is not None:
            raise OptionError("keep_adapter: an adapter has its base's resolution; leave one out")
        if self.closed_set and self.task not in ("detect", "mix"):
            raise OptionError(f"closed_set: answers contain boxes only; task is {self.task!r}")
        if self.mask_loss and self.task not in ("segment", "mix"):
            raise OptionError(f"mask_loss: answers of task {self.task!r} contain no masks")
        # 2. Token weights.
        weights = {**dict.fromkeys(TOKEN_KINDS, 1.0), **self.token_weights}
        lowest, *_, highest = sorted(weights.values())
        if len(weights) > len(TOKEN_KINDS) or lowest < 0 or highest == 0:
            raise OptionError(
                f"token_weights: expected numbers from 0 on, not all 0, of {', '.join(TOKEN_KINDS)}"
                f"; got {self.token_weights}"
            )

    @property
    def weighs_tokens_equally(self) -> bool:
        """Whether every token has equal weight in the loss."""
        about_objects = self.task in ("detect", "segment", "mix")
        return about_objects if self.token_mean is None else self.token_mean

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
    model: str | None
    steps: int | None
    epochs: float | None
    minutes: float | None
    batch_size: int
    accumulation: int
    learning_rate: float | None
    warmup: float
    lora: int | None
    lora_targets: tuple[str, ...]
    lora_dropout: float
    four_bit: bool
    keep_adapter: bool
    freeze_vision: bool
    vision_rate: float | None
    embedding_rate: float | None
    closed_set: bool
    num_objects: int | None
    max_objects: int | None
    rename: dict[str, str]
    match_names: bool
    order: Order | None
    negatives: float
    augment: bool
    label_smoothing: float
    loc_sigma: float
    token_mean: bool | None
    token_weights: dict[str, float]
    mask_loss: float
    resolution: int | None
    dtype: Dtype | None
    checkpointing: bool
    workers: int | None
    eval_every: int | None
    eval_limit: int
    eval_all: bool
    eval_absent: int
    patience: int | None
    ema: float
    report_to: tuple[str, ...]
    push_to_hub: str | None
    keep_states: bool
    seed: int


def as_plain(value: TrainConfig | DataSource) -> dict[str, Any]:
    """Return settings as plain data for YAML and JSON."""
    found = asdict(value)
    for name, one in found.items():
        if isinstance(one, tuple | Path):
            found[name] = list(one) if isinstance(one, tuple) else str(one)
    return found


def save_config(path: Path, config: TrainConfig, data: tuple[DataSource, ...]) -> None:
    """Write the YAML file that repeats a run: ``pgvision train --config run.yaml --out DIR``."""
    default = {**as_plain(TrainConfig()), "minutes": None}  # a length is always written
    plain = {name: one for name, one in as_plain(config).items() if one != default[name]}
    sources = [{k: v for k, v in as_plain(one).items() if v not in (None, 1.0)} for one in data]
    text = yaml.safe_dump({"data": sources, **plain}, sort_keys=False, allow_unicode=True)
    write_text(path, text)


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
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise OptionError(f"config: {path} cannot be read: {error}") from error
    if not isinstance(content, Mapping):
        raise OptionError(f"config: {path}: expected settings by name, such as 'steps: 100'")
    settings = dict(content)
    given = settings.pop("data", [])
    # A path, a mapping, or a list of these.
    sources = [given] if isinstance(given, str | Mapping) else list(given)
    data = []
    for one in sources:
        entry = {"data": one} if isinstance(one, str) else dict(one)
        _require_names(entry, DataSource, f"{path}: data")
        data.append(DataSource(**entry))
    _require_names(settings, TrainConfig, str(path))
    return tuple(data), settings


def _require_names(given: Mapping[str, Any], target: type[Any], place: str) -> None:
    known = [one.name for one in fields(target)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; expected {', '.join(known)}"
            raise OptionError(f"config: {place}: unknown setting {name!r}{hint}")
