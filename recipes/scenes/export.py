"""Writes rendered scenes as files: pictures, COCO annotations, and examples for every task."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import cv2
import numpy as np

from pgvision.arrays import FloatArray, IntArray
from pgvision.coco.writing import annotation_entry, image_entry, write_coco
from pgvision.errors import OptionError
from pgvision.masks import crop_mask
from pgvision.rle import mask_to_rle
from pgvision.tokens.bins import encode_boxes, object_text
from pgvision.tokens.prefixes import (
    SEPARATOR,
    answer_prefix,
    caption_prefix,
    detect_prefix,
    ocr_prefix,
    segment_prefix,
)
from recipes.scenes.dice import Dice
from recipes.scenes.render import render_scene, require_image_hw, require_seed
from recipes.scenes.scene import Scene, SceneObject
from recipes.scenes.vocabulary import CLASSES
from recipes.scenes.wordings import trained_forms

ABSENT_CLASSES: Final = 2
"""So many classes that a scene lacks are asked for too, with an empty answer."""
_KIND: Final = "tiny"
_JPEG_QUALITY: Final = 95

Example = dict[str, str | list[str]]


class MaskEncoder(Protocol):
    """What writes masks as codes; ``vqvae``'s codec is one."""

    def encode(self, masks: FloatArray) -> IntArray:
        """Return ``(n, 16)`` codes of ``(n, 64, 64)`` masks in [0, 1]."""


def export_scenes(
    out: str | Path,
    *,
    count: int,
    seed: int,
    image_hw: tuple[int, int] = (480, 640),
    codec: MaskEncoder | None = None,
    progress: Callable[[int], object] | None = None,
) -> Path:
    """Render scenes into a folder, which is written aside and then renamed.

    The folder holds ``images/`` (JPEG), ``instances.json`` (COCO: boxes, RLE masks; the categories
    are ``CLASSES``) and ``examples.jsonl`` (one ``{"image", "prefix", "suffix"}`` a line; images
    are named relative to the folder).

    Args:
        out: The folder; it must not exist yet, or be empty.
        count: Number of scenes, at least 1.
        seed: Seed of the first scene; the others follow it one by one.
        image_hw: Height and width in pixels.
        codec: Writes masks as codes; without one there are no ``segment`` examples.
        progress: Called with the number of scenes done, after each.

    Returns:
        The folder.

    Raises:
        OptionError: If an option is out of range, or the folder holds something.

    Example:
        >>> import tempfile
        >>> folder = export_scenes(Path(tempfile.mkdtemp()) / "site", count=2, seed=3)
        >>> sorted(path.name for path in folder.iterdir())
        ['examples.jsonl', 'images', 'instances.json']
    """
    require_seed(seed)
    require_image_hw(image_hw)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise OptionError(f"count must be an integer from 1, got {count!r}; for example count=100")
    folder = Path(out)
    _require_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _write_all(aside, range(seed, seed + count), image_hw, codec, progress)
        # mkdtemp makes folders private; a result should have what a plain mkdir would give.
        aside.chmod(0o755)
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _require_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(
            f"out must be a new or an empty folder, but {folder} already holds something; "
            "name another folder or remove it first"
        )


def _write_all(
    folder: Path,
    seeds: range,
    image_hw: tuple[int, int],
    codec: MaskEncoder | None,
    progress: Callable[[int], object] | None,
) -> None:
    (folder / "images").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with (folder / "examples.jsonl").open("w", encoding="utf-8") as lines:
        for done, seed in enumerate(seeds, start=1):
            scene = render_scene(seed, image_hw=image_hw)
            name = f"images/{seed:08d}.jpg"
            _write_image(folder / name, scene)
            images.append(image_entry(done, name, image_hw))
            annotations += scene_annotations(scene, image_id=done, first_id=len(annotations) + 1)
            for example in scene_examples(scene, image=name, codec=codec):
                lines.write(json.dumps(example, ensure_ascii=False) + "\n")
            if progress is not None:
                progress(done)
    write_coco(
        folder / "instances.json",
        images=images,
        annotations=annotations,
        categories=[{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)],
        info={"info": {"description": "pgvision rendered scenes", "first_seed": seeds.start}},
    )


