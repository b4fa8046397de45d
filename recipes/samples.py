"""Write the rendered samples and the truth of `pgvision.samples`: ``python -m recipes.samples``.

The photographs are files with sources and licences of their own (``pgvision/samples/README.md``);
their boxes were drawn by hand and are listed here.
"""

import json
from pathlib import Path
from typing import Any, Final

import cv2

import pgvision.samples
from pgvision.coco.writing import annotation_entry, image_entry
from pgvision.files import write_text
from pgvision.images import read_image
from recipes.scenes import CLASSES, render_scene
from recipes.scenes.export import scene_annotations

FOLDER: Final = Path(pgvision.samples.__file__).parent
# Seeds that neither training (below 10,000,000) nor held-out figures take.
LARGE: Final = (30_000_006, 30_000_005, 30_000_012)
SMALL: Final = (20_000_000, 20_000_002, 20_000_003, *range(30_000_020, 30_000_026))
# Left, top, right, bottom in pixels.
PHOTOGRAPHS: Final[dict[str, list[tuple[str, tuple[int, int, int, int]]]]] = {
    "astronaut": [
        ("person", (12, 10, 256, 360)),
        ("head", (108, 11, 212, 127)),
        ("helmet", (198, 241, 355, 360)),
    ],
    "cat": [("cat", (0, 0, 335, 266))],
    "coffee": [("cup", (115, 11, 272, 207))],
    "cyclist": [
        ("person", (252, 101, 332, 274)),
        ("helmet", (274, 101, 300, 118)),
        ("bicycle", (238, 178, 368, 272)),
        ("horse", (168, 163, 190, 204)),
        ("horse", (200, 163, 219, 204)),
    ],
    "rocket": [],
    "tower": [],
}
NAMES: Final = (*CLASSES, "person", "bicycle", "horse", "cat", "cup")


def main() -> None:
    """Render the drawings and write ``truth.json``."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    sizes = [(seed, (480, 640)) for seed in LARGE] + [(seed, (240, 400)) for seed in SMALL]
    for number, (seed, image_hw) in enumerate(sizes, start=1):
        scene, name = render_scene(seed, image_hw=image_hw), f"site-{number:02d}.jpg"
        cv2.imwrite(str(FOLDER / name), scene.image, [cv2.IMWRITE_JPEG_QUALITY, 80])
        images.append(image_entry(number, name, image_hw) | {"seed": seed})
        first = len(annotations) + 1
        annotations += scene_annotations(scene, image_id=number, first_id=first)
    for number, (stem, boxes) in enumerate(PHOTOGRAPHS.items(), start=len(sizes) + 1):
        height, width = read_image(FOLDER / f"{stem}.jpg").shape[:2]
        images.append(image_entry(number, f"{stem}.jpg", (height, width)))
        for label, (left, top, right, bottom) in boxes:
            xywh = [float(left), float(top), float(right - left), float(bottom - top)]
            category = NAMES.index(label) + 1
            annotations.append(annotation_entry(len(annotations) + 1, number, category, xywh))
    for row in annotations:
        row["bbox"] = [round(side, 1) for side in row["bbox"]]
        row.pop("attributes", None)
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": at, "name": name} for at, name in enumerate(NAMES, start=1)],
    }
    write_text(FOLDER / "truth.json", json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
