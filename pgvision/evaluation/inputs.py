"""Ground truth and predictions of an evaluation, checked and stored as columns."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from pgvision.arrays import BoolArray, FloatArray, IntArray
from pgvision.coco.checks import Problems, Table, parse_json, read_bytes, whole_fault, whole_number
from pgvision.coco.content import FIX, CocoContent, read_content
from pgvision.errors import DataError, EvaluationError, OptionError
from pgvision.rle import Rle, checked_rle, pack_rle, polygons_to_rle

Record: TypeAlias = Mapping[str, Any]
TruthSource: TypeAlias = "str | Path | Mapping[str, Any] | Any"
"""A COCO annotation file, its content, or a pycocotools ``COCO``."""
ResultsSource: TypeAlias = "str | Path | Sequence[Mapping[str, Any]] | Sequence[tuple[int, Any]]"
"""A COCO results file, its records, or pairs of image id and result."""

RESULTS_FIX = (
    "results are records {image_id, category_id, bbox [left, top, width, height] or "
    "segmentation (RLE), score}, with the integer ids of the ground truth"
)


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Checked ground truth. Rows are annotations in file order; categories are sorted by id.

    Attributes:
        image_ids: ``(i,)`` int64, sorted.
        image_hw: Height and width by image id; None where the file does not state them.
        category_ids: ``(k,)`` int64, sorted.
        names: ``k`` category names.
        image: ``(n,)`` image id of each annotation.
        category: ``(n,)`` category id of each annotation.
        xywh: ``(n, 4)`` float64, pixels: left, top, width, height.
        area: ``(n,)`` float64, pixels.
        crowd: ``(n,)`` bool.
        masks: ``n`` compressed RLEs, or None when boxes are scored.
        notes: What was filled in.
    """

    image_ids: IntArray
    image_hw: dict[int, tuple[int, int] | None]
    category_ids: IntArray
    names: tuple[str, ...]
    image: IntArray
    category: IntArray
    xywh: FloatArray
    area: FloatArray
    crowd: BoolArray
    masks: list[Rle] | None
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image)

    def select(
        self, classes: Collection[str] | None, image_ids: Collection[int] | None
    ) -> "GroundTruth":
        """Return the ground truth of some classes and images.

        Raises:
            OptionError: If a class or an image id is not in the ground truth.
        """
        # Images without annotations of these classes stay: false predictions count there.
        # 1. Classes and images to keep.
        chosen = _require_known("classes", classes, self.names)
        wanted = _require_known("image_ids", image_ids, self.image_ids.tolist())
        places = [i for i, name in enumerate(self.names) if name in chosen]
        names, category_ids = tuple(self.names[i] for i in places), self.category_ids[places]
        images = self.image_ids[np.isin(self.image_ids, list(wanted))]
        rows = np.isin(self.category, category_ids) & np.isin(self.image, images)
        kept = _with_rows(self, rows, ("image", "category", "xywh", "area", "crowd"))
        return replace(kept, image_ids=images, category_ids=category_ids, names=names)

    def class_places(self, category: IntArray) -> IntArray:
        """Return the positions of category ids in ``category_ids``."""
        return np.searchsorted(self.category_ids, category)

    def count_by_class(self, category: IntArray) -> IntArray:
        """Return ``(k,)`` how often each category occurs."""
        return np.bincount(self.class_places(category), minlength=len(self.category_ids))


def _require_known(option: str, values: Iterable[Any] | None, known: Sequence[Any]) -> set[Any]:
    """Return the values to keep: all that are known if ``values`` is None."""
    everything = set(known)
    if values is None:
        return everything
    chosen = [] if isinstance(values, str) else list(values)
    unknown = [value for value in chosen if value not in everything]
    if unknown or not chosen:
        raise OptionError(f"{option}: expected some of {known[:10]}, got {unknown[:3] or values!r}")
    return set(chosen)


