"""What a segmenter returns: the detector's fields, and a small mask for each object."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from pgvision.arrays import BoolArray, ByteArray, FloatArray, IntArray
from pgvision.errors import ShapeError
from pgvision.results import exits, picture
from pgvision.results.checks import frozen_reals, frozen_wholes
from pgvision.results.detection import DetectionResult

if TYPE_CHECKING:
    import fiftyone.core.labels as fol
    import pandas as pd
    import supervision as sv
    from shapely import MultiPolygon

_SIDE = 64
_LITTLE_FLOAT32 = np.dtype("<f4")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SegmentationResult(DetectionResult):
    """Objects with masks. A mask is kept as 64 x 64 logits inside its box.

    Arrays of the image's size appear only when `masks` is asked for; `rle`, `polygons`, `area` and
    `plot` work on the crops.

    Attributes:
        mask_logits: ``(n, 64, 64)`` float32; an object covers its box where they are above 0.
        codes: ``(n, 16)`` mask codes as the model wrote them, or None.

    Example:
        >>> result = SegmentationResult(
        ...     image_hw=(480, 640), xyxy=[[10, 20, 30, 40]], labels=["helmet"], class_ids=[0],
        ...     classes=["helmet"], mask_logits=np.ones((1, 64, 64)))
        >>> result.masks.shape, result.area.tolist()
        ((1, 480, 640), [400])
    """

    mask_logits: FloatArray
    codes: IntArray | None = None

    _per_object: ClassVar[tuple[str, ...]] = (*DetectionResult._per_object, "mask_logits", "codes")

    def __post_init__(self) -> None:
        """Check every field and replace it by its own frozen form.

        Raises:
            ShapeError: If an array has another shape, dtype or range than it must.
        """
        super().__post_init__()
        n = len(self.xyxy)
        self._set("mask_logits", frozen_reals(self.mask_logits, "mask_logits", (n, _SIDE, _SIDE)))
        if self.codes is not None:
            self._set("codes", frozen_wholes(self.codes, "codes", (n, 16), low=0, high=127))

    @cached_property
    def masks(self) -> BoolArray:
        """``(n, h, w)`` bool of the image's size, read-only.

        Made when first asked for and kept as long as the result lives: ``n * h * w`` bytes. What
        needs no such array (`rle`, `polygons`, `area`, `plot`) makes none.
        """
        from pgvision.masks import paste_masks

        masks = paste_masks(self.mask_logits, self.xyxy, image_hw=self.image_hw)
        masks.setflags(write=False)
        return masks

    @cached_property
    def area(self) -> IntArray:
        """``(n,)`` covered pixels, read-only."""
        from pgvision.masks import mask_areas

        area = mask_areas(self.mask_logits, self.xyxy, image_hw=self.image_hw)
        area.setflags(write=False)
        return area

    def __getstate__(self) -> dict[str, Any]:
        """Leave full-frame masks out of pickles: they are made again where they are wanted."""
        return {name: value for name, value in vars(self).items() if name != "masks"}

    def rle(self) -> list[dict[str, Any]]:
        """Give each mask as COCO's compressed run lengths, without full-frame arrays.

        Returns:
            ``n`` dicts ``{"size": [h, w], "counts": str}``.
        """
        from pgvision.masks import masks_to_rle

        return masks_to_rle(self.mask_logits, self.xyxy, image_hw=self.image_hw)

    def polygons(self, *, tolerance: float = 0.0, min_area: float = 0.0) -> list[MultiPolygon]:
        """Give each mask as valid shapely geometry in pixels, holes kept.

        Args:
            tolerance: How far a simplified outline may stray, in pixels; 0 keeps every corner.
            min_area: Parts smaller than this many square pixels are dropped.

        Returns:
            ``n`` MultiPolygons, empty for an empty mask.
        """
        from pgvision.masks import masks_to_polygons

        return masks_to_polygons(
            self.mask_logits,
            self.xyxy,
            image_hw=self.image_hw,
            tolerance=tolerance,
            min_area=min_area,
        )

    def plot(
        self,
        image: ByteArray | None = None,
        *,
        boxes: bool = True,
        labels: bool = True,
        scores: bool = True,
        masks: bool = True,
        contours: bool = True,
        color_by: Literal["class", "track", "index"] = "class",
        thickness: int | None = None,
    ) -> ByteArray:
        """Draw the objects on a copy of the picture.

        Args:
            image: ``(h, w, 3)`` uint8 BGR of the size ``image_hw``; by default the result's own.
            boxes: Draw the boxes.
            labels: Write the names beside the boxes.
            scores: Add the scores to the names, where they are known.
            masks: Tint the pixels of each object.
            contours: Draw the outlines of the masks.
            color_by: What shares a colour: a class, a track, or nothing.
            thickness: Width of the lines in pixels; by default it fits the image.

        Returns:
            A new BGR picture of the same size.

        Raises:
            OptionError: If there is no picture, or an option is outside what it may be.
            ShapeError: If the picture has another size or dtype.
        """
        style = picture.Style(
            boxes=boxes,
            labels=labels,
            scores=scores,
            masks=masks,
            contours=contours,
            color_by=color_by,
            thickness=thickness,
        )
        return picture.plot_objects(self.require_picture(image), self, style, self._mask_crops())

    def to_supervision(self, *, compact_masks: bool = False) -> sv.Detections:
        """Convert to supervision's ``Detections``, as `DetectionResult.to_supervision` does.

        Args:
            compact_masks: Give ``mask`` as supervision's ``CompactMask`` (run lengths of crops)
                instead of ``(n, h, w)`` bool, which takes ``n * h * w`` bytes.

        Returns:
            Detections with ``mask`` and, in ``data``, the ``codes`` if known. The logits stay here.
        """
        detections = exits.to_supervision(self)
        if self.codes is not None:
            detections.data["codes"] = self.codes.copy()
        detections.mask = self._compact() if compact_masks else self.masks.copy()
        return detections

    def to_fiftyone(self) -> fol.Detections:
        """Convert to FiftyOne's ``Detections``, as `DetectionResult.to_fiftyone` does.

        Returns:
            Detections with ``mask``: bool, of the box alone, as FiftyOne wants it.

        Raises:
            DependencyError: If fiftyone is not installed.
        """
        return exits.to_fiftyone(self, [crop for crop, _ in self._mask_crops()])

    def to_coco(
        self, *, image_id: int, category_ids: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """Convert to COCO's list of results, as `DetectionResult.to_coco` does, with masks.

        Args:
            image_id: The image's id in the annotation file.
            category_ids: Id of each name; by default the position in ``classes`` plus 1.

        Returns:
            One dict an object, with ``segmentation`` as compressed run lengths.

        Raises:
            DataError: If ``category_ids`` lacks one of the classes that were found.
        """
        return exits.to_coco(self, image_id, category_ids, self.rle())

    def to_pandas(self) -> pd.DataFrame:
        """Convert to a table, as `DetectionResult.to_pandas` does, with a column ``area``.

        Returns:
            One row an object.

        Raises:
            DependencyError: If pandas is not installed.
        """
        return super().to_pandas().assign(area=self.area)

    def to_dict(self) -> dict[str, object]:
        """Write every field but ``image`` as plain Python values, ready for ``json.dumps``.

        Returns:
            As `DetectionResult.to_dict`, and ``codes``, ``mask_logits`` (base64 of little-endian
            float32, 64 x 64 an object, so that nothing is rounded) and, for readers that know
            COCO, ``rle``, which `from_dict` does not need.
        """
        packed = self.mask_logits.astype(_LITTLE_FLOAT32).tobytes()
        return super().to_dict() | {
            "codes": None if self.codes is None else self.codes.tolist(),
            "mask_logits": base64.b64encode(packed).decode("ascii"),
            "rle": self.rle(),
        }

    def _mask_crops(self) -> list[tuple[BoolArray, tuple[int, int]]]:
        from pgvision.masks import paste_mask

        return [
            paste_mask(logits, box, self.image_hw)
            for logits, box in zip(self.mask_logits, self.xyxy, strict=True)
        ]

    def _compact(self) -> sv.CompactMask:
        import supervision as sv

        # Rounded outwards, because CompactMask keeps nothing outside the box it is given.
        around = np.concatenate([np.floor(self.xyxy[:, :2]), np.ceil(self.xyxy[:, 2:])], axis=1)
        return sv.CompactMask.from_coco_rle(self.rle(), around, self.image_hw)

    @classmethod
    def _decoded(cls, values: dict[str, Any]) -> dict[str, Any]:
        packed = base64.b64decode(values["mask_logits"], validate=True)
        if len(packed) % (_SIDE * _SIDE * _LITTLE_FLOAT32.itemsize):
            raise ShapeError(
                f"mask_logits must hold 64 x 64 float32 an object, got {len(packed)} B"
            )
        logits = np.frombuffer(packed, dtype=_LITTLE_FLOAT32).reshape(-1, _SIDE, _SIDE)
        return super()._decoded(values | {"mask_logits": logits})
