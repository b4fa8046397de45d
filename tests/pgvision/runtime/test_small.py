"""The carried checkpoint with real eyes: it loads by name, and sees."""

import numpy as np

from pgvision import Detector
from pgvision.boxes import box_iou
from pgvision.runtime import find_checkpoint
from recipes.scenes import render_scene


def test_small_is_carried_and_says_what_it_knows() -> None:
    card = find_checkpoint("small")
    assert (card.kind, card.codec, card.is_local) == ("tiny", "tiny", True)
    assert {"helmet", "head", "worker", "person"} <= set(card.classes or ())
    assert "does everyone wear a helmet?" in (card.questions or ())


def test_small_finds_what_a_rendered_scene_shows() -> None:
    # Held-out seeds; two close workers, so that what is asked for is large enough to be sure of.
    detector = Detector("worker", model="small")
    found = truth = 0
    for seed in SEEDS:
        scene = render_scene(seed)
        boxes = np.array([item.xyxy for item in scene.objects if item.label == "worker"])
        result = detector(scene.image)
        overlaps = box_iou(boxes, result.xyxy) if len(result) else np.zeros((len(boxes), 1))
        found += int((overlaps.max(1) > 0.5).sum())
        truth += len(boxes)
    assert found >= 0.5 * truth


SEEDS = (20_000_002, 20_000_004, 20_000_007)