def load_ground_truth(gt: TruthSource, *, masks: bool = False) -> GroundTruth:
    """Read and check ground truth.

    Args:
        gt: A path to a COCO JSON file, its content as a dict, or a pycocotools ``COCO``.
        masks: Whether masks are scored: segmentations and image sizes are then required.

    Raises:
        EvaluationError: With every problem found: missing or duplicate ids, unknown images or
            categories, boxes that are no boxes, NaN, masks of another size.

    Example:
        >>> truth = load_ground_truth({
        ...     "images": [{"id": 1, "height": 40, "width": 60}],
        ...     "categories": [{"id": 3, "name": "helmet"}],
        ...     "annotations": [
        ...         {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 20]}]})
        >>> truth.names, truth.area.tolist()
        (('helmet',), [200.0])
    """
    # 1. Read the file, dict or pycocotools object.
    source = gt if isinstance(gt, str | Path | Mapping) else getattr(gt, "dataset", None)
    if source is None:
        raise EvaluationError(
            f"ground truth: expected a COCO file, its dict or a pycocotools COCO, got "
            f"{type(gt).__name__}. Fix: pass the path of the annotation file, or "
            "dataset_to_coco(dataset)."
        )
    where = f"ground truth {gt}" if isinstance(gt, str | Path) else "ground truth"
    try:
        content = read_content(source, where=where, outlines=masks)
    except DataError as error:
        raise EvaluationError(
            f"{error}. Fix: pass a COCO detection file with images, categories and annotations."
        ) from error
    # 2. Refuse an empty set; entries at fault are reported below, with their place.
    entries_at_fault = any(not place.startswith("annotations") for place, _ in content.problems)
    if not (content.images and content.categories) and not entries_at_fault:
        raise EvaluationError(
            f"{where}: expected at least one image and one category, got {len(content.images)} "
            f"images and {len(content.categories)} categories. Fix: nothing can be scored against "
            "an empty set."
        )
    if masks:
        _require_masks(content)
    content.problems.refuse(FIX)
    packed = []
    images = content.image_ids.tolist()
    for outline, image in zip(content.outlines, images, strict=True) if masks else ():
        is_rle = isinstance(outline, Mapping)
        hw = content.images[image].image_hw or (0, 0)
        packed.append(pack_rle(outline) if is_rle else polygons_to_rle(outline, hw))
    # 3. Note areas that were derived.
    missing = int((~content.has_area).sum())
    notes = content.problems.notes
    if missing:
        filled = f"{missing} annotations have no area: taken from their mask, or else their box"
        notes = (filled, *notes)
    # 4. Collect the columns.
    category_ids = sorted(content.categories)
    return GroundTruth(
        image_ids=np.array(sorted(content.images), np.int64),
        image_hw={number: entry.image_hw for number, entry in content.images.items()},
        category_ids=np.array(category_ids, np.int64),
        names=tuple(content.categories[number].fields["name"] for number in category_ids),
        image=content.image_ids,
        category=content.category_ids,
        xywh=content.xywh,
        area=content.area,
        crowd=content.crowd,
        masks=packed if masks else None,
        notes=notes,
    )


def _require_masks(content: CocoContent) -> None:
    """Add the problems of mask scoring."""
    # 1. Sizes, which masks are compared at.
    for entry in content.images.values():
        if entry.sound and entry.image_hw is None:
            sides = " and ".join(str(entry.fields.get(side)) for side in ("height", "width"))
            content.problems.add(
                f"images[{entry.index}]",
                f"height and width are {sides}, expected positive integers: masks are scored",
            )
    # 2. An outline for each annotation.
    for index, outline in zip(content.index.tolist(), content.outlines, strict=True):
        if outline is None:
            content.problems.add(
                f"annotations[{index}].segmentation",
                "contains no polygon of at least 3 points and no RLE, and masks are scored",
            )


OUTPUT_KINDS = ("rejects", "truncation", "duplicates", "unmatched", "whole_image")


@dataclass(frozen=True, kw_only=True)
class OutputCounts:
    """How many of a generative model's outputs are irregular.

    Attributes:
        num_outputs: Outputs, one for each image.
        num_objects: Objects parsed from them.
        with_rejects: Outputs with a fragment that could not be parsed.
        with_truncation: Outputs that reached the length limit.
        with_duplicates: Outputs with two objects of equal label and box.
        with_unmatched: Outputs with a label that is none of the queried classes.
        with_whole_image: Outputs with a box that covers the whole image.
    """

    num_outputs: int
    num_objects: int
    with_rejects: int
    with_truncation: int
    with_duplicates: int
    with_unmatched: int
    with_whole_image: int

    def to_dict(self) -> dict[str, Any]:
        """Counts and shares of outputs (None without outputs), JSON-safe."""
        counts = asdict(self)
        num = self.num_outputs
        shares = {kind: counts[f"with_{kind}"] / num if num else None for kind in OUTPUT_KINDS}
        return {**counts, "shares": shares}


