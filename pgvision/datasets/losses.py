"""What a format cannot hold of a data set: counted by kind, with the first examples."""

from collections.abc import Iterable, Mapping

from pgvision.datasets.examples import ExampleOptions, Target
from pgvision.datasets.records import Annotation, Dataset, Finding, ImageRecord, Rle

_SHOWN = 3


class Losses:
    """Counts what is lost on the way to a file, kind by kind.

    Args:
        split: Name of the split, for the findings.

    Example:
        >>> losses = Losses()
        >>> losses.add("crowd regions were left out", "a.jpg annotation 3")
        >>> losses.findings()[0].message
        '1 crowd regions were left out (a.jpg annotation 3)'
    """

    def __init__(self, split: str = "") -> None:
        self._split = split
        self._kinds: dict[tuple[str, bool], tuple[int, list[str]]] = {}
        self.num_images = 0
        self.num_objects = 0

    def add(self, what: str, where: str = "", *, whole: bool = True) -> None:
        """Count one.

        Args:
            what: The kind: what is lost, in the plural, and why.
            where: The image, object or field.
            whole: True for an image or an object; False for a field, and for what is changed.
        """
        count, examples = self._kinds.get((what, whole), (0, []))
        if where and len(examples) < _SHOWN and where not in examples:
            examples.append(where)
        self._kinds[what, whole] = (count + 1, examples)

    def findings(self) -> list[Finding]:
        """Return a finding for each kind: ``lost`` for whole images and objects, ``not-kept``."""
        return [
            Finding(
                "lost" if whole else "not-kept",
                "error" if whole else "warning",
                f"{count} {what}" + (f" ({', '.join(examples)})" if examples else ""),
                split=self._split,
            )
            for (what, whole), (count, examples) in self._kinds.items()
        ]


def place_of(item: Annotation, image: ImageRecord) -> str:
    """Name an object.

    Example:
        >>> from pathlib import Path
        >>> shot = ImageRecord(7, "a.jpg", Path("a.jpg"), (480, 640))
        >>> place_of(Annotation(id=3, category_id=1, xywh=(0.0, 0.0, 1.0, 1.0)), shot)
        'a.jpg annotation 3'
    """
    return f"{image.file_name} annotation {item.id}"


def is_outside(item: Annotation, image: ImageRecord) -> bool:
    """Whether a box shares nothing with its image, not even an edge of no extent."""
    left, top, width, height = item.xywh
    return _is_off(left, width, image.image_hw[1]) or _is_off(top, height, image.image_hw[0])


def _is_off(start: float, length: float, side: int) -> bool:
    if start + length < 0 or start > side:
        return True
    return length > 0 and (start + length <= 0 or start >= side)


def lost_in_yolo(dataset: Dataset, options: ExampleOptions, split: str = "") -> Losses:
    """Count what YOLO label files cannot hold of a data set."""
    losses = Losses(split)
    for image in dataset.images:
        losses.num_images += 1
        _field_losses(losses, "images", image.extra)
        for item in image.objects:
            place = place_of(item, image)
            if item.iscrowd:
                losses.add("crowd regions were left out: YOLO has no word for them", place)
            elif is_outside(item, image):
                losses.add("objects were left out: their boxes lie outside the image", place)
            else:
                losses.num_objects += 1
                _outline_losses(losses, item, image, options.task == "segment")
            if item.segmentation is not None and options.task == "detect":
                losses.add(_NO_MASKS, place, whole=False)
            _item_losses(losses, item, image)
    _set_losses(losses, dataset)
    return losses


def _outline_losses(losses: Losses, item: Annotation, image: ImageRecord, masks: bool) -> None:
    place = place_of(item, image)
    left, top, right, bottom = item.xyxy
    height, width = image.image_hw
    if min(left, top, width - right, height - bottom) < 0:
        what = "objects reach beyond the border of their image and were cut there"
        losses.add(what, place, whole=False)
    if masks and item.segmentation is None:
        what = "objects have no mask: the corners of their boxes were written"
        losses.add(what, place, whole=False)
    elif masks and isinstance(item.segmentation, Rle):
        what = "run-length masks became polygons along the edges of their pixels"
        losses.add(what, place, whole=False)


def lost_in_examples(
    targets: Mapping[int, list[Target]], dataset: Dataset, options: ExampleOptions, split: str = ""
) -> Losses:
    """Count what lines of ``{"image", "prefix", "suffix"}`` do not hold of a data set.

    Args:
        targets: The prompts of each image, by image id.
        dataset: The data set.
        options: As for `iter_examples`.
        split: Name of the split.
    """
    losses = Losses(split)
    asked: set[str] = set()
    for image in dataset.images:
        here = targets.get(image.id, [])
        asked.update(name for target in here for name in target.classes)
        written = {item.id for target in here for item in target.objects}
        losses.num_images += bool(here)
        losses.num_objects += len(written)
        if not here:
            why = "they have no objects and empty='drop'"
            if image.objects:
                why = "all their objects were left out, and 'nothing there' would be wrong"
            what = f"images were left out: {why}"
            losses.add(what, image.file_name, whole=bool(image.objects))
        _field_losses(losses, "images", image.extra)
        for item in image.objects:
            _example_losses(losses, item, image, item.id in written, options)
    for name in dict.fromkeys(dataset.classes):
        if name not in asked:
            losses.add("classes are in no prompt", name, whole=False)
    _set_losses(losses, dataset)
    return losses


def _example_losses(
    losses: Losses, item: Annotation, image: ImageRecord, written: bool, options: ExampleOptions
) -> None:
    place = place_of(item, image)
    if item.iscrowd and options.crowds == "drop":
        losses.add("crowd regions were left out: examples have no word for them", place)
    elif not written and is_outside(item, image):
        losses.add("objects were left out: their boxes lie outside the image", place)
    elif not written:
        losses.add("objects were left out: their boxes have no extent in bins", place)
    if item.segmentation is not None and options.task == "detect":
        losses.add(_NO_MASKS, place, whole=False)
    _item_losses(losses, item, image)


_NO_MASKS = "masks were left out: boxes were asked for (task='detect')"


def _item_losses(losses: Losses, item: Annotation, image: ImageRecord) -> None:
    of_box = item.xywh[2] * item.xywh[3]
    if item.area is not None and abs(item.area - of_box) > 1e-6 * max(of_box, 1):
        what = "areas were left out: they are not those of the boxes"
        losses.add(what, place_of(item, image), whole=False)
    _field_losses(losses, "annotations", item.extra)


def _field_losses(losses: Losses, owners: str, names: Iterable[str]) -> None:
    fields = sorted(names)
    if fields:
        losses.add(f"{owners} lost fields of their own", ", ".join(fields), whole=False)


def _set_losses(losses: Losses, dataset: Dataset) -> None:
    ids = [item.id for image in dataset.images for item in image.objects]
    for place, number in enumerate(ids, start=1):
        if place != number:  # numbered from 1, as a reader will
            losses.add("ids of annotations were left out", str(number), whole=False)
    for category in dataset.categories:
        _field_losses(losses, "categories", category.extra)
    for name in dataset.info:
        losses.add("top-level fields were left out", name, whole=False)
