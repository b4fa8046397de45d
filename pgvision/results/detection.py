"""Detection results: boxes in pixels, scores and names, and conversions to other formats."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np

from pgvision import drawing
from pgvision.arrays import BoolArray, ByteArray, FloatArray, IntArray
from pgvision.boxes import xyxy_to_cxcywh, xyxy_to_xywh
from pgvision.coco.checks import whole_number
from pgvision.errors import OptionError, ShapeError, require_choice, require_count, require_module
from pgvision.results import checks, exports
from pgvision.results.answer import Answer

if TYPE_CHECKING:
    import fiftyone.core.labels as fol
    import pandas as pd
    import supervision as sv

_Detected = TypeVar("_Detected", bound="DetectionResult")

_log = logging.getLogger("pgvision.results")
_WHOLE_IMAGE_MARGIN = 0.01  # part of a side; ten times a location bin


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DetectionResult(Answer):
    """Objects found in one image, in the order in which the model wrote them.

    Like a list, a result without objects is false: ``if result:`` is true if anything was found.
    Whether the image could be read at all is ``result.ok``. Arrays are read-only copies.

    Attributes:
        xyxy: ``(n, 4)`` float32 pixels: left, top, right, bottom, inside the image.
        labels: ``n`` names: the queried class if the output names it, else the model's own words;
            None if it wrote none and more than one class was queried.
        class_ids: ``(n,)`` positions in ``classes``; -1 if the output names none of them.
        classes: The queried names.
        texts: ``n`` names in the model's own words ("Helmets" if "helmet" was queried); None if it
            wrote none. Left out, they are ``labels`` as passed.
        scores: ``(n,)`` float32 in [0, 1], or None if unknown.
        loc_yxyx: ``(n, 4)`` location bins as the model wrote them: top, left, bottom, right; or
            None.
        edge_std: ``(n, 4)`` float32 pixels, the standard deviation of each edge: left, top, right,
            bottom; or None.
        tracker_ids: ``(n,)`` numbers of the tracks; -1 if an object has none yet; or None.
        presence: For each queried class, the score in [0, 1] that there is any; or None.

    Example:
        >>> result = DetectionResult(
        ...     image_hw=(480, 640), xyxy=[[10, 20, 30, 40], [5, 6, 9, 9]], scores=[0.9, 0.4],
        ...     labels=["Helmets", "helmet"], class_ids=[0, 0], classes=["helmet"], source="a.jpg")
        >>> result
        DetectionResult(2 objects: 2 helmet; 480x640; a.jpg#0)
        >>> result.labels, result.texts
        (('helmet', 'helmet'), ('Helmets', 'helmet'))
        >>> len(result[result.scores > 0.5])
        1
    """

    xyxy: FloatArray
    labels: tuple[str | None, ...]
    class_ids: IntArray
    classes: tuple[str, ...]
    texts: tuple[str | None, ...] = ()
    scores: FloatArray | None = None
    loc_yxyx: IntArray | None = None
    edge_std: FloatArray | None = None
    tracker_ids: IntArray | None = None
    presence: Mapping[str, float] | None = None

    _per_object: ClassVar[tuple[str, ...]] = (
        *("xyxy", "labels", "texts", "class_ids", "scores", "loc_yxyx", "edge_std", "tracker_ids"),
    )

    def __post_init__(self) -> None:
        """Check every field and replace it by its own frozen form.

        Raises:
            ShapeError: If an array is not valid.
            OptionError: If a name is not valid.
        """
        super().__post_init__()
        self._set("xyxy", checks.frozen_boxes(self.xyxy, self.image_hw))
        # 1. Boxes, then the names that were asked for.
        n = len(self.xyxy)
        self._set("classes", checks.require_names(self.classes, "classes"))
        high = len(self.classes) - 1
        ids = checks.frozen(self.class_ids, "class_ids", (n,), np.int64, low=-1, high=high)
        if ids is None:
            raise ShapeError("class_ids must be whole numbers, got None; -1 is no class")
        self._set("class_ids", ids)
        # 2. Names of objects: the class where there is one, else the model's words.
        words = checks.require_names(self.labels, "labels", count=n)
        texts = words if self.texts == () else checks.require_names(self.texts, "texts", count=n)
        self._set("texts", texts)
        queried = ((*self.classes, None)[class_id] for class_id in ids.tolist())
        pairs = zip(queried, words, strict=True)
        self._set("labels", tuple(word if name is None else name for name, word in pairs))
        # 3. Scores, and what the model wrote.
        if self.presence is not None:
            self._set("presence", checks.require_numbers(self.presence, "presence", most=1.0))
        bins = checks.frozen(self.loc_yxyx, "loc_yxyx", (n, 4), np.int64, low=0, high=1023)
        self._set("loc_yxyx", bins)
        self._set("scores", checks.frozen(self.scores, "scores", (n,), np.float32, low=0, high=1))
        self._set("edge_std", checks.frozen(self.edge_std, "edge_std", (n, 4), np.float32, low=0))
        self._set("tracker_ids", checks.frozen(self.tracker_ids, "tracker_ids", (n,), np.int64))

    def __len__(self) -> int:
        """Count the objects."""
        return len(self.xyxy)

    def __iter__(self: _Detected) -> Iterator[_Detected]:
        """Yield each object as a result with one object."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self: _Detected, index: checks.Index) -> _Detected:
        """Choose objects by a mask, a slice, indices, or one index; ``raw_text`` stays whole.

        Raises:
            IndexError: If there is no such object, or the index is a mask of another length or has
                another type.
        """
        # A tuple would be an index for each axis.
        rows = np.ravel(np.arange(len(self))[list(index) if isinstance(index, tuple) else index])
        chosen: dict[str, Any] = {}
        for name in self._per_object:
            value = getattr(self, name)
            if isinstance(value, tuple):
                chosen[name] = tuple(value[row] for row in rows)
            elif value is not None:
                chosen[name] = value[rows]
        return replace(self, **chosen)

    def __repr__(self) -> str:
        """Return the number of objects by name, the image's size and its source."""
        noun = "object" if len(self) == 1 else "objects"
        # An untrained model may write a label of hundreds of letters.
        counts = Counter((label or "unnamed")[:60] for label in self.labels)
        found = ", ".join(f"{count} {label}" for label, count in counts.most_common())
        listed = f": {found}" if found else ""
        return f"{type(self).__name__}({len(self)} {noun}{listed}; {self._origin()})"

    @property
    def xywh(self) -> FloatArray:
        """``(n, 4)`` float32 pixels: left, top, width, height (COCO's order)."""
        return xyxy_to_xywh(self.xyxy)

    @property
    def xyxyn(self) -> FloatArray:
        """``(n, 4)`` float32 in [0, 1]: left, top, right, bottom as parts of width and height."""
        return self._normalized(self.xyxy)

    def _normalized(self, boxes: FloatArray) -> FloatArray:
        height, width = self.image_hw
        sides = np.array([width, height, width, height], np.float32)
        return np.divide(boxes, sides, dtype=np.float32)

    @property
    def whole_image(self) -> BoolArray:
        """``(n,)`` bool: boxes within 1 % of the image's border on all sides, often no objects."""
        margins = np.abs(self.xyxyn - np.array([0, 0, 1, 1], np.float32))
        return np.asarray((margins <= _WHOLE_IMAGE_MARGIN).all(axis=1))

    def with_trackers(self: _Detected, tracker_ids: Sequence[int] | IntArray) -> _Detected:
        """Return this result with the numbers of tracks.

        Args:
            tracker_ids: ``(n,)`` whole numbers; -1 for an object without a track.

        Raises:
            ShapeError: If there are not ``n`` whole numbers.
        """
        return replace(self, tracker_ids=np.asarray(tracker_ids))

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
        font: str | Path | None = None,
        font_size: int | None = None,
    ) -> ByteArray:
        """Draw the objects on a copy of the image.

        Args:
            image: ``(h, w, 3)`` uint8 BGR of the size ``image_hw``; by default the result's own.
            boxes: Draw the boxes.
            labels: Write the names at the boxes.
            scores: Add the scores to the names, if they are known.
            masks: Tint the pixels of each object, if there are masks.
            contours: Draw the outlines of the masks.
            color_by: Objects of one class, of one track, or none share a colour.
            thickness: Pixels; by default it fits the image.
            font: Font file; by default one that has the letters of the names is searched.
            font_size: Height of the letters, in pixels; by default it fits the image.

        Returns:
            A new BGR image of the same size.

        Raises:
            OptionError: If there is no image, or an option is out of range.
            ShapeError: If the image has another size or dtype.
        """
        # 1. Check the options.
        for name, value in (("thickness", thickness), ("font_size", font_size)):
            if value is not None:
                require_count(name, value, least=1)
        # 2. Masks first, so that lines and labels stay visible.
        canvas, color_ids = self.require_image(image).copy(), self._color_ids(color_by)
        width = thickness or drawing.fit_thickness(self.image_hw)
        crops = self._mask_crops()
        if masks:
            drawing.draw_masks(canvas, crops, color_ids=color_ids[: len(crops)])
        if contours:
            ids = color_ids[: len(crops)]
            drawing.draw_contours(canvas, crops, color_ids=ids, thickness=width)
        # 3. Boxes, and labels on top.
        if boxes:
            drawing.draw_boxes(canvas, self.xyxy, color_ids=color_ids, thickness=width)
        if labels:
            drawing.draw_labels(
                canvas,
                self.xyxy,
                [label or "unnamed" for label in self.labels],
                color_ids=color_ids,
                suffixes=[self._suffix(row, scores) for row in range(len(self))],
                font=font,
                font_size=font_size,
            )
        return canvas

    def _color_ids(self, color_by: str) -> IntArray:
        require_choice("color_by", color_by, ("class", "track", "index"))
        if color_by == "track" and self.tracker_ids is None:
            raise OptionError("color_by='track' needs tracker_ids; see result.with_trackers(ids)")
        chosen = {"class": self.class_ids, "track": self.tracker_ids}.get(color_by)
        return np.arange(len(self)) if chosen is None else chosen

    def _suffix(self, row: int, with_score: bool) -> str:
        parts = []
        if self.tracker_ids is not None and self.tracker_ids[row] >= 0:
            parts.append(f"#{self.tracker_ids[row]}")
        if with_score and self.scores is not None:
            parts.append(f"{self.scores[row]:.2f}")
        return " ".join(parts)

    def _mask_crops(self) -> list[drawing.Crop]:
        """Return the masks as crops with their corners; a detector has none."""
        return []

    def crops(self, image: ByteArray | None = None, *, padding: int = 0) -> list[ByteArray]:
        """Cut the objects out of the image.

        Args:
            image: ``(h, w, 3)`` uint8 BGR; by default the result's own.
            padding: Pixels to add on each side, up to the border of the image.

        Returns:
            ``n`` BGR copies; edges are rounded outwards, to one pixel or more.

        Raises:
            OptionError: If there is no image, or ``padding`` is no whole number of at least 0.
        """
        bgr, margin = self.require_image(image), require_count("padding", padding)
        height, width = self.image_hw
        # Rounded outwards, and cut at the border, where a box of no width gets the last column.
        low = np.floor(self.xyxy[:, :2]).astype(int) - margin
        high = np.ceil(self.xyxy[:, 2:]).astype(int) + margin
        low = np.clip(low, 0, [width - 1, height - 1])
        high = np.maximum(np.minimum(high, [width, height]), low + 1)
        corners = zip(low.tolist(), high.tolist(), strict=True)
        return [bgr[y0:y1, x0:x1].copy() for (x0, y0), (x1, y1) in corners]

    def save_crops(
        self, folder: str | Path, image: ByteArray | None = None, *, padding: int = 0
    ) -> list[Path]:
        """Write each object as ``folder/label/source.frame.number.jpg``.

        A file that is there is kept: crops of another image of the same name, or of the next array,
        end in ``.number-2.jpg`` and so on.

        Args:
            folder: Where to; it is created.
            image: As in `crops`.
            padding: As in `crops`.

        Returns:
            ``n`` paths.

        Raises:
            OptionError: If there is no image, or ``padding`` is no whole number of at least 0.
        """
        # Crops of earlier images are never overwritten.
        stem = exports.file_name(PurePath(self.source or "image").stem)
        paths = []
        for row, crop in enumerate(self.crops(image, padding=padding)):
            label = exports.file_name(self.labels[row] or "unnamed")
            name = f"{stem}.{self.frame_index}.{row}"
            names = chain([name], (f"{name}-{number}" for number in count(2)))
            places = (Path(folder) / label / f"{name}.jpg" for name in names)
            paths.append(next(place for place in places if not place.exists()))
            exports.write_image(paths[-1], crop)
        return paths

    def to_supervision(self) -> sv.Detections:
        """Convert to supervision's ``Detections``.

        Returns:
            Detections with ``confidence`` (None if unknown), ``class_id`` (-1 kept), ``tracker_id``
            and, in ``data``: ``class_name`` (the labels; "" for None), ``text`` (the model's own
            words), ``prefix``, ``edge_std`` (NaN if unknown) and ``loc_yxyx`` (-1 if unknown): the
            same keys in all results, so that ``Detections.merge`` works. Fields of the whole image
            (``raw_text``, ``source``, ...) stay in the result.
        """
        import supervision as sv

        n, texts = len(self), np.empty(len(self), dtype=object)
        texts[:] = self.texts
        spread, bins, ids = self.edge_std, self.loc_yxyx, self.tracker_ids
        data: dict[str, Any] = {
            # The key that supervision's annotators and trackers read.
            "class_name": np.array([label or "" for label in self.labels], dtype=str),
            "text": texts,
            "prefix": np.array([self.prefix] * n, dtype=str),
            "edge_std": np.full((n, 4), np.nan, np.float32) if spread is None else spread.copy(),
            "loc_yxyx": np.full((n, 4), -1) if bins is None else bins.copy(),
        }
        # Copies, because supervision's users write into its arrays.
        return sv.Detections(
            xyxy=self.xyxy.copy(),
            confidence=None if self.scores is None else self.scores.copy(),
            class_id=self.class_ids.astype(int),
            tracker_id=None if ids is None else ids.astype(int),
            data=data,
        )

    def to_fiftyone(self) -> fol.Detections:
        """Convert to FiftyOne's ``Detections``; needs fiftyone, and no database.

        Returns:
            One ``Detection`` an object: ``label``, ``bounding_box`` (left, top, width, height as
            parts of the image), ``confidence`` (None if unknown), ``index`` (the track, if any),
            and, with masks, ``mask``: bool, of the box alone.

        Raises:
            DependencyError: If fiftyone is not installed.
        """
        fiftyone = require_module(*exports.FIFTYONE)
        boxes, masks = self._normalized(self.xywh).tolist(), self._mask_crops()
        tracks = [-1] * len(self) if self.tracker_ids is None else self.tracker_ids.tolist()
        objects = [
            fiftyone.Detection(
                label=label,
                bounding_box=boxes[row],
                confidence=None if self.scores is None else float(self.scores[row]),
                index=None if tracks[row] < 0 else tracks[row],  # -1 would be one track
                **({"mask": masks[row][0]} if masks else {}),
            )
            for row, label in enumerate(self.labels)
        ]
        return fiftyone.Detections(detections=objects)

    def to_coco(
        self, *, image_id: int, category_ids: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """Convert to COCO's list of results.

        Objects with a label that is no class (nor a key of ``category_ids``) are left out; a
        warning in the log counts them. An unknown score is left out too; evaluation refuses such a
        list.

        Args:
            image_id: The image's id in the annotation file.
            category_ids: Id of each name; by default the position in ``classes`` plus 1.

        Returns:
            One dict an object: ``image_id``, ``category_id``, ``bbox`` (xywh), ``score``, and with
            masks ``segmentation`` as compressed run lengths.

        Raises:
            DataError: If ``category_ids`` lacks one of the classes that were found.
            OptionError: If ``image_id`` is no whole number.
        """
        # 1. Ids of numpy would not be JSON.
        number = whole_number(image_id)
        if number is None:
            raise OptionError(f"image_id must be a whole number, got {image_id!r}")
        # 2. One record for each object with a category.
        entries, boxes, outlines = [], self.xywh.tolist(), self._segmentations()
        for row, label in enumerate(self.labels):
            category_id = exports.category_id_of(int(self.class_ids[row]), label, category_ids)
            if category_id is None:
                continue
            entry = {"image_id": number, "category_id": category_id, "bbox": boxes[row]}
            if self.scores is not None:
                entry["score"] = float(self.scores[row])
            entries.append(entry | ({"segmentation": outlines[row]} if outlines else {}))
        self._warn_left_out(len(self) - len(entries), "COCO category")
        return entries

    def _segmentations(self) -> list[dict[str, Any]]:
        return []

    def to_yolo(self, *, scores: bool = False) -> list[str]:
        """Convert to the lines of a YOLO label file; ``save("a.txt")`` writes them.

        Objects with a label that is no class are left out; a warning in the log counts them.

        Args:
            scores: Add the score as the last column, as prediction files have it.

        Returns:
            One line an object: class and, as parts of the image's width and height, centre x,
            centre y, width, height; with masks the corners of the outline instead.

        Raises:
            OptionError: If ``scores`` are requested and unknown.
        """
        if scores and self.scores is None:
            raise OptionError("scores=True, but this result's scores are unknown")
        # Empty masks have no outline, and unknown labels no class.
        lines = []
        for row, shape in enumerate(self._yolo_shapes()):
            last = [self.scores[row]] if scores and self.scores is not None else []
            if shape and self.class_ids[row] >= 0:
                numbers = (f"{part:.6f}" for part in (*shape, *last))
                lines.append(" ".join([str(self.class_ids[row]), *numbers]))
        self._warn_left_out(len(self) - len(lines), "YOLO class or outline")
        return lines

    def _yolo_shapes(self) -> list[list[float]]:
        shapes: list[list[float]] = self._normalized(xyxy_to_cxcywh(self.xyxy)).tolist()
        return shapes

    def _as_text(self) -> str:
        return "".join(f"{line}\n" for line in self.to_yolo())

    def _warn_left_out(self, count: int, what: str) -> None:
        """Log how many objects a conversion leaves out, if any, and what they lack."""
        if count:
            _log.warning(
                "%s: %d of %d objects have no %s (classes: %s) and are left out",
                *(self.source or "result", count, len(self), what, list(self.classes)),
            )

    def _columns(self) -> dict[str, Sequence[Any]]:
        # Unknown columns are filled with None, so that all results have the same columns.
        num = len(self)
        columns = self._origin_columns(num) | {
            "label": self.labels,
            "text": self.texts,
            "class_id": self.class_ids.tolist(),
            "score": [None] * num if self.scores is None else self.scores.tolist(),
            **dict(zip(exports.EDGES, self.xyxy.T.tolist(), strict=True)),
            "tracker_id": [None] * num if self.tracker_ids is None else self.tracker_ids.tolist(),
        }
        spread = [[None] * num] * 4 if self.edge_std is None else self.edge_std.T.tolist()
        names = (f"{edge}_std" for edge in exports.EDGES)
        return columns | dict(zip(names, spread, strict=True))

    def to_pandas(self) -> pd.DataFrame:
        """Convert to a table, one row an object; needs pandas.

        Returns:
            The columns of `to_rows`; missing values if unknown. `pgvision.results.to_table` joins
            many results.

        Raises:
            DependencyError: If pandas is not installed.
        """
        return exports.pandas_table(self._columns())
