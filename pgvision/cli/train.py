"""`pgvision train`: fine-tune a checkpoint on one's own data; it ends in AP."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pgvision.cli.console import Meter, say
from pgvision.cli.exit_codes import DONE, INTERRUPTED, end
from pgvision.cli.model_options import Device, Model
from pgvision.cli.options import INPUT_PANEL, OUTPUT_PANEL, ImagesFolder, takes
from pgvision.errors import OptionError

if TYPE_CHECKING:
    from pgvision.training.finetuning import FinetuneReport
    from pgvision.training.finetuning.settings import DataPlaces

LENGTH_PANEL = "Length (give one)"
RECIPE_PANEL = "Recipe"


def _recipe(text: str, **more: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=RECIPE_PANEL, **more)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What ``pgvision train`` takes; `FinetuneSettings` says more of each."""

    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATASET...",
            help="COCO, YOLO, VOC, LabelMe or JSONL; a folder may hold train and valid. "
            "Of several, TASK=DATASET says what to learn from each.",
            show_default=False,
        ),
    ]
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="The checkpoint, and its states while it runs. The same command goes on.",
            show_default=False,
            rich_help_panel=OUTPUT_PANEL,
        ),
    ]
    task: Annotated[
        Literal["detect", "segment", "caption", "ask", "read", "mix"],
        typer.Option(
            help="What to learn; caption, ask and read take JSONL examples. mix: each DATASET has "
            "its own, and where none is said, JSONL is for ask, others for detect."
        ),
    ] = "detect"
    weights: Annotated[
        str | None,
        typer.Option(
            help="How often each DATASET is drawn from, such as 2,1.", show_default="all alike"
        ),
    ] = None
    model: Model = None
    device: Device = None
    images: ImagesFolder = None
    split: Annotated[
        str | None,
        typer.Option(help="Train on this part.", show_default="train", rich_help_panel=INPUT_PANEL),
    ] = None
    valid: Annotated[
        Path | None,
        typer.Option(
            metavar="DATASET",
            help="Validate on another set.",
            show_default="valid, val or test of DATASET, else a tenth of it",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = None
    valid_images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the images of that set lie.",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = None
    steps: Annotated[int | None, typer.Option(min=1, rich_help_panel=LENGTH_PANEL)] = None
    epochs: Annotated[float | None, typer.Option(rich_help_panel=LENGTH_PANEL)] = None
    minutes: Annotated[
        float | None, typer.Option(help="Default: 10.", rich_help_panel=LENGTH_PANEL)
    ] = None
    batch_size: Annotated[int, _recipe("Examples in a batch.", min=1)] = 8
    accumulation: Annotated[int, _recipe("Batches in a step.", min=1)] = 1
    learning_rate: Annotated[
        float | None, _recipe("At its highest.", show_default="what suits model and method")
    ] = None
    lora: Annotated[
        int | None,
        _recipe("Train adapters of this rank instead of all weights.", min=1, metavar="RANK"),
    ] = None
    four_bit: Annotated[
        bool, _recipe("Adapters over 4-bit weights (QLoRA; needs bitsandbytes).")
    ] = False
    keep_adapter: Annotated[bool, _recipe("Write the adapter alone, not merged weights.")] = False
    freeze_vision: Annotated[bool, _recipe("Leave the vision tower as it is.")] = False
    vision_share: Annotated[float, _recipe("The vision tower's share of the rate.")] = 0.05
    closed_set: Annotated[
        bool, _recipe("Google's detection recipe: all classes at once, noise boxes, scores.")
    ] = False
    num_objects: Annotated[
        int | None, _recipe("Boxes in a closed set's answer.", min=1, show_default="from the data")
    ] = None
    order: Annotated[
        Literal["left", "raster", "area", "random"] | None,
        _recipe("Of objects in an answer.", show_default="what suits the model"),
    ] = None
    augment: Annotated[bool, _recipe("Mirror, crop and relight pictures.")] = True
    label_smoothing: Annotated[float, _recipe("Share spread over the vocabulary.")] = 0.0
    loc_sigma: Annotated[float, _recipe("Spread of a coordinate over bins beside it.")] = 4.0
    token_mean: Annotated[
        bool | None,
        _recipe(
            "Every token counts alike, however long its answer.", show_default="yes for objects"
        ),
    ] = None
    mask_loss: Annotated[float, _recipe("Weight of BCE and Dice of decoded masks.")] = 0.0
    loc_weight: Annotated[float, _recipe("What a coordinate counts in the loss of tokens.")] = 1.0
    seg_weight: Annotated[float, _recipe("What a mask's code counts.")] = 1.0
    label_weight: Annotated[float, _recipe("What a word counts.")] = 1.0
    end_weight: Annotated[float, _recipe("What separators and the end count.")] = 1.0
    resolution: Annotated[
        int | None, _recipe("Side of the picture; position embeddings follow.", min=1)
    ] = None
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None,
        _recipe("Of the arithmetic.", show_default="what suits the device"),
    ] = None
    checkpointing: Annotated[bool, _recipe("Recompute activations: less memory.")] = False
    eval_every: Annotated[
        int | None, _recipe("Steps between validations.", min=1, show_default="five in all")
    ] = None
    eval_limit: Annotated[int, _recipe("Pictures in a validation on the way.", min=1)] = 64
    patience: Annotated[
        int | None, _recipe("Stop after so many validations without a better figure.", min=1)
    ] = None
    ema: Annotated[float, _recipe("Decay of averaged weights; 0: none.")] = 0.0
    seed: Annotated[int, _recipe("Of all chance.")] = 0
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the report as JSON.", rich_help_panel=OUTPUT_PANEL),
    ] = False


