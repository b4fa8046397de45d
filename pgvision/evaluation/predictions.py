"""Predictions from files, COCO records or result objects, checked and kept as columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgvision.coco.problems import Problems
from pgvision.errors import EvaluationError
from pgvision.evaluation.answers import AnswerCounts, count_answers
from pgvision.evaluation.columns import (
    Record,
    box_column,
    id_column,
    number_column,
    read_json,
    require_records,
)
from pgvision.evaluation.ground_truth import GroundTruth
from pgvision.rle import Rle, pack_rle, pixels_fault, rle_fault, run_totals

FIX = (
    "results are records {image_id, category_id, bbox [left, top, width, height] or "
    "segmentation (RLE), score}, with the integer ids of the ground truth"
)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Checked predictions, in the order given.

    Attributes:
        image: ``(n,)`` image ids.
        category: ``(n,)`` category ids.
        xywh: ``(n, 4)`` float64, pixels: left, top, width, height.
        scores: ``(n,)`` float64, or None when no record has a score.
        masks: ``n`` compressed RLEs, or None when boxes are scored.
        answers: What the answers themselves looked like, when result objects were given.
    """

    image: NDArray[np.int64]
    category: NDArray[np.int64]
    xywh: NDArray[np.float64]
    scores: NDArray[np.float64] | None
    masks: list[Rle] | None
    answers: AnswerCounts | None = None

    def __len__(self) -> int:
        return len(self.image)


def load_predictions(results: object, truth: GroundTruth, *, masks: bool = False) -> Predictions:
    """Read and check predictions against the ground truth.

    Args:
        results: A path to a COCO results file, a list of its records, or a list of
            ``(image_id, result)`` pairs whose results have ``to_coco``.
        truth: The ground truth, for the known ids and image sizes.
        masks: Whether masks are scored; boxes are otherwise.

    Returns:
        The checked columns.

    Raises:
        EvaluationError: With every problem found: unknown, string or missing ids, scores that are
            NaN or missing in some records only, boxes that are no boxes, RLEs of another size.
    """
    where = "results"
    if isinstance(results, str | Path):
        where, results = f"results {results}", read_json(results, "results")
    if _are_pairs(results):
        records, answers = _pairs_to_records(results, truth)  # type: ignore[arg-type]
        return replace(_checked(records, truth, where, masks), answers=answers)
    return _checked(require_records(results, where), truth, where, masks)


def _checked(records: Sequence[Record], truth: GroundTruth, where: str, masks: bool) -> Predictions:
    problems = Problems(where)
    image = _known(records, "image_id", truth.image_ids, where, problems)
    category = _known(records, "category_id", truth.category_ids, where, problems)
    scores = _scores(records, where, problems)
    boxes, rles = np.zeros((len(records), 4)), None
    if masks:
        rles = _rles(records, image, truth, where, problems)
    else:
        boxes = box_column(records, where, problems)
    problems.refuse(FIX)
    return Predictions(image, category, boxes, scores, rles)


def _known(
    records: Sequence[Record], key: str, known: NDArray[np.int64], where: str, problems: Problems
) -> NDArray[np.int64]:
    before = len(problems)
    column = id_column(records, key, where, problems)
    unknown = ~np.isin(column, known)
    if len(problems) == before and unknown.any():
        for index in np.flatnonzero(unknown).tolist():
            problems.add(
                f"{where}[{index}].{key}", f"is {column[index]}, which the ground truth lacks"
            )
    return column


def _scores(
    records: Sequence[Record], where: str, problems: Problems
) -> NDArray[np.float64] | None:
    """Scores of all records, or None if not one record has a score."""
    if records and not any(record.get("score") is not None for record in records):
        return None
    return number_column(records, "score", where, problems)


def _rles(
    records: Sequence[Record],
    image: NDArray[np.int64],
    truth: GroundTruth,
    where: str,
    problems: Problems,
) -> list[Rle]:
    rles: list[Rle] = []
    places: list[int] = []
    for index, record in enumerate(records):
        size = truth.image_hw.get(int(image[index]))
        if size is None:
            continue  # an unknown image is a problem already
        if fault := rle_fault(record.get("segmentation"), size):
            problems.add(f"{where}[{index}].segmentation", fault)
            continue
        rles.append(pack_rle(record["segmentation"]))
        places.append(index)
    totals = run_totals([rle["counts"] for rle in rles]).tolist()
    for rle, index, total in zip(rles, places, totals, strict=True):
        if fault := pixels_fault(total, (rle["size"][0], rle["size"][1])):
            problems.add(f"{where}[{index}].segmentation", fault)
    return rles


def _are_pairs(results: object) -> bool:
    if not isinstance(results, Sequence) or isinstance(results, str | bytes) or not results:
        return False
    first = results[0]
    if hasattr(first, "to_coco"):
        raise EvaluationError(
            "results: expected (image_id, result) pairs, got bare result objects. "
            "Fix: pair each with its ground-truth image id, "
            "e.g. list(zip(image_ids, detector.predict(paths)))."
        )
    return isinstance(first, tuple) and len(first) == 2


def _pairs_to_records(
    pairs: Sequence[Any], truth: GroundTruth
) -> tuple[list[Record], AnswerCounts]:
    """COCO records of result objects; objects whose label is no class asked for are left out."""
    by_name = dict(zip(truth.names, truth.category_ids.tolist(), strict=True))
    problems = Problems("results")
    records: list[list[Record]] = []
    answers: list[Any] = []
    seen: set[object] = set()
    for index, pair in enumerate(pairs):
        if not isinstance(pair, tuple) or len(pair) != 2:
            problems.add(f"[{index}]", f"is {type(pair).__name__}, expected (image_id, result)")
            continue
        image_id, result = pair
        if not getattr(result, "ok", True):
            problems.add(f"[{index}]", f"is a failure: {getattr(result, 'error', '')!s:.80}")
        elif not hasattr(result, "to_coco"):
            problems.add(f"[{index}]", f"is {type(result).__name__}, which has no to_coco")
        elif unknown := [name for name in result.classes if name not in by_name]:
            problems.add(f"[{index}].classes", f"{unknown[:3]} are no ground-truth categories")
        elif image_id in seen:
            problems.add(f"[{index}]", f"image id {image_id} has a result already")
        else:
            seen.add(image_id)
            records.append(_records(image_id, result, by_name))
            answers.append(result)
    problems.refuse(
        f"pair every image id with one result; categories here are {list(by_name)[:10]}, and "
        "failures must be dropped on purpose, not in silence"
    )
    return list(chain.from_iterable(records)), count_answers(answers)


def _records(image_id: object, result: Any, by_name: Mapping[str, int]) -> list[Record]:
    matched = result[np.asarray(result.class_ids) >= 0]
    made: list[Record] = matched.to_coco(image_id=image_id, category_ids=by_name)
    return made
