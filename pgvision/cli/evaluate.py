"""`pgvision eval`: predict and score in one go."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pgvision.cli.exit_codes import DONE, FAILED, end
from pgvision.cli.model_options import ModelOptions
from pgvision.cli.options import (
    INPUT_PANEL,
    OUTPUT_PANEL,
    BatchSize,
    ClassesPerPrompt,
    ExtraObjects,
    ImagesFolder,
    Split,
    takes,
)
from pgvision.errors import OptionError

if TYPE_CHECKING:
    from pgvision.datasets import Dataset
    from pgvision.tasks import Detector, Segmenter

SCORING_PANEL = "Scoring"


@dataclass(frozen=True, kw_only=True)
class EvalOptions(ModelOptions):
    """What ``pgvision eval`` takes; the fields speak for themselves."""

    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="DATASET",
            help="COCO, YOLO, VOC, LabelMe or JSONL; for 'ask' and 'caption' JSONL.",
            show_default=False,
            rich_help_panel=INPUT_PANEL,
        ),
    ]
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for results.json, report.json, report.png, worst/. A stopped run goes on.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = Path("runs/eval")
    task: Annotated[
        Literal["detect", "segment", "ask", "caption"], typer.Option(help="What to score.")
    ] = "detect"
    batch_size: BatchSize = None
    classes_per_prompt: ClassesPerPrompt = None
    extra_objects: ExtraObjects = 0
    images: ImagesFolder = None
    split: Split = None
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Only the first n images.", rich_help_panel=INPUT_PANEL),
    ] = None
    conf: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Drop objects below this score; AP wants them all.",
            show_default="none",
            rich_help_panel=SCORING_PANEL,
        ),
    ] = None
    engine: Annotated[
        Literal["faster", "pycocotools"],
        typer.Option(help="Evaluator; all give the same figures.", rich_help_panel=SCORING_PANEL),
    ] = "faster"
    scoreless: Annotated[
        Literal["refuse", "f1"],
        typer.Option(
            help="For predictions without scores: refuse them, or report all metrics but AP.",
            rich_help_panel=SCORING_PANEL,
        ),
    ] = "refuse"
    calibrate: Annotated[
        Literal["temperature", "isotonic"] | None,
        typer.Option(
            help="Fit a map from scores to precision on this set: calibration.json.",
            rich_help_panel=SCORING_PANEL,
        ),
    ] = None
    worst: Annotated[
        int,
        typer.Option(min=0, help="Images to draw into worst/.", rich_help_panel=OUTPUT_PANEL),
    ] = 12
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the report as JSON.", rich_help_panel=OUTPUT_PANEL),
    ] = False


@takes(EvalOptions)
def evaluate(*, options: EvalOptions) -> None:
    """Predict and score a data set: COCO figures, answers, calibration, the worst images.

    [bold]Examples[/bold]

    pgvision eval --data heldout/instances.json --out report
    pgvision eval --data heldout/instances.json --task segment --engine pycocotools
    pgvision eval --data heldout/examples.jsonl --task ask
    pgvision eval --data val.json --calibrate isotonic --model google/paligemma2-3b-mix-448
    """
    objects = options.task in ("detect", "segment")
    ok = _evaluate_objects(options) if objects else _evaluate_texts(options)
    end(DONE if ok else FAILED)


def _dataset(options: EvalOptions) -> "Dataset":
    from dataclasses import replace

    from pgvision.cli.console import say
    from pgvision.cli.convert import finding_lines
    from pgvision.datasets import read_evaluation_part

    part, dataset = read_evaluation_part(options.data, images=options.images, split=options.split)
    say(f"evaluating on {part}: {len(dataset.images)} images, {dataset.num_objects} objects")
    for line in finding_lines(dataset.findings):
        say(line, style="yellow")
    if options.limit is None:
        return dataset
    return replace(dataset, images=dataset.images[: options.limit])


def _evaluate_objects(options: EvalOptions) -> bool:
    from pgvision.cli.console import say
    from pgvision.cli.eval_answers import Answers
    from pgvision.cli.eval_objects import Scoring, calibrate, predict, score
    from pgvision.cli.eval_worst import save_worst
    from pgvision.runtime import find_checkpoint

    dataset = _dataset(options)
    detector = _detector(options, dataset)
    found = predict(dataset, detector, Answers(options.out, _run_of(options, dataset.classes)))
    scoring = Scoring(
        iou_type="bbox" if options.task == "detect" else "segm",
        engine=options.engine,
        scoreless=options.scoreless,
        model=find_checkpoint(options.model).name,
        data=" ".join(filter(None, (str(options.data), options.split))),
        conf=options.conf,
    )
    report = score(dataset, found, options.out, scoring)
    threshold = report.best_f1.threshold if report.best_f1 is not None else 0.0
    save_worst(
        dataset,
        found,
        options.out / "worst",
        count=options.worst,
        threshold=threshold,
        iou_type=scoring.iou_type,
    )
    path = options.out / "calibration.json"
    fitted = options.calibrate is None or calibrate(
        dataset, found, scoring, options.calibrate, path
    )
    if options.as_json:
        typer.echo(json.dumps(report.to_dict(), allow_nan=False))
    else:
        _print(report)
    say(f"wrote {options.out}/")
    return fitted and len(found) == len(dataset.images)


def _detector(options: EvalOptions, dataset: "Dataset") -> "Detector | Segmenter":
    from pgvision import Detector, Segmenter

    make = Detector if options.task == "detect" else Segmenter
    return make(
        list(dataset.classes),
        **options.for_load,
        batch_size=options.batch_size,
        classes_per_prompt=options.classes_per_prompt,
        conf=options.conf or 0.0,
        extra_objects=options.extra_objects,
        unknown=options.unknown,
    )


def _evaluate_texts(options: EvalOptions) -> bool:
    from pgvision import Answerer, Captioner
    from pgvision.cli.console import say
    from pgvision.cli.eval_texts import evaluate_texts, text_cases
    from pgvision.datasets import read_examples

    _refuse_object_options(options)
    cases = text_cases(read_examples(options.data, images=options.images), options.task)
    cases = cases[: options.limit]

    def ask(image: Path, language: str, question: str) -> str:
        make = Answerer if options.task == "ask" else Captioner
        task = make(language, **options.for_load, unknown=options.unknown)
        return task(image, question).text if isinstance(task, Answerer) else task(image).text

    figures, failed = evaluate_texts(cases, ask, options.out, task=options.task)
    if options.as_json:
        typer.echo(json.dumps(figures))
    else:
        for name, value in figures.items():
            typer.echo(f"{name:>8}  {value:.3f}")
    say(f"wrote {options.out}/")
    return not failed


def _refuse_object_options(options: EvalOptions) -> None:
    """Refuse what a text task would not look at: questions are asked one by one."""
    for name in ("batch_size", "classes_per_prompt", "conf", "calibrate", "extra_objects"):
        if getattr(options, name) not in (None, 0):
            word = "--" + name.replace("_", "-")
            raise OptionError(
                f"{word}: is for --task detect and segment; leave it out of --task {options.task}"
            )


def _run_of(options: EvalOptions, classes: Sequence[str]) -> dict[str, object]:
    """What must be the same for a stopped run to go on; each answer knows its picture itself."""
    from pgvision import __version__
    from pgvision.runtime import find_checkpoint, weights_digest

    return {
        "data": str(options.data.resolve()),
        "split": options.split,
        "task": options.task,
        "classes": list(classes),
        "weights": weights_digest(find_checkpoint(options.model), options.revision),
        "pgvision": __version__,
        "device": options.device,
        "kind": options.kind,
        "dtype": options.dtype,
        "quantize": options.quantize,
        "extra_objects": options.extra_objects or None,
        "classes_per_prompt": options.classes_per_prompt,
        "conf": options.conf,
    }


def _print(report: object) -> None:
    from rich.console import Console

    Console(highlight=False, emoji=False).print(report)
