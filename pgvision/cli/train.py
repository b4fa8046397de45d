"""`pgvision train`: fine-tune a checkpoint on your own data."""

import json
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from pgvision.cli.console import say
from pgvision.cli.exit_codes import DONE, INTERRUPTED, end
from pgvision.cli.model_options import Device
from pgvision.cli.options import INPUT_PANEL, OUTPUT_PANEL, ImagesFolder
from pgvision.errors import OptionError
from pgvision.training.config import LENGTHS, TASKS, DataSource, TrainConfig

_RECIPE_PANEL = "Recipe"
_LENGTH_PANEL = "Length (give one)"


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Arguments that are no settings of `TrainConfig`."""

    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATASET...",
            help="COCO, YOLO, VOC, LabelMe or JSONL; a folder may contain train and valid. Of "
            "several, TASK=DATASET names what to learn from each.",
            show_default=False,
        ),
    ] = None
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", show_default=False, rich_help_panel=OUTPUT_PANEL,
            help="Folder for the checkpoint and, while it runs, its states; the same command "
            "resumes.",
        ),
    ]  # fmt: skip
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.yaml", rich_help_panel=INPUT_PANEL,
            help="Settings from a file, such as the run.yaml that each run writes; options win.",
        ),
    ] = None  # fmt: skip
    images: ImagesFolder = None
    split: Annotated[
        str | None,
        typer.Option(help="Train on this part.", show_default="train", rich_help_panel=INPUT_PANEL),
    ] = None
    valid: Annotated[
        Path | None,
        typer.Option(
            metavar="DATASET",
            help="Validate on another data set.",
            show_default="valid, val or test of DATASET, else a tenth of it",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = None
    valid_images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Image folder of that data set.", rich_help_panel=INPUT_PANEL
        ),
    ] = None
    device: Device = None
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the report as JSON.", rich_help_panel=OUTPUT_PANEL),
    ] = False


def _flag(name: str, hint: Any, text: str, default: Any) -> tuple[str, Any, Any]:
    """Return a field of the command's options for a field of `TrainConfig`.

    Its default is None, so that only what was typed replaces a configuration file.
    """
    panel = _LENGTH_PANEL if name in LENGTHS else _RECIPE_PANEL
    shown = str(default) if isinstance(default, int | float | str) else False
    option = typer.Option(help=text, rich_help_panel=panel, show_default=shown or False)
    if get_origin(hint) is dict:
        option = typer.Option(help=text, rich_help_panel=panel, metavar="A=B", show_default=False)
        return name, Annotated[list[str] | None, option], None
    kind = hint if get_origin(hint) is Literal else next(iter(get_args(hint) or (hint,)))
    return name, Annotated[kind | None, option], field(default=None)


_HINTS = get_type_hints(TrainConfig)
TrainOptions = make_dataclass(
    "TrainOptions",
    [
        _flag(one.name, _HINTS[one.name], one.metadata["help"], one.default)
        for one in fields(TrainConfig)
        if one.metadata["flag"]
    ],
    bases=(_Places,),
    frozen=True,
    kw_only=True,
)


def train(*, options: Any) -> None:
    """Fine-tune on your own data; ends in figures on images that it did not learn from.

    DIR then is a checkpoint: pgvision detect helmet site.jpg --model DIR. A stopped or killed run
    resumes with the same command.

    [bold]Examples[/bold]

    pgvision train helmets/ --minutes 10 --out runs/helmets
    pgvision train helmets/ --model google/paligemma2-3b-pt-448 --lora 8 --epochs 5 --out runs/pg2
    pgvision train --config runs/helmets/run.yaml --steps 2000 --out runs/longer
    pgvision train detect=helmets/ ask=questions.jsonl --task mix --out runs/both
    """
    from pgvision.training import train as run

    # Only options that were given: the others come from the config file.
    own = {one.name for one in fields(_Places)}
    given = {
        one.name: getattr(options, one.name)
        for one in fields(options)
        if one.name not in own and getattr(options, one.name) is not None
    }
    if "rename" in given:
        given["rename"] = _pairs(given["rename"])
    report = run(
        _sources(options), options.out, config=options.config, device=options.device, **given
    )
    if options.as_json:
        typer.echo(json.dumps(report.to_dict()))
    elif report.finished:
        say(f"{report.folder}: weights of step {report.best_step} of {report.steps}")
        typer.echo(report.table())
    end(DONE if report.finished else INTERRUPTED)


# The class is made from the settings, so that no option is written twice; mypy cannot see it.
train.__annotations__["options"] = TrainOptions


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, found, other = text.partition("=")
        if not found or not name or not other:
            raise OptionError(f"--rename: expected CLASS=NAME, got {text!r}")
        pairs[name] = other
    return pairs


def _sources(options: Any) -> list[DataSource] | None:
    """Return each data set with its task; None: those of the configuration file."""
    places = {name: getattr(options, name) for name in ("images", "split", "valid", "valid_images")}
    texts = list(options.data or [])
    if not texts:
        if options.config is None:
            raise OptionError("DATASET: name a data set, or a --config that does")
        return None
    if len(texts) > 1 and any(places.values()):
        raise OptionError(
            "--images, --split, --valid, --valid-images are for one DATASET; with several, use "
            "folders with train and valid, or --config"
        )
    found = []
    for text in texts:
        # TASK=PATH gives a data set its own task.
        word, _, rest = text.partition("=")
        task = next((one for one in TASKS if rest and one == word), None)
        found.append(DataSource(data=Path(rest if task else text), task=task, **places))
    return found
