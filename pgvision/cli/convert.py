"""`pgvision convert`: data sets from one format to another, and the linter."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pgvision.cli.exit_codes import DONE, FAILED, end
from pgvision.cli.options import INPUT_PANEL, OUTPUT_PANEL, ImagesFolder, Split, takes
from pgvision.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgvision.datasets import Dataset, ExampleOptions, Finding, MaskCodec

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
    images: ImagesFolder = None
    split: Split = None
    classes: Annotated[
        list[str] | None,
        typer.Option(
            help="Keep this class only (repeatable); images without it stay as negatives.",
            show_default="all",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = None
    rename: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OLD=NEW",
            help="Rename a class (repeatable); classes with one name become one.",
            show_default="none",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = None
    skip_broken: Annotated[
        bool,
        typer.Option(
            help="Leave broken entries out and list them; exit code 1.",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = False
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
        Literal["pt", "mix", "ft", "refcoco-seg", "tiny"],
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

    What a format cannot hold is said; the exit code is 1 where images or objects were left out.

    [bold]Examples[/bold]

    pgvision convert hardhat/ --check
    pgvision convert hardhat/train.json train.jsonl --prompts per_class --empty negatives
    pgvision convert voc/ yolo/ --to yolo --val 0.2
    pgvision convert instances.json masks.jsonl --task segment --codec tiny
    """
    _require_goal(out, check)
    parts = _read(source, options, check)
    examples = _example_options(options)
    done = not check or _check(parts, examples, options.resolution, as_json)
    if out is not None:
        # What --check lists is not said twice.
        said = [] if check else [one for part in parts.values() for one in part.findings]
        done = _write(parts, out, examples, options, as_json, said) and done
    end(DONE if done else FAILED)


def _require_goal(out: Path | None, check: bool) -> None:
    if out is None and not check:
        raise OptionError("expected OUT, a new folder or file, or --check")


def _read(source: Path, options: ConvertOptions, check: bool) -> "dict[str, Dataset]":
    from pgvision.datasets import find_split, read_splits, split_by_hash

    parts = read_splits(
        source,
        format=options.source_format,
        images=options.images,
        codec=_reading_codec(source, options),
        convention=options.convention,
        split=options.split,
        on_error="record" if check or options.skip_broken else "raise",
    )
    if options.split is not None:
        name = find_split(parts, options.split, source=source)
        parts = {name: parts[name]}
    names = _renamed(options.rename or [])
    if options.classes:
        parts = {key: part.select(options.classes) for key, part in parts.items()}
    parts = {key: part.rename(names) for key, part in parts.items()} if names else parts
    if options.val is None:
        return parts
    if len(parts) > 1:
        raise OptionError(
            f"--val: {source} is split already ({', '.join(parts)}); name one: --split"
        )
    return split_by_hash(next(iter(parts.values())), val=options.val)


def _renamed(pairs: "list[str]") -> dict[str, str]:
    """Parse ``OLD=NEW`` pairs."""
    for pair in pairs:
        if not all(map(str.strip, pair.partition("=")[::2])):
            raise OptionError(f"--rename {pair!r}: expected OLD=NEW, like RBC='red blood cell'")
    return dict(pair.split("=", 1) for pair in pairs)


def _reading_codec(source: Path, options: ConvertOptions) -> "MaskCodec | None":
    """Load the codec only where codes have to become masks; all others bring their masks."""
    from pgvision.datasets import detect_format

    if options.task != "segment" or not source.exists():
        return None
    is_text = (options.source_format or detect_format(source)) == "jsonl"
    return _codec(options) if is_text else None


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
    said: "list[Finding]",
) -> bool:
    """Write and say what came of it; False where something that was there is not in it."""
    from pgvision.cli.console import say
    from pgvision.datasets import write_dataset

    target = options.target_format or _format_of(out)
    codec = _codec(options) if options.task == "segment" and target == "jsonl" else None
    whole = next(iter(parts.values())) if len(parts) == 1 else parts
    report = write_dataset(
        whole, out, format=target, options=examples, codec=codec, images=options.image_files
    )
    counted = f"{report.num_images} images, {report.num_objects} objects"
    say(f"wrote {report.path}, counted by reading it back: {counted}")
    if as_json:
        counts = {"num_images": report.num_images, "num_objects": report.num_objects}
        rows = [asdict(finding) for finding in report.findings]
        typer.echo(json.dumps({"path": str(report.path), **counts, "findings": rows}))
    findings = [*said, *report.findings]
    for line in finding_lines(findings):
        say(line, style="yellow")
    return not any(finding.is_loss for finding in findings)


def finding_lines(findings: "Sequence[Finding]", *, num_examples: int = 3) -> list[str]:
    """Put findings into lines for people: what is about the whole set, then a line a kind.

    Args:
        findings: What a reader and a writer found.
        num_examples: Findings shown of each kind.

    Returns:
        The lines, losses first.
    """
    kinds: dict[tuple[bool, str, str], list[Finding]] = {}
    lines = []
    for one in sorted(findings, key=lambda finding: not finding.is_loss):
        part = f"{one.split}: " if one.split else ""
        if one.where or one.rule == "broken-entry":
            kinds.setdefault((one.is_loss, part, one.rule), []).append(one)
        else:
            lines.append((one.is_loss, f"{part}{one.rule}: {one.message}"))
    for (is_loss, part, rule), members in kinds.items():
        shown = "; ".join(f"{m.where}: {m.message}" for m in members[:num_examples])
        more = "; ..." if len(members) > num_examples else ""
        lines.append((is_loss, f"{part}{rule}: {len(members)} ({shown}{more})"))
    return [text for _, text in sorted(lines, key=lambda line: not line[0])]


def _format_of(out: Path) -> WriteFormat:
    endings: dict[str, WriteFormat] = {".json": "coco", ".jsonl": "jsonl"}
    if out.suffix.lower() not in endings:
        raise OptionError(
            f"{out}: cannot tell the format from the name; say --to coco, yolo or jsonl"
        )
    return endings[out.suffix.lower()]
