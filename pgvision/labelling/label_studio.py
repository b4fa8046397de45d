"""Label Studio: label configs in, predictions out.

Source:
    labelstud.io/guide/export (results), labelstud.io/tags (Label: alias, predicted_values; Image:
    valueList).
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import Element, ParseError

import numpy as np
import orjson
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from pgvision.arrays import BoolArray, FloatArray
from pgvision.errors import DataError
from pgvision.files import replaced_path
from pgvision.results import DetectionResult, SegmentationResult

_LABELS: Final = {
    "RectangleLabels": "rectangle",
    "PolygonLabels": "polygon",
    "BrushLabels": "brush",
}
_SHAPES: Final = {"Rectangle": "rectangle", "Polygon": "polygon", "Brush": "brush"}


@dataclass(frozen=True)
class LabelGroup:
    """One tag with labels on an image.

    Attributes:
        from_name: Name of the tag.
        to_name: Name of the image's tag.
        shape: "rectangle", "polygon" or "brush".
        names: What each class is called in results: an alias, or the label's value.
        shape_name: Name of the separate tag of the shape, for ``<Labels>``; None: the same tag.
    """

    from_name: str
    to_name: str
    shape: str
    names: Mapping[str, str]
    shape_name: str | None = None

    @property
    def wants_masks(self) -> bool:
        """Whether boxes are not enough."""
        return self.shape != "rectangle"


@dataclass(frozen=True)
class LabelConfig:
    """A project's labels.

    Attributes:
        groups: The tags with labels, in the order of the config.
        fields: For each image tag, the key of a task's ``data`` with its address (or addresses).
    """

    groups: tuple[LabelGroup, ...]
    fields: Mapping[str, str]

    @property
    def labels(self) -> tuple[str, ...]:
        """All classes to ask for."""
        return tuple(dict.fromkeys(name for group in self.groups for name in group.names))

    @property
    def field(self) -> str:
        """The key of the first image."""
        return self.fields[self.groups[0].to_name]

    def classes(self, to_name: str, *, masks: bool) -> tuple[str, ...]:
        """Return the classes to ask for on one image, as boxes or as masks."""
        groups = (group for group in self.groups if group.to_name == to_name)
        names = [name for group in groups if group.wants_masks is masks for name in group.names]
        return tuple(dict.fromkeys(names))


def read_label_config(xml: str) -> LabelConfig:
    """Read a project's label config: every tag with labels on an image.

    A label with ``predicted_values`` is asked for by these values.

    Raises:
        DataError: If it is not XML, or has no labels of boxes, polygons or brushes on an image.

    Example:
        >>> config = read_label_config('<View><Image name="image" value="$photo"/>'
        ...     '<RectangleLabels name="box" toName="image"><Label value="helmet"/>'
        ...     '</RectangleLabels></View>')
        >>> config.fields, config.classes("image", masks=False)
        ({'image': 'photo'}, ('helmet',))
    """
    # 1. Parse; entities are refused by defusedxml.
    try:
        root = fromstring(xml)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise DataError(f"label_config: expected the project's XML, got {error!r}") from error
    # 2. Image tags, and the keys of a task's data that they show.
    fields = {
        tag.get("name", ""): (tag.get("value") or tag.get("valueList") or "").removeprefix("$")
        for tag in root.iter("Image")
    }
    # 3. <Labels> needs a separate tag for the shape; the first one on the same image counts.
    shapes: dict[str, tuple[str, str]] = {}
    for tag in root.iter():
        if tag.tag in _SHAPES:
            shapes.setdefault(tag.get("toName", ""), (_SHAPES[tag.tag], tag.get("name", "")))
    # 4. Tags with labels on an image.
    groups = []
    for tag in root.iter():
        to_name, names = tag.get("toName", ""), _names(tag)
        if to_name not in fields or not names:
            continue
        if tag.tag in _LABELS:
            groups.append(LabelGroup(tag.get("name", ""), to_name, _LABELS[tag.tag], names))
        elif tag.tag == "Labels" and to_name in shapes:
            shape, shape_name = shapes[to_name]
            groups.append(LabelGroup(tag.get("name", ""), to_name, shape, names, shape_name))
    if groups:
        return LabelConfig(tuple(groups), fields)
    raise DataError(
        "label_config: expected an <Image> and RectangleLabels, PolygonLabels or BrushLabels "
        f"with <Label>s on it, got {', '.join(sorted({tag.tag for tag in root.iter()}))}"
    )


def _names(tag: Element) -> dict[str, str]:
    names: dict[str, str] = {}
    for label in tag.iter("Label"):
        value = label.get("value", "")
        shown = label.get("alias") or value
        predicted = [name.strip() for name in label.get("predicted_values", "").split(",")]
        for name in [name for name in predicted if name] or [value]:
            if name:
                names.setdefault(name, shown)
    return names


def prediction(
    results: DetectionResult | Sequence[DetectionResult],
    config: LabelConfig,
    model_version: str,
    *,
    to_name: str | None = None,
    item_index: int | None = None,
) -> dict[str, Any]:
    """Return one prediction of a task: positions in percent of the image.

    Objects of other classes than those asked for are left out.

    Args:
        results: Objects of one image; with masks where a group wants them. Several results
            (boxes and masks) are joined.
        config: The project's.
        model_version: Shown with the prediction.
        to_name: The image's tag; None: the only one.
        item_index: Position of the image in a ``valueList``.

    Returns:
        ``model_version``, ``score`` (of the least certain object, so that sorting by it brings up
        what needs a look; None if unknown) and ``result``.

    Raises:
        DataError: If a group wants masks and no result has them.
    """
    several = [results] if isinstance(results, DetectionResult) else list(results)
    # 1. Brush tags take masks; box tags take boxes.
    masked = [one for one in several if isinstance(one, SegmentationResult)]
    boxes = [one for one in several if not isinstance(one, SegmentationResult)] or masked
    regions: list[dict[str, Any]] = []
    for group in config.groups:
        if to_name not in (None, group.to_name):
            continue
        if group.wants_masks and not masked:
            raise DataError(f"{group.from_name}: expected masks; use pgvision.Segmenter")
        for result in masked if group.wants_masks else boxes:
            regions += _regions(result, group)
    # 2. Regions of one image of several have its index.
    for region in regions:
        if item_index is not None:
            region["item_index"] = item_index
    scores = [region["score"] for region in regions if "score" in region]
    return {"model_version": model_version, "score": min(scores, default=None), "result": regions}


def write_tasks(
    path: str | Path, tasks: Iterable[tuple[str, Mapping[str, Any]]], field: str
) -> None:
    """Write a file that Label Studio imports: tasks with their predictions.

    Args:
        path: The file.
        tasks: For each image its address and its `prediction`.
        field: Key of a task's ``data`` with the address.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "tasks.json"
        >>> write_tasks(file, [("/data/a.jpg", {"result": []})], "image")
        >>> file.read_text()
        '[{"data":{"image":"/data/a.jpg"},"predictions":[{"result":[]}]}]'
    """
    listed = [{"data": {field: at}, "predictions": [found]} for at, found in tasks]
    with replaced_path(path) as aside:
        aside.write_bytes(orjson.dumps(listed))


def _regions(result: DetectionResult, group: LabelGroup) -> list[dict[str, Any]]:
    regions: list[dict[str, Any]] = []
    for one in result:
        # 1. Only classes of this group.
        name = group.names.get(one.labels[0] or "")
        if name is None or one.class_ids[0] < 0:
            continue
        # 2. One region for a box or a brush, one for each ring of a polygon.
        for value in _values(one, group.shape):
            region: dict[str, Any] = {
                "id": uuid.uuid4().hex[:10],
                "to_name": group.to_name,
                "original_width": one.image_hw[1],
                "original_height": one.image_hw[0],
                "image_rotation": 0,
            }
            if one.scores is not None:
                region["score"] = float(one.scores[0])
            # 3. With <Labels> the shape and its label are two entries with one id.
            kind = "labels" if group.shape_name else f"{group.shape}labels"
            if group.shape_name:
                shape = {"from_name": group.shape_name, "type": group.shape, "value": value}
                regions.append(region | shape)
            labelled = {"from_name": group.from_name, "type": kind, "value": value | {kind: [name]}}
            regions.append(region | labelled)
    return regions


def _values(one: DetectionResult, shape: str) -> list[dict[str, Any]]:
    height, width = one.image_hw
    percent = 100.0 / np.array([width, height])
    if not isinstance(one, SegmentationResult) or shape == "rectangle":
        left, top, right, bottom = (one.xyxy[0].reshape(2, 2) * percent).ravel().tolist()
        box = {"x": left, "y": top, "width": right - left, "height": bottom - top, "rotation": 0}
        return [box]
    if shape == "polygon":
        rings = outer_rings(one)
        return [{"points": (ring * percent).tolist(), "closed": True} for ring in rings]
    return [{"format": "rle", "rle": brush_rle(one.masks[0])}]


_SIZES: Final = (3, 4, 8, 16)
"""Bits of the four kinds of run length, as Label Studio's converter chooses them."""


