"""`pgvision detect`, `segment`, `caption`, `ask`, `read`; the same as jobs (`batch`); `merge`."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

from pgvision.batch.recipes import TaskName, make_task
from pgvision.cli.console import DONE, FAILED, INTERRUPTED, Meter, end, say
from pgvision.cli.options import split_phrases
from pgvision.cli.outputs import BoxOutput, Outcome, Output, printed
from pgvision.cli.runs import (
    RESULTS,
    require_replaceable,
    require_writable,
    run_outputs,
    run_task,
)
from pgvision.errors import Count, OptionError
from pgvision.tasks.options import AnswerOptions, ModelOptions, ObjectOptions, ReadOptions

if TYPE_CHECKING:
    from pgvision.batch import Job, Merged


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


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """How a job runs, and where its answers go.

    Attributes:
        out: Folder for results.jsonl; written at the end from the journal.
        journal: Where the journal is kept; default: next to the output file. A
            run that was stopped resumes from it.
        shard: Take one of several parts, such as 3/16, by the hash of each name; pgvision merge
            makes one file of their journals.
        retry_unread: Read again what an earlier run could not read.
        ray: Run on a Ray cluster: auto, an address, or local (in a checkout: pip install '.[ray]').
        ray_actors: Processes on the cluster that load the model; default 1.
        json_lines: Print one JSON object per image on stdout; logs and progress stay on stderr.
    """

    out: Path | None = None
    journal: Path | None = None
    shard: str | None = None
    retry_unread: bool = False
    ray: str | None = None
    ray_actors: Count = 1
    json_lines: bool = False


@dataclass(frozen=True, kw_only=True)
class BoxJobOptions(JobOptions):
    """Where the objects of a job go.

    Attributes:
        coco: Write one COCO file at the end; images are named relative to their source.
    """

    coco: Path | None = None


_EXAMPLES: Final = {
    "detect": "helmet photos/ --recursive --coco out.json --shard 3/16",
    "segment": '"cone; barrel" photos/ --coco masks.json',
    "caption": "photos/ --out captions",
    "ask": '"how many workers wear a helmet?" photos/ --out answers',
    "read": "scans/ --recursive --out texts",
}


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


def batch() -> None:
    """Run a task on very many images: each answer goes to a journal, and a stopped job resumes.

    Repeat the command to resume. Shards run on any machines that have the images.

    \b
    pgvision batch detect helmet photos/ --coco out.json
    pgvision batch detect helmet photos/ --coco out.json --shard 3/16
    pgvision merge out.json.*.journal --coco out.json
    """  # noqa: D301  (a sign for click: keep these lines)


def in_bulk(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command of a task as a job: with `JobOptions` in place of `Output`."""

    @wraps(command)
    def _bulk(**given: Any) -> None:
        command(**given)

    # 1. Options: those of a job in place of those of a plain run.
    swapped: dict[Any, Any] = {BoxOutput: BoxJobOptions, Output: JobOptions}
    hints = command.__annotations__.items()
    _bulk.__annotations__ = {name: swapped.get(hint, hint) for name, hint in hints}
    # 2. Help: the task's first paragraph.
    about, *_ = (command.__doc__ or "").split("\n\n")
    name = command.__name__
    _bulk.__doc__ = (
        f"{about} For very many images: repeat the command to resume.\n\n"
        f"Examples:\npgvision batch {name} {_EXAMPLES[name]}"
    )
    return _bulk


def merge(
    journals: list[Path],
    *,
    coco: Path | None = None,
    jsonl: Path | None = None,
    partial: bool = False,
) -> None:
    """Make one file of the journals of a job that ran in shards (--shard 1/3, 2/3, 3/3).

    Examples:
    pgvision merge out.json.*.journal --coco out.json
    pgvision merge found/*.journal --jsonl all.jsonl --partial

    Args:
        journals: The journals of all shards.
        coco: Write one COCO file of all objects.
        jsonl: Write all answers as JSONL.
        partial: Accept a job that is not complete.

    Raises:
        OptionError: If there is no place for the answers, or no such journal.
    """
    from pgvision.batch import merge as merge_journals

    # 1. Check the options.
    if not (coco or jsonl):
        raise OptionError("merge: expected a place for it; add --coco FILE or --jsonl FILE")
    for path in journals:
        if not path.is_file():
            raise OptionError(f"{path}: no such journal (looked from {Path.cwd()})")
    for option, file in (("--coco", coco), ("--jsonl", jsonl)):
        if file is not None:
            require_replaceable(file, option)
    # 2. Merge, and write the files.
    merged = merge_journals(journals, partial=partial)
    for line in merged.missing:
        say(line, style="yellow")
    _assemble(merged, coco, jsonl)
    end(FAILED if merged.missing else _exit_code(merged))


