"""`pgvision detect`, `segment`, `caption`, `ask` and `read`."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from pgvision.cli.exit_codes import end
from pgvision.cli.options import split_phrases
from pgvision.cli.outputs import BoxOutput, Outcome, Output
from pgvision.errors import OptionError
from pgvision.images import OnError
from pgvision.tasks.options import AnswerOptions, ModelOptions, ObjectOptions, ReadOptions

Phrase: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="PHRASE",
        help="What to find, one class or several: 'helmet' or 'helmet; head'.",
        show_default=False,
    ),
]
Question: TypeAlias = Annotated[
    str, typer.Argument(metavar="QUESTION", help="In words.", show_default=False)
]
Sources: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Images, folders, globs, videos, lists (.txt, .jsonl, .parquet), .tar files, camera "
        "numbers, URLs, s3:// and other stores.",
        show_default=False,
    ),
]
Choice: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="An answer to choose from; repeat it for each."),
]


@dataclass(frozen=True, kw_only=True)
class TextStyle:
    """How a caption is worded.

    Attributes:
        language: Language of the answer: en (default), de, fr, ...
        style: caption (default): a sentence; describe: several; cap: a short alt text. Checkpoints
            differ in what they were trained on.
    """

    language: str = "en"
    style: Literal["caption", "describe", "cap"] = "caption"


@dataclass(frozen=True, kw_only=True)
class Language:
    """The language of an answer.

    Attributes:
        language: Language of the answer: en (default), de, fr, ...
    """

    language: str = "en"


@dataclass(frozen=True, kw_only=True)
class Failing:
    """What happens on unreadable images.

    Attributes:
        on_error: For an image that cannot be read: record the failure and continue (default), skip
            it, or raise and stop.
    """

    on_error: OnError = "record"


def detect(
    *,
    phrase: Phrase,
    sources: Sources,
    output: BoxOutput,
    task: ObjectOptions,
    reading: ReadOptions,
    failing: Failing,
) -> None:
    """Find objects and give each a box and a score.

    Examples:
    pgvision detect helmet site.jpg --out found
    pgvision detect "helmet; head" photos/ --recursive --coco boxes.json
    pgvision detect helmet site.mp4 --track --out found
    pgvision detect helmet 0 --json | jq .scores
    """
    _run_objects("detect", phrase, sources, output, task, reading, failing)


def segment(
    *,
    phrase: Phrase,
    sources: Sources,
    output: BoxOutput,
    task: ObjectOptions,
    reading: ReadOptions,
    failing: Failing,
) -> None:
    """Find objects and give each a box, a mask and a score.

    Examples:
    pgvision segment helmet site.jpg --out found
    pgvision segment "cone; barrel" photos/ --coco masks.json
    pgvision segment helmet site.mp4 --track --out found
    """
    _run_objects("segment", phrase, sources, output, task, reading, failing)


def caption(
    *,
    sources: Sources,
    output: Output,
    wording: TextStyle,
    task: ModelOptions,
    reading: ReadOptions,
    failing: Failing,
) -> None:
    """Write a caption for each image.

    Examples:
    pgvision caption site.jpg
    pgvision caption photos/ --recursive --json > captions.jsonl
    pgvision caption site.jpg --language de --model google/paligemma2-3b-mix-448
    """
    from pgvision.cli.runs import run_task

    def stream(frames: Any) -> Iterable[Outcome]:
        from pgvision import Captioner

        captioner = Captioner(wording.language, style=wording.style, **task)
        return captioner.stream(frames, on_error=failing.on_error, **reading)

    end(run_task(stream, sources, output, reading, failing.on_error, task))


def ask(
    *,
    question: Question,
    sources: Sources,
    choice: Choice = None,
    output: Output,
    wording: Language,
    task: AnswerOptions,
    reading: ReadOptions,
    failing: Failing,
) -> None:
    """Answer a question about an image.

    Examples:
    pgvision ask "how many workers wear a helmet?" site.jpg
    pgvision ask "what color is the helmet?" photos/*.jpg --json
    pgvision ask "is it on?" a.jpg --choice on --choice off --model google/paligemma-3b-ft-ai2d-448
    """
    from pgvision.cli.runs import run_task

    require_order(question, sources, "ask QUESTION SOURCE")
    require_question(question, wording.language, choice or None, task)

    def stream(frames: Any) -> Iterable[Outcome]:
        from pgvision import Answerer

        answerer = Answerer(wording.language, **task)
        asked = answerer.task(question, choice or None)
        return asked.stream(frames, on_error=failing.on_error, **reading)

    end(run_task(stream, sources, output, reading, failing.on_error, task))


def read(
    *, sources: Sources, output: Output, task: ModelOptions, reading: ReadOptions, failing: Failing
) -> None:
    """Read what is written in an image.

    Examples:
    pgvision read sign.jpg
    pgvision read scans/ --recursive --out texts
    """
    from pgvision.cli.runs import run_task

    def stream(frames: Any) -> Iterable[Outcome]:
        from pgvision import Reader

        return Reader(**task).stream(frames, on_error=failing.on_error, **reading)

    end(run_task(stream, sources, output, reading, failing.on_error, task))


def _run_objects(
    task: Literal["detect", "segment"],
    phrase: str,
    sources: list[str],
    output: BoxOutput,
    options: ObjectOptions,
    reading: ReadOptions,
    failing: Failing,
) -> None:
    from pgvision.cli.runs import run_task
    from pgvision.tracking.tracks import require_trackers, with_tracks

    require_order(phrase, sources, f"{task} PHRASE SOURCE")
    if output.track:
        require_trackers()
    classes = known_phrases(phrase, options)
    options = with_all_scores(options, output.coco)

    def stream(frames: Any) -> Iterable[Outcome]:
        from pgvision import Detector, Segmenter

        made = (Detector if task == "detect" else Segmenter)(classes, **options)
        found = made.stream(frames, on_error=failing.on_error, **reading)
        return with_tracks(found) if output.track else found

    end(run_task(stream, sources, output, reading, failing.on_error, options))


def known_phrases(phrase: str, options: ModelOptions) -> tuple[str, ...]:
    """Split a phrase into classes, and refuse those unknown to the model before it is loaded.

    Args:
        phrase: As typed: classes between semicolons.
        options: Which model.
    """
    from pgvision.runtime import find_checkpoint
    from pgvision.tasks.names import known_classes
    from pgvision.tokens import require_classes

    classes = require_classes(split_phrases(phrase))
    card = find_checkpoint(options.get("model"), kind=options.get("kind"))
    known_classes(classes, card, unknown=options.get("unknown", "refuse"))
    return classes


def with_all_scores(options: ObjectOptions, coco: Path | None) -> ObjectOptions:
    """Keep all objects for a COCO file: evaluators want every one."""
    return {"conf": 0.0, **options} if coco is not None else options


def require_question(
    question: str, language: str, choices: list[str] | None, options: AnswerOptions
) -> None:
    """Refuse a question that the checkpoint's prompts cannot ask, before it is loaded.

    Raises:
        PromptError: If it cannot be asked.
    """
    from pgvision.runtime import find_checkpoint
    from pgvision.tokens import answer_prefix

    kind = find_checkpoint(options.get("model"), kind=options.get("kind")).sure_kind
    if kind and not options.get("free_text"):
        answer_prefix(question, language=language, choices=choices, kind=kind)


def require_order(words: str, sources: list[str], usage: str) -> None:
    """Refuse swapped arguments: ``detect site.jpg helmet``.

    Raises:
        OptionError: If ``words`` is a file and the first source is not.
    """
    swapped = False
    with suppress(OSError, ValueError):
        swapped = Path(words).is_file() and not Path(sources[0]).exists()
    if swapped:
        task, *_ = usage.split()
        raise OptionError(
            f"{words} is a file, and {sources[0]} is not: expected {usage}, such as "
            f"pgvision {task} {sources[0]!r} {words}"
        )