def brush_rle(mask: BoolArray) -> list[int]:
    """Write a mask as Label Studio's ``brushlabels`` have it.

    The picture is red, green, blue and alpha, row by row, all 0 or all 255. In bits: how many
    values (32), bits of a value less 1 (5), bits of the four kinds of length less 1 (4 each); then
    for each run a 1, the kind of its length (2), its length less 1, and the value (8).

    Args:
        mask: ``(h, w)``.

    Returns:
        Bytes, 0 to 255.

    Source:
        thi.ng/umbrella, packages/rle-pack, which Label Studio's frontend uses.

    Example:
        >>> brush_rle(np.array([[False, True]]))
        [0, 0, 0, 8, 57, 27, 252, 96, 17, 255, 128]
    """
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    # Four channels per pixel, all equal.
    lengths = 4 * np.diff(starts, append=flat.size)
    bits = [f"{4 * flat.size:032b}{7:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    most = 1 << _SIZES[-1]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = f"{255 * int(flat[start]):08b}"
        # Split runs that are longer than the largest length.
        for left in range(length, 0, -most):
            run = min(left, most) - 1
            kind = next(at for at, size in enumerate(_SIZES) if run < 1 << size)
            bits.append(f"1{kind:02b}{run:0{_SIZES[kind]}b}{value}")
    packed = np.packbits(np.frombuffer("".join(bits).encode(), np.uint8) - ord("0"))
    found: list[int] = packed.tolist()
    return found


def outer_rings(one: SegmentationResult) -> list[FloatArray]:
    """Return the outer ring of each part of one object, the largest part first.

    Args:
        one: A result with one object.

    Returns:
        ``(n, 2)`` corners in pixels, x and y; holes are left out.
    """
    (outline,) = one.polygons(tolerance=0.5)
    parts = sorted(outline.geoms, key=lambda part: -float(part.area))
    return [np.asarray(part.exterior.coords)[:-1] for part in parts]
