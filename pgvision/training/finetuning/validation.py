"""How good a model is, by real generation: AP and mIoU of objects, exact match of texts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from pgvision.datasets import Dataset, Example, dataset_to_coco
from pgvision.errors import DataError
from pgvision.evaluation import Calibration, evaluate_detections, fit_calibration, match_scores
from pgvision.evaluation.text import exact_match
from pgvision.images import read_image
from pgvision.results import Failure
from pgvision.runtime import Engine, Picture, Request, engine_of
from pgvision.tasks import Detector, Segmenter
from pgvision.training.finetuning.settings import FinetuneSettings


@contextmanager
def answering(engine: Engine) -> Iterator[Engine]:
    """Give an engine over a model that is being trained, and leave the model as it was."""
    model = engine.model
    was = model.training
    model.eval()
    try:
        yield engine_of(model, engine.processor, engine.card)
    finally:
        model.train(was)


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        figures: By name; the first is the main one.
        calibration: From scores to precision; None: texts, or nothing was found.
    """

    figures: dict[str, float]
    calibration: Calibration | None = None


def score_objects(
    engine: Engine, dataset: Dataset, settings: FinetuneSettings, *, limit: int | None = None
) -> Validation:
    """Measure AP, AP50, AR, mIoU, F1 and the AP50 of each class, on a data set's first pictures.

    ``miou`` is `pgvision.evaluation.metrics.mean_iou`, of masks for task "segment". F1 is the
    best at IoU 0.5, ``mean f1`` that over IoU 0.5:0.95 at the same threshold.

    Args:
        engine: What answers.
        dataset: Pictures with their objects.
        settings: Which task.
        limit: So many pictures; None: all.

    Raises:
        DataError: If no picture could be read.
    """
    some = replace(dataset, images=dataset.images[:limit])
    rows = _answered(engine, some, settings)
    iou_type: Literal["bbox", "segm"] = "bbox" if settings.task == "detect" else "segm"
    truth = dataset_to_coco(some)
    report = evaluate_detections(truth, rows, iou_type)
    stats, best = report.stats or (), report.best_f1
    figures = {"ap": float(stats[0]), "ap50": float(stats[1]), "ar": float(stats[8])}
    figures["miou"] = report.miou or 0.0
    figures |= {"f1": best.f1 if best else 0.0, "mean f1": report.mean_f1 or 0.0}
    per_class = {one.name: one.ap50 for one in report.per_class.values() if one.num_annotations}
    figures |= {f"ap50 {name}": float(value or 0.0) for name, value in per_class.items()}
    scores, correct = match_scores(truth, rows, iou_type)
    fitted = fit_calibration(scores, correct, "isotonic") if len(scores) else None
    return Validation({name: round(value, 4) for name, value in figures.items()}, fitted)


def _answered(engine: Engine, some: Dataset, settings: FinetuneSettings) -> list[dict[str, Any]]:
    """Return what was found in each picture, as COCO's results."""
    names = list(dict.fromkeys(some.classes))
    task = Detector if settings.task == "detect" else Segmenter
    ids = {category.name: category.id for category in some.categories}
    rows: list[dict[str, Any]] = []
    with answering(engine) as live:
        asked = task(names, generator=live, conf=0.0, unknown="ask")
        outcomes = asked.stream([one.path for one in some.images], on_error="record")
        read = 0
        for image, outcome in zip(some.images, outcomes, strict=True):
            if isinstance(outcome, Failure):
                continue
            read += 1
            rows += outcome.to_coco(image_id=image.id, category_ids=ids)
    if not read:
        raise DataError(f"not one of {len(some.images)} pictures for validation could be read")
    return rows


def score_texts(
    engine: Engine, examples: Sequence[Example], *, limit: int | None = None
) -> Validation:
    """Measure the share of answers that are exactly right, case and spaces aside."""
    some = examples[:limit]
    with answering(engine) as live:
        said = dict(live.generate(_requests(some)))
    hits = [exact_match(said[number].text, [one.suffix]) for number, one in enumerate(some)]
    return Validation({"exact": round(sum(hits) / len(hits), 4)})


def _requests(examples: Sequence[Example]) -> Iterator[Request]:
    """Ask one by one, so that only pictures in hand are held; examples of one stand together."""
    path, picture = None, None
    for one in examples:
        if picture is None or one.image != path:
            path, picture = one.image, Picture(read_image(one.image))
        yield Request(picture=picture, prefix=one.prefix)
