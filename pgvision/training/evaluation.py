"""Validation by generation: AP and mIoU of objects, CIDEr, ANLS and exact match of texts.

Also matches class names that a checkpoint was not trained on with those that it was.
"""

import difflib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np

from pgvision.boxes import box_iou
from pgvision.datasets import Dataset, Example, ImageRecord, dataset_to_coco
from pgvision.errors import DataError, ImageError, SourceError
from pgvision.evaluation import Calibration, evaluate_detections, fit_calibration, match_scores
from pgvision.evaluation.text import anls, evaluate_captions, exact_match
from pgvision.images import read_image
from pgvision.results import Failure
from pgvision.runtime import Engine, Picture, Request
from pgvision.tasks import Detector, Segmenter
from pgvision.training.config import TrainConfig
from pgvision.training.data import RunData, TaskData, sample_part

_LOG = logging.getLogger(__name__)
_FEW: Final = 4  # so many classes are asked for in every image
_ABSENT: Final = 3  # where there are more, absent ones to ask for in each image
_SHEET: Final = 16
_IMAGES: Final = 12  # training images to compare names on
_LEAST_F1: Final = 0.3  # of a trained name against an unknown one, at IoU 0.5
_SURE: Final = 0.3  # score of the objects that are compared
Gather = Callable[[list[Any]], list[Any]]


@dataclass(frozen=True)
class Shown:
    """One image of a sheet: its file, a title, boxes ``(n, 4)`` in pixels and their labels."""

    path: str
    title: str
    boxes: Any
    labels: Sequence[str]


@dataclass(frozen=True)
class Validation:
    """Figures of one data set's validation part.

    Attributes:
        figures: By name; the first is the main one.
        num_images: Images (examples for texts) that the figures are of.
        calibration: From scores to precision; None: texts, or nothing was found.
        unread: Images that could not be read, with the reason; the figures leave them out.
        shown: Images for the sheet of predictions.
    """

    figures: dict[str, float]
    num_images: int
    calibration: Calibration | None = None
    unread: Mapping[str, str] = field(default_factory=dict)
    shown: tuple[Shown, ...] = ()


def validate(
    engine: Engine,
    data: TaskData,
    *,
    share: tuple[int, int] = (0, 1),
    gather: Gather | None = None,
) -> Validation:
    """Measure a model on the validation part of a data set, or on a sample of it.

    Args:
        engine: Over the model's present weights.
        data: The data set; ``config.eval_limit`` bounds the images. Of many classes an image is
            asked for its own and three absent ones, unless ``config.eval_all``.
        share: This process's number, and the number of processes.
        gather: Joins lists of all processes; None: there is one.

    Returns:
        For objects AP, AP50, AR, mIoU, F1 and the AP50 of each class; for captions CIDEr; for
        readings ANLS; for answers exact match.

    Raises:
        DataError: If no image can be read.
    """
    config = data.config
    part = (
        data.valid if config.eval_all else sample_part(data.valid, config.eval_limit, config.seed)
    )
    joined = gather or (lambda rows: rows)
    if isinstance(part, Dataset) and isinstance(data.valid, Dataset):
        if not part.num_objects:  # a small sample without any object has no AP
            first = next((one for one in data.valid.images if one.objects), part.images[0])
            part = replace(part, images=(*part.images, first))
        return _score_objects(engine, part, data, share, joined)
    return _score_texts(engine, tuple(part), config, share, joined)  # type: ignore[arg-type]


def _score_objects(
    engine: Engine, part: Dataset, data: TaskData, share: tuple[int, int], gather: Gather
) -> Validation:
    # 1. Ask this process's share of the images.
    config = data.config
    asked = _classes_to_ask(part, list(dict.fromkeys(part.classes)), config)
    mine = part.images[share[0] :: share[1]]
    rows, unread, shown = _find(engine, mine, asked, part, config)
    # 2. Gather the results of all processes; unreadable images are not scored.
    rows = gather(rows)
    unread = dict(gather(list(unread.items())))
    read = tuple(one for one in part.images if str(one.path) not in unread)
    if not read:
        raise DataError(
            f"{data.name}: none of {len(part.images)} validation images can be read: "
            f"{next(iter(unread.values()))}"
        )
    # 3. Compute the metrics.
    truth = dataset_to_coco(replace(part, images=read))
    iou_type: Literal["bbox", "segm"] = "segm" if config.task == "segment" else "bbox"
    report = evaluate_detections(truth, rows, iou_type)
    stats, best = report.stats or (), report.best_f1
    figures = {"ap": float(stats[0]), "ap50": float(stats[1]), "ar": float(stats[8])}
    figures["miou"] = report.miou or 0.0
    figures |= {"f1": best.f1 if best else 0.0, "mean f1": report.mean_f1 or 0.0}
    own = {other: name for name, other in data.asked_as.items()}
    for one in report.per_class.values():
        if one.num_annotations:
            figures[f"ap50 {own.get(one.name, one.name)}"] = float(one.ap50 or 0.0)
    # 4. Fit the calibration.
    scores, correct = match_scores(truth, rows, iou_type)
    fitted = fit_calibration(scores, correct, "isotonic") if len(scores) else None
    rounded = {name: round(value, 4) for name, value in figures.items()}
    return Validation(rounded, len(read), fitted, unread, tuple(shown))


