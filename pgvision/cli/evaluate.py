"""`pgvision eval`: predict and score a data set, with the journal of bulk jobs."""

import json
import re
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from rich.console import Console

from pgvision.cli.console import DONE, FAILED, Meter, end, say
from pgvision.cli.convert import finding_lines
from pgvision.cli.options import parse_renames
from pgvision.errors import DataError, OptionError, Range
from pgvision.files import write_text
from pgvision.tasks.options import ModelOptions, ObjectOptions

if TYPE_CHECKING:
    from pgvision.datasets import Dataset, Example
    from pgvision.evaluation import DetectionReport
    from pgvision.results import DetectionResult

JOURNAL: Final = "answers.journal"
_OF_OBJECTS: Final = ("calibrate", "classes", "rename", "max_dets", "scoreless")
_PREFIXES: Final = {
    "ask": (r"answer (?P<language>\S+) (?P<question>(?s:.+))", "answer <language> <question>"),
    "caption": (r"(?P<style>caption|describe|cap) (?P<language>\S+)", "caption <language>"),
    "read": ("ocr", "ocr"),
}


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Settings of an evaluation.

    Attributes:
        data: COCO, YOLO, VOC, LabelMe or JSONL; for ask, caption and read JSONL.
        task: What to score: detect (default), segment, ask, caption or read.
        out: Folder for the report, the results and worst/; default: runs/eval/TASK. A stopped run
            resumes.
        images: Folder of the images.
        split: The part to evaluate on; default: the validation part, else the test part.
        classes: Score this class only; repeat it for several.
        rename: Rename a class of the data set to a name that the model knows; repeatable.
        limit: Only the first images.
        calibrate: Fit a map from scores to precision on this set: calibration.json.
        worst: Images to draw into worst/, those with most mistakes; default 12.
        max_dets: Predictions of a class kept per image; default 100, as COCO.
        scoreless: For predictions without scores: refuse (default), or f1: all metrics but AP.
        as_json: Print the report as JSON on stdout.
    """

    data: Path
    task: Literal["detect", "segment", "ask", "caption", "read"] = "detect"
    out: Path | None = None
    images: Path | None = None
    split: str | None = None
    classes: list[str] | None = None
    rename: list[str] | None = None
    limit: Annotated[int, Range(1)] | None = None
    calibrate: Literal["temperature", "isotonic"] | None = None
    worst: Annotated[int, Range(0)] = 12
    max_dets: Annotated[int, Range(1)] = 100
    scoreless: Literal["refuse", "f1"] = "refuse"
    as_json: bool = False

    @property
    def folder(self) -> Path:
        """The folder of the report."""
        return self.out or Path("runs/eval") / self.task


def evaluate(*, options: EvalOptions, model: ObjectOptions) -> None:
    """Predict and score a data set: COCO figures, answers, calibration, the worst images.

    Without --conf every object is kept, since AP needs the low scores, too.

    Examples:
    pgvision eval --data heldout/ --out report
    pgvision eval --data heldout/instances.json --task segment
    pgvision eval --data bccd/ --rename RBC='red blood cell' --rename WBC='white blood cell'
    pgvision eval --data examples.jsonl --task ask
    """
    of_objects = options.task in ("detect", "segment")
    ok = _evaluate_objects(options, model) if of_objects else _evaluate_texts(options, model)
    say(f"wrote {options.folder}/")
    end(DONE if ok else FAILED)


# --- objects -----------------------------------------------------------------------------------


def _evaluate_objects(options: EvalOptions, model: ObjectOptions) -> bool:
    # Imported here: they load slowly, and --help needs none of them.
    from pgvision.datasets import dataset_to_coco
    from pgvision.evaluation import evaluate_detections
    from pgvision.evaluation.inputs import load_ground_truth
    from pgvision.runtime import find_checkpoint

    # 1. Read the data set, and predict what is not in the journal yet.
    part, dataset = _read(options)
    truth = dataset_to_coco(dataset)
    iou_type: Literal["bbox", "segm"] = "bbox" if options.task == "detect" else "segm"
    load_ground_truth(truth, masks=iou_type == "segm")  # refused before hours of predictions
    # AP needs every object, whatever its score.
    keywords = {"conf": 0.0, **model, "classes": dataset.classes}
    found = _predict(dataset, keywords, options)
    # 2. Score.
    pairs = list(found.items())
    how: dict[str, Any] = {"max_dets": options.max_dets, "scoreless": options.scoreless}
    report = evaluate_detections(truth, pairs, iou_type, image_ids=list(found), **how)
    conf = keywords["conf"]
    unread = [image.file_name for image in dataset.images if image.id not in found]
    shown = ", ".join(unread[:5]) + (", ..." if len(unread) > 5 else "")
    note = f"{len(unread)} of {len(dataset.images)} images unread and not scored: {shown}"
    report = replace(
        report,
        model=find_checkpoint(model.get("model"), kind=model.get("kind")).name,
        data=f"{options.data} {part}",
        conf=conf if isinstance(conf, float) and conf > 0 else None,
        notes=(*report.notes, *([note] if unread else [])),
    )
    # 3. Write.
    folder = options.folder
    records = _coco_records(dataset, found, iou_type)
    write_text(folder / "results.json", json.dumps(records, allow_nan=False))
    report.save(folder / "report.json")
    report.save(folder / "report.png")
    _save_worst(dataset, found, report, options, truth)
    fitted = options.calibrate is None or _calibrate(options, truth, pairs, iou_type)
    if options.as_json:
        typer.echo(json.dumps(report.to_dict(), allow_nan=False))
    else:
        Console(highlight=False, emoji=False).print(report)
    return fitted and len(found) == len(dataset.images)


def _read(options: EvalOptions) -> "tuple[str, Dataset]":
    from pgvision.datasets import read_evaluation_part

    part, dataset = read_evaluation_part(options.data, images=options.images, split=options.split)
    # Classes get the model's names first, and are then selected by these.
    if options.rename:
        dataset = dataset.rename(parse_renames(options.rename))
    if options.classes:
        dataset = dataset.select(options.classes)
    if options.limit is not None:
        dataset = replace(dataset, images=dataset.images[: options.limit])
    if not dataset.num_objects:
        raise DataError(f"{options.data}: {part} has no object of these classes in these images")
    say(
        f"evaluating on {part}: {len(dataset.images)} images, {dataset.num_objects} objects, "
        f"classes {', '.join(dataset.classes)}"
    )
    for line in finding_lines(dataset.findings):
        say(line, style="yellow")
    return part, dataset


def _predict(
    dataset: "Dataset", keywords: dict[str, Any], options: EvalOptions
) -> "dict[int, DetectionResult]":
    """Return the results by image id; images that could not be read are reported and missing."""
    from pgvision.results import DetectionResult, result_from_dict

    paths = [image.path for image in dataset.images]
    answers = _answers(options, keywords, paths, "images")
    found: dict[int, DetectionResult] = {}
    for image in dataset.images:
        if (answer := answers.get(image.path)) is None:
            continue
        # Boxes of an image of another size would be scored against the wrong places.
        result = result_from_dict(answer)
        if result.image_hw != image.image_hw:
            say(
                f"failed: {image.path} is {result.image_hw}, the annotations state "
                f"{image.image_hw} (height, width): pgvision convert --check",
                style="red",
            )
        elif isinstance(result, DetectionResult):
            found[image.id] = result
    if not found:
        raise DataError(
            f"none of {len(paths)} images could be read, so there is nothing to score: see above; "
            "--images names the folder where they are"
        )
    return found


def _coco_records(
    dataset: "Dataset", found: "dict[int, DetectionResult]", iou_type: str
) -> list[dict[str, object]]:
    ids = {category.name: category.id for category in dataset.categories}
    # pycocotools takes an object's area from its box where a record has one, mask or not.
    out = "bbox" if iou_type == "segm" else "segmentation"
    listed = (one.to_coco(image_id=number, category_ids=ids) for number, one in found.items())
    return [{k: v for k, v in record.items() if k != out} for part in listed for record in part]


def _calibrate(
    options: EvalOptions, truth: Any, pairs: list[Any], iou_type: Literal["bbox", "segm"]
) -> bool:
    """Fit a map from scores to precision; False if nothing was found."""
    from pgvision.evaluation import fit_calibration, match_scores

    scores, correct = match_scores(truth, pairs, iou_type, max_dets=options.max_dets)
    if len(scores) and options.calibrate is not None:
        calibration = fit_calibration(scores, correct, options.calibrate)
        calibration.save(options.folder / "calibration.json")
        return True
    reason = f"nothing was found in {len(pairs)} images"
    say(f"--calibrate: {reason}, so there is no calibration.json", style="red")
    return False


# --- the worst images --------------------------------------------------------------------------


def _save_worst(
    dataset: "Dataset",
    found: "dict[int, DetectionResult]",
    report: "DetectionReport",
    options: EvalOptions,
    truth: Any,
) -> None:
    """Draw the images with most mistakes, by the matching of AP: missed left, wrong right."""
    import numpy as np

    from pgvision import drawing
    from pgvision.cli.outputs import short_stem, write_jpeg
    from pgvision.datasets import truth_result
    from pgvision.evaluation import find_mistakes
    from pgvision.images import read_image

    folder = options.folder / "worst"
    # 1. Delete the images of an earlier run.
    for old in folder.glob("[0-9]*-*.jpg"):
        old.unlink()
    # 2. Count mistakes at the best threshold.
    threshold = report.best_f1.threshold if report.best_f1 is not None else 0.0
    kept = {
        image_id: result if result.scores is None else result[result.scores >= threshold]
        for image_id, result in found.items()
    }
    mistakes = find_mistakes(truth, [*kept.items()], report.iou_type, max_dets=report.max_dets)
    images = [image for image in dataset.images if image.id in kept and mistakes[image.id].count]
    images.sort(key=lambda image: -mistakes[image.id].count)
    # 3. Draw missed and wrong objects next to each other.
    for place, image in enumerate(images[: options.worst], 1):
        wrong = mistakes[image.id]
        name = f"{place:02d}-{wrong.count}-{short_stem(image.file_name)}.jpg"
        above = "" if report.best_f1 is None else f" of score {threshold:.2f} and up"
        caption = (
            f"{image.file_name}: {wrong.missed.sum()} missed (left), {wrong.wrong.sum()} wrong "
            f"(right) among predictions{above}, at IoU 0.5"
        )
        bgr = read_image(image.path)
        gap = np.full((bgr.shape[0], 8, 3), 255, np.uint8)
        left = truth_result(image, dataset)[wrong.missed].plot(bgr)
        right = kept[image.id][wrong.wrong].plot(bgr)
        write_jpeg(folder / name, drawing.with_caption(np.hstack([left, gap, right]), caption))


# --- texts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextCase:
    """One image with one prompt, and the texts that are accepted.

    Attributes:
        image: Path of the image.
        prefix: The prompt.
        references: Accepted texts.
    """

    image: Path
    prefix: str
    references: tuple[str, ...]


def text_cases(examples: "Iterable[Example]", task: str) -> list[TextCase]:
    """Gather the examples of one task; examples with the same image and prompt are one case.

    Raises:
        DataError: If there is none.
    """
    pattern, wanted = _PREFIXES[task]
    gathered: dict[tuple[Path, str], list[str]] = {}
    for example in examples:
        if re.fullmatch(pattern, example.prefix):
            gathered.setdefault((example.image, example.prefix), []).append(example.suffix)
    if not gathered:
        raise DataError(f"--task {task}: no example has a prefix {wanted!r}")
    return [TextCase(*key, tuple(texts)) for key, texts in gathered.items()]


def _evaluate_texts(options: EvalOptions, model: ObjectOptions) -> bool:
    from pgvision.datasets import read_examples
    from pgvision.datasets.reading import part_files, validation_part

    # 1. Options that only objects have cannot act.
    given = [name for name in model if name not in ModelOptions.__annotations__]
    given += [name for name in _OF_OBJECTS if getattr(options, name) != getattr(EvalOptions, name)]
    if given:
        word = "--" + given[0].replace("_", "-")
        raise OptionError(f"{word}: is for --task detect and segment; leave it out")
    files = part_files(options.data, ".jsonl", split=options.split)
    part = validation_part(files, options.split, source=options.data) or next(iter(files))
    examples = read_examples(files[part], images=options.images)
    cases = text_cases(examples, options.task)[: options.limit]
    say(f"evaluating on {part}: {len(cases)} examples")
    # 2. One job for each prompt, all in one journal.
    prompts: dict[str, list[TextCase]] = {}
    for case in cases:
        prompts.setdefault(case.prefix, []).append(case)
    texts: dict[TextCase, str] = {}
    label = "questions" if options.task == "ask" else "images"
    for prefix, group in prompts.items():
        asked = re.fullmatch(_PREFIXES[options.task][0], prefix)
        how: dict[str, Any] = {**model, **(asked.groupdict() if asked else {})}
        answers = _answers(options, how, [case.image for case in group], label)
        texts |= {case: answers[case.image]["text"] for case in group if case.image in answers}
    if not texts:
        raise DataError(f"none of {len(cases)} images could be read")
    # 3. Score and write.
    metrics = _text_metrics(options.task, texts)
    _write_texts(options, cases, texts, metrics)
    return len(texts) == len(cases)


def _text_metrics(task: str, texts: dict[TextCase, str]) -> dict[str, float]:
    from pgvision.evaluation import evaluate_answers, evaluate_captions, evaluate_reading

    answers, references = list(texts.values()), [case.references for case in texts]
    if task == "read":
        reading = evaluate_reading(answers, [accepted[0] for accepted in references])
        return {"cer": reading.cer, "wer": reading.wer}
    if task == "caption":
        captions = evaluate_captions(answers, references)
        return {"cider": captions.cider, "bleu4": captions.bleu4}
    # VQA's accuracy is defined for ten answers a question.
    ten_each = all(len(accepted) == 10 for accepted in references)
    names = ("exact", "anls", "count", *(("vqa",) if ten_each else ()))
    return dict(evaluate_answers(answers, references, names).metrics)


def _write_texts(
    options: EvalOptions,
    cases: list[TextCase],
    texts: dict[TextCase, str],
    metrics: dict[str, float],
) -> None:
    from pgvision.cli.outputs import json_text

    # 1. Write the answers and the report.
    lines = [
        json_text({**asdict(case), "image": str(case.image), "answer": text})
        for case, text in texts.items()
    ]
    unread = [str(case.image) for case in cases if case not in texts]
    report = {"task": options.task, "num_answers": len(texts), "metrics": metrics, "unread": unread}
    write_text(options.folder / "answers.jsonl", "\n".join(lines) + "\n")
    write_text(options.folder / "report.json", json_text(report) + "\n")
    # 2. Print the metrics.
    if unread:
        say(f"{len(unread)} of {len(cases)} not read and not scored: {', '.join(unread[:5])}")
    if options.as_json:
        typer.echo(json_text(report))
        return
    for name, value in metrics.items():
        typer.echo(f"{name:>8}  {value:.3f}")


# --- jobs --------------------------------------------------------------------------------------


def _answers(
    options: EvalOptions, keywords: dict[str, Any], paths: list[Path], label: str
) -> dict[Path, dict[str, Any]]:
    """Ask for what is not in the journal of the folder yet; return the answers without failures."""
    from pgvision.batch import Job, Recipe

    # 1. All evaluations in the folder share its journal.
    job = Job(Recipe(options.task, keywords), paths, options.folder / JOURNAL, shared=True)
    left, total = job.num_left(), len(job.items)
    if left < total:
        say(f"resuming after {total - left} of {total} {label}")
    with Meter(label, left) as meter, closing(job.stream()) as outcomes:  # type: ignore[type-var]
        for _ in outcomes:
            meter.advance()
    # 2. Read all answers from the journal; report failures.
    # Of several pages or frames the first counts, as for the annotations.
    by_name = {str(answer["source"]): answer for answer in reversed([*job.results()])}
    try:
        named = {path: by_name[job.name_of(path)] for path in paths}
    except KeyError as error:  # answers are filed under the digest of the checkpoint
        raise DataError(
            f"{options.folder / JOURNAL}: lacks answers of this run: the checkpoint or an image "
            "changed while it ran. Repeat the command"
        ) from error
    for answer in named.values():
        if answer["type"] == "Failure":
            say(f"failed: {answer['message']}", style="red")
    return {path: answer for path, answer in named.items() if answer["type"] != "Failure"}
