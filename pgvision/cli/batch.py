"""`pgvision batch TASK`: the five tasks as jobs that resume; and `pgvision merge`."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pgvision.cli.console import Meter, say
from pgvision.cli.exit_codes import DONE, FAILED, INTERRUPTED, end
from pgvision.cli.run_folders import RESULTS, require_writable
from pgvision.cli.tasks import (
    Choice,
    Language,
    Phrase,
    Question,
    Sources,
    TextStyle,
    known_phrases,
    require_order,
    require_question,
    with_all_scores,
)
from pgvision.errors import OptionError
from pgvision.tasks.options import AnswerOptions, ModelOptions, ObjectOptions, ReadOptions

if TYPE_CHECKING:
    from pgvision.batch import Job, Merged, TaskName


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
    ray_actors: int = 1
    json_lines: bool = False


@dataclass(frozen=True, kw_only=True)
class BoxJobOptions(JobOptions):
    """Where the objects of a job go.

    Attributes:
        coco: Write one COCO file at the end; images are named relative to their source.
        coco_ids: Take image and category ids from this COCO file; --coco is then the list of
            results that evaluators read.
    """

    coco: Path | None = None
    coco_ids: Path | None = None


def batch() -> None:
    """Run a task on very many images: each answer goes to a journal, and a stopped job resumes.

    Repeat the command to resume. Shards run on any machines that have the images.
    """


def detect(
    *, phrase: Phrase, sources: Sources, job: BoxJobOptions, task: ObjectOptions, read: ReadOptions
) -> None:
    """Find objects in very many images; repeat the command to resume.

    Examples:
    pgvision batch detect helmet photos/ --recursive --coco out.json
    pgvision batch detect helmet photos/ --coco out.json --shard 3/16
    """
    require_order(phrase, sources, "detect PHRASE SOURCE")
    how = {**with_all_scores(task, job.coco), "classes": known_phrases(phrase, task)}
    _run("detect", how, sources, job, read)


def segment(
    *, phrase: Phrase, sources: Sources, job: BoxJobOptions, task: ObjectOptions, read: ReadOptions
) -> None:
    """Find objects and their masks in very many images; repeat the command to resume.

    Examples:
    pgvision batch segment "cone; barrel" photos/ --coco masks.json
    """
    require_order(phrase, sources, "segment PHRASE SOURCE")
    how = {**with_all_scores(task, job.coco), "classes": known_phrases(phrase, task)}
    _run("segment", how, sources, job, read)


def caption(
    *, sources: Sources, job: JobOptions, wording: TextStyle, task: ModelOptions, read: ReadOptions
) -> None:
    """Describe very many images; repeat the command to resume.

    Examples:
    pgvision batch caption photos/ --out captions
    """
    how = {**task, "language": wording.language, "style": wording.style}
    _run("caption", how, sources, job, read)


def ask(
    *,
    question: Question,
    sources: Sources,
    choice: Choice = None,
    job: JobOptions,
    wording: Language,
    task: AnswerOptions,
    read: ReadOptions,
) -> None:
    """Answer a question about very many images; repeat the command to resume.

    Examples:
    pgvision batch ask "how many workers wear a helmet?" photos/ --out answers
    """
    require_order(question, sources, "ask QUESTION SOURCE")
    require_question(question, wording.language, choice or None, task)
    asked = {"question": question, "choices": choice or None, "language": wording.language}
    _run("ask", {**task, **asked}, sources, job, read)


def read(*, sources: Sources, job: JobOptions, task: ModelOptions, read: ReadOptions) -> None:
    """Read what is written in very many images; repeat the command to resume.

    Examples:
    pgvision batch read scans/ --recursive --out texts
    """
    _run("read", dict(task), sources, job, read)


def merge(
    *,
    journals: Annotated[
        list[Path],
        typer.Argument(metavar="JOURNAL", help="The journals of all shards.", show_default=False),
    ],
    coco: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one COCO file of all objects.")
    ] = None,
    coco_ids: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take image and category ids from this COCO file."),
    ] = None,
    answers: Annotated[
        Path | None, typer.Option("--jsonl", metavar="FILE", help="Write all answers as JSONL.")
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print all answers, one JSON object a line.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept a job that is not complete.")
    ] = False,
) -> None:
    """Make one file of the journals of a job that ran in shards (--shard 1/3, 2/3, 3/3).

    Examples:
    pgvision merge out.json.*.journal --coco out.json
    pgvision merge found/*.journal --jsonl all.jsonl --partial
    """
    _merge(journals, coco, coco_ids, answers, json_lines=json_lines, partial=partial)


def _merge(
    journals: Sequence[Path],
    coco: Path | None,
    coco_ids: Path | None,
    answers: Path | None,
    *,
    json_lines: bool,
    partial: bool,
) -> NoReturn:
    from pgvision.batch import merge as merge_journals
    from pgvision.cli.outputs import json_text

    # 1. Check the options.
    if not (coco or answers or json_lines):
        raise OptionError("merge: expected a place for it; add --coco FILE, --jsonl FILE or --json")
    for path in journals:
        if not path.is_file():
            raise OptionError(f"{path}: no such journal (looked from {Path.cwd()})")
    # 2. Merge, and write the files.
    merged = merge_journals(journals, partial=partial)
    for line in merged.missing:
        say(line, style="yellow")
    _assemble(merged, coco, coco_ids, answers)
    for answer in merged.results() if json_lines else ():
        typer.echo(json_text(answer))
    end(FAILED if merged.missing or merged.num_unread() else DONE)


# --- one job -----------------------------------------------------------------------------------


def _run(
    task: "TaskName",
    keywords: dict[str, Any],
    sources: Sequence[str],
    options: JobOptions,
    reading: ReadOptions,
) -> NoReturn:
    from pgvision.batch import Job, Recipe, Shard

    # 1. Refuse wrong options before the model is loaded.
    boxes = options if isinstance(options, BoxJobOptions) else BoxJobOptions(out=options.out)
    final = boxes.coco or (None if options.out is None else options.out / RESULTS)
    if final is None:
        files = "--coco FILE or --out DIR" if task in ("detect", "segment") else "--out DIR"
        raise OptionError(f"batch {task}: expected a place for the answers; add {files}")
    if boxes.coco_ids and not boxes.coco:
        raise OptionError("--coco-ids: has no effect without --coco FILE; add it, or leave it out")
    if options.ray_actors > 1 and options.ray is None:
        raise OptionError("--ray-actors: has no effect without --ray; add it, or leave it out")
    require_writable(final.parent, "--coco" if boxes.coco else "--out")
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
        _assemble(job, boxes.coco, boxes.coco_ids, json_lines)
    elif not stopped:
        say(f"wrote {job.path}; pgvision merge makes one file of the journals of all shards")
    end(INTERRUPTED if stopped else FAILED if job.num_unread() else DONE)


def _answer(job: "Job", options: JobOptions) -> bool:
    """Answer the remaining items; return whether the user stopped it."""
    from pgvision.cli.outputs import printed
    from pgvision.cli.runs import Summary

    summary, total, left = Summary(), len(job.items), job.num_left()
    if left < total:
        say(f"resuming after {total - left} of {total} images and videos")
    with (
        Meter("images", left) as meter,
        printed(as_json=options.json_lines) as write,
        closing(job.stream()) as outcomes,  # type: ignore[type-var]
    ):
        # Notes exist once the stream has begun.
        noted = False
        try:
            while True:
                outcome = next(outcomes, None)
                for note in () if noted else job.notes:
                    say(note, style="yellow")
                noted = True
                if outcome is None:
                    break
                summary.take(outcome)
                write(outcome)
                meter.advance()
        except KeyboardInterrupt:
            summary.interrupted = True
        summary.report(meter.seconds)
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


def _assemble(
    answered: "Job | Merged", coco: Path | None, ids: Path | None, json_lines: Path | None
) -> None:
    if coco is not None:
        say(f"wrote {coco} ({answered.write_coco(coco, ids=ids)} images)")
    if json_lines is not None:
        say(f"wrote {json_lines} ({answered.write_json_lines(json_lines)} lines)")
