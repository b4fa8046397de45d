"""How good a model is, by real generation: AP for boxes and masks, exact match for texts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pgvision.datasets import Dataset, Example, dataset_to_coco
from pgvision.errors import DataError
from pgvision.evaluation import evaluate_detections
from pgvision.evaluation.text import exact_match
from pgvision.images import read_image
from pgvision.results import Failure
from pgvision.runtime import Engine, Picture, Request
from pgvision.tasks import Detector, Segmenter
from pgvision.training.finetuning.settings import FinetuneSettings


@contextmanager
def answering(engine: Engine) -> Iterator[Engine]:
    """Give an engine over a model that is being trained, and leave the model as it was."""
    model = engine.model
    was = model.training
    model.eval()
    try:
        yield Engine(model, engine.processor, engine.card)
    finally:
        model.train(was)


def score_objects(
    engine: Engine, dataset: Dataset, settings: FinetuneSettings, *, limit: int | None = None
) -> dict[str, float]:
    """Return AP, AP50, AR and the AP50 of each class, on the first pictures of a data set.

    Args:
        engine: What answers.
        dataset: Pictures with their objects.
        settings: Which task.
        limit: So many pictures; None: all.

    Raises:
        DataError: If no picture could be read.
    """
    some = replace(dataset, images=dataset.images[:limit])
    names = list(dict.fromkeys(some.classes))
    task = Detector if settings.task == "detect" else Segmenter
    ids = {category.name: category.id for category in some.categories}
    iou_type = "bbox" if settings.task == "detect" else "segm"
    rows: list[dict[str, Any]] = []
    with answering(engine) as live:
        asked = task(names, generator=live)
        outcomes = asked.stream([one.path for one in some.images], on_error="record")
        read = 0
        for image, outcome in zip(some.images, outcomes, strict=True):
            if isinstance(outcome, Failure):
                continue
            read += 1
            rows += outcome.to_coco(image_id=image.id, category_ids=ids)
    if not read:
        raise DataError(f"not one of {len(some.images)} pictures for validation could be read")
    report = evaluate_detections(dataset_to_coco(some), rows, iou_type, details=False)  # type: ignore[arg-type]
    stats = report.stats or ()
    figures = {"ap": float(stats[0]), "ap50": float(stats[1]), "ar": float(stats[8])}
    per_class = {one.name: one.ap50 for one in report.per_class if one.num_annotations}
    figures |= {f"ap50 {name}": float(value or 0.0) for name, value in per_class.items()}
    return {name: round(value, 4) for name, value in figures.items()}


def score_texts(
    engine: Engine, examples: Sequence[Example], *, limit: int | None = None
) -> dict[str, float]:
    """Return the share of answers that are exactly right, case and spaces aside."""
    some = examples[:limit]
    with answering(engine) as live:
        said = dict(live.generate(_requests(some)))
    hits = [exact_match(said[number].text, [one.suffix]) for number, one in enumerate(some)]
    return {"exact": round(sum(hits) / len(hits), 4)}


def _requests(examples: Sequence[Example]) -> Iterator[Request]:
    """Ask one by one, so that only pictures in hand are held; examples of one stand together."""
    path, picture = None, None
    for one in examples:
        if picture is None or one.image != path:
            path, picture = one.image, Picture(read_image(one.image))
        yield Request(picture=picture, prefix=one.prefix)