# --- runs and jobs ----------------------------------------------------------------------------


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
    from pgvision.tracking.tracks import require_trackers, with_tracks

    # 2. As a plain run; the model loads once the sources and outputs are checked.
    has_tracks = isinstance(output, BoxOutput) and output.track
    if has_tracks:
        require_trackers()

    def stream(frames: Any) -> Iterable[Outcome]:
        found = make_task(task, keywords).stream(frames, on_error="record", **reading)
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


def run_job(
    task: TaskName,
    keywords: dict[str, Any],
    sources: Sequence[str],
    options: JobOptions,
    reading: ReadOptions,
) -> NoReturn:
    """Run a job, or what is left of it, and end the command.

    Args:
        task: Name of the task.
        keywords: Keywords of the task's class.
        sources: As typed on the command line.
        options: Where the journal and the answers go.
        reading: How sources are read.

    Raises:
        OptionError: If options do not fit together.
    """
    from pgvision.batch import Job, Recipe, Shard

    # 1. Refuse wrong options before the model is loaded.
    boxes = options if isinstance(options, BoxJobOptions) else BoxJobOptions(out=options.out)
    final = boxes.coco or (None if options.out is None else options.out / RESULTS)
    if final is None:
        files = "--coco FILE or --out DIR" if task in ("detect", "segment") else "--out DIR"
        raise OptionError(f"batch {task}: expected a place for the answers; add {files}")
    if options.ray_actors > 1 and options.ray is None:
        raise OptionError("--ray-actors: has no effect without --ray; add it, or leave it out")
    require_writable(final.parent, "--coco" if boxes.coco else "--out")
    require_replaceable(final, "--coco" if boxes.coco else "--out")
    if options.out is not None:
        require_writable(options.out, "--out")
    # 2. Open the job; each shard has its own journal.
    part = "" if options.shard is None else "." + options.shard.replace("/", "-of-")
    job = Job(
        Recipe(task, {name: value for name, value in keywords.items() if value is not None}),
        sources,
        options.journal or final.with_name(f"{final.name}{part}.journal"),
        shard=None if options.shard is None else Shard.parse(options.shard),
        retry_unread=options.retry_unread,
        recursive=reading.get("recursive", False),
        stride=reading.get("stride", 1),
    )
    if job.shard is not None:
        say(
            f"shard {job.shard}: {len(job.items)} of {job.num_listed} images and videos, listing "
            f"{job.listing[:8]} (the same for all shards that can be merged)"
        )
    # 3. Write answers to the journal, and at the end from there to the files.
    stopped = _answer(job, options) if options.ray is None else _answer_on_ray(job, options)
    if not stopped and job.shard is None:
        json_lines = None if options.out is None else options.out / RESULTS
        _assemble(job, boxes.coco, json_lines)
    elif not stopped:
        say(f"wrote {job.path}; pgvision merge makes one file of the journals of all shards")
    end(INTERRUPTED if stopped else _exit_code(job))


def _answer(job: "Job", options: JobOptions) -> bool:
    """Answer the remaining items; return whether the user stopped it."""
    total, left = len(job.items), job.num_left()
    if left < total:
        say(f"resuming after {total - left} of {total} images and videos")
    summary = run_outputs(job.stream(), [printed(as_json=options.json_lines)], left)
    if summary.interrupted:
        say(f"{job.num_left()} left; the same command resumes")
    return summary.interrupted


def _answer_on_ray(job: "Job", options: JobOptions) -> bool:
    """Answer the remaining items on a cluster; return whether the user stopped it."""
    from pgvision.batch.ray import run_on_ray

    address = None if options.ray == "local" else options.ray
    with Meter("images", job.num_left()) as meter:
        counts = run_on_ray(job, address=address, num_actors=options.ray_actors)
        with closing(counts):  # type: ignore[type-var]
            try:
                for count in counts:
                    meter.advance(count - meter.done)
            except KeyboardInterrupt:
                return True
    say(f"{meter.done} answered in {meter.seconds:.1f} s", style="bold")
    return False


def _exit_code(answered: "Job | Merged") -> int:
    """Return 0, or 1 with a line on what could not be read, in this run or an earlier one."""
    if not (count := answered.num_unread()):
        return DONE
    again = "pgvision batch --retry-unread reads them again"
    say(f"{count} images or frames could not be read; {again}", style="red")
    return FAILED


def _assemble(answered: "Job | Merged", coco: Path | None, json_lines: Path | None) -> None:
    if coco is not None:
        say(f"wrote {coco} ({answered.write_coco(coco)} images)")
    if json_lines is not None:
        say(f"wrote {json_lines} ({answered.write_json_lines(json_lines)} lines)")