def _classes_to_ask(
    part: Dataset, names: Sequence[str], config: TrainConfig
) -> dict[int, frozenset[str]]:
    """Return the classes to ask for in each image: its own and some absent ones."""
    if len(names) <= _FEW or config.eval_all or config.closed_set:
        return {image.id: frozenset(names) for image in part.images}
    asked = {}
    for image in part.images:
        own = {part.names[item.category_id] for item in image.objects}
        absent = [name for name in names if name not in own]
        rng = np.random.default_rng([config.seed, image.id % 2**32])
        some = {absent[int(at)] for at in rng.permutation(len(absent))[:_ABSENT]}
        asked[image.id] = frozenset(own | some)
    return asked


def _find(
    engine: Engine,
    images: Sequence[ImageRecord],
    asked: Mapping[int, frozenset[str]],
    part: Dataset,
    config: TrainConfig,
) -> tuple[list[dict[str, Any]], dict[str, str], list[Shown]]:
    """Return what is found as COCO results, images that cannot be read, and a sheet."""
    task = Segmenter if config.task == "segment" else Detector
    ids = {category.name: category.id for category in part.categories}
    rows: list[dict[str, Any]] = []
    unread: dict[str, str] = {}
    boxes: dict[int, list[tuple[Any, str]]] = defaultdict(list)
    names = list(dict.fromkeys(part.classes))
    # 1. Ask for all names at once if each image is asked for all of them, else one by one.
    together = all(len(some) == len(names) for some in asked.values())
    for group in [names] if together else [[name] for name in names]:
        some = [one for one in images if asked[one.id] & set(group)]
        if not some:
            continue
        found = task(group, generator=engine, conf=0.0, unknown="ask")
        outcomes = found.stream([one.path for one in some], on_error="record")
        for image, outcome in zip(some, outcomes, strict=True):
            if isinstance(outcome, Failure):
                unread[str(image.path)] = str(outcome.error)
                continue
            rows += outcome.to_coco(image_id=image.id, category_ids=ids)
            if len(boxes) < _SHEET or image.id in boxes:
                scores = outcome.scores if outcome.scores is not None else [1.0] * len(outcome)
                boxes[image.id] += [
                    (box, f"{label} {score:.2f}")
                    for box, label, score in zip(outcome.xyxy, outcome.labels, scores, strict=True)
                    if score >= 0.3
                ]
    # 2. Choose images for the sheet.
    paths = {one.id: one.path for one in images}
    shown = [
        Shown(str(paths[number]), paths[number].name, [b for b, _ in drawn], [t for _, t in drawn])
        for number, drawn in boxes.items()
    ]
    return rows, unread, shown


def _score_texts(
    engine: Engine,
    examples: Sequence[Example],
    config: TrainConfig,
    share: tuple[int, int],
    gather: Gather,
) -> Validation:
    # 1. Answer this process's share of the examples.
    mine = list(range(len(examples)))[share[0] :: share[1]]
    unread: dict[str, str] = {}
    texts: list[tuple[int, str]] = []
    asked: list[int] = []

    def requests() -> Iterator[Request]:
        path, picture = None, None
        for number in mine:
            one = examples[number]
            if one.image != path:  # examples of one image follow each other
                path, picture = one.image, None
                try:
                    picture = Picture(read_image(one.image))
                except (ImageError, SourceError) as error:
                    unread[str(path)] = str(error)
            if picture is not None:
                asked.append(number)
                yield Request(picture=picture, prefix=one.prefix)

    for place, answer in engine.generate(requests()):
        texts.append((asked[place], answer.text))
    # 2. Gather the answers of all processes.
    answers = dict(gather(texts))
    unread = dict(gather(list(unread.items())))
    if not answers:
        reason = next(iter(unread.values()), "there is none")
        raise DataError(f"none of {len(examples)} validation examples can be read: {reason}")
    # 3. Score.
    said = [answers[k] for k in sorted(answers)]
    known = [examples[k] for k in sorted(answers)]
    figures = _text_figures(said, known, config.task)
    shown = tuple(
        Shown(str(one.image), f"{one.prefix}: {text}", [], [])
        for one, text in list(zip(known, said, strict=True))[:_SHEET]
    )
    return Validation(figures, len(said), None, unread, shown)