_PLACES = ("data", "images", "split", "valid", "valid_images", "weights")
_OWN = ("out", "device", "lora", "four_bit", "as_json")


@takes(TrainOptions)
def train(*, options: TrainOptions) -> None:
    """Fine-tune on your own data; ends in AP (or exact match) on pictures it never learnt from.

    DIR then is a checkpoint: pgvision detect helmet site.jpg --model DIR. A stopped or killed run
    goes on with the same command.

    [bold]Examples[/bold]

    pgvision train helmets/ --model small --minutes 10 --out runs/helmets
    pgvision train helmets/ --model google/paligemma2-3b-pt-448 --lora 8 --epochs 5 --out runs/pg2
    pgvision train helmets/ --closed-set --steps 2000 --out runs/closed
    pgvision train detect=helmets/ ask=questions.jsonl --task mix --weights 2,1 --out runs/both
    """
    from pgvision.training.finetuning import FinetuneSettings, finetune
    from pgvision.training.finetuning.binding import is_first

    given = {name: getattr(options, name) for name in TrainOptions.__dataclass_fields__}
    places = _places(options)
    recipe = {name: value for name, value in given.items() if name not in (*_PLACES, *_OWN)}
    if options.lora is not None:
        recipe |= {"method": "qlora" if options.four_bit else "lora", "rank": options.lora}
    if all(recipe[name] is None for name in ("steps", "epochs", "minutes")):
        recipe["minutes"] = 10.0
    settings = FinetuneSettings(**recipe)
    if len(places) > 1:
        for one in places:
            say(f"{one.data}: {one.task_in(settings)}, drawn {one.weight:g} times")
    with Meter("steps", options.steps) as meter:
        report = finetune(
            places, options.out, settings, device=options.device, progress=_shown(meter)
        )
    if is_first():  # of several processes one speaks
        _tell(report, as_json=options.as_json)
    end(DONE if report.finished else INTERRUPTED)


def _places(options: TrainOptions) -> "list[DataPlaces]":
    """Return each data set with its task and weight."""
    from pgvision.training.finetuning.settings import TASKS, DataPlaces

    try:
        weights = [float(one) for one in options.weights.split(",")] if options.weights else []
    except ValueError as error:
        raise OptionError(
            f"--weights: expected numbers such as 2,1, got {options.weights!r}"
        ) from error
    if weights and len(weights) != len(options.data):
        raise OptionError(f"--weights: {len(weights)} for {len(options.data)} data sets")
    of_one = {name: getattr(options, name) for name in ("images", "split", "valid", "valid_images")}
    if len(options.data) > 1 and any(of_one.values()):
        raise OptionError(
            "--images, --split, --valid, --valid-images: for one DATASET; with several, let "
            "folders hold the parts train and valid, or use pgvision.training.finetuning"
        )
    found = []
    for text, weight in zip(options.data, weights or [1.0] * len(options.data), strict=True):
        word, _, rest = text.partition("=")
        task = next((one for one in TASKS if rest and one == word), None)
        place = DataPlaces(
            data=Path(rest if task else text),
            task=task,
            weight=weight,
            **of_one,
        )
        found.append(place)
    return found


def _shown(meter: Meter) -> Callable[[int, int, float | None], None]:
    def progress(step: int, steps: int, loss: float | None) -> None:
        meter.total = steps
        meter.advance(step - meter.done)

    return progress


def _tell(report: "FinetuneReport", *, as_json: bool) -> None:
    for name, reason in report.unread.items():
        say(f"left out: {name}: {reason}", style="yellow")
    for name, count in report.too_long.items():
        say(f"longer than it is written by default: {name}: {count} tokens", style="yellow")
    if as_json:
        typer.echo(json.dumps(asdict(report) | {"folder": str(report.folder)}))
        return
    if not report.finished:
        say(f"stopped at step {report.steps}; the same command goes on")
        return
    say(f"{report.folder}: the best of {report.steps} steps is that of step {report.best_step}")
    for name, value in report.after.items():
        before = report.before.get(name)
        was = "" if before is None else f" (before: {before:.3f})"
        typer.echo(f"{name}: {value:.3f}{was}")
