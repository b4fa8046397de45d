"""`pgvision detect` and `pgvision segment`: objects with boxes, and with masks."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from pgvision.cli.exit_codes import end
from pgvision.cli.model_options import ModelOptions
from pgvision.cli.options import BoxOptions, split_phrases, takes

if TYPE_CHECKING:
    from pgvision.cli.outputs import Outcome
    from pgvision.tasks import Detector, Segmenter

Phrase = Annotated[
    str,
    typer.Argument(
        metavar="PHRASE",
        help="What to find, one class or several: 'helmet' or 'helmet; head'.",
        show_default=False,
    ),
]


Soft = Annotated[
    bool,
    typer.Option(
        "--soft", help="Average places (and mask codes) by probability, not only the most likely."
    ),
]


@takes(BoxOptions)
def detect(*, phrase: Phrase, soft: Soft = False, options: BoxOptions) -> None:
    """Find objects and give each a box and a score.

    [bold]Examples[/bold]

    pgvision detect helmet site.jpg --out found
    pgvision detect "helmet; head" photos/ --recursive --coco boxes.json
    pgvision detect helmet site.mp4 --save-overlay --track --stride 2
    pgvision detect "a red car" street.jpg --model google/paligemma2-3b-mix-448
    pgvision detect helmet 0 --json | jq .scores
    """
    _run("detect", phrase, soft, options)


@takes(BoxOptions)
def segment(*, phrase: Phrase, soft: Soft = False, options: BoxOptions) -> None:
    """Find objects and give each a box, a mask and a score.

    [bold]Examples[/bold]

    pgvision segment helmet site.jpg --out found
    pgvision segment "cone; barrel" photos/ --coco masks.json
    pgvision segment helmet site.mp4 --save-overlay --track
    """
    _run("segment", phrase, soft, options)


def _run(
    task: Literal["detect", "segment"], phrase: str, soft: bool, options: BoxOptions
) -> NoReturn:
    from pgvision.cli.bulk import run_bulk
    from pgvision.cli.jobs import run_task
    from pgvision.tracking.tracks import require_trackers, with_tracks

    if options.track:
        require_trackers()
    classes = asked(phrase, options)
    if options.is_bulk:
        run_bulk(task, {"classes": classes, "soft": soft, **options.for_objects}, options)

    def stream(sources: "str | int | list[str]") -> "Iterable[Outcome]":
        found = _made(task, classes, soft, options).stream(sources, **options.for_stream)
        return with_tracks(found) if options.track else found

    end(run_task(stream, options))


def _made(
    task: Literal["detect", "segment"], classes: Sequence[str], soft: bool, options: BoxOptions
) -> "Detector | Segmenter":
    from pgvision import Detector, Segmenter

    make = Detector if task == "detect" else Segmenter
    return make(classes, **options.for_model, **options.for_objects, soft=soft)


def asked(phrase: str, options: ModelOptions) -> tuple[str, ...]:
    """Split a phrase into classes (between semicolons), and refuse those unknown to the model."""
    from pgvision.runtime import find_checkpoint
    from pgvision.tasks.names import known_classes
    from pgvision.tokens import require_classes

    classes = require_classes(split_phrases(phrase))
    card = find_checkpoint(options.model, kind=options.kind)
    known_classes(classes, card, unknown=options.unknown)
    return classes
