"""`pgvision convert`: data sets from one format to another, and the linter."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import typer

from pgvision.cli.console import DONE, FAILED, end, say
from pgvision.cli.options import parse_renames
from pgvision.datasets import ExampleOptions
from pgvision.errors import OptionError, Share

if TYPE_CHECKING:
    from pgvision.datasets import Dataset, Finding, MaskCodec

ReadFormat = Literal["coco", "yolo", "voc", "labelme", "jsonl"]
WriteFormat = Literal["coco", "yolo", "jsonl"]
_EXAMPLES: Final = 3  # findings of a kind that are shown
_ENDINGS: Final[dict[str, WriteFormat]] = {".json": "coco", ".jsonl": "jsonl"}


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Settings of a conversion.

    Attributes:
        check: Report what spoils training; exit code 1 if there is any.
        as_json: Print the report as JSON on stdout.
        source_format: Format of SOURCE; default: recognised from its files.
        images: Folder of the images.
        split: Only this part.
        classes: Keep this class only; repeat it for several. Images without it stay as negatives.
        rename: Rename a class; repeatable. Classes with one name become one.
        skip_broken: Leave broken entries out and list them; exit code 1.
        target_format: Format of OUT; default: by its ending.
        image_files: What happens to image files: copy (default), link or none.
        val: Share of images for validation, by a hash of each, so that it never drifts.
        codec: Mask codec for --task segment: google (default), tiny or a file.
    """

    check: bool = False
    as_json: bool = False
    source_format: ReadFormat | None = None
    images: Path | None = None
    split: str | None = None
    classes: list[str] | None = None
    rename: list[str] | None = None
    skip_broken: bool = False
    target_format: WriteFormat | None = None
    image_files: Literal["copy", "link", "none"] = "copy"
    val: Share | None = None
    codec: str = "google"


def convert(
    source: Path, out: Path | None = None, *, options: ConvertOptions, examples: ExampleOptions
) -> None:
    """Convert a data set (COCO, YOLO, VOC, LabelMe, JSONL), or check it.

    What a format cannot contain is reported; the exit code is 1 where images or objects were left
    out.

    Examples:
    pgvision convert hardhat/ --check
    pgvision convert hardhat/train.json train.jsonl --prompts per_class --empty negatives
    pgvision convert voc/ yolo/ --to yolo --val 0.2
    pgvision convert bccd/ renamed/ --to coco --rename RBC='red blood cell'

    Args:
        source: Annotation file or folder.
        out: New folder, or a .json or .jsonl file.
        options: How to read and write.
        examples: How objects become prompts and answers.

    Raises:
        OptionError: If there is nothing to do.
    """
    if out is None and not options.check:
        raise OptionError("expected OUT, a new folder or file, or --check")
    parts = _read(source, options, examples)
    done = not options.check or _check(parts, examples, options)
    if out is not None:
        # Findings that --check lists are not listed twice.
        listed = [] if options.check else [one for part in parts.values() for one in part.findings]
        done = _write(parts, out, examples, options, listed) and done
    end(DONE if done else FAILED)


def finding_lines(findings: "Sequence[Finding]") -> list[str]:
    """Summarise findings: of the data set, then one line for each kind, losses first."""
    # 1. Findings of the whole data set have a line each; those of entries are counted by kind.
    kinds: dict[tuple[bool, str, str], list[Finding]] = {}
    lines = []
    for finding in sorted(findings, key=lambda finding: not finding.is_loss):
        part = f"{finding.split}: " if finding.split else ""
        if finding.where or finding.rule == "broken-entry":
            kinds.setdefault((finding.is_loss, part, finding.rule), []).append(finding)
        else:
            lines.append((finding.is_loss, f"{part}{finding.rule}: {finding.message}"))
    # 2. One line for each kind, with the first examples.
    for (is_loss, part, rule), members in kinds.items():
        shown = "; ".join(f"{m.where}: {m.message}" for m in members[:_EXAMPLES])
        more = "; ..." if len(members) > _EXAMPLES else ""
        lines.append((is_loss, f"{part}{rule}: {len(members)} ({shown}{more})"))
    return [text for _, text in sorted(lines, key=lambda line: not line[0])]


