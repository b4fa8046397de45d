"""What writing objects as tokens costs: boxes in bins, masks in IoU."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pgvision.datasets.examples import (
    ExampleOptions,
    MaskCodec,
    Target,
    clipped_xyxy,
    codes_of,
    suffix_of,
    targets_of,
)
from pgvision.datasets.jsonl import bins_to_pixels, decode_masks
from pgvision.datasets.records import Annotation, Dataset, ImageRecord
from pgvision.datasets.segmentations import segmentation_to_mask
from pgvision.errors import OptionError
from pgvision.tokens import SEPARATOR, ParsedObject, parse_suffix


@dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """The distance between objects and what their suffixes say.

    Attributes:
        num_objects: Objects written.
        num_left_out: Objects not written: crowds, and boxes without extent in bins.
        num_lost: Objects that did not come back as one object of the same class.
        num_out_of_range: Edges in the last half bin of a side, which bin 1023 has to stand for.
        max_bin_error: Greatest error of the other edges, in bins; 0.5 is rounding alone.
        max_bin_error_out_of_range: Greatest error of the edges out of range; at most 1 under
            convention 1024, whose bin 1024 has no token.
        mask_ious: IoU of each mask with what its codes paint, empty without masks.
    """

    num_objects: int
    num_left_out: int
    num_lost: int
    num_out_of_range: int
    max_bin_error: float
    max_bin_error_out_of_range: float
    mask_ious: tuple[float, ...]

    @property
    def mean_mask_iou(self) -> float | None:
        """Mean of ``mask_ious``, None without masks."""
        return float(np.mean(self.mask_ious)) if self.mask_ious else None

    def to_dict(self) -> dict[str, object]:
        """Return the figures, with the mask IoUs as mean, median and least, for JSON."""
        ious = self.mask_ious
        return {
            "num_objects": self.num_objects,
            "num_left_out": self.num_left_out,
            "num_lost": self.num_lost,
            "num_out_of_range": self.num_out_of_range,
            "max_bin_error": self.max_bin_error,
            "max_bin_error_out_of_range": self.max_bin_error_out_of_range,
            "num_masks": len(ious),
            "mask_iou_mean": self.mean_mask_iou,
            "mask_iou_median": float(np.median(ious)) if ious else None,
            "mask_iou_min": min(ious, default=None),
        }


def round_trip(
    dataset: Dataset, *, options: ExampleOptions | None = None, codec: MaskCodec | None = None
) -> RoundTrip:
    """Write every object as a suffix, parse it back and measure the difference.

    Args:
        dataset: The data set; images are not opened.
        options: As for `iter_examples`.
        codec: Needed for ``task="segment"``.

    Raises:
        OptionError: If masks are asked for and there is no codec.
        DataError: If masks are asked for and an object has none, or a broken one.

    Example:
        >>> from pathlib import Path
        >>> from pgvision.datasets import Category
        >>> box = Annotation(id=1, category_id=3, xywh=(10.2, 20.1, 30.3, 40.4))
        >>> shot = ImageRecord(7, "a.jpg", Path("a.jpg"), (480, 640), (box,))
        >>> round_trip(Dataset((shot,), (Category(3, "helmet"),))).max_bin_error <= 0.5
        True
    """
    chosen = options or ExampleOptions()
    if chosen.task == "segment" and codec is None:
        raise OptionError("task='segment' needs codec=..., which turns masks into codes")
    errors: list[float] = []
    outside: list[float] = []
    ious: list[float] = []
    num_objects = num_lost = 0
    for image in dataset.images:
        for target in targets_of(image, dataset, chosen):
            pairs = list(_parsed_pairs(target, image, dataset, chosen, codec))
            num_objects += len(target.objects)
            num_lost += len(target.objects) - len(pairs)
            for item, found in pairs:
                _edge_errors(item, found, image, chosen, errors, outside)
            if codec is not None and chosen.task == "segment":
                ious += _mask_ious(pairs, image, codec)
    return RoundTrip(
        num_objects=num_objects,
        num_left_out=dataset.num_objects - num_objects,
        num_lost=num_lost,
        num_out_of_range=len(outside),
        max_bin_error=max(errors, default=0.0),
        max_bin_error_out_of_range=max(outside, default=0.0),
        mask_ious=tuple(ious),
    )


def _parsed_pairs(
    target: Target,
    image: ImageRecord,
    dataset: Dataset,
    options: ExampleOptions,
    codec: MaskCodec | None,
) -> Iterator[tuple[Annotation, ParsedObject]]:
    """Pair objects with what is parsed; the order of a suffix is the order of its objects."""
    codes = None if codec is None else codes_of(target, image, options, codec)
    text = suffix_of(target, image, dataset, options, codes)
    ends = (index for index in range(len(text)) if text.startswith(SEPARATOR, index))
    starts = [0, *(index + len(SEPARATOR) for index in ends)]
    parsed = parse_suffix(
        text,
        image_hw=image.image_hw,
        classes=list(target.classes),
        convention=options.convention,
    )
    found_at = {found.start: found for found in parsed.objects}
    for item, start in zip(target.objects, starts, strict=bool(target.objects)):
        found = found_at.get(start)
        if found is None or found.class_id < 0:
            continue
        if target.classes[found.class_id] == dataset.names[item.category_id]:
            yield item, found


def _edge_errors(
    item: Annotation,
    found: ParsedObject,
    image: ImageRecord,
    options: ExampleOptions,
    errors: list[float],
    outside: list[float],
) -> None:
    height, width = image.image_hw
    wanted = clipped_xyxy(item, image.image_hw)
    parsed = bins_to_pixels(found.loc_yxyx, image.image_hw, options.convention)
    for value, got, side in zip(wanted, parsed, (width, height) * 2, strict=True):
        bins = int(options.convention) / side
        (outside if value * bins > 1023.5 else errors).append(abs(value - got) * bins)


def _mask_ious(
    pairs: list[tuple[Annotation, ParsedObject]], image: ImageRecord, codec: MaskCodec
) -> Iterator[float]:
    if not pairs:
        return
    painted = decode_masks([found for _, found in pairs], image.image_hw, codec)
    for (item, _), runs in zip(pairs, painted, strict=True):
        if item.segmentation is None:
            continue
        wanted = segmentation_to_mask(item.segmentation, image.image_hw)
        got = segmentation_to_mask(runs, image.image_hw)
        union = int((wanted | got).sum())
        yield float((wanted & got).sum() / union) if union else 1.0
