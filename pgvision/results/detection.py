"""What a detector returns: boxes in pixels, their scores and names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np

from pgvision.arrays import BoolArray, ByteArray, FloatArray, IntArray
from pgvision.errors import OptionError, ShapeError
from pgvision.results import exits, picture
from pgvision.results.answer import Answer
from pgvision.results.checks import (
    frozen_boxes,
    frozen_reals,
    frozen_wholes,
    require_presence,
)

if TYPE_CHECKING:
    import fiftyone.core.labels as fol
    import pandas as pd
    import supervision as sv

_Detected = TypeVar("_Detected", bound="DetectionResult")
Index = int | slice | Sequence[int] | Sequence[bool] | IntArray | BoolArray

# A box counts as one over the whole image if no edge is further from the border than this part
# of the side; one location bin is a tenth of it.
_WHOLE_IMAGE_MARGIN = 0.01


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DetectionResult(Answer):
    """The objects found in one image, in the order in which the model wrote them.

    Like a list, a result without objects is false: ``if result:`` asks whether anything was found.
    Whether a frame could be read at all is ``result.ok``. Arrays are read-only copies.

    Attributes:
        xyxy: ``(n, 4)`` float32 pixels: left, top, right, bottom, inside the image.
        labels: ``n`` names: the class asked for where the answer names it, else the model's own
            words; None where it wrote none and more than one class was asked for.
        class_ids: ``(n,)`` positions in ``classes``; -1 where the answer names none of them.
        classes: The names that were asked for.
        texts: ``n`` names in the model's own words ("Helmets" where "helmet" was asked for); None
            where it wrote none. Left out, they are ``labels`` as passed.
        scores: ``(n,)`` float32 in [0, 1], or None if unknown.
        loc_yxyx: ``(n, 4)`` location bins as the model wrote them: top, left, bottom, right; or
            None.
        edge_std: ``(n, 4)`` float32 pixels, the standard deviation of each edge: left, top, right,
            bottom; or None.
        tracker_ids: ``(n,)`` numbers of the tracks; -1 where an object has none yet; or None.
        presence: Of each class asked for, the score in [0, 1] that there is any at all; or None.

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

    _newer: ClassVar[frozenset[str]] = Answer._newer | {"texts", "presence"}
    _per_object: ClassVar[tuple[str, ...]] = (
        *("xyxy", "labels", "texts", "class_ids", "scores", "loc_yxyx", "edge_std", "tracker_ids"),
    )

    def __post_init__(self) -> None:
        """Check every field and replace it by its own frozen form.

        Raises:
            ShapeError: If an array has another shape, dtype or range than it must.
            OptionError: If a name is no string.
        """
        super().__post_init__()
        self._set("xyxy", frozen_boxes(self.xyxy, self.image_hw))
        n = len(self.xyxy)
        self._set("classes", _names(self.classes, "classes"))
        ids = frozen_wholes(self.class_ids, "class_ids", (n,), low=-1, high=len(self.classes) - 1)
        self._set("class_ids", ids)
        words = _names(self.labels, "labels", count=n)
        texts = words if self.texts == () else _names(self.texts, "texts", count=n)
        self._set("texts", texts)
        asked = ((*self.classes, None)[class_id] for class_id in ids.tolist())
        self._set("labels", tuple(map(_first_known, asked, words)))
        if self.presence is not None:
            self._set("presence", require_presence(self.presence))
        if self.scores is not None:
            self._set("scores", frozen_reals(self.scores, "scores", (n,), unit=True))
        if self.loc_yxyx is not None:
            bins = frozen_wholes(self.loc_yxyx, "loc_yxyx", (n, 4), low=0, high=1023)
            self._set("loc_yxyx", bins)
        if self.edge_std is not None:
            self._set("edge_std", _frozen_spread(self.edge_std, n))
        if self.tracker_ids is not None:
            self._set("tracker_ids", frozen_wholes(self.tracker_ids, "tracker_ids", (n,)))

    def __len__(self) -> int:
        """Count the objects."""
        return len(self.xyxy)

    def __iter__(self: _Detected) -> Iterator[_Detected]:
        """Give each object as a result of its own."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self: _Detected, index: Index) -> _Detected:
        """Choose objects by a mask, a slice, indices, or one index; ``raw_text`` stays whole.

        Raises:
            ShapeError: If the index is a mask of another length or holds something else.
            IndexError: If there is no such object.
        """
        rows = _rows(index, len(self))
        chosen: dict[str, Any] = {}
        for name in self._per_object:
            value = getattr(self, name)
            if isinstance(value, tuple):
                chosen[name] = tuple(value[row] for row in rows)
            elif value is not None:
                chosen[name] = value[rows]
        return replace(self, **chosen)

    def __repr__(self) -> str:
        """Count the objects by name, and say the image's size and where it came from."""
        noun = "object" if len(self) == 1 else "objects"
        # An untrained model may write a label of hundreds of letters.
        counts = Counter((label or "unnamed")[:60] for label in self.labels)
        found = ", ".join(f"{count} {label}" for label, count in counts.most_common())
        listed = f": {found}" if found else ""
        return f"{type(self).__name__}({len(self)} {noun}{listed}; {self._origin()})"

    @property
    def whole_image(self) -> BoolArray:
        """``(n,)`` bool: boxes whose four edges all lie within 1 % of the image's border.

        Such a box often means that the model took the picture, not a thing in it.
        """
        height, width = self.image_hw
        side = np.array([width, height, width, height], dtype=np.float32)
        border = np.array([0, 0, width, height], dtype=np.float32)
        near: BoolArray = (np.abs(self.xyxy - border) <= side * _WHOLE_IMAGE_MARGIN).all(axis=1)
        return near

    def with_trackers(self: _Detected, tracker_ids: Sequence[int] | IntArray) -> _Detected:
        """Give the objects the numbers of their tracks.

        Args:
            tracker_ids: ``(n,)`` whole numbers; -1 for an object that has no track yet.

        Returns:
            A new result; this one is unchanged.

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
        color_by: Literal["class", "track", "index"] = "class",
        thickness: int | None = None,
    ) -> ByteArray:
        """Draw the objects on a copy of the picture.

        Args:
            image: ``(h, w, 3)`` uint8 BGR of the size ``image_hw``; by default the result's own.
            boxes: Draw the boxes.
            labels: Write the names beside the boxes.
            scores: Add the scores to the names, where they are known.
            color_by: What shares a colour: a class, a track, or nothing.
            thickness: Width of the lines in pixels; by default it fits the image.

        Returns:
            A new BGR picture of the same size, fit for ``cv2.imshow`` and video writers.

        Raises:
            OptionError: If there is no picture, or an option is outside what it may be.
            ShapeError: If the picture has another size or dtype.
        """
        style = picture.Style(
            boxes=boxes, labels=labels, scores=scores, color_by=color_by, thickness=thickness
        )
        return picture.plot_objects(self.require_picture(image), self, style)

    def save(self, path: str | Path, *, image: ByteArray | None = None) -> Path:
        """Write the plotted picture, or everything but the picture as JSON.

        The file is written aside and renamed, so that a reader never meets half of one.

        Args:
            path: Ends in .jpg, .jpeg, .png, .bmp, .webp or .json.
            image: ``(h, w, 3)`` uint8 BGR; by default the result's own.

        Returns:
            ``path``.

        Raises:
            OptionError: If the ending is another one, or a picture is needed and there is none.
        """
        return picture.save_result(self, Path(path), lambda: self.plot(image))

    def crops(self, image: ByteArray | None = None, *, padding: int = 0) -> list[ByteArray]:
        """Cut the objects out of the picture.

        Args:
            image: ``(h, w, 3)`` uint8 BGR; by default the result's own.
            padding: Pixels to add on each side, as far as the image goes.

        Returns:
            ``n`` BGR copies. Edges are rounded outwards; each is at least one pixel wide and high.

        Raises:
            OptionError: If there is no picture, or ``padding`` is no whole number of at least 0.
        """
        return exits.crops(self.require_picture(image), self.xyxy, padding)

    def to_supervision(self) -> sv.Detections:
        """Convert to supervision's ``Detections``.

        Returns:
            Detections with ``confidence`` (None if unknown), ``class_id`` (-1 kept), ``tracker_id``
            and, in ``data``: ``class_name`` (the labels; "" for None), ``text`` (the model's own
            words), ``prefix`` and, if known, ``edge_std`` and ``loc_yxyx``. The fields that belong
            to the answer as a whole (``raw_text``, ``rejects``, ``truncated``, ``timings``,
            ``source``, ``time``) have no place in ``Detections``, whose merge refuses values that
            differ: read them from the result.
        """
        return exits.to_supervision(self)

    def to_fiftyone(self) -> fol.Detections:
        """Convert to FiftyOne's ``Detections``; needs fiftyone, and no database.

        Returns:
            One ``Detection`` an object: ``label``, ``bounding_box`` (left, top, width, height as
            parts of the image), ``confidence`` (None if unknown), ``index`` (the track, if any).

        Raises:
            DependencyError: If fiftyone is not installed.
        """
        return exits.to_fiftyone(self)

    def to_coco(
        self, *, image_id: int, category_ids: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """Convert to COCO's list of results.

        Objects whose label is none of the classes (nor a key of ``category_ids``) have no category
        and are left out; a warning in the log counts them, and `to_dict` keeps them. An unknown
        score is left out too, never made up; evaluation refuses such a list and says so.

        Args:
            image_id: The image's id in the annotation file.
            category_ids: Id of each name; by default the position in ``classes`` plus 1.

        Returns:
            One dict an object: ``image_id``, ``category_id``, ``bbox`` (xywh) and ``score``.

        Raises:
            DataError: If ``category_ids`` lacks one of the classes that were found.
        """
        return exits.to_coco(self, image_id, category_ids)

    def to_yolo(self, *, scores: bool = False) -> list[str]:
        """Convert to the lines of a YOLO label file: class, centre x, centre y, width, height.

        Objects whose label is none of the classes have no number and are left out; a warning in the
        log counts them.

        Args:
            scores: Add the score as a sixth column, as prediction files have it.

        Returns:
            One line an object, coordinates as parts of the image's width and height.

        Raises:
            OptionError: If ``scores`` are asked for and unknown.
        """
        return exits.to_yolo(self, scores)

    def to_pandas(self) -> pd.DataFrame:
        """Convert to a table, one row an object; needs pandas.

        Returns:
            Columns ``source``, ``frame_index``, ``time``, ``label``, ``text``, ``class_id``,
            ``score`` (NaN if unknown), ``left``, ``top``, ``right``, ``bottom``, ``tracker_id`` and
            the four ``..._std`` of the edges (missing values if unknown).

        Raises:
            DependencyError: If pandas is not installed.
        """
        return exits.to_pandas(self)

    def to_dict(self) -> dict[str, object]:
        """Write every field but ``image`` as plain Python values, ready for ``json.dumps``.

        Returns:
            A dict whose keys are the names of the fields, and ``type``. Each array is a list of
            ``n`` entries, so ``data["xyxy"]`` reads like ``result.xyxy``; unknown is None.
        """
        data = super().to_dict() | {
            "classes": list(self.classes),
            "presence": None if self.presence is None else dict(self.presence),
        }
        for name in DetectionResult._per_object:
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                data[name] = value.tolist()
            else:
                data[name] = None if value is None else list(value)
        return data

    def _repr_jpeg_(self) -> bytes | None:
        return None if self.image is None else picture.jpeg_bytes(self.plot())


def _names(names: Sequence[str | None], what: str, *, count: int | None = None) -> tuple[Any, ...]:
    # With a count: one for each box, and None where there is no name.
    if isinstance(names, str):
        raise OptionError(f"{what} must be a sequence of names, got the one string {names!r}")
    for name in names:
        if not (isinstance(name, str) or (count is not None and name is None)):
            raise OptionError(f"{what} must hold names, got {name!r}")
    if count is not None and len(names) != count:
        raise ShapeError(f"{what} must name all {count} boxes, got {len(names)}")
    return tuple(names)


def _first_known(asked: str | None, words: str | None) -> str | None:
    return words if asked is None else asked


def _frozen_spread(edge_std: FloatArray, count: int) -> FloatArray:
    spread = frozen_reals(edge_std, "edge_std", (count, 4))
    if spread.size and spread.min() < 0:
        raise ShapeError(f"edge_std must be at least 0 pixels, got {spread.min()}")
    return spread


def _rows(index: Index, count: int) -> IntArray:
    if isinstance(index, slice):
        return np.arange(count)[index]
    array = np.asarray(index)
    if array.shape == (0,) and array.dtype.kind == "f":
        array = array.astype(np.int64)
    if array.ndim > 1 or array.dtype.kind not in "biu":
        raise ShapeError(
            f"index a result by a mask, a slice, or whole numbers, got {array.dtype} {array.shape}"
        )
    if array.dtype.kind == "b" and array.shape != (count,):
        raise ShapeError(f"a mask must have shape ({count},), got {array.shape}")
    return np.atleast_1d(np.arange(count)[array])
