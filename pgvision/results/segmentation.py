"""Segmentation results: detections with a mask for each object."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pgvision.arrays import BoolArray, FloatArray, IntArray
from pgvision.errors import DataError, ShapeError
from pgvision.results.checks import frozen
from pgvision.results.detection import DetectionResult

if TYPE_CHECKING:
    import supervision as sv
    from shapely import MultiPolygon

    from pgvision.drawing import Crop

_SIDE = 64


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SegmentationResult(DetectionResult):
    """Objects with masks: 64 x 64 logits inside each box, or run lengths.

    The model's results have logits; results read from a file have run lengths, which are 70 times
    smaller and give the same masks. Arrays of the image's size are made only by `masks`; `rle`,
    `polygons`, `area` and `plot` work on crops.

    Attributes:
        mask_logits: ``(n, 64, 64)`` float32; an object covers its box where they are above 0. None
            if unknown; then there is ``mask_rle``.
        mask_rle: ``n`` COCO run lengths of the image's size, or None.
        codes: ``(n, 16)`` mask codes as the model wrote them, or None.

    Raises:
        ShapeError: If there is neither logits nor run lengths, or both.

    Example:
        >>> result = SegmentationResult(
        ...     image_hw=(480, 640), xyxy=[[10, 20, 30, 40]], labels=["helmet"], class_ids=[0],
        ...     classes=["helmet"], mask_logits=np.ones((1, 64, 64)))
        >>> result.masks.shape, result.area.tolist()
        ((1, 480, 640), [400])
    """

    mask_logits: FloatArray | None = None
    mask_rle: tuple[dict[str, Any], ...] | None = None
    codes: IntArray | None = None

    _masks: ClassVar[frozenset[str]] = frozenset({"mask_logits", "mask_rle"})
    _apart: ClassVar[frozenset[str]] = DetectionResult._apart | _masks
    _per_object: ClassVar[tuple[str, ...]] = (*DetectionResult._per_object, *_masks, "codes")

    def __post_init__(self) -> None:
        """Check every field and replace it by its frozen form.

        Raises:
            ShapeError: If an array has another shape, dtype or range than it must.
        """
        super().__post_init__()
        n = len(self.xyxy)
        if (self.mask_logits is None) == (self.mask_rle is None):
            raise ShapeError("masks: expected mask_logits or mask_rle, one of the two")
        shape = (n, _SIDE, _SIDE)
        self._set("mask_logits", frozen(self.mask_logits, "mask_logits", shape, np.float32))
        self._set("codes", frozen(self.codes, "codes", (n, 16), np.int64, low=0, high=127))
        if self.mask_rle is not None:
            self._set("mask_rle", _checked_rle(self.mask_rle, n, self.image_hw))

    def __eq__(self, other: object) -> bool:
        """Equal if all fields are equal, and the logits; or the masks if a side has no logits."""
        is_equal = super().__eq__(other)
        if is_equal is not True or not isinstance(other, SegmentationResult):
            return is_equal
        if self.mask_logits is None or other.mask_logits is None:
            return self.rle() == other.rle()
        return np.array_equal(self.mask_logits, other.mask_logits)

    @cached_property
    def masks(self) -> BoolArray:
        """``(n, h, w)`` bool of the image's size, read-only.

        Made on first use and kept: ``n * h * w`` bytes. `rle`, `polygons`, `area` and `plot` need
        no such array.
        """
        masks = np.zeros((len(self), *self.image_hw), np.bool_)
        for frame, (crop, (left, top)) in zip(masks, self._mask_crops(), strict=True):
            frame[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        masks.setflags(write=False)
        return masks

    @cached_property
    def area(self) -> IntArray:
        """``(n,)`` covered pixels, read-only."""
        area = np.array([np.count_nonzero(crop) for crop, _ in self._mask_crops()], np.int64)
        area.setflags(write=False)
        return area

    def __getstate__(self) -> dict[str, Any]:
        """Leave full-frame masks out of pickles: they are made again on first use."""
        return {name: value for name, value in vars(self).items() if name != "masks"}

    def rle(self) -> list[dict[str, Any]]:
        """Return each mask as COCO's compressed run lengths, without full-frame arrays.

        Returns:
            ``n`` dicts ``{"size": [h, w], "counts": str}``.
        """
        from pgvision.masks import masks_to_rle

        if self.mask_logits is None:
            return [{**rle, "size": list(rle["size"])} for rle in self.mask_rle or ()]
        return masks_to_rle(self.mask_logits, self.xyxy, image_hw=self.image_hw)

    def polygons(self, *, tolerance: float = 0.0) -> list[MultiPolygon]:
        """Return each mask as valid shapely geometry in pixels, holes kept.

        Args:
            tolerance: Largest distance of a simplified outline from the mask's, in pixels; 0 keeps
                every corner.

        Returns:
            ``n`` MultiPolygons, empty for an empty mask.

        Raises:
            ShapeError: If ``tolerance`` is negative or not finite.
        """
        from pgvision.masks import mask_to_polygon

        return [
            mask_to_polygon(crop, corner, tolerance=tolerance)
            for crop, corner in self._mask_crops()
        ]

    def to_supervision(self) -> sv.Detections:
        """Convert to supervision's ``Detections``, as `DetectionResult.to_supervision` does.

        Returns:
            Detections with ``mask`` and, in ``data``, the ``codes`` (-1 if unknown). The logits are
            left out.
        """
        detections = super().to_supervision()
        codes = self.codes
        detections.data["codes"] = np.full((len(self), 16), -1) if codes is None else codes.copy()
        detections.mask = self.masks.copy()
        return detections

    def _segmentations(self) -> list[dict[str, Any]]:
        return self.rle()

    def _yolo_shapes(self) -> list[list[float]]:
        from pgvision.masks import join_rings, polygon_rings

        # One ring for an object: its parts and holes are joined, so that nothing is left out.
        rings = [np.array(join_rings(polygon_rings(shape))) for shape in self.polygons()]
        height, width = self.image_hw
        return [(ring.reshape(-1, 2) / [width, height]).ravel().tolist() for ring in rings]

    def _columns(self) -> dict[str, Sequence[Any]]:
        return super()._columns() | {"area": self.area.tolist()}

    def to_dict(self) -> dict[str, object]:
        """Return every field but ``image`` as plain Python values, ready for ``json.dumps``.

        Returns:
            As `Answer.to_dict`, with ``rle``: the masks exactly, some 300 bytes an object. The
            logits (16 KB an object) are left out.
        """
        return super().to_dict() | {"rle": self.rle()}

    def _mask_crops(self) -> list[Crop]:
        from pgvision.masks import paste_mask
        from pgvision.rle import rle_to_mask

        # 1. Logits: resize each mask to its box.
        if self.mask_logits is not None:
            return [
                paste_mask(logits, box, self.image_hw)
                for logits, box in zip(self.mask_logits, self.xyxy, strict=True)
            ]
        # 2. Run lengths: crop the frame to the box, or further where the mask leaves it.
        crops = []
        for rle, box in zip(self.mask_rle or (), self.xyxy.tolist(), strict=True):
            mask = rle_to_mask(rle)
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            left, top, right, bottom = map(math.floor, box)
            if len(rows):
                left, right = min(left, int(columns[0])), max(right, int(columns[-1]) + 1)
                top, bottom = min(top, int(rows[0])), max(bottom, int(rows[-1]) + 1)
            crops.append((mask[top:bottom, left:right].copy(), (left, top)))
        return crops

    @classmethod
    def _decoded(cls, data: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
        return super()._decoded(data, values | {"mask_rle": tuple(data["rle"])})


def _checked_rle(
    rles: tuple[dict[str, Any], ...], count: int, image_hw: tuple[int, int]
) -> tuple[dict[str, Any], ...]:
    """Return run lengths with sizes as tuples and packed counts as text."""
    from pgvision.rle import checked_rle

    # pycocotools reads past the end of broken runs: nothing else may reach it.
    if len(rles) != count:
        raise ShapeError(f"mask_rle must have one entry for each of {count} boxes, got {len(rles)}")
    checked = []
    for row, rle in enumerate(rles):
        try:
            counts = checked_rle(rle, image_hw)["counts"]
        except DataError as error:
            raise ShapeError(f"mask_rle[{row}] {error}") from error
        checked.append({"size": image_hw, "counts": counts.decode("ascii")})
    return tuple(checked)
