"""Works out what can be seen of what was drawn."""

from dataclasses import replace
from typing import Final

import cv2
import numpy as np

from pgvision.arrays import ByteArray
from recipes.scenes.canvas import Canvas
from recipes.scenes.scene import SceneObject
from recipes.scenes.stage import Drawn

MIN_VISIBLE: Final = 0.25
"""Objects of which less is seen are not annotated."""
MIN_SIDE: Final = 0.025
"""Nor are those whose visible box is narrower or lower than this share of the image side."""
READABLE: Final = 0.9
"""A sign's text counts as readable when at least this much of the board is seen."""


def visible_objects(canvas: Canvas, drawn: list[Drawn]) -> tuple[SceneObject, ...]:
    """Return the annotated objects, left to right by box centre, from the finished id buffer."""
    ids = np.ascontiguousarray(canvas.visible_ids)
    seen = [(item, _seen(ids, item)) for item in drawn]
    kept = [(item, found) for item, found in seen if found is not None]
    worn = {(item.worker, item.label) for item, _ in kept if item.worker is not None}
    vested = {item.worker for item in drawn if item.label == "vest"}
    objects = []
    for item, found in kept:
        if item.label != "worker":
            objects.append(found)
            continue
        helmet = vest = None
        if (item.worker, "helmet") in worn:
            helmet = True
        elif (item.worker, "head") in worn:
            helmet = False
        if (item.worker, "vest") in worn:
            vest = True
        elif item.worker not in vested:
            vest = False
        objects.append(replace(found, wears_helmet=helmet, wears_vest=vest))
    return tuple(sorted(objects, key=_across))


def _seen(ids: ByteArray, item: Drawn) -> SceneObject | None:
    """Return the visible part of one object, or None if too little is seen to annotate it."""
    visible = cv2.inRange(ids, item.track_id, item.last)
    left, top, width, height = cv2.boundingRect(visible)
    image_hw = ids.shape[:2]
    if width < MIN_SIDE * image_hw[1] or height < MIN_SIDE * image_hw[0]:
        return None
    crop = visible[top : top + height, left : left + width].astype(np.bool_)
    fraction = min(1.0, float(np.count_nonzero(crop)) / max(1, item.area))
    if fraction < MIN_VISIBLE:
        return None
    return SceneObject(
        label=item.label,
        xyxy=np.array([left, top, left + width, top + height], np.float32),
        crop=crop,
        image_hw=image_hw,
        visible_fraction=fraction,
        colour=item.colour,
        text=item.text if fraction >= READABLE else None,
        track_id=item.track_id,
        wears_helmet=None,
        wears_vest=None,
        worn_by=item.worker if item.label != "worker" else None,
    )


def _across(item: SceneObject) -> tuple[float, float]:
    left, top, right, bottom = item.xyxy.tolist()
    return (left + right) / 2, (top + bottom) / 2
