"""What a fine-tuning run is; a resumed one is held to it."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pgvision.errors import OptionError

Task = Literal["detect", "segment", "caption", "ask", "read", "mix"]
TASKS: Final[tuple[Task, ...]] = get_args(Task)
Method = Literal["full", "lora", "qlora"]
Order = Literal["left", "raster", "area", "random"]
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "task": TASKS,
    "method": get_args(Method),
    "order": get_args(Order),
    "dtype": ("float32", "bfloat16"),
}
LANGUAGE_LAYERS: Final = tuple("q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split())
_LENGTHS: Final = ("steps", "epochs", "minutes")
_KINDS: Final = ("loc_weight", "seg_weight", "label_weight", "end_weight")


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """Everything that decides what comes out.

    Attributes:
        task: What to learn. The data of "caption", "ask" and "read" are JSONL examples; "mix": each
            data set has a task of its own.
        model: Where to begin: ``"small"``, ``"tiny"``, a folder or a hub id.
        steps, epochs, minutes: How long; one of them. Minutes are measured before the first step.
        batch_size: Examples that go through the model together, on each process.
        accumulation: So many such batches make a step.
        learning_rate: At its highest; None: for checkpoints of our own 1e-4 where they know all
            classes (they have something to lose), else 5e-4; 2e-4 for LoRA, 1e-5 for all of a
            Google checkpoint's weights.
        warmup: Share of the steps over which the rate rises; then it falls as a cosine.
        method: All weights, low-rank adapters (LoRA), or these over 4-bit weights (QLoRA).
        rank: Of the adapters.
        targets: Names of the layers that get adapters.
        keep_adapter: Write the adapter alone instead of merged weights.
        freeze_vision: Leave the vision tower as it is.
        vision_share: The vision tower's share of the rate: pretrained eyes forget at what small
            language models need (ours, DINOv2's, at 1.5e-4 within a few hundred steps).
        closed_set: Google's recipe for detection: one prompt for all classes, true boxes in random
            order, the answer filled with noise boxes; see `pgvision.training.noise`.
        num_objects: Boxes in such an answer; None: a fifth more than any picture has.
        order: Of objects in an answer; None: "left" for the carried checkpoints, else "raster".
        negatives: How often a picture is asked for a class that it does not show.
        augment: Mirror, crop and relight pictures; boxes and masks follow. Texts keep the geometry,
            since they may speak of left and right.
        label_smoothing: Share of the target that is spread over the vocabulary.
        loc_sigma: Spread of a coordinate's target over neighbouring bins; 0: none.
        token_mean: Every token counts alike. False: mean over tokens, then examples, as in
            PaliGemma's article. There the one token of an empty answer weighs as much as all of a
            crowd's, and crowds come to be answered with nothing. None: True for objects.
        mask_loss: Weight of BCE and Dice between decoded and true masks.
        loc_weight, seg_weight, label_weight, end_weight: What a coordinate, a mask's code, a word,
            and a separator or the end of an answer count in the loss of its tokens.
        resolution: Side of the picture; position embeddings are interpolated. None: as it is.
        dtype: Of the arithmetic; None: bfloat16 on a GPU and on processors that multiply it (twice
            as fast), else float32.
        checkpointing: Recompute activations instead of keeping them.
        eval_every: Steps between validations; None: five in all.
        eval_limit: Pictures in a validation during training; the first and the last take all.
        patience: Stop after so many validations without a better figure; None: never.
        ema: Decay of the averaged weights that are validated and written; 0: none.
        seed: Of all chance.

    Raises:
        OptionError: If a value is outside its range.

    Example:
        >>> FinetuneSettings(task="detect", steps=100).batch_size
        8
    """

    task: Task = "detect"
    model: str | None = None
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    batch_size: int = 8
    accumulation: int = 1
    learning_rate: float | None = None
    warmup: float = 0.05
    method: Method = "full"
    rank: int = 8
    targets: tuple[str, ...] = LANGUAGE_LAYERS
    keep_adapter: bool = False
    freeze_vision: bool = False
    vision_share: float = 0.05
    closed_set: bool = False
    num_objects: int | None = None
    order: Order | None = None
    negatives: float = 0.15
    augment: bool = True
    label_smoothing: float = 0.0
    loc_sigma: float = 4.0
    token_mean: bool | None = None
    mask_loss: float = 0.0
    loc_weight: float = 1.0
    seg_weight: float = 1.0
    label_weight: float = 1.0
    end_weight: float = 1.0
    resolution: int | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    checkpointing: bool = False
    eval_every: int | None = None
    eval_limit: int = 64
    patience: int | None = None
    ema: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in values:
                raise OptionError(f"{name}: expected one of {', '.join(values)}, got {value!r}")
        given = [name for name in _LENGTHS if getattr(self, name) is not None]
        if len(given) != 1:
            raise OptionError(f"give one of {', '.join(_LENGTHS)}; got {' and '.join(given) or 0}")
        above = (*given, "batch_size", "accumulation", "learning_rate", "rank", "num_objects")
        for name in (*above, "resolution", "eval_every", "eval_limit", "patience"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise OptionError(f"{name}: expected more than 0, got {value}")
        for name in ("warmup", "negatives", "label_smoothing", "ema"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise OptionError(f"{name}: expected a share in [0, 1), got {getattr(self, name)}")
        for name in ("loc_sigma", "vision_share", "mask_loss", *_KINDS):
            if getattr(self, name) < 0.0:
                raise OptionError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if self.closed_set and self.task not in ("detect", "mix"):
            raise OptionError(f"closed_set: answers hold boxes alone; task is {self.task!r}")
        if self.mask_loss and self.task not in ("segment", "mix"):
            raise OptionError(f"mask_loss: answers of task {self.task!r} hold no masks")
        if not any(getattr(self, name) for name in _KINDS):
            raise OptionError(f"{', '.join(_KINDS)} are all 0; nothing would be learnt")

    @property
    def counts_tokens(self) -> bool:
        """Whether every token counts alike."""
        about_objects = self.task in ("detect", "segment", "mix")
        return about_objects if self.token_mean is None else self.token_mean

    def rate_for(self, kind: str, *, knows: bool = False) -> float:
        """Return the rate at its highest.

        Args:
            kind: Of the checkpoint.
            knows: Whether it has learnt to find all of the classes before.
        """
        if self.learning_rate is not None:
            return self.learning_rate
        if self.method != "full":
            return 2e-4
        if kind != "tiny":
            return 1e-5
        return 1e-4 if knows else 5e-4

    def for_task(self, task: Task) -> "FinetuneSettings":
        """Return what of the settings concerns one data set of a mixture."""
        return replace(
            self,
            task=task,
            closed_set=self.closed_set and task == "detect",
            mask_loss=self.mask_loss if task == "segment" else 0.0,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the settings as plain data, for the run's own record."""
        return asdict(self) | {"targets": list(self.targets)}


@dataclass(frozen=True, kw_only=True)
class DataPlaces:
    """Where the data lie.

    Attributes:
        data: A data set of any of the formats, or JSONL examples; a folder may hold splits.
        images: Image folder; None: where the format has it.
        split: Which part to train on; None: "train" where there are several.
        valid: Another data set to validate on; None: the part "valid", "val" or "test" of
            ``data``, and failing that a tenth of the pictures, chosen by their names.
        valid_images: Image folder of ``valid``; None: where the format has it, and for JSONL
            ``images``.
        task: What is learnt from it; None: the task of the settings, and in a mixture "ask" for
            JSONL, else "detect".
        weight: In a mixture, how often it is drawn from beside the others' weights.

    Raises:
        OptionError: If the weight is not above 0, the task is none of one data set, or an image
            folder is named for a validation set that is not.
    """

    data: Path
    images: Path | None = None
    split: str | None = None
    valid: Path | None = None
    valid_images: Path | None = None
    task: Task | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise OptionError(f"weight: expected more than 0, got {self.weight}")
        if self.valid_images is not None and self.valid is None:
            raise OptionError("valid_images: the folder of another set to validate on; name valid")
        if self.task is not None and self.task not in TASKS[:-1]:
            raise OptionError(f"task: expected one of {', '.join(TASKS[:-1])}, got {self.task!r}")

    def task_in(self, settings: FinetuneSettings) -> Task:
        """Return what is learnt from it in a run."""
        if self.task is not None or settings.task != "mix":
            return self.task or settings.task
        return "ask" if self.data.suffix == ".jsonl" else "detect"
