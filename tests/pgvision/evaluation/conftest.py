"""Random COCO sets with everything that evaluators disagree about."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

IMAGE_HW = (120, 160)
Sets = tuple[dict[str, Any], list[dict[str, Any]]]


def rectangle_rle(xywh: list[float]) -> dict[str, Any]:
    mask = np.zeros(IMAGE_HW, np.uint8, order="F")
    x, y, w, h = (round(v) for v in xywh)
    mask[y : y + h, x : x + w] = 1
    rle = coco_mask.encode(mask)
    return {"size": list(IMAGE_HW), "counts": rle["counts"].decode()}


def random_set(seed: int, *, masks: bool = False) -> Sets:
    """Crowds, images and classes without annotations, ties, odd ids, over 100 boxes a class."""
    rng = np.random.default_rng(seed)
    image_ids = [5, 3, 9, 14, 10**9]
    category_ids = [7, 2, 4]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []

    def box() -> list[float]:
        x, y = rng.uniform(0, IMAGE_HW[1] - 12), rng.uniform(0, IMAGE_HW[0] - 12)
        return [x, y, rng.uniform(3, IMAGE_HW[1] - x), rng.uniform(3, IMAGE_HW[0] - y)]

    def shaken(xywh: list[float]) -> list[float]:
        x, y, w, h = (value + rng.normal(0, 3) for value in xywh)
        x, y = max(x, 0.0), max(y, 0.0)
        return [x, y, max(1.0, min(w, IMAGE_HW[1] - x)), max(1.0, min(h, IMAGE_HW[0] - y))]

    def predict(image_id: int, category_id: int, xywh: list[float]) -> None:
        score = float(rng.integers(0, 6) / 5) if seed % 2 else float(rng.random())
        record = {"image_id": image_id, "category_id": category_id, "bbox": xywh, "score": score}
        if masks:
            record["segmentation"] = rectangle_rle(xywh)
        results.append(record)

    for image_id in image_ids[:4]:  # the last image stays empty
        for _ in range(int(rng.integers(0, 9))):
            place, category_id = box(), int(rng.choice(category_ids))
            annotations.append(
                {
                    "id": len(annotations),  # from 0, which pycocotools itself trips over
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": place,
                    "area": place[2] * place[3] * rng.uniform(0.6, 1),
                    "iscrowd": int(rng.random() < 0.2),
                    "segmentation": rectangle_rle(place),
                }
            )
            for _ in range(int(rng.integers(0, 4))):
                predict(image_id, category_id, shaken(place))
    for _ in range(int(rng.integers(0, 6))):
        predict(int(rng.choice(image_ids)), int(rng.choice(category_ids)), box())
    if seed % 4 == 0:
        for _ in range(130):
            predict(3, 7, shaken(annotations[0]["bbox"]) if annotations else box())
    truth = {
        "images": [{"id": i, "height": IMAGE_HW[0], "width": IMAGE_HW[1]} for i in image_ids],
        "categories": [{"id": i, "name": f"class {i}"} for i in category_ids],
        "annotations": annotations,
    }
    return truth, results


@pytest.fixture(name="random_set")
def random_set_fixture() -> Callable[..., Sets]:
    return random_set


@pytest.fixture
def small_set() -> Sets:
    """Two images, two classes; every box predicted once, one of them wrongly placed."""
    truth = {
        "images": [{"id": 1, "height": 120, "width": 160}, {"id": 2, "height": 120, "width": 160}],
        "categories": [{"id": 1, "name": "helmet"}, {"id": 2, "name": "head"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "area": 400,
             "iscrowd": 0, "segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]]},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [60, 10, 20, 20], "area": 400,
             "iscrowd": 0, "segmentation": [[60, 10, 80, 10, 80, 30, 60, 30]]},
            {"id": 3, "image_id": 2, "category_id": 2, "bbox": [40, 40, 30, 30], "area": 900,
             "iscrowd": 0, "segmentation": [[40, 40, 70, 40, 70, 70, 40, 70]]},
        ],
    }  # fmt: skip
    boxes = [(1, 1, [10.0, 10, 20, 20], 0.9), (1, 1, [100.0, 80, 20, 20], 0.6),
             (2, 1, [40.0, 40, 30, 30], 0.7), (2, 2, [40.0, 40, 30, 30], 0.4)]  # fmt: skip
    results = [
        {"image_id": image, "category_id": category, "bbox": box, "score": score,
         "segmentation": rectangle_rle(box)}
        for image, category, box, score in boxes
    ]  # fmt: skip
    return truth, results
