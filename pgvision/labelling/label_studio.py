"""Label Studio: names read from a project's label config, results written as its predictions."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from xml.etree.ElementTree import ParseError

import numpy as np
import orjson
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from pgvision.errors import DataError
from pgvision.files import replaced_path
from pgvision.labelling.brushes import brush_rle
from pgvision.results import DetectionResult, SegmentationResult

Shape = Literal["rectanglelabels", "polygonlabels", "brushlabels"]
_SHAPES: Final[dict[str, Shape]] = {
    "RectangleLabels": "rectanglelabels",
    "PolygonLabels": "polygonlabels",
    "BrushLabels": "brushlabels",
}


@dataclass(frozen=True)
class LabelConfig:
    """What a project labels, and how.

    Attributes:
        from_name: Name of the tag that holds the labels.
        to_name: Name of the picture's tag.
        field: The key of a task's ``data`` under which its picture stands.
        shape: What objects are drawn with.
        labels: Their names.
    """

    from_name: str
    to_name: str
    field: str
    shape: Shape
    labels: tuple[str, ...]

    @property
    def wants_masks(self) -> bool:
        """Whether boxes are not enough."""
        return self.shape != "rectanglelabels"


def read_label_config(xml: str) -> LabelConfig:
    """Read a project's label config; of several tags with labels the first one counts.

    Raises:
        DataError: If it is no XML, or has no labels of boxes, polygons or brushes on a picture.

    Example:
        >>> read_label_config('<View><Image name="image" value="$photo"/><RectangleLabels '
        ...     'name="box" toName="image"><Label value="helmet"/></RectangleLabels></View>')
        LabelConfig(from_name='box', to_name='image', field='photo', shape='rectanglelabels',
        labels=('helmet',))
    """
    try:
        root = fromstring(xml)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise DataError(f"label_config: expected the project's XML, got {error!r}") from error
    pictures = {tag.get("name"): tag.get("value", "") for tag in root.iter("Image")}
    for tag in root.iter():
        to_name = tag.get("toName", "")
        labels = tuple(label.get("value", "") for label in tag.iter("Label"))
        if tag.tag in _SHAPES and to_name in pictures and labels:
            field = pictures[to_name].removeprefix("$")
            return LabelConfig(tag.get("name", ""), to_name, field, _SHAPES[tag.tag], labels)
    raise DataError(
        "label_config: expected an <Image> and RectangleLabels, PolygonLabels or BrushLabels "
        f"with <Label>s on it, got {', '.join(sorted({tag.tag for tag in root.iter()}))}"
    )


def prediction(
    result: DetectionResult,
    config: LabelConfig,
    model_version: str,
    names: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write a result as one prediction: places in percent of the picture.

    Args:
        result: What was found; masks where the config wants them.
        config: The project's.
        model_version: Shown beside the prediction.
        names: For a class asked for, what the config calls it, where that differs.

    Returns:
        ``model_version``, ``score`` (of the least sure object, so that sorting by it brings up
        what needs a look; None if unknown) and ``result``.

    Raises:
        DataError: If the config wants masks and the result has none.
    """
    if config.wants_masks and not isinstance(result, SegmentationResult):
        raise DataError(f"{config.shape}: expected masks; use pgvision.Segmenter")
    regions: list[dict[str, Any]] = []
    for one in result:
        label = one.labels[0] or ""
        for value in _values(one, config.shape):
            value[config.shape] = [(names or {}).get(label, label)]
            regions.append(_region(one, config, value))
    score = None if result.scores is None or not len(result) else float(result.scores.min())
    return {"model_version": model_version, "score": score, "result": regions}


def write_tasks(
    path: str | Path, tasks: Iterable[tuple[str, Mapping[str, Any]]], field: str
) -> None:
    """Write a file that Label Studio imports: tasks with their predictions.

    Args:
        path: The file.
        tasks: For each picture its address and its `prediction`.
        field: See `LabelConfig`.

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


def _region(one: DetectionResult, config: LabelConfig, value: dict[str, Any]) -> dict[str, Any]:
    region: dict[str, Any] = {
        "id": uuid.uuid4().hex[:10],
        "from_name": config.from_name,
        "to_name": config.to_name,
        "type": config.shape,
        "original_width": one.image_hw[1],
        "original_height": one.image_hw[0],
        "image_rotation": 0,
        "value": value,
    }
    return region if one.scores is None else region | {"score": float(one.scores[0])}


def _values(one: DetectionResult, shape: Shape) -> list[dict[str, Any]]:
    height, width = one.image_hw
    percent = 100.0 / np.array([width, height])
    if not isinstance(one, SegmentationResult) or shape == "rectanglelabels":
        left, top, right, bottom = (one.xyxy[0].reshape(2, 2) * percent).ravel().tolist()
        box = {"x": left, "y": top, "width": right - left, "height": bottom - top, "rotation": 0}
        return [box]
    if shape == "polygonlabels":
        (outline,) = one.polygons(tolerance=0.5)
        rings = [np.asarray(part.exterior.coords)[:-1] * percent for part in outline.geoms]
        return [{"points": ring.tolist(), "closed": True} for ring in rings]
    return [{"format": "rle", "rle": brush_rle(one.masks[0])}]