def _read(source: Path, options: ConvertOptions, examples: ExampleOptions) -> "dict[str, Dataset]":
    from pgvision.datasets import detect_format, find_split, read_splits, split_by_hash

    # 1. Read. Only a JSONL source needs the codec to read masks; other formats contain them.
    is_text = source.exists() and (options.source_format or detect_format(source)) == "jsonl"
    parts = read_splits(
        source,
        format=options.source_format,
        images=options.images,
        codec=_codec(options) if is_text and examples.task == "segment" else None,
        convention=examples.convention,
        split=options.split,
        on_error="record" if options.check or options.skip_broken else "raise",
    )
    # 2. Select parts and classes, and rename.
    if options.split is not None:
        name = find_split(parts, options.split, source=source)
        parts = {name: parts[name]}
    if options.split is not None or len(parts) > 1:
        for name, part in parts.items():
            say(f"read {name}: {len(part.images)} images, {part.num_objects} objects")
    if options.classes:
        parts = {k: part.select(_known(options.classes, part, parts)) for k, part in parts.items()}
    if names := parse_renames(options.rename):
        parts = {
            key: part.rename({name: names[name] for name in _known(names, part, parts)})
            for key, part in parts.items()
        }
    # 3. Split off a validation part.
    if options.val is None:
        return parts
    if len(parts) > 1:
        raise OptionError(
            f"--val: {source} is split already ({', '.join(parts)}); name one: --split"
        )
    return split_by_hash(next(iter(parts.values())), val=options.val)


def _known(names: Iterable[str], part: "Dataset", parts: "dict[str, Dataset]") -> list[str]:
    """Return class names without those that only other parts have; unknown ones are refused."""
    elsewhere = {name for other in parts.values() for name in other.classes} - {*part.classes}
    return [name for name in names if name not in elsewhere]


def _codec(options: ConvertOptions) -> "MaskCodec":
    from vqvae import MaskCodec

    return MaskCodec.load(options.codec)


def _check(parts: "dict[str, Dataset]", examples: ExampleOptions, options: ConvertOptions) -> bool:
    from rich.console import Console

    from pgvision.datasets import check_dataset

    report = check_dataset(parts, options=examples)
    if options.as_json:
        typer.echo(report.to_json())
    else:
        Console(highlight=False).print(report)
    return report.ok


def _write(
    parts: "dict[str, Dataset]",
    out: Path,
    examples: ExampleOptions,
    options: ConvertOptions,
    listed: "list[Finding]",
) -> bool:
    """Write the data set and report its losses; False where images or objects are lost."""
    from pgvision.datasets import write_dataset

    # 1. Choose the format.
    target = options.target_format or _ENDINGS.get(out.suffix.lower())
    if target is None:
        raise OptionError(f"{out}: the name does not show the format; add --to coco, yolo or jsonl")
    codec = _codec(options) if examples.task == "segment" and target == "jsonl" else None
    whole = next(iter(parts.values())) if len(parts) == 1 else parts
    # 2. Write; everything is read back and counted.
    report = write_dataset(
        whole, out, format=target, options=examples, codec=codec, images=options.image_files
    )
    # 3. Report what was lost, in reading and in writing.
    findings = [*listed, *report.findings]
    if options.as_json:
        rows = [asdict(finding) for finding in findings]
        typer.echo(json.dumps({**asdict(report), "path": str(report.path), "findings": rows}))
    for line in finding_lines(findings):
        say(line, style="yellow")
    say(
        f"wrote {report.path}, counted by reading it back: {report.num_images} images, "
        f"{report.num_objects} objects"
    )
    return not any(finding.is_loss for finding in findings)