def count_outputs(results: Sequence[Any]) -> OutputCounts:
    """Count the irregular outputs that detection or segmentation results come from.

    A fragment that the parser left out as a duplicate counts as a duplicate and not as a reject.

    Example:
        >>> count_outputs([]).num_objects
        0
    """
    kinds = np.zeros((len(results), len(OUTPUT_KINDS)), np.bool_)
    for row, result in enumerate(results):
        # Bins are exact; boxes of equal bins may differ after clipping.
        places = result.xyxy if result.loc_yxyx is None else result.loc_yxyx
        pairs = zip(result.texts, np.asarray(places).tolist(), strict=True)
        keys = [(text, *place) for text, place in pairs]
        left_out = ["duplicate" in reject.reason for reject in result.rejects]
        kinds[row] = (
            not all(left_out),
            result.truncated,
            any(left_out) or len(set(keys)) < len(keys),
            (np.asarray(result.class_ids) < 0).any(),
            np.any(result.whole_image),
        )
    counts = zip(OUTPUT_KINDS, kinds.sum(axis=0).tolist(), strict=True)
    return OutputCounts(
        num_outputs=len(results),
        num_objects=sum(map(len, results)),
        **{f"with_{kind}": count for kind, count in counts},
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
        outputs: Counts over the model's outputs, when result objects were given.
        notes: What the results do not cover.
    """

    image: IntArray
    category: IntArray
    xywh: FloatArray
    scores: FloatArray | None
    masks: list[Rle] | None
    outputs: OutputCounts | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.image)

    def select(self, truth: GroundTruth) -> "Predictions":
        """Return the predictions for the images and classes of ``truth``."""
        rows = np.isin(self.image, truth.image_ids) & np.isin(self.category, truth.category_ids)
        if rows.all():
            return self
        left_out = f"{int((~rows).sum())} predictions of other classes or images were left out"
        names = ("image", "category", "xywh") + (() if self.scores is None else ("scores",))
        return replace(_with_rows(self, rows, names), notes=(*self.notes, left_out))


_Rows = TypeVar("_Rows", "GroundTruth", Predictions)


def _with_rows(whole: _Rows, rows: BoolArray, names: Sequence[str]) -> _Rows:
    """Return some rows of the columns ``names``, and of the masks."""
    columns: dict[str, Any] = {name: getattr(whole, name)[rows] for name in names}
    masks = whole.masks and [whole.masks[row] for row in np.flatnonzero(rows).tolist()]
    return replace(whole, masks=masks, **columns)


def load_inputs(
    gt: TruthSource,
    results: ResultsSource,
    *,
    masks: bool = False,
    classes: Collection[str] | None = None,
    image_ids: Collection[int] | None = None,
) -> tuple[GroundTruth, Predictions]:
    """Read and check ground truth and predictions.

    Args:
        gt: The ground truth.
        results: The predictions.
        masks: Whether masks are scored; boxes are otherwise.
        classes: Names of the classes to score; all if None.
        image_ids: The images to score; all if None.

    Raises:
        EvaluationError: With every problem found: unknown, string or missing ids, scores that are
            NaN or missing in some records only, boxes that are no boxes, RLEs of another size.
        OptionError: If ``classes`` or ``image_ids`` names something unknown.
    """
    # Results are checked against the whole truth: unknown ids are errors, not left out.
    whole = load_ground_truth(gt, masks=masks)
    truth = whole
    if classes is not None or image_ids is not None:
        truth = whole.select(classes, image_ids)
    where, outputs = "results", None
    notes: tuple[str, ...] = ()
    if isinstance(results, str | Path):
        where = f"results {results}"
        try:
            results = parse_json(read_bytes(Path(results)), where, allow_nan=True)
        except DataError as error:
            fix = "Fix: check the path, or write the file again."
            raise EvaluationError(f"{error}. {fix}") from error
    if _are_pairs(results):
        pairs: Sequence[tuple[int, Any]] = results  # type: ignore[assignment]
        results, members = _pairs_to_records(pairs, whole)
        outputs, notes = count_outputs(members), _coverage_notes(pairs, truth)
    found = replace(_checked(results, whole, where, masks=masks), outputs=outputs, notes=notes)
    return truth, found.select(truth)


def _checked(records: object, truth: GroundTruth, where: str, *, masks: bool) -> Predictions:
    if isinstance(records, str | bytes | Mapping) or not isinstance(records, Sequence):
        raise EvaluationError(
            f"{where}: expected a list of objects, got {type(records).__name__}. "
            "Fix: pass a JSON array of records, or list(zip(image_ids, results))."
        )
    # 1. Ids that the ground truth has.
    problems = Problems(where)
    table = Table(records, where, problems)
    image = _known_column(table, "image_id", truth.image_ids)
    category = _known_column(table, "category_id", truth.category_ids)
    # 2. Scores: all records have one, or none has.
    scores = None
    if not records or any(record.get("score") is not None for record in table.records):
        scores = table.numbers("score")
    # 3. Boxes, or masks of the image's size.
    boxes, rles = np.zeros((len(table.records), 4)), None
    if masks:
        rles = _rles(table, image, truth)
    else:
        boxes = table.boxes(table.values("bbox"))
    problems.refuse(RESULTS_FIX)
    return Predictions(image, category, boxes, scores, rles)


def _known_column(table: Table, key: str, known: IntArray) -> IntArray:
    before = table.bad.copy()
    column = table.whole(key)
    unknown = ~np.isin(column, known) & (table.bad == before)
    for row in np.flatnonzero(unknown).tolist():
        table.fail(row, key, f"is {column[row]}, which the ground truth lacks")
    return column


def _rles(table: Table, image: IntArray, truth: GroundTruth) -> list[Rle]:
    rles: list[Rle] = []
    for row, record in enumerate(table.records):
        size = truth.image_hw.get(int(image[row]))
        if size is None:
            continue  # an unknown image is a problem already
        try:
            rles.append(checked_rle(record.get("segmentation"), size))
        except DataError as error:
            table.fail(row, "segmentation", str(error))
    return rles


def _are_pairs(results: object) -> bool:
    if not isinstance(results, Sequence) or isinstance(results, str | bytes) or not results:
        return False
    # Bare results have no image id: they are reported as pairs that are none.
    return isinstance(results[0], tuple) or hasattr(results[0], "to_coco")


def _pairs_to_records(pairs: Sequence[Any], truth: GroundTruth) -> tuple[list[Record], list[Any]]:
    """Return COCO records of result objects; objects with an unknown label are left out."""
    # 1. Check each pair; collect all problems, so that one error lists them.
    by_name = dict(zip(truth.names, truth.category_ids.tolist(), strict=True))
    problems, known = Problems("results"), set(truth.image_ids.tolist())
    records: list[list[Record]] = []
    members: list[Any] = []
    seen: set[object] = set()
    for index, pair in enumerate(pairs):
        is_pair = isinstance(pair, tuple) and len(pair) == 2
        values: tuple[Any, Any] = pair if is_pair else (None, None)
        image_id, result = values
        if not hasattr(result, "to_coco"):
            got = type(result if is_pair else pair).__name__
            expected = "(image_id, result), as list(zip(image_ids, results))"
            problems.add(f"[{index}]", f"is {got}, expected {expected}")
        elif (number := whole_number(image_id)) not in known:
            lacks = f"is {image_id}, which the ground truth lacks"
            problems.add(f"[{index}].image_id", whole_fault(image_id) if number is None else lacks)
        elif unknown := [name for name in result.classes if name not in by_name]:
            problems.add(f"[{index}].classes", f"{unknown[:3]} are no ground-truth categories")
        elif image_id in seen:
            problems.add(f"[{index}]", f"image id {image_id} has a result already")
        else:
            seen.add(image_id)
            matched = result[np.asarray(result.class_ids) >= 0]
            records.append(matched.to_coco(image_id=image_id, category_ids=by_name))
            members.append(result)
    # 2. Refuse, or join the records.
    problems.refuse(
        f"pair every image id with one result; categories here are {list(by_name)[:10]}, and "
        "failures must be left out explicitly"
    )
    return list(chain.from_iterable(records)), members


def _coverage_notes(pairs: Sequence[tuple[int, Any]], truth: GroundTruth) -> tuple[str, ...]:
    """Return notes of classes and images that no result was queried for."""
    # 1. Classes that no image, or not every image, was asked for.
    queried = [set(result.classes) for _, result in pairs]
    asked = {name: sum(name in names for names in queried) for name in truth.names}
    missing = [name for name, count in asked.items() if not count]
    partly = [name for name, count in asked.items() if 0 < count < len(pairs)]
    # 2. Images without a result, and of another size, as of a resized copy.
    sizes = {image_id: result.image_hw for image_id, result in pairs}
    images = [number for number in truth.image_ids.tolist() if number not in sizes]
    resized = [
        number for number, hw in sizes.items() if truth.image_hw.get(number) not in (None, hw)
    ]
    lacks = "their annotations count as missed"
    notes = {
        f"{len(missing)} of {len(truth.names)} classes were not queried ({_shown(missing)}): "
        f"{lacks}; classes=[...] scores the others alone": missing,
        f"{len(partly)} classes were queried for some images only ({_shown(partly)}): {lacks} in "
        "the others": partly,
        f"{len(resized)} results are of images of another size than the ground truth states (ids "
        f"{_shown(resized)}), so that boxes cannot match: score the annotated images": resized,
        f"{len(images)} of {len(truth.image_ids)} images have no result (ids {_shown(images)}): "
        f"{lacks}; image_ids=[...] scores the others alone": images,
    }
    return tuple(note for note, concerned in notes.items() if concerned)


def _shown(values: Sequence[object], most: int = 5) -> str:
    return ", ".join(map(str, values[:most])) + (", ..." if len(values) > most else "")
