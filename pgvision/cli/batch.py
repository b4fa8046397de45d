"""`pgvision batch TASK`: the five tasks as jobs that resume; and `pgvision merge`."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer

from pgvision.cli.console import DONE, FAILED, INTERRUPTED, Meter, end, say
from pgvision.cli.outputs import BoxOutput, Output, json_text, printed
from pgvision.cli.runs import RESULTS, require_replaceable, require_writable
from pgvision.errors import Count, OptionError
from pgvision.tasks.options import ReadOptions

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
    ray_actors: Count = 1
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


_EXAMPLES: Final = {
    "detect": "helmet photos/ --recursive --coco out.json --shard 3/16",
    "segment": '"cone; barrel" photos/ --coco masks.json',
    "caption": "photos/ --out captions",
    "ask": '"how many workers wear a helmet?" photos/ --out answers',
    "read": "scans/ --recursive --out texts",
}


def batch() -> None:
    """Run a task on very many images: each answer goes to a journal, and a stopped job resumes.

    Repeat the command to resume. Shards run on any machines that have the images.
    """


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
    coco_ids: Path | None = None,
    jsonl: Path | None = None,
    json_lines: bool = False,
    partial: bool = False,
) -> None:
    """Make one file of the journals of a job that ran in shards (--shard 1/3, 2/3, 3/3).

    Examples:
    pgvision merge out.json.*.journal --coco out.json
    pgvision merge found/*.journal --jsonl all.jsonl --partial

    Args:
        journals: The journals of all shards.
        coco: Write one COCO file of all objects.
        coco_ids: Take image and category ids from this COCO file.
        jsonl: Write all answers as JSONL.
        json_lines: Print all answers, one JSON object a line.
        partial: Accept a job that is not complete.

    Raises:
        OptionError: If there is no place for the answers, or no such journal.
    """
    from pgvision.batch import merge as merge_journals

    # 1. Check the options.
    if not (coco or jsonl or json_lines):
        raise OptionError("merge: expected a place for it; add --coco FILE, --jsonl FILE or --json")
    for path in journals:
        if not path.is_file():
            raise OptionError(f"{path}: no such journal (looked from {Path.cwd()})")
    for option, file in (("--coco", coco), ("--jsonl", jsonl)):
        if file is not None:
            require_replaceable(file, option, coco_ids)
    # 2. Merge, and write the files.
    merged = merge_journals(journals, partial=partial)
    for line in merged.missing:
        say(line, style="yellow")
    _assemble(merged, coco, coco_ids, jsonl)
    for answer in merged.results() if json_lines else ():
        typer.echo(json_text(answer))
    end(FAILED if merged.missing else _exit_code(merged))


# --- one job -----------------------------------------------------------------------------------


def run_job(
    task: "TaskName",
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
    if boxes.coco_ids and not boxes.coco:
        raise OptionError("--coco-ids: has no effect without --coco FILE; add it, or leave it out")
    if options.ray_actors > 1 and options.ray is None:
        raise OptionError("--ray-actors: has no effect without --ray; add it, or leave it out")
    require_writable(final.parent, "--coco" if boxes.coco else "--out")
    require_replaceable(final, "--coco" if boxes.coco else "--out", boxes.coco_ids)
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
    end(INTERRUPTED if stopped else _exit_code(job))


def _answer(job: "Job", options: JobOptions) -> bool:
    """Answer the remaining items; return whether the user stopped it."""
    from pgvision.cli.runs import run_outputs

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


def _assemble(
    answered: "Job | Merged", coco: Path | None, ids: Path | None, json_lines: Path | None
) -> None:
    if coco is not None:
        say(f"wrote {coco} ({answered.write_coco(coco, ids=ids)} images)")
    if json_lines is not None:
        say(f"wrote {json_lines} ({answered.write_json_lines(json_lines)} lines)")
