"""`pgvision convert`: data sets from one format to another, and the linter."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pgvision.cli.exit_codes import DONE, FAILED, end
from pgvision.cli.options import INPUT_PANEL, OUTPUT_PANEL, takes
from pgvision.errors import OptionError

if TYPE_CHECKING:
    from pgvision.datasets import Dataset, ExampleOptions, MaskCodec

TEXT_PANEL = "How objects become text"

ReadFormat = Literal["coco", "yolo", "voc", "labelme", "jsonl"]
WriteFormat = Literal["coco", "yolo", "jsonl"]


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What ``pgvision convert`` takes beside its paths; the fields speak for themselves."""

    source_format: Annotated[
        ReadFormat | None,
        typer.Option(
            "--from", help="Seen from the files if not given.", rich_help_panel=INPUT_PANEL
        ),
    ] = None
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the images lie.", rich_help_panel=INPUT_PANEL),
    ] = None
    split: Annotated[
        str | None, typer.Option(help="Only this part.", rich_help_panel=INPUT_PANEL)
    ] = None
    target_format: Annotated[
        WriteFormat | None,
        typer.Option(
            "--to", help="Seen from the ending of OUT if not given.", rich_help_panel=OUTPUT_PANEL
        ),
    ] = None
    image_files: Annotated[
        Literal["copy", "link", "none"],
        typer.Option(help="What happens to the images.", rich_help_panel=OUTPUT_PANEL),
    ] = "copy"
    val: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of images for validation, by a hash of each: it never drifts.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None
    task: Annotated[
        Literal["detect", "segment"],
        typer.Option(help="Boxes, or boxes with mask codes.", rich_help_panel=TEXT_PANEL),
    ] = "detect"
    codec: Annotated[
        str,
        typer.Option(
            help="Mask codec for 'segment': google, tiny or a file.", rich_help_panel=TEXT_PANEL
        ),
    ] = "google"
    order: Annotated[
        Literal["raster", "area", "random"],
        typer.Option(help="Order of objects in a suffix.", rich_help_panel=TEXT_PANEL),
    ] = "raster"
    prompts: Annotated[
        Literal["joined", "per_class"],
        typer.Option(help="One prompt for all classes, or one each.", rich_help_panel=TEXT_PANEL),
    ] = "joined"
    empty: Annotated[
        Literal["keep", "drop", "negatives"],
        typer.Option(help="Images without objects.", rich_help_panel=TEXT_PANEL),
    ] = "keep"
    seed: Annotated[int, typer.Option(help="For random choices.", rich_help_panel=TEXT_PANEL)] = 0
    convention: Annotated[
        Literal["1024", "1023"],
        typer.Option(help="Bins of a side.", rich_help_panel=TEXT_PANEL),
    ] = "1024"
    kind: Annotated[
        Literal["pt", "mix", "ft", "tiny"],
        typer.Option(help="Kind of checkpoint.", rich_help_panel=TEXT_PANEL),
    ] = "pt"
    resolution: Annotated[
        int, typer.Option(help="Of the checkpoint, for --check.", rich_help_panel=TEXT_PANEL)
    ] = 448


@takes(ConvertOptions)
def convert(
    *,
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="Annotation file or folder.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT", help="New folder, or a .json or .jsonl file.", show_default=False
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Look for what spoils training; exit code 1 if found.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON on stdout.")
    ] = False,
    options: ConvertOptions,
) -> None:
    """Convert a data set (COCO, YOLO, VOC, LabelMe, JSONL), or check it.

    [bold]Examples[/bold]

    pgvision convert hardhat/ --check
    pgvision convert hardhat/train.json train.jsonl --prompts per_class --empty negatives
    pgvision convert voc/ yolo/ --to yolo --val 0.2
    pgvision convert instances.json masks.jsonl --task segment --codec tiny
    """
    _require_goal(out, check)
    dataset = _read(source, options, check)
    examples = _example_options(options)
    failed = False
    if check:
        failed = not _check(dataset, examples, options.resolution, as_json)
    if out is not None:
        _write(dataset, out, examples, options, as_json)
    end(FAILED if failed else DONE)


def _require_goal(out: Path | None, check: bool) -> None:
    if out is None and not check:
        raise OptionError("expected OUT, a new folder or file, or --check")


def _read(source: Path, options: ConvertOptions, check: bool) -> "dict[str, Dataset]":
    from pgvision.datasets import read_splits, split_by_hash

    codec = _codec(options) if options.task == "segment" else None
    parts = read_splits(
        source,
        format=options.source_format,
        images=options.images,
        codec=codec,
        convention=options.convention,
        on_error="record" if check else "raise",
    )
    if options.split is not None:
        if options.split not in parts:
            raise OptionError(f"--split {options.split}: {source} has {', '.join(parts)}")
        parts = {options.split: parts[options.split]}
    if options.val is None:
        return parts
    if len(parts) > 1:
        raise OptionError(
            f"--val: {source} is split already ({', '.join(parts)}); name one: --split"
        )
    return split_by_hash(next(iter(parts.values())), val=options.val)


def _codec(options: ConvertOptions) -> "MaskCodec":
    from vqvae import MaskCodec

    return MaskCodec.load(options.codec)


def _example_options(options: ConvertOptions) -> "ExampleOptions":
    from pgvision.datasets import ExampleOptions

    return ExampleOptions(
        task=options.task,
        order=options.order,
        prompts=options.prompts,
        empty=options.empty,
        seed=options.seed,
        convention=options.convention,
        kind=options.kind,
    )


def _check(
    parts: "dict[str, Dataset]", examples: "ExampleOptions", resolution: int, as_json: bool
) -> bool:
    from rich.console import Console

    from pgvision.datasets import check_dataset

    report = check_dataset(parts, options=examples, resolution=resolution)
    if as_json:
        typer.echo(report.to_json())
    else:
        console = Console(highlight=False)
        for table in report.tables():
            console.print(table)
    return report.ok


def _write(
    parts: "dict[str, Dataset]",
    out: Path,
    examples: "ExampleOptions",
    options: ConvertOptions,
    as_json: bool,
) -> None:
    from pgvision.cli.console import say
    from pgvision.datasets import round_trip, write_dataset

    target = options.target_format or _format_of(out)
    codec = _codec(options) if options.task == "segment" and target == "jsonl" else None
    whole = next(iter(parts.values())) if len(parts) == 1 else parts
    report = write_dataset(
        whole, out, format=target, options=examples, codec=codec, images=options.image_files
    )
    say(f"wrote {report.path}: {report.num_images} images, {report.num_objects} objects")
    for finding in report.findings[:20]:
        say(f"{finding.level}: {finding.where}: {finding.message}", style="yellow")
    if target == "jsonl":
        for split, part in parts.items():
            figures = round_trip(part, options=examples, codec=codec).to_dict()
            if as_json:
                typer.echo(json.dumps({"split": split, "round_trip": figures}))
            say(f"{split}: read back: " + ", ".join(f"{k} {v}" for k, v in figures.items()))


def _format_of(out: Path) -> WriteFormat:
    endings: dict[str, WriteFormat] = {".json": "coco", ".jsonl": "jsonl"}
    if out.suffix.lower() not in endings:
        raise OptionError(
            f"{out}: cannot tell the format from the name; say --to coco, yolo or jsonl"
        )
    return endings[out.suffix.lower()]
