"""The linter of data sets: what would spoil training or scoring, found before it does."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from pgvision.datasets.budgets import RESOLUTIONS, estimate_tokens, example_tokens, token_budget
from pgvision.datasets.check_report import CheckReport, Forecast
from pgvision.datasets.examples import (
    ExampleOptions,
    bins_of,
    clipped_xyxy,
    prefix_of,
    suffix_of,
    targets_of,
)
from pgvision.datasets.image_files import file_digest, image_hw_of
from pgvision.datasets.records import Annotation, Dataset, Finding, ImageRecord
from pgvision.datasets.segmentations import num_pixels
from pgvision.errors import DataError, ImageError, OptionError, PromptError
from pgvision.tokens import require_phrase

_OUTSIDE_BY = 0.1  # pixels: files round to two digits, and no bin is finer

CountTokens = Callable[[str], int]


def check_dataset(
    dataset: Dataset | Mapping[str, Dataset],
    *,
    options: ExampleOptions | None = None,
    resolution: int = 448,
    budget: int | None = None,
    count_tokens: CountTokens | None = None,
) -> CheckReport:
    """Look through a data set, or all its splits, for what spoils training or scoring.

    Errors: missing or unreadable files, sizes that are not the image's, boxes outside or without
    extent, duplicate objects and names, class names that break prompts, broken or missing masks,
    examples over the token budget, the same image in two splits. Warnings: categories never used,
    no annotations, images without objects, copies of an image, boxes smaller than a bin, crowds.

    Args:
        dataset: The data set, or its splits by name.
        options: How examples will be made: task, prompts, kind of checkpoint.
        resolution: Of the checkpoint: 224, 448 or 896. The forecast covers all three.
        budget: Text tokens an example may have; that of kind and resolution if not given.
        count_tokens: Exact counter of a tokenizer; an estimate on the high side if not given.

    Returns:
        Findings and a forecast of lengths.

    Raises:
        OptionError: If the resolution is unknown and no budget is given, or the budget is below 1.

    Example:
        >>> from pathlib import Path
        >>> from pgvision.datasets import Category
        >>> shot = ImageRecord(7, "a.jpg", Path("gone/a.jpg"), (480, 640))
        >>> report = check_dataset(Dataset(images=(shot,), categories=(Category(3, "a ; b"),)))
        >>> report.ok, sorted({finding.rule for finding in report.errors})
        (False, ['class-name', 'missing-file', 'prompt'])
    """
    chosen = options or ExampleOptions()
    if budget is not None and budget < 1:
        raise OptionError(f"budget={budget}: expected at least 1 token")
    limit = token_budget(chosen.kind, resolution) if budget is None else budget
    parts = {"": dataset} if isinstance(dataset, Dataset) else dict(dataset)
    findings: list[Finding] = []
    digests: dict[str, dict[str, str]] = {}
    lengths: list[int] = []
    for split, part in parts.items():
        digests[split] = {}
        here = [*part.findings, *_check_part(part, chosen), *_check_files(part, digests[split])]
        here += _check_lengths(part, chosen, limit, count_tokens or estimate_tokens, lengths)
        findings += [replace(finding, split=finding.split or split) for finding in here]
    findings += [*_check_categories(parts), *_check_leakage(digests)]
    return CheckReport(
        findings=tuple(findings),
        num_images=sum(len(part.images) for part in parts.values()),
        num_objects=sum(part.num_objects for part in parts.values()),
        num_examples=len(lengths),
        forecast=_forecast(lengths, chosen.kind, resolution, limit),
    )


def _check_part(dataset: Dataset, options: ExampleOptions) -> Iterator[Finding]:
    if not dataset.categories:
        yield Finding("no-categories", "error", "no class is named: nothing can be asked or scored")
    if not dataset.num_objects:
        yield Finding("no-annotations", "warning", "the data set has images and no annotation")
    names: dict[str, int] = {}
    for image in dataset.images:
        names[image.file_name] = names.get(image.file_name, 0) + 1
        if not image.objects:
            yield Finding("empty-image", "warning", "has no objects", image.file_name)
        seen: dict[tuple[int, ...], int] = {}
        for item in image.objects:
            for rule, level, message in _check_object(item, image, options, seen):
                yield Finding(
                    rule,
                    "error" if level == "error" else "warning",
                    f"annotation {item.id} ({dataset.names[item.category_id]}): {message}",
                    image.file_name,
                )
    for name, number in names.items():
        if number > 1:
            yield Finding("duplicate-name", "error", f"{number} images have this name", name)


def _check_object(
    item: Annotation,
    image: ImageRecord,
    options: ExampleOptions,
    seen: dict[tuple[int, ...], int],
) -> Iterator[tuple[str, str, str]]:
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
    yield from _check_mask(item, image, options)


def _check_mask(
    item: Annotation, image: ImageRecord, options: ExampleOptions
) -> Iterator[tuple[str, str, str]]:
    if item.segmentation is None:
        if options.task == "segment" and not item.iscrowd:
            yield "mask-missing", "error", "has a box and no mask, but task='segment'"
        return
    try:
        count = num_pixels(item.segmentation, image.image_hw)
    except DataError as error:
        yield "mask-broken", "error", str(error)
        return
    if not count:
        yield "mask-empty", "error", "its mask covers no pixel"


def _check_files(dataset: Dataset, digests: dict[str, str]) -> Iterator[Finding]:
    """Look at the files; fill ``digests`` with the first image of each content."""
    for image in dataset.images:
        if not image.path.is_file():
            yield Finding("missing-file", "error", f"{image.path} is not there", image.file_name)
            continue
        try:
            size, digest = image_hw_of(image.path), file_digest(image.path)
        except (ImageError, DataError) as error:
            yield Finding("unreadable-image", "error", str(error), image.file_name)
            continue
        if size != image.image_hw:
            yield Finding(
                "size-mismatch",
                "error",
                f"stated as {image.image_hw[1]} x {image.image_hw[0]}, the file has "
                f"{size[1]} x {size[0]}",
                image.file_name,
            )
        if digest in digests and digests[digest] != image.file_name:
            yield Finding(
                "duplicate-image", "warning", f"is a copy of {digests[digest]}", image.file_name
            )
        digests.setdefault(digest, image.file_name)


def _check_lengths(
    dataset: Dataset,
    options: ExampleOptions,
    limit: int,
    count: CountTokens,
    lengths: list[int],
) -> Iterator[Finding]:
    for image in dataset.images if dataset.classes else ():
        for target in targets_of(image, dataset, options):
            # Any 16 codes are as long as the right ones: no codec is needed to count.
            zeros = np.zeros((len(target.objects), 16), dtype=np.int64)
            codes = zeros if options.task == "segment" else None
            try:
                prefix = prefix_of(target, options)
            except PromptError as error:
                yield Finding("prompt", "error", f"no prompt can be made: {error}")
                return
            suffix = suffix_of(target, image, dataset, options, codes)
            length = example_tokens(count(prefix), count(suffix))
            lengths.append(length)
            if length > limit:
                yield Finding(
                    "over-budget",
                    "error",
                    f"{length} tokens for {len(target.objects)} objects, the budget is {limit}",
                    image.file_name,
                )


def _check_categories(parts: Mapping[str, Dataset]) -> Iterator[Finding]:
    categories = {c.id: c.name for part in parts.values() for c in part.categories}
    used = {item.category_id for part in parts.values() for i in part.images for item in i.objects}
    first = next(iter(parts.values()))
    for split, part in parts.items():
        if part.names != first.names:
            message = "its categories are not those of the other splits"
            yield Finding("categories-differ", "error", message, split=split)
    seen: dict[str, str] = {}
    for number, name in categories.items():
        if number not in used:
            yield Finding("unused-category", "warning", f"category {number} has no object", name)
        yield from _check_name(name, seen)


def _check_name(name: str, seen: dict[str, str]) -> Iterator[Finding]:
    try:
        require_phrase(name)
    except PromptError as error:
        yield Finding("class-name", "error", str(error), name)
    else:
        if any(sign in name for sign in ("<", ";")) or name != name.strip():
            yield Finding(
                "class-name", "error", "'<', ';' or a blank at an end breaks prompts", name
            )
    folded = " ".join(name.casefold().split())
    if folded in seen:
        yield Finding("class-name", "error", f"is the same as {seen[folded]!r} in a prompt", name)
    seen.setdefault(folded, name)


def _check_leakage(digests: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    owners: dict[str, tuple[str, str]] = {}
    for split, files in digests.items():
        for digest, name in files.items():
            if digest in owners:
                other, twin = owners[digest]
                message = f"the same image is {twin} in split {other!r}"
                yield Finding("leakage", "error", message, name, split)
            owners.setdefault(digest, (split, name))


def _forecast(lengths: list[int], kind: str, resolution: int, limit: int) -> tuple[Forecast, ...]:
    limits = {size: token_budget(kind, size) for size in RESOLUTIONS} | {resolution: limit}
    ordered = sorted(lengths)
    return tuple(
        Forecast(
            resolution=size,
            budget=room,
            num_over=sum(length > room for length in lengths),
            median=ordered[len(ordered) // 2] if ordered else 0,
            p95=ordered[math.ceil(0.95 * len(ordered)) - 1] if ordered else 0,
            longest=ordered[-1] if ordered else 0,
        )
        for size, room in sorted(limits.items())
    )
