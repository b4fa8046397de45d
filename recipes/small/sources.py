"""Data sets of the third edition of ``small``, under one box convention.

A helmet on a head is boxed with the head, down to the chin, and so is a bare head (the convention
of ``hardhat``). Data sets that box the hat alone, or the head down to the brow, get taller boxes
(`Source.stretch`). An unworn helmet is boxed as it is. Bicycle, motorcycle and batting helmets
are helmets; hats, caps and hoods are not.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from pgvision.arrays import ByteArray, FloatArray

FROZEN: Final = 8  # blocks of the image encoder
CELLS: Final = ("red blood cell", "white blood cell", "platelet")
DRAWN: Final = ("cone", "barrel", "ladder", "truck", "sign")  # known from rendered scenes alone
HELD_OUT: Final = 5  # every fifth image of a new set is held out for measuring


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes:
        folder: Folder under the data root.
        file: COCO file in it.
        images: Image folder in it.
        names: The data set's class -> ours.
        complete: Our classes of which every object in every image is annotated.
        absent: Our classes that no image shows.
        stretch: The data set's class -> factor on the height of its boxes, downwards.
        share: How often an image is drawn, relative to an image of ``hardhat``.
    """

    folder: str
    file: str
    images: str
    names: Mapping[str, str]
    complete: tuple[str, ...] = ()
    absent: tuple[str, ...] = CELLS
    stretch: Mapping[str, float] = field(default_factory=dict)
    share: float = 1.0


_NO_GEAR: Final = ("helmet", "vest", *CELLS)
_PERSON: Final = {"person": "person"}
_ALL_BUT_CELLS: Final = ("person", "helmet", "vest", *DRAWN, "head", "hat")
SOURCES: Final = {
    "hardhat": Source(
        "hardhat", "train.json", "train", {"helmet": "helmet", "head": "head"}, ("helmet", "head")
    ),
    "hardhat_valid": Source(
        "hardhat", "valid.json", "valid", {"helmet": "helmet", "head": "head"}, ("helmet", "head")
    ),
    "hats": Source(
        "hats_and_heads",
        "instances.json",
        "images",
        {"helmet": "helmet", "other helmet": "helmet", "hat": "hat", "head": "head", **_PERSON},
        ("helmet", "hat", "head", "person"),
        stretch={"helmet": 1.6, "head": 1.31, "other helmet": 1.35},
        share=4.0,
    ),
    "css": Source(
        "css_panels",
        "instances.json",
        "images",
        {"helmet": "helmet", "head": "head", "vest": "vest", **_PERSON},
        ("helmet", "head", "person", "vest"),
        stretch={"helmet": 1.6, "head": 1.6},
        share=4.0,
    ),
    # Some helmets and most heads of these are not annotated: never asked about where none is.
    "mix": Source(
        "helmet_vest_mix",
        "instances.json",
        "images",
        {"helmet": "helmet", "vest": "vest"},
        stretch={"helmet": 1.6},
        share=2.5,
    ),
    "riders": Source(
        "riders", "instances.json", "images", {"bike helmet": "helmet", "head": "head"}, share=2.0
    ),
    "close": Source(
        "bike_helmets_close", "instances.json", "images", {"bike helmet": "helmet"}, share=2.0
    ),
    "masked": Source(
        "masked_faces", "instances.json", "images", {}, absent=(*_NO_GEAR, "hat", *DRAWN), share=3.0
    ),
    "portraits": Source(
        "portraits",
        "instances.json",
        "images",
        {"head": "head"},
        absent=(*_NO_GEAR, *DRAWN),
        share=3.0,
    ),
    "things": Source(
        "things_no_people", "instances.json", "images", {}, absent=_NO_GEAR, share=2.0
    ),
    "objects": Source("objects_101", "instances.json", "images", {}, absent=_NO_GEAR, share=2.0),
    "people": Source("coco_people", "instances.json", "images", _PERSON, ("person",), share=4.0),
    # One person of each image has an outline; the others are not annotated.
    "classrooms": Source(
        "classrooms", "instances.json", "images", _PERSON, absent=(*_NO_GEAR, *DRAWN), share=1.5
    ),
    "person": Source(
        "coco_person_448", "person_ccby.json", "images", _PERSON, ("person",), share=4.0
    ),
    "mini": Source("coco_mini_448", "mini_ccby.json", "images", _PERSON, ("person",), share=2.0),
    "minisa": Source(
        "coco_mini_448", "mini_ccbysa.json", "images", _PERSON, ("person",), share=2.0
    ),
    "blood": Source(
        "bccd_448",
        "train.json",
        "train",
        dict(zip(("RBC", "WBC", "Platelets"), CELLS, strict=True)),
        CELLS,
        absent=_ALL_BUT_CELLS,
        share=0.6,
    ),
}


@dataclass(frozen=True)
class Item:
    """One image with its truth, objects from left to right.

    Attributes:
        path: The image file.
        source: Key of `SOURCES`.
        labels: ``n`` class names, ours.
        boxes: ``(n, 4)`` top, left, bottom, right as shares of the image.
        segmentations: ``n`` COCO segmentations or None.
        complete: Classes of which every object in this image is annotated.
        absent: Classes that this image does not show.
    """

    path: Path
    source: str
    labels: tuple[str, ...]
    boxes: FloatArray
    segmentations: tuple[Any, ...]
    complete: tuple[str, ...]
    absent: tuple[str, ...]


