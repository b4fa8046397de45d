"""Linter of data sets: finds what harms training or scoring."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from pgvision.datasets.dataset import Annotation, Dataset, Finding, ImageRecord
from pgvision.datasets.examples import ExampleOptions, bins_of
from pgvision.datasets.outlines import clipped_xyxy, num_pixels
from pgvision.errors import DataError, ImageError, PromptError, SourceError
from pgvision.images import image_hw_of
from pgvision.images.reading import read_bytes, require_whole
from pgvision.tokens import require_phrase

if TYPE_CHECKING:
    from rich.table import Table

_OUTSIDE_BY: Final = 0.1  # pixels: files round to two digits, and no bin is finer
_SHOWN: Final = 3  # examples of a rule


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """Result of `check_dataset`.

    Attributes:
        findings: All findings, split by split.
        num_images: Images that were checked.
        num_objects: Annotations that were checked.

    Example:
        >>> late = Finding("leakage", "error", "the same image is b.jpg in split 'val'", "a.jpg")
        >>> report = CheckReport(findings=(late,), num_images=2, num_objects=0)
        >>> report.ok, report.counts
        (False, {('leakage', 'error'): 1})
    """

    findings: tuple[Finding, ...]
    num_images: int
    num_objects: int

    @property
    def ok(self) -> bool:
        """True if there is no error; warnings are allowed."""
        return not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """Number of findings of each (rule, level), errors first, the most frequent first."""
        numbers = Counter((finding.rule, finding.level) for finding in self.findings)
        ordered = sorted(numbers.items(), key=lambda pair: (pair[0][1], -pair[1], pair[0]))
        return dict(ordered)

    def to_dict(self) -> dict[str, object]:
        """Return everything as plain values, for JSON."""
        counts = [
            {"rule": rule, "level": level, "count": number}
            for (rule, level), number in self.counts.items()
        ]
        return {"ok": self.ok, **asdict(self), "counts": counts}

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    def __rich__(self) -> "Table":
        """Return a table for the terminal: findings by rule, with some examples each."""
        from rich.table import Column, Table
        from rich.text import Text

        # One row for each rule, errors first.
        title = f"{self.num_images} images, {self.num_objects} objects"
        count = Column("count", justify="right")
        rules = Table("level", "rule", count, "for example", title=title)
        for (rule, level), number in self.counts.items():
            shown = [finding for finding in self.findings if finding.rule == rule][:_SHOWN]
            # Text, not markup: names from files may contain square brackets.
            lines = Text("\n".join(map(_line, shown)))
            rules.add_row(Text(level), Text(rule), str(number), lines)
        return rules


def _line(finding: Finding) -> str:
    place = "/".join(part for part in (finding.split, finding.where) if part)
    return f"{place}: {finding.message}" if place else finding.message


def check_dataset(
    dataset: Dataset | Mapping[str, Dataset],
    *,
    options: ExampleOptions | None = None,
) -> CheckReport:
    """Check a data set, or all its splits, for what spoils training or scoring.

    Errors: no annotation at all, missing or unreadable files, sizes that are not the image's, boxes
    outside or without extent, duplicate objects and names, class names that break prompts, broken
    or missing masks, the same image in two splits. Warnings: categories without objects, images
    without objects, copies of an image, files of several images, boxes smaller than a bin, crowds.

    Args:
        dataset: The data set, or its splits by name.
        options: How examples will be made; its task decides whether masks are needed.

    Returns:
        The findings.

    Example:
        >>> from pathlib import Path
        >>> from pgvision.datasets import Category
        >>> shot = ImageRecord(7, "a.jpg", Path("gone/a.jpg"), (480, 640))
        >>> report = check_dataset(Dataset(images=(shot,), categories=(Category(3, "a ; b"),)))
        >>> report.ok, sorted({finding.rule for finding in report.errors})
        (False, ['class-name', 'missing-file', 'no-annotations'])
    """
    # 1. Check each part.
    chosen = options or ExampleOptions()
    parts = {"": dataset} if isinstance(dataset, Dataset) else dict(dataset)
    findings: list[Finding] = []
    digests: dict[str, dict[str, str]] = {}
    for split, part in parts.items():
        digests[split] = {}
        here = [*part.findings, *_check_part(part, chosen), *_check_files(part, digests[split])]
        findings += [replace(finding, split=finding.split or split) for finding in here]
    # 2. Check across parts: other class lists, the same image in two parts.
    findings += [*_check_categories(parts), *_check_leakage(digests)]
    return CheckReport(
        findings=tuple(findings),
        num_images=sum(len(part.images) for part in parts.values()),
        num_objects=sum(part.num_objects for part in parts.values()),
    )


def _check_part(dataset: Dataset, options: ExampleOptions) -> Iterator[Finding]:
    # 1. The data set as a whole.
    if not dataset.categories:
        yield Finding("no-categories", "error", "no class is named: nothing can be asked or scored")
    if not dataset.num_objects:
        message = "the data set has images and no annotation: are the labels where they belong?"
        yield Finding("no-annotations", "error", message)
    # 2. Images and their objects.
    for image in dataset.images:
        if not image.objects:
            yield Finding("empty-image", "warning", "has no objects", image.file_name)
        seen: dict[tuple[int, ...], int] = {}
        for item in image.objects:
            for rule, level, message in _check_object(item, image, options, seen):
                place = f"annotation {item.id} ({dataset.names[item.category_id]})"
                yield Finding(rule, level, f"{place}: {message}", image.file_name)
    # 3. Names: files of one name would overwrite each other.
    for name, number in Counter(image.file_name for image in dataset.images).items():
        if number > 1:
            yield Finding("duplicate-name", "error", f"{number} images have this name", name)


def _check_object(
    item: Annotation, image: ImageRecord, options: ExampleOptions, seen: dict[tuple[int, ...], int]
) -> Iterator[tuple[str, Literal["error", "warning"], str]]:
    # 1. The box itself.
    height, width = image.image_hw
    left, top, right, bottom = item.xyxy
    text = f"box [{left:g}, {top:g}, {right:g}, {bottom:g}] (left, top, right, bottom)"
    if item.iscrowd:
        yield "crowd", "warning", "a crowd region; examples leave it out"
    if item.xywh[2] <= 0 or item.xywh[3] <= 0:
        yield "box-degenerate", "error", f"{text} has no extent"
        return
    if min(left, top, width - right, height - bottom) < -_OUTSIDE_BY:
        yield "box-outside", "error", f"{text} leaves the image of {width} x {height}"
    # 2. The part that examples would contain, in bins.
    inside = clipped_xyxy(item, image.image_hw)
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        return
    if not item.iscrowd:
        bins = bins_of([item], image, options)[0]
        key = (item.category_id, *map(int, bins))
        if key in seen:
            yield "duplicate-object", "error", f"{text} repeats annotation {seen[key]}"
        seen.setdefault(key, item.id)
        if bins[0] == bins[2] or bins[1] == bins[3]:
            yield "box-tiny", "warning", f"{text} has no extent in bins; examples leave it out"
    # 3. The mask.
    if item.segmentation is None:
        if options.task == "segment" and not item.iscrowd:
            yield "mask-missing", "error", "has a box and no mask, but task='segment'"
        return
    try:
        if not num_pixels(item.segmentation, image.image_hw):
            yield "mask-empty", "error", "its mask covers no pixel"
    except DataError as error:
        yield "mask-broken", "error", str(error)


def size_mismatch(image: ImageRecord, split: str = "") -> list[Finding]:
    """Return a finding if the file of an image has another size than its annotations state.

    Raises:
        ImageError: If the file is not there, or no image.
    """
    (height, width), (rows, columns) = image.image_hw, image_hw_of(image.path)
    message = f"stated as {width} x {height}, the file has {columns} x {rows}"
    finding = Finding("size-mismatch", "error", message, image.file_name, split)
    return [] if (height, width) == (rows, columns) else [finding]


def _check_files(dataset: Dataset, digests: dict[str, str]) -> Iterator[Finding]:
    """Check the image files; fill ``digests`` with the first image of each content."""
    for image in dataset.images:
        # 1. There, readable and whole.
        if not image.path.is_file():
            yield Finding("missing-file", "error", f"{image.path} is not there", image.file_name)
            continue
        try:
            mismatch, data = size_mismatch(image), read_bytes(image.path)
            num_frames = require_whole(data, str(image.path))
        except (ImageError, SourceError) as error:
            yield Finding("unreadable-image", "error", str(error), image.file_name)
            continue
        # 2. Size: the annotations' coordinates are relative to the stated one.
        yield from mismatch
        # 3. Further frames, which training does not see.
        if num_frames > 1:
            message = f"has {num_frames} pages or frames; only the first is used"
            yield Finding("several-frames", "warning", message, image.file_name)
        # 4. Copies: two names for the same bytes.
        digest = hashlib.sha256(data).hexdigest()
        if digest in digests and digests[digest] != image.file_name:
            message = f"is a copy of {digests[digest]}"
            yield Finding("duplicate-image", "warning", message, image.file_name)
        digests.setdefault(digest, image.file_name)


def _check_categories(parts: Mapping[str, Dataset]) -> Iterator[Finding]:
    # 1. All parts have the same categories.
    categories = {c.id: c.name for part in parts.values() for c in part.categories}
    used = {item.category_id for part in parts.values() for i in part.images for item in i.objects}
    first = next(iter(parts.values()))
    for split, part in parts.items():
        if part.names != first.names:
            message = "its categories are not those of the other splits"
            yield Finding("categories-differ", "error", message, split=split)
    # 2. Names are distinct and fit into a prompt.
    seen: dict[str, str] = {}
    for number, name in categories.items():
        if number not in used:
            yield Finding("unused-category", "warning", f"category {number} has no object", name)
        problems = []
        try:
            require_phrase(name)
            if any(sign in name for sign in ("<", ";")) or name != name.strip():
                problems.append("'<', ';' or a blank at an end breaks prompts")
        except PromptError as error:
            problems.append(str(error))
        folded = " ".join(name.casefold().split())
        if folded in seen:
            problems.append(f"is the same as {seen[folded]!r} in a prompt")
        seen.setdefault(folded, name)
        yield from (Finding("class-name", "error", problem, name) for problem in problems)


def _check_leakage(digests: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    owners: dict[str, tuple[str, str]] = {}
    for split, files in digests.items():
        for digest, name in files.items():
            if digest in owners:
                other, twin = owners[digest]
                message = f"the same image is {twin} in split {other!r}"
                yield Finding("leakage", "error", message, name, split)
            owners.setdefault(digest, (split, name))