def _write_image(path: Path, scene: Scene) -> None:
    _, packed = cv2.imencode(".jpg", scene.image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    path.write_bytes(packed.tobytes())


def scene_annotations(scene: Scene, *, image_id: int, first_id: int = 1) -> list[dict[str, Any]]:
    """Return a scene's objects as COCO annotations.

    Args:
        scene: The scene.
        image_id: Id of its picture.
        first_id: Id of the first annotation.

    Returns:
        One annotation per object: ``bbox`` as left, top, width, height; ``segmentation`` as
        compressed RLE; ``area`` in visible pixels; ``attributes`` with what else is known.
    """
    return [
        annotation_entry(
            first_id + place,
            image_id,
            CLASSES.index(item.label) + 1,
            _xywh(item),
            area=item.area,
            segmentation=mask_to_rle(item.mask),
        )
        | {
            "attributes": {
                "track_id": item.track_id,
                "visible_fraction": round(item.visible_fraction, 4),
                "color": item.colour,
                "text": item.text,
            },
        }
        for place, item in enumerate(scene.objects)
    ]


def _xywh(item: SceneObject) -> list[float]:
    left, top, right, bottom = item.xyxy.tolist()
    return [left, top, right - left, bottom - top]


def scene_examples(
    scene: Scene, *, image: str, codec: MaskEncoder | None = None
) -> Iterator[Example]:
    """Yield a scene's examples for every task.

    ``detect`` (and ``segment``, given a codec) is asked for each class in the scene and for two
    that it lacks, whose suffix is empty. Objects are written left to right by box centre.

    Args:
        scene: The scene.
        image: Name of its picture.
        codec: Writes masks as codes.

    Yields:
        ``{"image", "prefix", "suffix"}``, and of questions the ``"paraphrases"`` that training may
        use: others are kept back to test with.
    """
    present = {item.label for item in scene.objects}
    asked = [label for label in CLASSES if label in present] + _absent(scene, present)
    for label in asked:
        objects = [item for item in scene.objects if item.label == label]
        yield _example(image, detect_prefix(label, kind=_KIND), objects_text(objects))
        if codec is not None:
            codes = codec.encode(_crops(objects)) if objects else np.zeros((0, 16), np.int64)
            prefix = segment_prefix(label, kind=_KIND)
            yield _example(image, prefix, objects_text(objects, codes))
    yield _example(image, caption_prefix("en", kind=_KIND), scene.caption)
    for item in scene.questions:
        asked_so = [answer_prefix(one, kind=_KIND) for one in trained_forms(item.question)]
        example = _example(image, asked_so[0], item.answer)
        if asked_so[1:]:
            example["paraphrases"] = asked_so[1:]
        yield example
    yield _example(image, ocr_prefix(kind=_KIND), scene.reading)


def objects_text(objects: Sequence[SceneObject], codes: IntArray | None = None) -> str:
    """Write objects as the model should, in the order given; no objects make an empty text.

    Args:
        objects: Objects of one scene.
        codes: ``(n, 16)`` mask codes, to be written between box and label.

    Returns:
        ``"<loc....>... label ; <loc....>... label"``.
    """
    if not objects:
        return ""
    boxes = encode_boxes(
        np.stack([item.xyxy for item in objects]), image_hw=objects[0].image_hw
    ).tolist()
    rows: list[list[int]] = [[] for _ in objects] if codes is None else codes.tolist()
    return SEPARATOR.join(
        object_text(box, item.label, row)
        for box, item, row in zip(boxes, objects, rows, strict=True)
    )


def _crops(objects: Sequence[SceneObject]) -> FloatArray:
    """Return ``(n, 64, 64)`` float32 masks, each cut to its box: what a codec encodes."""
    wholes = [(0, 0, item.crop.shape[1], item.crop.shape[0]) for item in objects]
    return np.stack([crop_mask(item.crop, box) for item, box in zip(objects, wholes, strict=True)])


def _absent(scene: Scene, present: set[str]) -> list[str]:
    dice = Dice(scene.seed)
    left = [label for label in CLASSES if label not in present]
    chosen: list[str] = []
    while left and len(chosen) < ABSENT_CLASSES:
        chosen.append(left.pop(dice.whole(0, len(left) - 1)))
    return chosen


def _example(image: str, prefix: str, suffix: str) -> Example:
    return {"image": image, "prefix": prefix, "suffix": suffix}
