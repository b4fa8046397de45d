"""Parser speed against supervision's, on the same strings."""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable

import supervision as sv

from pgvision.tokens import encode_boxes, object_text, parse_suffix

CLASSES = ["helmet", "head", "hard hat", "person"]
IMAGE_HW = (480, 640)


def make_answers(num_answers: int, num_objects: int, seed: int) -> list[str]:
    """Write answers that both parsers read in full."""
    dice = random.Random(seed)
    answers = []
    for _ in range(num_answers):
        objects = []
        for _ in range(num_objects):
            x, y = dice.uniform(0, 500), dice.uniform(0, 400)
            box = [[x, y, x + dice.uniform(5, 140), y + dice.uniform(5, 80)]]
            bins = encode_boxes(box, image_hw=IMAGE_HW)[0]
            objects.append(object_text(bins, dice.choice(CLASSES)))
        answers.append(" ; ".join(objects))
    return answers


def read_ours(answers: list[str]) -> int:
    """Parse with pgvision and count the objects."""
    return sum(
        len(parse_suffix(text, image_hw=IMAGE_HW, classes=CLASSES).objects) for text in answers
    )


def read_theirs(answers: list[str]) -> int:
    """Parse with supervision and count the objects."""
    wh = (IMAGE_HW[1], IMAGE_HW[0])
    return sum(
        len(sv.Detections.from_vlm(sv.VLM.PALIGEMMA, text, resolution_wh=wh, classes=CLASSES))
        for text in answers
    )


def objects_per_s(read: Callable[[list[str]], int], answers: list[str]) -> float:
    """Time one pass."""
    start = time.perf_counter()
    count = read(answers)
    return count / (time.perf_counter() - start)


def main() -> None:
    """Print the medians of interleaved passes and their ratio, for short and long answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=11)
    repeats = parser.parse_args().repeats
    for num_objects in (1, 5, 20, 70):
        answers = make_answers(max(20, 2000 // num_objects), num_objects, seed=num_objects)
        if read_ours(answers) != read_theirs(answers):
            raise SystemExit("the parsers disagree")
        ours, theirs = [], []
        for _ in range(repeats):
            ours.append(objects_per_s(read_ours, answers))
            theirs.append(objects_per_s(read_theirs, answers))
        mine, other = statistics.median(ours), statistics.median(theirs)
        sys.stdout.write(
            f"{num_objects:3d} objects an answer: pgvision {mine:9,.0f} objects/s, "
            f"supervision {other:9,.0f} objects/s, ratio {mine / other:.2f}\n"
        )


if __name__ == "__main__":
    main()
