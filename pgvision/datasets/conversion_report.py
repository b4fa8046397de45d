"""Report of a conversion: the data set that was written against the one that is read back.

Nothing here depends on how a format is written: counts, classes, masks and fields of both are
compared, so that a writer's error is found like a format's limit.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from pgvision.datasets.dataset import Annotation, Dataset, Finding, ImageRecord, change_objects
from pgvision.datasets.examples import ExampleOptions, with_extent
from pgvision.datasets.outlines import is_outside

_SHOWN = 3  # examples in a message
_ROUNDING = 1e-6  # pixels


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
    losses = _Losses(split, options, bins)
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
        losses.compare_objects(image, found, before.names)
        losses.compare_fields("images", image.extra, other.extra)
    # 2. Images that are left were not in the original.
    for name in written:
        losses.add("images were read back that were not written", name)
    # 3. Compare categories and top-level fields.
    known = {} if after is None else {category.name: category for category in after.categories}
    for category in before.categories:
        if category.name not in known:
            losses.add("classes are in no prompt", category.name, whole=False)
        else:
            losses.compare_fields("categories", category.extra, known[category.name].extra)
    for name in before.info.keys() - (after.info.keys() if after is not None else set()):
        losses.add("top-level fields were left out", name, whole=False)
    return losses.findings()


class _Losses:
    """Counts of what is lost, by kind, with the first examples."""

    def __init__(self, split: str, options: ExampleOptions, bins: bool) -> None:
        self._split, self._options, self._bins = split, options, bins
        self._counts: Counter[tuple[str, bool]] = Counter()
        self._examples: dict[tuple[str, bool], list[str]] = {}

    def add(self, what: str, where: str = "", *, whole: bool = True) -> None:
        """Count one: an image or object (``whole``), or a field or change of one."""
        self._counts[what, whole] += 1
        shown = self._examples.setdefault((what, whole), [])
        if where and where not in shown and len(shown) < _SHOWN:
            shown.append(where)

    def findings(self) -> list[Finding]:
        findings = []
        for (what, whole), count in self._counts.items():
            shown = ", ".join(self._examples[what, whole])
            message = f"{count} {what} ({shown})" if shown else f"{count} {what}"
            if whole:
                findings.append(Finding("lost", "error", message, split=self._split))
            else:
                findings.append(Finding("not-kept", "warning", message, split=self._split))
        return findings

    def compare_fields(
        self, owners: str, before: Mapping[str, object], after: Mapping[str, object]
    ) -> None:
        if missing := ", ".join(sorted(before.keys() - after.keys())):
            self.add(f"{owners} lost fields of their own", missing, whole=False)

    def compare_objects(
        self, image: ImageRecord, found: dict[str, list[Annotation]], names: Mapping[int, str]
    ) -> None:
        """Match the objects of one image with those found, by class, the nearest box first."""
        reasons = {item.id: self._reason(item, image) for item in image.objects}
        # Objects that the format cannot express come last.
        for item in sorted(image.objects, key=lambda item: reasons[item.id] != ""):
            place, reason = f"{image.file_name} annotation {item.id}", reasons[item.id]
            left = found.get(names[item.category_id], [])
            match = min(left, key=lambda other: _distance(other, item), default=None)
            # An object that cannot be expressed must not take the match of its neighbour.
            if match is None or (reason and _distance(match, item) > 1):
                self.add(reason or "objects were not read back", place)
                match = None
            else:
                left.remove(match)
            self._compare_object(item, match, image, place)
        for _ in range(sum(map(len, found.values()))):
            self.add("objects were read back that were not written", image.file_name)

    def _reason(self, item: Annotation, image: ImageRecord) -> str:
        """Return why an object cannot be expressed, "" if it can."""
        if item.iscrowd and not (self._bins and self._options.crowds == "keep"):
            return "crowd regions were left out"
        if is_outside(item, image.image_hw):
            return "objects were left out: their boxes are outside the image"
        if self._bins and not with_extent([item], image, self._options):
            return "objects were left out: their boxes have no extent in bins"
        return ""

    def _compare_object(
        self, item: Annotation, match: Annotation | None, image: ImageRecord, place: str
    ) -> None:
        """Count changes of one object; ``match`` is None for a lost one."""
        # 1. Box, outline and id.
        changes = []
        if match is not None:
            # YOLO cuts boxes at the border.
            left, top, right, bottom = item.xyxy
            reach = min(left, top, image.image_hw[1] - right, image.image_hw[0] - bottom)
            if reach < -_ROUNDING and _distance(item, match) > _ROUNDING:
                changes.append("objects were cut at the border of their image")
            if item.segmentation is None and match.segmentation is not None:
                changes.append("boxes became polygons with four corners")
            elif type(item.segmentation) is not type(match.segmentation) and match.segmentation:
                changes.append("run-length masks became polygons")
            if match.id != item.id:
                self.add("ids of annotations were left out", str(item.id), whole=False)
        if item.segmentation is not None and (match is None or match.segmentation is None):
            changes.append("masks were left out")
        # 2. Fields that the format lacks.
        # Areas that equal the box are computed again by readers.
        of_box = item.xywh[2] * item.xywh[3]
        is_kept = match is not None and match.area is not None
        if item.area is not None and not is_kept and abs(item.area - of_box) > 1e-6 * of_box:
            changes.append("areas were left out: they are not those of the boxes")
        for change in changes:
            self.add(change, place, whole=False)
        self.compare_fields("annotations", item.extra, {} if match is None else match.extra)


def _distance(one: Annotation, other: Annotation) -> float:
    return sum(abs(a - b) for a, b in zip(one.xyxy, other.xyxy, strict=True))
