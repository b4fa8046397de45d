"""`pgvision detect`, `segment`, `caption`, `ask` and `read`."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from pgvision.batch.recipes import TaskName, make_task
from pgvision.cli.batch import JobOptions, run_job
from pgvision.cli.console import end
from pgvision.cli.options import split_phrases
from pgvision.cli.outputs import BoxOutput, Outcome, Output
from pgvision.errors import OptionError
from pgvision.tasks.options import AnswerOptions, ModelOptions, ObjectOptions, ReadOptions


@dataclass(frozen=True, kw_only=True)
class CaptionWording:
    """How a caption is worded.

    Attributes:
        language: Language of the answer: en (default), de, fr, ...
        style: caption (default): a sentence; describe: several; cap: a short alt text. Checkpoints
            differ in what they were trained on.
    """

    language: str = "en"
    style: Literal["caption", "describe", "cap"] = "caption"


@dataclass(frozen=True, kw_only=True)
class AnswerWording:
    """How an answer is worded.

    Attributes:
        choices: An answer to choose from; repeat it for each.
        language: Language of the answer: en (default), de, fr, ...
    """

    choices: list[str] | None = None
    language: str = "en"


def detect(
    phrase: str, sources: list[str], *, output: BoxOutput, task: ObjectOptions, read: ReadOptions
) -> None:
    """Find objects and give each a box and a score.

    Examples:
    pgvision detect helmet site.jpg --out found
    pgvision detect "helmet; head" photos/ --recursive --coco boxes.json
    pgvision detect helmet site.mp4 --track --out found
    pgvision detect helmet 0 --json | jq .scores
    """
    asked = about_objects("detect", phrase, sources, task, output.coco)
    _run("detect", asked, sources, output, read)


def segment(
    phrase: str, sources: list[str], *, output: BoxOutput, task: ObjectOptions, read: ReadOptions
) -> None:
    """Find objects and give each a box, a mask and a score.

    Examples:
    pgvision segment helmet site.jpg --out found
    pgvision segment "cone; barrel" photos/ --coco masks.json
    pgvision segment helmet site.mp4 --track --out found
    """
    asked = about_objects("segment", phrase, sources, task, output.coco)
    _run("segment", asked, sources, output, read)


def caption(
    sources: list[str],
    *,
    output: Output,
    wording: CaptionWording,
    task: ModelOptions,
    read: ReadOptions,
) -> None:
    """Write a caption for each image.

    Examples:
    pgvision caption site.jpg
    pgvision caption photos/ --recursive --json > captions.jsonl
    pgvision caption site.jpg --language de --model google/paligemma2-3b-mix-448
    """
    _run("caption", {**task, **asdict(wording)}, sources, output, read)


def ask(
    question: str,
    sources: list[str],
    *,
    output: Output,
    wording: AnswerWording,
    task: AnswerOptions,
    read: ReadOptions,
) -> None:
    """Answer a question about an image.

    Examples:
    pgvision ask "how many workers wear a helmet?" site.jpg
    pgvision ask "what color is the helmet?" photos/*.jpg --json
    pgvision ask "is it on?" a.jpg --choice on --choice off --model google/paligemma-3b-ft-ai2d-448
    """
    _run("ask", about_question(question, sources, wording, task), sources, output, read)


def read(sources: list[str], *, output: Output, task: ModelOptions, read: ReadOptions) -> None:
    """Read what is written in an image.

    Examples:
    pgvision read sign.jpg
    pgvision read scans/ --recursive --out texts
    """
    _run("read", {**task}, sources, output, read)


def _run(
    task: TaskName,
    keywords: dict[str, Any],
    sources: list[str],
    output: Output | JobOptions,
    reading: ReadOptions,
) -> NoReturn:
    """Answer all sources, or run a job, and end the command."""
    # 1. As a job: `pgvision batch`.
    if isinstance(output, JobOptions):
        run_job(task, keywords, sources, output, reading)
    from pgvision.cli.runs import run_task
    from pgvision.tracking.tracks import require_trackers, with_tracks

    # 2. As a plain run; the model loads once the sources and outputs are checked.
    has_tracks = isinstance(output, BoxOutput) and output.track
    if has_tracks:
        require_trackers()

    def stream(frames: Any) -> Iterable[Outcome]:
        found = make_task(task, keywords).stream(frames, on_error=output.on_error, **reading)
        return with_tracks(found) if has_tracks else found

    end(run_task(stream, sources, output, reading, has_drafts="drafts" in keywords))


def about_objects(
    task: TaskName, phrase: str, sources: list[str], options: ObjectOptions, coco: Path | None
) -> dict[str, Any]:
    """Return the keywords of `detect` or `segment`; refuse what the model does not know.

    Args:
        task: The command.
        phrase: As typed: classes between semicolons.
        sources: As typed.
        options: Which model, and which objects to keep.
        coco: The COCO file; for one all objects are kept: evaluators want every one.
    """
    require_order(phrase, sources, f"{task} PHRASE SOURCE")
    # Evaluators of a COCO file want every object, with its score.
    every: ObjectOptions = {} if coco is None else {"conf": 0.0}
    return {**every, **options, "classes": known_phrases(phrase, options)}


def about_question(
    question: str, sources: list[str], wording: AnswerWording, options: AnswerOptions
) -> dict[str, Any]:
    """Return the keywords of `ask`; refuse a question that the checkpoint's prompts cannot ask.

    Raises:
        PromptError: If it cannot be asked.
    """
    from pgvision.runtime import find_checkpoint
    from pgvision.tokens import answer_prefix

    require_order(question, sources, "ask QUESTION SOURCE")
    # Where the prompt format is known, a wrong question is refused before the model is loaded.
    kind = find_checkpoint(options.get("model"), kind=options.get("kind")).sure_kind
    if kind and not options.get("free_text"):
        answer_prefix(question, language=wording.language, choices=wording.choices, kind=kind)
    return {**options, "question": question, **asdict(wording)}


def known_phrases(phrase: str, options: ModelOptions) -> tuple[str, ...]:
    """Split a phrase into classes, and refuse those unknown to the model before it is loaded.

    Args:
        phrase: As typed: classes between semicolons.
        options: Which model.
    """
    from pgvision.runtime import find_checkpoint
    from pgvision.tasks.trained_on import known_classes
    from pgvision.tokens import require_classes

    classes = require_classes(split_phrases(phrase))
    card = find_checkpoint(options.get("model"), kind=options.get("kind"))
    known_classes(classes, card, unknown=options.get("unknown", "refuse"))
    return classes


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
