"""Report of a conversion: the data set that was written against the one that is read back.

Nothing here depends on how a format is written: counts, classes, masks and fields of both are
compared, so that a writer's error is found like a format's limit.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pgvision.datasets.dataset import Annotation, Dataset, Finding, ImageRecord, change_objects
from pgvision.datasets.examples import ExampleOptions, bins_of, clipped_xyxy, is_outside

_SHOWN = 3  # examples in a message
_ROUNDING = 1e-6  # pixels


@dataclass
class _Losses:
    """Counts of what is lost, by kind, with the first examples."""

    split: str
    counts: Counter[tuple[str, bool]] = field(default_factory=Counter)
    examples: dict[tuple[str, bool], list[str]] = field(default_factory=dict)

    def add(self, what: str, where: str = "", *, whole: bool = True) -> None:
        """Count one: an image or object (``whole``), or a field or change of one."""
        self.counts[what, whole] += 1
        shown = self.examples.setdefault((what, whole), [])
        if where and where not in shown and len(shown) < _SHOWN:
            shown.append(where)

    def findings(self) -> list[Finding]:
        return [
            Finding(
                "lost" if whole else "not-kept",
                "error" if whole else "warning",
                f"{count} {what}"
                + (f" ({', '.join(shown)})" if (shown := self.examples[what, whole]) else ""),
                split=self.split,
            )
            for (what, whole), count in self.counts.items()
        ]


def compare_datasets(
    before: Dataset,
    after: Dataset | None,
    *,
    names: Mapping[int, str],
    options: ExampleOptions,
    bins: bool,
    masks: bool = True,
    split: str = "",
) -> list[Finding]:
    """List what a data set has lost on the way to a file and back.

    Args:
        before: What was written.
        after: What is read back; None if the file is empty.
        names: Name of each image of ``before`` in the file, by id.
        options: Of the conversion, which explain losses.
        bins: Whether the file has boxes in location bins, so that they are rounded.
        masks: Whether masks were read back.
        split: Name of the split, for the findings.

    Returns:
        Images and objects that are missing (``lost``) and changes (``not-kept``), counted by kind.

    Example:
        >>> from pathlib import Path
        >>> from pgvision.datasets import Category
        >>> crowd = Annotation(3, 1, (0.0, 0.0, 9.0, 9.0), iscrowd=True)
        >>> shot = ImageRecord(7, "a.jpg", Path("a.jpg"), (480, 640), (crowd,))
        >>> data = Dataset((shot,), (Category(1, "helmet"),))
        >>> empty = ImageRecord(7, "a.jpg", Path("a.jpg"), (480, 640))
        >>> without = Dataset((empty,), data.categories)
        >>> report = compare_datasets(
        ...     data, without, names={7: "a.jpg"}, options=ExampleOptions(), bins=False)
        >>> report[0].message
        '1 crowd regions were left out (a.jpg annotation 3)'
    """
    # 1. Compare the images and their objects.
    losses = _Losses(split)
    names_after = {} if after is None else after.names
    written = {} if after is None else {image.file_name: image for image in after.images}
    if not masks:
        images = change_objects(before.images, lambda item: replace(item, segmentation=None))
        before = replace(before, images=images)
    for image in before.images:
        other = written.pop(names[image.id], None)
        if other is None:
            # An image without prompts is left out on purpose if it has no objects.
            what = "images were left out: they have no objects and empty='drop'"
            if image.objects:
                what = "images were left out with all their objects"
            elif options.empty != "drop":
                what = "images were not read back"
            losses.add(what, image.file_name, whole=bool(image.objects) or options.empty != "drop")
            other = ImageRecord(image.id, image.file_name, image.path, image.image_hw)
        found: dict[str, list[Annotation]] = {}
        for item in other.objects:
            found.setdefault(names_after[item.category_id], []).append(item)
        _compare_objects(losses, image, found, before, options, bins=bins)
        _compare_fields(losses, "images", image.extra, other.extra)
    # 2. Images that are left were not in the original.
    for name in written:
        losses.add("images were read back that were not written", name)
    # 3. Compare categories and top-level fields.
    known = {} if after is None else {category.name: category for category in after.categories}
    for category in before.categories:
        if category.name not in known:
            losses.add("classes are in no prompt", category.name, whole=False)
        else:
            _compare_fields(losses, "categories", category.extra, known[category.name].extra)
    for name in before.info.keys() - (after.info.keys() if after is not None else set()):
        losses.add("top-level fields were left out", name, whole=False)
    return losses.findings()


def _compare_objects(
    losses: _Losses,
    image: ImageRecord,
    found: dict[str, list[Annotation]],
    before: Dataset,
    options: ExampleOptions,
    *,
    bins: bool,
) -> None:
    """Match the objects of one image with those found, class by class, the nearest box first."""
    reasons = {item.id: _reason(item, image, options, bins=bins) for item in image.objects}
    # Objects that the format cannot express come last.
    for item in sorted(image.objects, key=lambda item: reasons[item.id] != ""):
        place, reason = f"{image.file_name} annotation {item.id}", reasons[item.id]
        left = found.get(before.names[item.category_id], [])
        match = min(left, key=lambda other: _distance(other, item), default=None)
        # An object that cannot be expressed must not take the match of its neighbour.
        if match is None or (reason and _distance(match, item) > 1):
            losses.add(reason or "objects were not read back", place)
            match = None
        else:
            left.remove(match)
        _compare_object(losses, item, match, image, place)
    for _ in range(sum(map(len, found.values()))):
        losses.add("objects were read back that were not written", image.file_name)


def _reason(item: Annotation, image: ImageRecord, options: ExampleOptions, *, bins: bool) -> str:
    """Return why an object cannot be expressed, "" if it can."""
    if item.iscrowd and not (bins and options.crowds == "keep"):
        return "crowd regions were left out"
    if is_outside(item, image.image_hw):
        return "objects were left out: their boxes are outside the image"
    if bins:
        left, top, right, bottom = clipped_xyxy(item, image.image_hw)
        row = bins_of([item], image, options)[0]
        if right <= left or bottom <= top or row[0] >= row[2] or row[1] >= row[3]:
            return "objects were left out: their boxes have no extent in bins"
    return ""


def _distance(one: Annotation, other: Annotation) -> float:
    return sum(abs(a - b) for a, b in zip(one.xyxy, other.xyxy, strict=True))


def _compare_object(
    losses: _Losses, item: Annotation, match: Annotation | None, image: ImageRecord, place: str
) -> None:
    """Count changes of one object; ``match`` is None for a lost one."""
    left, top, right, bottom = item.xyxy
    height, width = image.image_hw
    if match is not None:
        reach = min(left, top, width - right, height - bottom)
        if reach < -_ROUNDING and _distance(item, match) > _ROUNDING:
            losses.add("objects were cut at the border of their image", place, whole=False)
        if item.segmentation is None and match.segmentation is not None:
            losses.add("boxes became polygons with four corners", place, whole=False)
        elif type(item.segmentation) is not type(match.segmentation) and match.segmentation:
            losses.add("run-length masks became polygons", place, whole=False)
    if item.segmentation is not None and (match is None or match.segmentation is None):
        losses.add("masks were left out", place, whole=False)
    # Areas that equal the box are computed again by readers.
    kept_area = match.area if match is not None else None
    of_box = item.xywh[2] * item.xywh[3]
    if item.area is not None and kept_area is None and abs(item.area - of_box) > 1e-6 * of_box:
        losses.add("areas were left out: they are not those of the boxes", place, whole=False)
    if match is not None and match.id != item.id:
        losses.add("ids of annotations were left out", str(item.id), whole=False)
    _compare_fields(losses, "annotations", item.extra, {} if match is None else match.extra)


def _compare_fields(
    losses: _Losses, owners: str, before: Mapping[str, object], after: Mapping[str, object]
) -> None:
    missing = sorted(before.keys() - after.keys())
    if missing:
        losses.add(f"{owners} lost fields of their own", ", ".join(missing), whole=False)