def _text_figures(said: Sequence[str], examples: Sequence[Example], task: str) -> dict[str, float]:
    """Return the figures of texts; for captions all examples of an image are its references."""
    references: dict[tuple[object, str], list[str]] = defaultdict(list)
    for one in examples:
        references[one.image, one.prefix].append(one.suffix)
    wanted = [references[one.image, one.prefix] for one in examples]
    exact = float(np.mean([exact_match(*pair) for pair in zip(said, wanted, strict=True)]))
    figures = {"exact": round(exact, 4)}
    # Each image counts once, with all its captions as references.
    if task == "caption":
        first = {(one.image, one.prefix): k for k, one in reversed(list(enumerate(examples)))}
        places = sorted(first.values())
        report = evaluate_captions([said[k] for k in places], [wanted[k] for k in places])
        figures = {"cider": round(report.cider, 4), "bleu4": round(report.bleu4, 4)} | figures
    elif task == "read":
        mean = float(np.mean([anls(*pair) for pair in zip(said, wanted, strict=True)]))
        figures = {"anls": round(mean, 4)} | figures
    return figures


def join_figures(found: Sequence[tuple[TaskData, Validation]]) -> dict[str, float]:
    """Return one set of figures: of several data sets, the mean of their main figures first."""
    if len(found) == 1:
        return dict(found[0][1].figures)
    mains = [next(iter(one.figures.values())) for _, one in found]
    joined = {"mean": round(float(np.mean(mains)), 4)}
    for data, one in found:
        label = f"{data.config.task} {data.name}"
        joined |= {f"{label}: {name}": value for name, value in one.figures.items()}
    return joined


def match_names(engine: Engine, data: RunData) -> dict[str, str]:
    """Find for each unknown class the trained name under which the model finds its objects.

    The model is asked for its own classes on a few training images. A name that finds the
    objects of an unknown class (F1 at IoU 0.5) is a better start than a name never seen.

    Args:
        engine: Over the untrained model.
        data: Of the run.

    Returns:
        Unknown class -> trained name, each name once, best matches first.
    """
    known = engine.card.classes
    chosen = {name for one in data.tasks for name in one.config.rename.values()}
    unknown = set(data.unknown_classes(engine.card)) - chosen
    if known is None or not unknown:
        return {}
    scores: dict[tuple[str, str], float] = {}
    for one in data.tasks:
        if isinstance(one.train, Dataset):
            scores |= _scores(engine, one, unknown, [n for n in known if n not in data.classes])
    # Best pairs first; each trained name is used once.
    matched: dict[str, str] = {}
    for (name, other), score in sorted(scores.items(), key=lambda pair: -pair[1]):
        if score >= _LEAST_F1 and name not in matched and other not in matched.values():
            matched[name] = other
            _LOG.info(
                "class %r: asked for as %r, which finds its objects (F1 %.2f on %d images)",
                name, other, score, _IMAGES,
            )  # fmt: skip
    return matched


def _scores(
    engine: Engine, data: TaskData, unknown: set[str], known: list[str]
) -> dict[tuple[str, str], float]:
    """Return the F1 of each pair of an unknown and a trained name."""
    # 1. Detect all known classes on a sample.
    part = sample_part(data.train, _IMAGES, data.config.seed)
    if not known or not isinstance(part, Dataset):
        return {}
    counts = {(name, other): np.zeros(3) for name in unknown for other in known}
    detector = Detector(known, generator=engine, conf=_SURE, unknown="ask")
    outcomes = detector.stream([one.path for one in part.images], on_error="record")
    for image, outcome in zip(part.images, outcomes, strict=True):
        if isinstance(outcome, Failure):
            continue
        for name, other in counts:
            # 2. Count the matches of each pair of names.
            true = [o.xyxy for o in image.objects if part.names[o.category_id] == name]
            at = [k for k, label in enumerate(outcome.labels) if label == other]
            boxes = np.array(true, np.float32).reshape(-1, 4)
            overlap = box_iou(boxes, np.asarray(outcome.xyxy[at], np.float32)) >= 0.5
            hits = min(overlap.any(0).sum(), overlap.any(1).sum())
            counts[name, other] += (hits, len(true), len(at))
    return {
        pair: float(2 * hits / (true + found))
        for pair, (hits, true, found) in counts.items()
        if true + found
    }


def describe_unknown(
    data: RunData, known: tuple[str, ...] | None, matched: Mapping[str, str]
) -> str:
    """Return a line about names that stay unknown, with suggestions; "" if there is none."""
    known = known or ()
    rest = [name for name in data.classes if name not in known and name not in matched]
    if not rest or not known:
        return ""
    near = {name: difflib.get_close_matches(name, known, 1) for name in rest}
    hints = [f"{name}={other[0]}" for name, other in near.items() if other]
    words = f"names that the model was not trained on: {', '.join(rest)}"
    hint = f"; perhaps --rename '{hints[0]}'" if hints else ""
    return f"{words} (known: {', '.join(known)}){hint}"