def is_held_out(source: str, image_id: int) -> bool:
    """Whether an image is kept for measuring; images are split, never crops of one image."""
    if source == "hardhat_valid":
        return True
    if source in ("hardhat", "blood", "mini", "minisa"):
        return False  # the first two have validation files of their own, the others only train
    if source == "person":
        return image_id % 3 == 0  # as in the second edition
    return image_id % HELD_OUT == 0


def read_source(root: Path, name: str, *, held_out: bool) -> list[Item]:
    """Read the training part, or the held-out part, of one source.

    Args:
        root: Folder with the data sets.
        name: Key of `SOURCES`.
        held_out: Which part.
    """
    source = SOURCES[name]
    content = json.loads((root / source.folder / source.file).read_text(encoding="utf-8"))
    names = {one["id"]: one["name"] for one in content["categories"]}
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in content["annotations"]:
        rows.setdefault(row["image_id"], []).append(row)
    folder = root / source.folder / source.images
    return [
        _item(folder / image["file_name"], name, image, rows.get(image["id"], []), names)
        for image in sorted(content["images"], key=lambda one: one["id"])
        if is_held_out(name, image["id"]) == held_out
    ]


def _item(
    path: Path,
    name: str,
    image: Mapping[str, Any],
    rows: list[dict[str, Any]],
    names: Mapping[int, str],
) -> Item:
    source, found, crowded = SOURCES[name], [], set()
    for row in rows:
        their_name = names[row["category_id"]]
        label = source.names.get(their_name)
        if label is None:
            continue
        if row.get("iscrowd"):
            crowded.add(label)
            continue
        x, y, width, height = row["bbox"]
        height *= source.stretch.get(their_name, 1.0)
        top, left = max(y, 0) / image["height"], max(x, 0) / image["width"]
        bottom = min(y + height, image["height"]) / image["height"]
        right = min(x + width, image["width"]) / image["width"]
        if bottom > top and right > left:
            found.append((label, (top, left, bottom, right), row.get("segmentation")))
    found.sort(key=lambda one: one[1][1] + one[1][3])
    complete = {one for one in source.complete if one not in crowded}
    absent = list(source.absent)
    if name == "people":  # flags of this data set, image by image
        if not image.get("persons_labelled", True):
            complete.discard("person")
        if image.get("helmet_free"):
            absent.append("helmet")
    return Item(
        path=path,
        source=name,
        labels=tuple(one[0] for one in found),
        boxes=np.array([one[1] for one in found], np.float32).reshape(-1, 4),
        segmentations=tuple(one[2] for one in found),
        complete=tuple(sorted(complete)),
        absent=tuple(absent),
    )


def mirrored(item: Item) -> Item:
    """Return the truth of the mirror image."""
    boxes = item.boxes[::-1, [0, 3, 2, 1]].copy()
    boxes[:, [1, 3]] = 1 - boxes[:, [1, 3]]
    return replace(
        item, labels=item.labels[::-1], boxes=boxes, segmentations=item.segmentations[::-1]
    )


def cropped(item: Item, image: ByteArray, rng: np.random.Generator) -> tuple[Item, ByteArray]:
    """Return a window of an image, mostly around one of its objects, and its truth without masks.

    An object of which less than 40% is visible is left out. Where more than 10% of it is visible,
    its class no longer counts as complete.
    """
    # 1. Draw the window, in shares of the image.
    share = rng.uniform(0.35, 0.75)
    height, width = np.minimum(1.0, share * rng.uniform(0.88, 1.12, 2))
    if len(item.boxes) and rng.random() < 0.75:
        top, left, bottom, right = item.boxes[int(rng.integers(len(item.boxes)))]
        y = (top + bottom) / 2 - height * rng.uniform(0.15, 0.85)
        x = (left + right) / 2 - width * rng.uniform(0.15, 0.85)
    else:
        y, x = rng.random() * (1 - height), rng.random() * (1 - width)
    y, x = float(np.clip(y, 0, 1 - height)), float(np.clip(x, 0, 1 - width))
    # 2. Clip the boxes to it.
    labels, boxes, cut = [], [], set()
    for label, (top, left, bottom, right) in zip(item.labels, item.boxes, strict=True):
        high, low = np.clip([top, bottom], y, y + height)
        start, end = np.clip([left, right], x, x + width)
        visible = (low - high) * (end - start) / max(1e-9, (bottom - top) * (right - left))
        if visible < 0.4:
            cut |= {label} if visible > 0.1 else set()
            continue
        labels.append(label)
        boxes.append(
            ((high - y) / height, (start - x) / width, (low - y) / height, (end - x) / width)
        )
    truth = replace(
        item,
        labels=tuple(labels),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        segmentations=(None,) * len(labels),
        complete=tuple(one for one in item.complete if one not in cut),
    )
    # 3. Cut the pixels.
    rows, columns = image.shape[:2]
    y0, x0 = round(y * rows), round(x * columns)
    y1, x1 = max(round((y + height) * rows), y0 + 16), max(round((x + width) * columns), x0 + 16)
    return truth, image[y0:y1, x0:x1]


def squared(image: ByteArray, resolution: int) -> ByteArray:
    """Squeeze a BGR image to a square and return it as RGB, as the model's processor does."""
    grows = max(image.shape[:2]) <= resolution
    size = (resolution, resolution)
    resized = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR if grows else cv2.INTER_AREA)
    return np.ascontiguousarray(resized[..., ::-1])
